"""Texts that are, or nearly are, the same: MinHash signatures, locality-sensitive hashing, exact verification. Pure.

A text is the set of its runs of SHINGLE characters; two texts are as alike as the Jaccard index of their sets, |A and B| /
|A or B|. A signature has LANES minima of differently hashed sets: a lane of two texts agrees with a probability that is
their Jaccard index (Broder 1997). Texts that agree in all lanes of any band are candidates (Indyk and Motwani 1998; with
16 bands of 4 lanes, 99.98 % of pairs at 0.8), and only candidates whose exact Jaccard index is at least NEAR are twins: no
pair is reported by chance.

Constants and hashes are fixed: the same texts give the same twins on every machine, whatever PYTHONHASHSEED is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SHINGLE = 5
"""Characters of a shingle. A shorter text is a single shingle."""
NEAR = 0.8
"""Jaccard index from which two texts are nearly the same."""
LONGEST = 8192
"""Characters of a normalised text that are compared: of a longer one its first and last halves of them."""
BANDS, ROWS = 16, 4
LANES = BANDS * ROWS
AGREEMENT = 0.6
"""Share of lanes that agree from which a candidate is verified: 4 standard deviations below NEAR."""
VERIFIED = 64
"""Candidates of one text that are verified, those that agree most: a bound on the work where thousands are alike."""
CROWDED = 512
"""Candidates of one text, by band, from which all signatures are compared instead: texts written by one pattern."""
TEXTS = 16
"""Texts whose signatures are compared with all others at a time."""
BLOCK = 1 << 14
"""Shingles hashed at a time: they stay in the processor's cache."""
PAIRS = 1 << 14
"""Pairs whose signatures are compared at a time."""

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


class Shingles(NamedTuple):
    """Shingles of several texts, one text after the other."""

    hashes: Hashes
    """(S,) 64-bit hashes; a shingle that a text repeats is repeated."""
    starts: Indices
    """(N + 1,) where each text's shingles begin; last their number."""


class Twin(NamedTuple):
    """Two texts that are nearly the same."""

    text: int
    """Index among the texts looked up."""
    indexed: int
    """Index among the texts of the index."""
    likeness: float
    """Their Jaccard index, at least NEAR."""


def normalise(text: str) -> str:
    """The text as it is compared: compatibility characters, case and spacing do not count; long ones lose their middle."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain if len(plain) <= LONGEST else plain[: LONGEST // 2] + plain[-LONGEST // 2 :]


def shingles(texts: Sequence[str]) -> Shingles:
    """Hashes of all runs of SHINGLE characters of each normalised text."""
    if not texts:
        return Shingles(np.zeros(0, np.uint64), np.zeros(1, np.int64))
    padded = [text.ljust(SHINGLE, "\0") for text in texts]
    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32)
    starts = np.concatenate(([0], np.cumsum(lengths - (SHINGLE - 1))))
    windows = len(codes) - (SHINGLE - 1)
    hashes = np.zeros(windows, np.uint64)
    for offset in range(SHINGLE):
        hashes *= _ODD
        hashes += codes[offset : offset + windows]
    inside = np.ones(len(codes), np.bool_)
    for offset in range(1, SHINGLE):
        inside[np.cumsum(lengths) - offset] = False
    return Shingles(_mixed(hashes[inside[:windows]]), starts)


def signatures(texts: Shingles) -> Hashes:
    """(N, LANES) minima of the texts' hashes, each lane under a permutation of the 64-bit numbers."""
    rows = len(texts.starts) - 1
    minima = np.empty((LANES, rows), np.uint64)
    first = 0
    while first < rows:
        end = int(np.searchsorted(texts.starts, texts.starts[first] + BLOCK, side="right")) - 1
        end = min(max(end, first + 1), rows)
        hashes = texts.hashes[texts.starts[first] : texts.starts[end]]
        starts = texts.starts[first:end] - texts.starts[first]
        permuted = np.empty_like(hashes)
        for lane in range(LANES):
            np.multiply(hashes, _FACTORS[lane], out=permuted)
            minima[lane, first:end] = np.minimum.reduceat(permuted, starts)
        first = end
    return np.ascontiguousarray(minima.T)


def band_keys(lanes: Hashes) -> Hashes:
    """(BANDS, N): a key of each band of signatures (N, LANES); equal where all lanes of the band are."""
    keys = np.zeros((BANDS, len(lanes)), np.uint64)
    for row in range(ROWS):
        keys = _mixed(keys * _ODD + lanes[:, row::ROWS].T)
    return keys


