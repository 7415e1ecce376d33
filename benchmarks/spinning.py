"""What OpenMP's threads do at a barrier, and what it costs: wall seconds of training steps of a small Llama where they
spin (the default of libgomp), where they sleep (OMP_WAIT_POLICY=PASSIVE), and where they spin shortly before they sleep
(GOMP_SPINCOUNT, as the trainer sets it), on a quiet machine and beside busy processes.

    python benchmarks/spinning.py [--steps 8] [--rounds 3] [--busy 0 1 2 4] > benchmarks/results/spinning.md

Prints a Markdown page. Policies take turns in each round; each figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from table import machine

from rlhf_trainer.runtime.supervisor import SPIN_COUNT

STEP = """
import sys, time, torch
from transformers import LlamaConfig, LlamaForCausalLM
steps, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
model = LlamaForCausalLM(LlamaConfig(vocab_size=8192, hidden_size=576, intermediate_size=1536, num_hidden_layers=8,
                                     num_attention_heads=9, num_key_value_heads=3))
ids = torch.randint(0, 8192, (4, 64))
def step(): model(input_ids=ids, labels=ids).loss.backward()
step()
started = time.perf_counter()
for _ in range(steps): step()
print(time.perf_counter() - started)
"""
POLICIES = {
    "spin": {},
    "sleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin shortly": {"GOMP_SPINCOUNT": SPIN_COUNT},
}


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that never wait."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds(policy: str, steps: int, threads: int) -> float:
    """Wall seconds of the steps under a policy."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", STEP, str(steps), str(threads)]
    ended = subprocess.run(command, env=environment | POLICIES[policy], check=True, capture_output=True, text=True)
    return float(ended.stdout)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 4])
    options = parser.parse_args(arguments)
    print("# Threads that spin at barriers, and threads that sleep\n")
    print(
        f"`python benchmarks/spinning.py` on {machine()}: {options.threads} threads, {options.steps} steps of a small Llama, "
        f"median of {options.rounds}\nrounds in turn; {os.getloadavg()[0]:.1f} other runnable processes when it began.\n"
    )
    print(f"| busy processes beside it | {' | '.join(f'{policy}, s' for policy in POLICIES)} | spin / spin shortly |")
    print("|---" * (len(POLICIES) + 2) + "|")
    for count in options.busy:
        with busy(count):
            rounds = [
                {policy: seconds(policy, options.steps, options.threads) for policy in POLICIES}
                for _ in range(options.rounds)
            ]
        medians = {policy: statistics.median(each[policy] for each in rounds) for policy in POLICIES}
        columns = " | ".join(f"{value:.2f}" for value in medians.values())
        print(f"| {count} | {columns} | {medians['spin'] / medians['spin shortly']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
