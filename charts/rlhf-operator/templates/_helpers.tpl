{{- define "rlhf-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "rlhf-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "rlhf-operator.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "rlhf-operator.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* What a Deployment selects by: never changes over the life of a release. */}}
{{- define "rlhf-operator.selector" -}}
app.kubernetes.io/name: {{ include "rlhf-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "rlhf-operator.labels" -}}
{{ include "rlhf-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: rlhf-operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "rlhf-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "rlhf-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: needed when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* A reference of an image; takes the context and the image's values. */}}
{{- define "rlhf-operator.image" -}}
{{- $image := .image }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default .context.Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{- /* What the operator may do with jobs and their children: the same rules in a ClusterRole or in Roles. */}}
{{- define "rlhf-operator.rules" -}}
- apiGroups: [rlhf.dev]
  resources: [rlhfjobs]
  verbs: [get, list, watch, delete]  # delete: a finished job with runPolicy.deleteAfterFinished; the spec is never written
- apiGroups: [rlhf.dev]
  resources: [rlhfjobs/status]
  verbs: [patch]
- apiGroups: [rlhf.dev]
  resources: [rlhfjobs/finalizers]
  verbs: [update]  # children whose owner's deletion waits for them
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]  # neither logs nor exec
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, create]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, list]  # list: why a Job has no pods, and why pods do not start
{{- if .Values.kueue.enabled }}
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list]  # why a Job is queued
{{- end }}
{{- end }}

{{- define "rlhf-operator.subject" -}}
- kind: ServiceAccount
  name: {{ include "rlhf-operator.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{- /* Namespaces whose pods Prometheus looks at. */}}
{{- define "rlhf-operator.namespaceSelector" -}}
{{- if .Values.namespaces -}}
matchNames:
{{ toYaml .Values.namespaces | indent 2 }}
{{- else -}}
any: true
{{- end }}
{{- end }}

{{- /* Names of objects that belong to no namespace: two releases of one name in two namespaces stand side by side. */}}
{{- define "rlhf-operator.clusterName" -}}
{{ .Release.Namespace }}-{{ include "rlhf-operator.fullname" . }}
{{- end }}

{{- /* The watched namespaces, as JSON, but for those that an upgrade finds deleted: nothing can be put into them. Each
namespace has a service account `default`, which whoever may install there may get; where not even the release's own is
seen, nothing was looked up (helm template, GitOps tools). */}}
{{- define "rlhf-operator.present" -}}
{{- $present := list -}}
{{- $real := and .Release.IsUpgrade (lookup "v1" "ServiceAccount" .Release.Namespace "default") -}}
{{- range .Values.namespaces -}}
{{- if or (not $real) (lookup "v1" "ServiceAccount" . "default") -}}
{{- $present = append $present . -}}
{{- end -}}
{{- end -}}
{{ toJson $present }}
{{- end }}