def jaccard(first: str, second: str) -> float:
    """The Jaccard index of two normalised texts' shingles, exactly."""
    sets = [
        {text.ljust(SHINGLE, "\0")[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}
        for text in (first, second)
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


class TwinIndex:
    """Normalised, different texts, in which near twins of others are looked up.

    Holds for each text its signature twice (LANES x 8 bytes), its band keys and its shingles (8 bytes each).
    """

    def __init__(self, texts: Sequence[str]) -> None:
        laid = shingles(texts)
        self._signatures = signatures(laid)
        self._lanes = np.ascontiguousarray(self._signatures.T)
        keys = band_keys(self._signatures)
        self._order = np.argsort(keys, axis=1, kind="stable")
        self._keys = np.take_along_axis(keys, self._order, axis=1)
        self._sets = [np.unique(part) for part in _parts(laid)]

    def __len__(self) -> int:
        return len(self._sets)

    def twins(self, texts: Sequence[str], skip: npt.NDArray[np.bool_] | None = None) -> list[Twin]:
        """Near twins of normalised texts, by text, the likest first.

        Args:
            texts: looked up; a few thousand at a time: up to CROWDED candidates of each are held.
            skip: (len(self),) indexed texts that are not looked for.
        """
        if not len(self) or not texts:
            return []
        laid = shingles(texts)
        lanes = signatures(laid)
        looked_up, indexed = self._likely(lanes, skip)
        near: list[Twin] = []
        bounds = np.searchsorted(looked_up, np.arange(len(texts) + 1))
        for text in np.unique(looked_up):
            candidates = indexed[bounds[text] : bounds[text + 1]][:VERIFIED]
            likeness = self._likeness(laid.hashes[laid.starts[text] : laid.starts[text + 1]], candidates)
            near += [Twin(int(text), int(candidates[i]), float(likeness[i])) for i in np.flatnonzero(likeness >= NEAR)]
        return sorted(near, key=lambda twin: (twin.text, -twin.likeness, twin.indexed))

    def _likely(self, lanes: Hashes, skip: npt.NDArray[np.bool_] | None) -> tuple[Indices, Indices]:
        """(text, indexed text) of candidates whose signatures agree enough; by text, those that agree most first."""
        skipped = np.zeros(len(self), np.bool_) if skip is None else skip
        keys = band_keys(lanes)
        buckets = zip(self._keys, keys, strict=True)
        first = np.array([np.searchsorted(ordered, band, side="left") for ordered, band in buckets])
        buckets = zip(self._keys, keys, strict=True)
        counts = np.array([np.searchsorted(ordered, band, side="right") for ordered, band in buckets]) - first
        crowded = counts.sum(axis=0) > CROWDED
        pairs = [self._bucket_pairs(first, np.where(crowded, 0, counts))]
        pairs += [self._best(lanes, part, skipped) for part in _blocks(np.flatnonzero(crowded), TEXTS)]
        candidates = np.concatenate(pairs)
        candidates = candidates[~skipped[candidates % len(self)]]
        agreeing = np.zeros(len(candidates), np.int64)
        for start in range(0, len(candidates), PAIRS):
            texts, indexed = np.divmod(candidates[start : start + PAIRS], len(self))
            agreeing[start : start + PAIRS] = (lanes[texts] == self._signatures[indexed]).sum(axis=1)
        likely = agreeing >= AGREEMENT * LANES
        texts, indexed = np.divmod(candidates[likely], len(self))
        order = np.lexsort((indexed, -agreeing[likely], texts))
        return texts[order], indexed[order]

    def _bucket_pairs(self, first: Indices, counts: Indices) -> Indices:
        """Pairs that agree in a band, each once: text x len(self) + indexed text.

        Args:
            first: (BANDS, N) where each text's bucket begins in `_order`.
            counts: (BANDS, N) indexed texts in it.
        """
        pairs = []
        for order, starts, sizes in zip(self._order, first, counts, strict=True):
            texts = np.repeat(np.arange(len(sizes)), sizes)
            within = np.arange(len(texts)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            pairs.append(texts * len(self) + order[np.repeat(starts, sizes) + within])
        return np.unique(np.concatenate(pairs))

    def _best(self, lanes: Hashes, texts: Indices, skipped: npt.NDArray[np.bool_]) -> Indices:
        """Pairs of texts with the VERIFIED indexed texts that agree with each most: all signatures are compared."""
        agreeing = np.zeros((len(texts), len(self)), np.uint8)
        for lane in range(LANES):
            agreeing += lanes[texts, lane, None] == self._lanes[lane]
        ranks = np.where(skipped, -1, agreeing.astype(np.int64)) * len(self) - np.arange(len(self))
        best = np.argpartition(ranks, -min(VERIFIED, len(self)), axis=1)[:, -VERIFIED:]
        pairs: Indices = (texts[:, None] * len(self) + best).ravel()
        return pairs

    def _likeness(self, hashes: Hashes, candidates: Indices) -> npt.NDArray[np.float64]:
        """(C,) Jaccard indices of a text's shingles and those of C indexed texts."""
        shingle_set = np.unique(hashes)
        sets = [self._sets[candidate] for candidate in candidates]
        sizes = np.array([len(indexed) for indexed in sets])
        laid = np.concatenate(sets)
        nearest = np.minimum(np.searchsorted(shingle_set, laid), len(shingle_set) - 1)
        common = np.add.reduceat((shingle_set[nearest] == laid).astype(np.int64), np.cumsum(sizes) - sizes)
        likeness: npt.NDArray[np.float64] = common / (len(shingle_set) + sizes - common)
        return likeness


def _parts(laid: Shingles) -> Iterator[Hashes]:
    for first, end in zip(laid.starts[:-1], laid.starts[1:], strict=True):
        yield laid.hashes[first:end]


def _blocks(indices: Indices, size: int) -> Iterator[Indices]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _mixed(numbers: Hashes) -> Hashes:
    """A permutation of the 64-bit numbers that scatters neighbours (the finaliser of SplitMix64, Steele et al. 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


_ODD = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = _mixed(np.arange(1, LANES + 1, dtype=np.uint64) * _ODD) | np.uint64(1)
"""Odd: multiplying by them permutes the 64-bit numbers."""
