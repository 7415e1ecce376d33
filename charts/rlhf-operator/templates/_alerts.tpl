{{- /* One alert; takes name, expr, for, severity, summary, description and the context. */}}
{{- define "rlhf-operator.alert" -}}
- alert: {{ .name }}
  expr: |-
    {{- .expr | nindent 4 }}
  {{- with .for }}
  for: {{ . }}
  {{- end }}
  labels:
    severity: {{ .severity }}
    {{- with .context.Values.metrics.prometheusRule.alertLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    summary: {{ .summary | quote }}
    description: {{ .description | quote }}
    {{- with .context.Values.metrics.prometheusRule.runbookPrefix }}
    runbook_url: {{ printf "%s%s" . $.name | quote }}
    {{- end }}
{{- end }}

{{- /* What wakes a person. Prometheus' own braces are strings to helm. */}}
{{- define "rlhf-operator.alerts" -}}
{{- $v := .Values.metrics.prometheusRule }}
{{- $job := "{{ $labels.namespace }}/{{ $labels.rlhfjob }}" }}
{{- $stage := printf "%s, stage {{ $labels.stage }}" $job }}
{{- $same := "on (namespace, rlhfjob, stage)" }}
groups:
  - name: rlhf-jobs
    rules:
      {{- include "rlhf-operator.alert" (dict "context" . "name" "RLHFJobFailed" "severity" "warning"
        "expr" "max by (namespace, rlhfjob) (rlhf_job_phase{phase=\"Failed\"}) == 1\nand on (namespace, rlhfjob) (\n  max by (namespace, rlhfjob) (max_over_time(rlhf_job_phase{phase!=\"Failed\"}[1h]))\n  or\n  max by (namespace, rlhfjob) (rlhf_job_phase{phase=\"Failed\"})\n  unless\n  max by (namespace, rlhfjob) (max_over_time(rlhf_job_phase{phase=\"Failed\"}[1d] offset 1h))\n)"
        "summary" (printf "RLHFJob %s failed" $job)
        "description" "kubectl describe rlhfjob says which stage, pod, node and exit code. The alert ends an hour after the failure."
        ) | nindent 6 }}
      {{- include "rlhf-operator.alert" (dict "context" . "name" "RLHFJobInvalid" "severity" "warning" "for" "5m"
        "expr" "max by (namespace, rlhfjob) (rlhf_job_phase{phase=\"Invalid\"}) == 1"
        "summary" (printf "RLHFJob %s is not run as it is written" $job)
        "description" "Its condition Stalled says why, with the field: the spec, what its namespace may use, or a version that this operator does not drive."
        ) | nindent 6 }}
      {{- include "rlhf-operator.alert" (dict "context" . "name" "RLHFJobPending" "severity" "warning" "for" (printf "%dm" (int $v.pendingMinutes))
        "expr" "max by (namespace, rlhfjob) (rlhf_stage_state{state=\"Pending\"}) == 1\nor\nmax by (namespace, rlhfjob) (rlhf_job_phase{phase=\"Pending\"}) == 1\nunless on (namespace, rlhfjob)\nrlhf_stage_state{state=\"Queued\"} == 1"
        "summary" (printf "RLHFJob %s: its pods do not start" $job)
        "description" (printf "For %d minutes. kubectl describe rlhfjob says why, in the words of the scheduler, the kubelet or the quota. Time in Kueue's queue does not count." (int $v.pendingMinutes))
        ) | nindent 6 }}
      {{- include "rlhf-operator.alert" (dict "context" . "name" "RLHFStageStuck" "severity" "warning" "for" "5m"
        "expr" (printf "max by (namespace, rlhfjob, stage) (\n  rlhf_stage_state{state=\"Running\"} == 1\n  and (rlhf_stage_state{state=\"Running\"} offset %dm) == 1\n)\nunless %s\nchanges(rlhf_stage_step[%dm]) > 0" (int $v.stuckMinutes) $same (int $v.stuckMinutes))
        "summary" (printf "%s: no step for %d minutes" $stage (int $v.stuckMinutes))
        "description" "Its ranks may hang, or its pod cannot be asked. runPolicy.stuckTimeout restarts a gang whose steps were seen to stand still."
        ) | nindent 6 }}
      {{- include "rlhf-operator.alert" (dict "context" . "name" "RLHFStageRestarting" "severity" "warning"
        "expr" (printf "max by (namespace, rlhfjob, stage) (rlhf_stage_restarts_total)\n- min by (namespace, rlhfjob, stage) (min_over_time(rlhf_stage_restarts_total[1h]))\n>= %d" (int $v.restarts))
        "summary" (printf "%s: restarts again and again" $stage)
        "description" "{{ $value | humanize }} counted restarts within an hour; status.stages[].attempts says why each ended."
        ) | nindent 6 }}
  - name: rlhf-training
    rules:
      {{- include "rlhf-operator.alert" (dict "context" . "name" "RLHFLambdaAtBound" "severity" "warning" "for" "10m"
        "expr" "rlhf_train_lambda_by_cost\n>= on (namespace, rlhfjob, stage, cost) group_left ()\n0.99 * rlhf_stage_lambda_bound"
        "summary" (printf "%s: the multiplier of {{ $labels.cost }} is at its bound" $stage)
        "description" "The cost stays above its limit whatever its weight: the limit cannot be kept, or lagrange.max is too low."
        ) | nindent 6 }}
      {{- include "rlhf-operator.alert" (dict "context" . "name" "RLHFKLBeyondTarget" "severity" "warning" "for" "10m"
        "expr" (printf "rlhf_train_kl\n> %s group_left ()\n%v * rlhf_stage_kl_target" $same $v.klAboveTarget)
        "summary" (printf "%s: the policy is far from its reference" $stage)
        "description" (printf "KL is {{ $value | humanize }} nats, more than %v times its target; expect over-optimised rewards." $v.klAboveTarget)
        ) | nindent 6 }}
  - name: rlhf-operator
    rules:
      {{- include "rlhf-operator.alert" (dict "context" . "name" "RLHFOperatorWithoutLeader" "severity" "critical" "for" "5m"
        "expr" (printf "(sum(leader_election_master_status{name=%q}) or vector(0)) < 1" (include "rlhf-operator.fullname" .))
        "summary" "No rlhf-operator leads: RLHFJobs are not reconciled"
        "description" "Running stages go on; nothing new starts, restarts or ends. Look at its pods and at the API server."
        ) | nindent 6 }}
      {{- include "rlhf-operator.alert" (dict "context" . "name" "RLHFOperatorNotReconciling" "severity" "critical" "for" "10m"
        "expr" "sum(workqueue_depth{name=\"rlhfjob\"}) > 0\nand\nsum(rate(controller_runtime_reconcile_total{controller=\"rlhfjob\"}[10m])) == 0"
        "summary" "rlhf-operator leads, has work and does none"
        "description" "{{ $value | humanize }} jobs wait. Its log says what it hangs on."
        ) | nindent 6 }}
      {{- include "rlhf-operator.alert" (dict "context" . "name" "RLHFOperatorCannotWatch" "severity" "warning" "for" "10m"
        "expr" "min by (name) (reflector_up) == 0"
        "summary" "rlhf-operator leads but cannot watch {{ $labels.name }}"
        "description" "RLHFJobs there are not reconciled, or late. Its log says why: the namespace is gone, or a right is missing. It goes on by itself when it can."
        ) | nindent 6 }}
      {{- include "rlhf-operator.alert" (dict "context" . "name" "RLHFOperatorErrors" "severity" "warning" "for" "15m"
        "expr" "sum(rate(controller_runtime_reconcile_errors_total{controller=\"rlhfjob\"}[10m]))\n>\n0.2 * sum(rate(controller_runtime_reconcile_total{controller=\"rlhfjob\"}[10m]))"
        "summary" "rlhf-operator fails in one of five reconciles or more"
        "description" "Its log has each error; a full disk of etcd, missing rights and webhooks that refuse are usual."
        ) | nindent 6 }}
{{- end }}
