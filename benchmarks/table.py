"""Writes benchmarks/results/bench.{json,md} from the JSON lines of one `benchmarks/run`.

    python benchmarks/table.py FOLDER

Times of one machine say little on another, and machines are shared: what is reported are ratios between runs that
took turns on one machine, as a median with its smallest and largest pair.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "transformers", "deepspeed")


def rows(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; TRL prints its own, which are not JSON, between them."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith('{"')]


def machine() -> str:
    """The processor, its cores, and the matrix instructions that decide its speed here."""
    text = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(": ")[2] for line in text.splitlines() if line.startswith("model name")), "unknown")
    flags = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f" {flag}" in text]
    return f"{model}, {os.cpu_count()} cores, {', '.join(flags) or 'no AVX2'}"


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def per_token(row: dict[str, Any]) -> float:
    """Seconds a response token: answers are sampled, so that two steps differ in length."""
    return float(row["step_s"]) / float(row["response_tokens"])


def ratios(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Theirs over ours, pair by pair in the order in which they ran."""
    return spread([their / our for their, our in zip(theirs, ours, strict=True)])


def results(folder: Path) -> dict[str, Any]:
    """Every ratio, and the medians behind it."""
    names = ("safe-rlhf", "safe-rlhf-malloc", "ours-distinct", "ours-shared")
    peer, tuned, distinct, shared = (rows(folder / name) for name in names)
    trl, reward, sampling = (rows(folder / name) for name in ("trl", "ours-reward", "sampling"))
    simulate = rows(folder / "simulate")
    (equal,) = rows(folder / "equal")
    pair_s = {
        name: [statistics.median(row["step_s"][1:]) for row in measured]
        for name, measured in (("trl", trl), ("ours", reward))
    }
    return {
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "ppo_step": {
            "faster_distinct": ratios([per_token(row) for row in peer], [per_token(row) for row in distinct]),
            "faster_shared": ratios([per_token(row) for row in peer], [per_token(row) for row in shared]),
            "faster_than_tuned": ratios([per_token(row) for row in tuned], [per_token(row) for row in distinct]),
            "memory_distinct": max(row["peak_rss_gb"] for row in distinct) / max(row["peak_rss_gb"] for row in peer),
            "memory_shared": max(row["peak_rss_gb"] for row in shared) / max(row["peak_rss_gb"] for row in peer),
            "rows": {"safe-rlhf": peer, "safe-rlhf_tuned": tuned, "ours_distinct": distinct, "ours_shared": shared},
        },
        "equal_losses": {**equal, "largest_difference": difference(equal)},
        "reward_model": {
            "faster": ratios(pair_s["trl"], pair_s["ours"]),
            "memory": max(row["peak_rss_gb"] for row in reward) / max(row["peak_rss_gb"] for row in trl),
            "rows": {"trl": trl, "ours": reward},
        },
        "sampling": {"faster": spread([row["ratio"] for row in sampling]), "rows": sampling},
        "simulate": {"faster": spread([row["ratio"] for row in simulate]), "rows": simulate},
    }


def difference(equal: dict[str, Any]) -> float:
    """Largest relative difference between our losses and the peer's on the peer's samples."""
    return max(abs(equal["ours"][name] - value) / max(abs(value), 1e-8) for name, value in equal["peer"].items())


def times(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f}x ({ratio['min']:.2f} to {ratio['max']:.2f})"


def table(measured: dict[str, Any]) -> str:
    """The results for people."""
    ppo, reward, sampling, simulate = (measured[name] for name in ("ppo_step", "reward_model", "sampling", "simulate"))
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    lines = [
        "# Measured beside peers",
        "",
        f"`make bench` on {measured['machine']}; Python {measured['python']}, {versions}. Each pair ran in turn on the same",
        "machine; a ratio is a median with its smallest and largest pair. Raw rows: [bench.json](bench.json).",
        "",
        "Of a PPO step it is the third that counts: first steps fault their memory in, and take longer.",
        "",
        "| what | peer | faster | goal | peak memory | goal |",
        "|---|---|---|---|---|---|",
        f"| PPO-Lagrangian step, reward and cost models apart | safe-rlhf | {times(ppo['faster_distinct'])} | 2.5x "
        f"| {ppo['memory_distinct']:.2f}x | 0.6x |",
        f"| the same, the peer given our memory allocator's settings | safe-rlhf | {times(ppo['faster_than_tuned'])} | | | |",
        f"| PPO-Lagrangian step, all from one model (as the peer ran) | safe-rlhf | {times(ppo['faster_shared'])} | 2.5x "
        f"| {ppo['memory_shared']:.2f}x | 0.6x |",
        f"| Reward-model step | TRL RewardTrainer | {times(reward['faster'])} | 1.2x | {reward['memory']:.2f}x | |",
        f"| Sampling, mixed lengths | transformers generate | {times(sampling['faster'])} | 1.3x | | |",
        f"| Answers of a simulate stage | transformers generate | {times(simulate['faster'])} | 1.3x | | |",
        "",
        "A PPO step is 16 prompts, answers up to 96 tokens in all, SmolLM2-135M as all models, every layer trained,",
        "float32; seconds a response token, because answers are sampled. On the peer's own samples, weights and score",
        f"heads our losses differ from its by at most {measured['equal_losses']['largest_difference']:.1e} (relative):",
        "",
        "| loss | ours | peer |",
        "|---|---|---|",
    ]
    ours, theirs = measured["equal_losses"]["ours"], measured["equal_losses"]["peer"]
    lines += [f"| {name} | {ours[name]:.6f} | {theirs[name]:.6f} |" for name in ours]
    lines += [
        "",
        "Seconds a phase of our last step, reward and cost models apart: " + phases(ppo["rows"]["ours_distinct"][-1]),
    ]
    return "\n".join(lines) + "\n"


def phases(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in row["phases_s"].items()) + "."


if __name__ == "__main__":
    RESULTS.mkdir(exist_ok=True)
    measured = results(Path(sys.argv[1]))
    (RESULTS / "bench.json").write_text(json.dumps(measured, indent=1) + "\n")
    (RESULTS / "bench.md").write_text(table(measured))
    sys.stdout.write(table(measured))
