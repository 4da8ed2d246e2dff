"""The normal sessions most like one session: what it is measured against where training as a whole says too little."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from dataclasses import dataclass

import numpy as np

from ai_detect.reporting.alignment import MAX_CELLS, WORD_BITS, common_lengths
from ai_detect.reporting.reference import ExplainContext
from ai_detect.tables import Float64Array

N_NEIGHBOURS = 16
#: References whose order is compared, nearest counts first.
MAX_CANDIDATES = 256


@dataclass(frozen=True)
class Neighbours:
    """References nearest to a session by events to add and remove, the nearest first."""

    references: tuple[int, ...]
    distance: int  # of the first
    counts: tuple[Counter[int], ...]
    weights: Float64Array

    def share_with(self, event: int, at_least: int) -> float:
        """Share of the sessions behind these references that hold an event so many times."""
        holds = np.array([counts[event] >= at_least for counts in self.counts])
        return float(self.weights[holds].sum() / self.weights.sum())

    def smoothed(self, share: float) -> float:
        """A share of these sessions, kept away from 0 and 1 by as much as they are few."""
        mass = float(self.weights.sum())
        return (share * mass + 1) / (mass + 2)

    def usual_count(self, event: int) -> tuple[int, int]:
        """Least and most occurrences of an event in these references."""
        counts = [reference[event] for reference in self.counts]
        return min(counts), max(counts)


def find_neighbours(context: ExplainContext, ids: list[int]) -> Neighbours | None:
    """The references that need the fewest events added or removed; a common one precedes a rare one about as near."""
    if not len(context.references):
        return None
    counts = context.reference_counts
    rarity = 0.5 * np.log10(counts.max() / counts)
    by_count = context.count_distances(Counter(ids)) + rarity  # order can only add to this
    found: list[tuple[float, int, int]] = []  # the nearest so far: cost, distance, reference
    cells = 0
    candidates = np.argsort(by_count, kind="stable")[:MAX_CANDIDATES]
    at_once = MAX_CANDIDATES if len(ids) <= WORD_BITS else 1
    for begin in range(0, len(candidates), at_once):
        block = candidates[begin : begin + at_once]
        least = by_count[block].tolist()
        if len(found) >= N_NEIGHBOURS and least[0] >= found[-1][0]:
            break
        together = cells + np.cumsum(len(ids) * context.references.lengths[block])
        cells = int(together[-1])
        compared = block[together <= MAX_CELLS]
        n_common = common_lengths(ids, context.references.take(compared))
        distances = np.rint(by_count[block] - rarity[block]).astype(np.int64)
        distances[: len(compared)] = len(ids) + context.references.lengths[compared] - 2 * n_common
        costs = (distances + rarity[block]).tolist()
        for candidate in zip(costs, distances.tolist(), block.tolist(), least, strict=True):
            if len(found) >= N_NEIGHBOURS and candidate[3] >= found[-1][0]:
                break
            insort(found, candidate[:3])
            del found[N_NEIGHBOURS:]
    references = tuple(reference for _, _, reference in found)
    farther = np.array([cost - found[0][0] for cost, _, _ in found])
    return Neighbours(
        references,
        found[0][1],
        tuple(Counter(context.references.session(reference).tolist()) for reference in references),
        counts[list(references)].astype(np.float64) * np.exp(-farther / max(1.0, found[0][1] / 4)),
    )
