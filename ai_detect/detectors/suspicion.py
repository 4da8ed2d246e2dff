"""Which training sessions may be abnormal themselves, from the events that they hold; nobody tells which are.

Repeated anomalies are each other's nearest neighbours, and soon expected by a model that learns them. What gives them
away is that several events are rare in them at once: first taken as independent, which nothing that is repeated can
talk itself out of; then by a tree of dependences that was learned without the first suspects.
"""

from __future__ import annotations

import numpy as np

from ai_detect import scratch
from ai_detect.detectors.dependence import DependenceTree, UInt8Array
from ai_detect.detectors.occurrences import event_columns
from ai_detect.detectors.reference import distinct_rows
from ai_detect.tables import BoolArray, Float64Array, Int64Array, SequenceTable

#: Surprise has a scale of its own (nats): the distance from the median to this quantile, at least a factor of 20 in
#: probability. Neither end moves while less than 15 % of a log is abnormal. (A larger lump is more often another kind
#: of normal session.)
_UPPER = 0.85
_LEAST_SCALE = 3.0
#: Abnormal sessions lie apart: twice as far out there are still this share of them.
_PERSISTENCE = 0.75
#: Where nothing lies apart, sessions that are this many scales out are abnormal: of surprise that goes on to fall off
#: as it does from the median to `_UPPER`, seven in a thousand.
_FAR = 3.5
#: No log is taken to be more abnormal than this.
_MOST = 0.25
#: Share of a clean log that is suspected by chance.
_BY_CHANCE = 0.0075
#: Sessions that are looked at at once; only memory depends on it.
_BLOCK = 16_384


def suspected(sequences: SequenceTable) -> BoolArray:
    """Which training sessions look abnormal by the set of their events, (n_sessions,) bool."""
    present, inverse = _distinct_sets(sequences)
    weights = np.bincount(inverse, minlength=len(present)).astype(np.float64)
    first = _apart(_independent(present, weights)[inverse])
    calm = ~first[_first_of_each(inverse, len(present))]
    tree = DependenceTree.fit(present[calm], weights[calm])
    blocks = [tree.surprise(present[at : at + _BLOCK]).sum(axis=1) for at in range(0, len(present), _BLOCK)]
    return _apart(np.concatenate(blocks)[inverse])


def trusted(suspects: BoolArray) -> BoolArray:
    """Which training sessions are examples of normal, (n_sessions,) bool: without the suspects, where they are many.

    As many as a clean log shows by chance are kept, twice as many are not; in between, some of them.
    """
    kept = ~suspects
    numbers = np.flatnonzero(suspects)
    n_kept = round(cleanness(suspects) * len(numbers))
    kept[numbers[np.linspace(0, len(numbers) - 1, n_kept).astype(np.int64)]] = True
    return kept


def cleanness(suspects: BoolArray) -> float:
    """How clean a log is taken to be: 1 with no more suspects than by chance, 0 with twice as many and more."""
    return float(np.clip(2 - suspects.mean() / _BY_CHANCE, 0, 1)) if len(suspects) else 1.0


def _distinct_sets(sequences: SequenceTable) -> tuple[UInt8Array, Int64Array]:
    """Distinct sets of events as rows of 0 and 1, and the row of each session."""
    column = event_columns(_event_counts(sequences))
    width = int(column.max()) + 1
    packed = np.zeros((len(sequences), -(-width // 8)), np.uint8)
    for start in range(0, len(sequences), _BLOCK):
        end = min(start + _BLOCK, len(sequences))
        events = sequences.event_id[sequences.offsets[start] : sequences.offsets[end]]
        present = np.zeros((end - start, width), np.bool_)
        present[np.repeat(np.arange(end - start), sequences.lengths[start:end]), column[events]] = True
        packed[start:end] = np.packbits(present, axis=1)
    first, inverse = distinct_rows(packed)
    return np.unpackbits(packed[first], axis=1, count=width), inverse


def _event_counts(sequences: SequenceTable) -> Int64Array:
    counts = np.zeros(1, np.int64)
    for block in scratch.blocks(len(sequences.event_id)):
        own = np.bincount(sequences.event_id[block], minlength=len(counts))
        own[: len(counts)] += counts
        counts = own
    return counts


def _first_of_each(inverse: Int64Array, n: int) -> Int64Array:
    first = np.zeros(n, np.int64)
    first[inverse[::-1]] = np.arange(len(inverse))[::-1]
    return first


def _independent(present: UInt8Array, weights: Float64Array) -> Float64Array:
    """-ln probability of each set, as if events came and stayed away independently of each other."""
    n = weights.sum()
    share = np.minimum((weights @ present + 0.5) / (n + 1), 1 - 0.5 / (n + 1))
    nothing, change = np.log1p(-share).sum(), np.log(share) - np.log1p(-share)
    blocks = [present[at : at + _BLOCK] @ change for at in range(0, len(present), _BLOCK)]
    return np.asarray(-(nothing + np.concatenate(blocks)), np.float64)


def _apart(surprise: Float64Array) -> BoolArray:
    """Those beyond the first break of the tail, or far out."""
    median, upper = np.quantile(surprise, [0.5, _UPPER])
    distance = (surprise - median) / max(upper - median, _LEAST_SCALE)
    out = np.sort(distance)
    n = len(out)
    starts = np.unique(np.append(out[out > 1], 1.0))
    beyond = (n - np.searchsorted(out, starts, side="right")) / n
    twice = (n - np.searchsorted(out, 2 * starts, side="left")) / n
    breaks = starts[(beyond > 0) & (beyond <= _MOST) & (twice >= _PERSISTENCE * beyond)]
    return np.asarray(distance > max(breaks.min(initial=_FAR), np.quantile(out, 1 - _MOST)))
