"""Prints docs/metrics.md, made of the definitions: `python -m rlhf_trainer.telemetry.reference`."""

from __future__ import annotations

import sys

from rlhf_trainer.telemetry.catalog import METRICS, PHASES, STAGE_SERIES, Metric

HEAD = """# Metrics
Made from `rlhf_trainer.telemetry.catalog` by `make generate`; do not edit.

A stage writes what it measures to four places:

| where | what |
|---|---|
| `work/<uid>/<stage>/metrics.jsonl` | one line a step, exact, no clock: a resumed run writes the same bytes as an undisturbed one. Copied into the product. |
| `work/<uid>/<stage>/timings.jsonl` | one line a step of what depends on the machine; summed up in the product's `timings.json` |
| `work/<uid>/<stage>/events/` | the same metrics for TensorBoard; a dot in a name is a slash there |
| `http://<pod>:<metricsPort>/metrics`, `/progress` | Prometheus and JSON, of the running stage; on a laptop the port is in `work/<uid>/<stage>/endpoint.json` |

## Of a step
Keys of `metrics.jsonl`, beside `step` (finished steps, from 1), and their series in Prometheus. `*` stands for the name of a
reward, a cost or a critic, which is a label in Prometheus. A value that is not defined (the explained variance of constant
returns) is null. **bold**: shown beside the progress bar and in the job's status. !: NaN or infinity ends the stage with
exit code 3, reason `NaN`; the last checkpoint is from before it.
"""
TIMINGS = """
## Of the machine
A line of `timings.jsonl`:

| key | unit | meaning |
|---|---|---|
| `step` | | as in metrics.jsonl; a step computed again after a crash is there twice |
| `attempt` | | number of the attempt |
| `seconds` | s | since the step before |
| `phases` | s | by phase |
| `tokens` | tokens | by phase |
| `tokensPerSecond` | tokens/s | of all phases |
| `peakRssBytes` | bytes | most memory rank 0 has had resident so far |
| `peakDeviceBytes` | bytes | on a GPU: most of its memory that rank 0's tensors have taken so far |

Phases, measured on the host (a GPU may still be computing when a phase ends):
"""
PROGRESS = """
`/progress` answers `stage`, `type`, `attempt`, `phase` (in words), `step`, `begun` (the step that a resumed run began from,
null before), `total`, `unit`, `tokensPerSecond`, `etaSeconds` and `headline` (the bold metrics of the last step written). Rates are over the last 20 steps, null before the second.
"""


def reference() -> str:
    """The page as Markdown."""
    stages = list(dict.fromkeys(stage for metric in METRICS for stage in metric.stages))
    lines = [HEAD]
    lines += ["| metric | unit | stages | Prometheus | meaning |", "|---|---|---|---|---|"]
    lines += [_row(metric, stages) for metric in METRICS]
    lines += [TIMINGS, "| phase | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in PHASES.items()]
    lines += ["", "## Of the running stage", "| series | type | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {kind} | {meaning} |" for name, kind, meaning in STAGE_SERIES]
    lines += [PROGRESS]
    return "\n".join(lines)


def _row(metric: Metric, stages: list[str]) -> str:
    name = f"**`{metric.name}`**" if metric.headline else f"`{metric.name}`"
    mark = " !" if metric.finite else ""
    series = metric.prometheus + (f"{{{metric.label}}}" if metric.label else "")
    where = ", ".join(stage for stage in stages if stage in metric.stages)
    return f"| {name}{mark} | {metric.unit} | {where} | `{series}` | {metric.help} |"


if __name__ == "__main__":
    sys.stdout.write(reference())
