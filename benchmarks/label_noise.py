"""How many labels flipped on purpose a list of suspects finds, in a file of real preference pairs.

    python benchmarks/label_noise.py PAIRS.jsonl.gz > benchmarks/results/label_noise.md

Minutes on one core; seeded. Rows are HH-RLHF dialogues (`chosen`, `rejected`). Features are of the last answers alone:
words hashed into columns, each counted as log(1 + count), and the logarithm of the length.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_trainer.statistics.intervals import Estimate
from rlhf_trainer.statistics.label_noise import worth

Floats = NDArray[np.float64]
COLUMNS = 256
PENALTIES = (0.01, 0.1, 1.0)
SHARES = (0.05, 0.2)
TRIALS = 20
TURN = "\n\nAssistant:"


def features(answer: str) -> Floats:
    """[COLUMNS + 1] of an answer."""
    words = re.findall(r"[a-z']+", answer.lower())
    counts = np.bincount([zlib.crc32(word.encode()) % COLUMNS for word in words], minlength=COLUMNS)
    return np.append(np.log1p(counts), np.log1p(len(words)))


def written(estimate: Estimate) -> str:
    """An estimate with its interval."""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    with gzip.open(parser.parse_args().pairs, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    answers = [[features(row[side].rpartition(TURN)[2]) for side in ("chosen", "rejected")] for row in rows]
    prompts = [row["chosen"].rpartition(TURN)[0] for row in rows]
    differences = np.array([better - worse for better, worse in answers])
    print("# Suspects among preference labels\n")
    print(
        f"Made by `python benchmarks/label_noise.py` over the first {len(rows):,} pairs of HH-RLHF's harmless test split: labels "
        f"flipped at random, a linear head on {COLUMNS} hashed columns of words fitted out of fold (5 folds, prompts apart), and "
        f"as many suspects taken as labels were flipped. {TRIALS} trials; the intervals are over trials.\n"
    )
    print("| penalty | flipped (by chance) | precision and recall | above chance | out-of-fold accuracy, no flips |")
    print("|---|---|---|---|---|")
    for share in SHARES:
        for penalty in PENALTIES:
            result = worth(differences, prompts, share, TRIALS, penalty)
            cells = [written(estimate) for estimate in (result.precision, result.lift, result.accuracy)]
            print(f"| {penalty:g} | {result.share:.3f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
