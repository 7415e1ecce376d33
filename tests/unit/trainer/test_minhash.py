"""Near twins among texts: what is reported is exact, what is missed is rare, and the order of texts does not matter."""

from __future__ import annotations

import hashlib
import random
import string
import subprocess
import sys

import numpy as np
import pytest

from rlhf_trainer.inspection import minhash
from rlhf_trainer.inspection.minhash import NEAR, TwinIndex, jaccard, normalise, shingles, signatures

LETTERS = string.ascii_lowercase


def sentence(rng: random.Random, characters: int) -> str:
    return "".join(rng.choices(LETTERS, k=characters))


def altered(rng: random.Random, text: str, likeness: float) -> str:
    """The text with an end so long that its Jaccard index to the first is about `likeness`."""
    shared = len(text) - 4
    return text + sentence(rng, round(shared / likeness - shared))


def test_texts_are_compared_without_case_spacing_and_compatibility_forms() -> None:
    assert normalise("  What\tIS\u00a0the\n\nﬁre? ") == "what is the fire?"
    assert normalise("STRASSE") == normalise("straße")


def test_of_a_long_text_both_ends_count() -> None:
    text = "a" * 9000 + "b" * 9000
    assert normalise(text) == "a" * 4096 + "b" * 4096


@pytest.mark.parametrize("texts", [["abcdef", "abc", "", "日本語の文章です", "a\ud800bcde"], ["x"], []])
def test_each_text_has_the_shingles_that_it_has_alone(texts: list[str]) -> None:
    laid = shingles(texts)
    assert list(np.diff(laid.starts)) == [max(1, len(text) - 4) for text in texts]
    for index, text in enumerate(texts):
        alone = shingles([text]).hashes
        np.testing.assert_array_equal(laid.hashes[laid.starts[index] : laid.starts[index + 1]], alone)


def test_signatures_do_not_depend_on_where_blocks_of_work_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    laid = shingles([sentence(rng, rng.randint(0, 400)) for _ in range(50)])
    undivided = signatures(laid)
    monkeypatch.setattr(minhash, "BLOCK", 64)
    np.testing.assert_array_equal(signatures(laid), undivided)


def test_agreement_of_signatures_estimates_the_jaccard_index() -> None:
    rng = random.Random(1)
    errors = []
    for _ in range(300):
        text = sentence(rng, 150)
        second = altered(rng, text, rng.uniform(0.1, 1))
        lanes = signatures(shingles([text, second]))
        errors.append(float((lanes[0] == lanes[1]).mean()) - jaccard(text, second))
    assert abs(np.mean(errors)) < 0.01  # 300 estimates of at most 0.0625 standard deviation
    assert np.sqrt(np.mean(np.square(errors))) < 0.0625


def test_every_twin_is_one_and_its_likeness_is_exact() -> None:
    rng = random.Random(2)
    texts = [sentence(rng, 60) for _ in range(200)]
    others = [altered(rng, text, rng.uniform(0.5, 1)) for text in texts]
    twins = TwinIndex(texts).twins(others)
    assert twins
    for twin in twins:
        assert twin.likeness == pytest.approx(jaccard(others[twin.text], texts[twin.indexed]))
        assert twin.likeness >= NEAR


def test_nearly_all_pairs_above_the_threshold_are_reported() -> None:
    rng = random.Random(3)
    texts = [sentence(rng, 120) for _ in range(3000)]
    others = [altered(rng, text, 0.9) for text in texts]
    reported = {(twin.text, twin.indexed) for twin in TwinIndex(texts).twins(others)}
    assert sum((index, index) in reported for index in range(3000)) >= 0.999 * 3000
    barely = [altered(rng, text, 0.81) for text in texts]
    reported = {(twin.text, twin.indexed) for twin in TwinIndex(texts).twins(barely)}
    assert sum((index, index) in reported for index in range(3000)) >= 0.99 * 3000


def test_the_order_of_texts_does_not_matter() -> None:
    rng = random.Random(4)
    texts = [sentence(rng, 60) for _ in range(100)]
    others = [altered(rng, text, rng.uniform(0.7, 1)) for text in texts]

    def pairs(texts: list[str], others: list[str]) -> set[tuple[str, str]]:
        return {(others[twin.text], texts[twin.indexed]) for twin in TwinIndex(texts).twins(others)}

    assert pairs(texts, others) == pairs(texts[::-1], others[::-1]) != set()


def test_texts_that_are_all_alike_cost_a_bounded_number_of_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    likeness = TwinIndex._likeness

    def counting(index: TwinIndex, hashes: object, candidates: np.ndarray) -> np.ndarray:
        compared.append(len(candidates))
        return likeness(index, hashes, candidates)

    monkeypatch.setattr(TwinIndex, "_likeness", counting)
    stem = "tell me everything that you know of the river number "
    twins = TwinIndex([f"{stem}{number}" for number in range(500)]).twins([f"{stem}{number}" for number in range(20)])
    assert len(compared) == 20 and max(compared) == minhash.VERIFIED
    assert all(next(twin for twin in twins if twin.text == text).likeness == 1 for text in range(20))


def test_texts_of_one_pattern_are_compared_as_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    texts = [f"tell me all about the stone bridge over the quiet river {sentence(rng, 20)}" for _ in range(60)]
    others = [f"{text}, please" for text in texts]
    twins = TwinIndex(texts).twins(others)
    monkeypatch.setattr(minhash, "CROWDED", 0)
    assert TwinIndex(texts).twins(others) == twins and len(twins) >= 60


def test_what_is_skipped_is_not_reported() -> None:
    index = TwinIndex(["how do i light a fire", "what is the weather like"])
    skip = np.array([True, False])
    assert [twin.indexed for twin in index.twins(["how do i light a fire", "what is the weather like"], skip)] == [1]


def test_nothing_is_like_nothing() -> None:
    assert TwinIndex([]).twins(["how do i light a fire"]) == []
    assert TwinIndex(["how do i light a fire"]).twins([]) == []
    assert TwinIndex(["how do i light a fire"]).twins(["fire", "", "日本語の文章です"]) == []


def test_short_texts_are_twins_only_where_they_are_equal() -> None:
    assert jaccard("q 1", "q 2") == 0
    assert [twin.likeness for twin in TwinIndex(["q 1"]).twins(["q 1", "q 2"])] == [1]


@pytest.mark.parametrize("seed", ["0", "1"])
def test_signatures_are_the_same_in_every_process_and_torch_is_not_imported(seed: str) -> None:
    code = (
        "import hashlib, sys\n"
        "from rlhf_trainer.inspection import probes\n"
        "from rlhf_trainer.inspection.minhash import *\n"
        "print(hashlib.sha256(signatures(shingles(['how do i light a fire', 'naïve'])).tobytes()).hexdigest())\n"
        "assert 'torch' not in sys.modules\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    lanes = signatures(shingles(["how do i light a fire", "naïve"]))
    assert run.stdout.strip() == hashlib.sha256(lanes.tobytes()).hexdigest()
