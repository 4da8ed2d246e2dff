"""The smallest change at one place that makes a session likely: lines taken out, one put back, or two exchanged.

A noisy channel: a session is a normal one on which a fault fell. What undoing a fault gains is measured in nats, by
how much likelier training's transitions find the session then and how much nearer it is to a normal session that
training holds. So a surplus line, a missing one, a repetition and a wrong order can be told from each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from ai_detect.reporting.alignment import bit_masks, common_length
from ai_detect.reporting.neighbours import Neighbours
from ai_detect.reporting.reference import ExplainContext
from ai_detect.tables import Float64Array, Int64Array

#: Transitions less likely than this are looked into.
UNLIKELY = 0.05
#: So many of a session's transitions at most, the least likely first.
MAX_SPOTS = 64
#: Longest block whose repetition is looked for.
MAX_PERIOD = 64
#: Events that may be missing at one place, the likeliest first.
N_CANDIDATES = 3
#: A changed session is compared with so many normal ones, and with none where that is more work than this, in cells.
N_COMPARED, MAX_COMPARED_CELLS = 4, 200_000


@dataclass(frozen=True)
class Repair:
    """One change, in events of the path: `at` is the first surplus one, the first of two, or how many precede a hole.

    `gain` is in nats and may be negative; `doubt` is how unlikely the transitions are that the change does away with.
    """

    kind: Literal["surplus", "repeated", "missing", "swapped"]
    at: int
    gain: float
    doubt: float
    transitions: range  # that the change does away with
    period: int = 1  # events after which what is repeated repeats
    candidates: tuple[tuple[int, float], ...] = ()  # what may be missing, the likeliest first, with shares


class Path:
    """The known events of a session as training's transitions and the normal sessions most like it see them.

    Transition t leads to event t; those in `bridges` lead over events that are left out, and raise no question.
    """

    def __init__(self, context: ExplainContext, ids: list[int], bridges: list[int], neighbours: Neighbours) -> None:
        self.context = context
        self.ids = ids
        self._bridges = bridges
        self._tokens = [context.n_known, *ids, context.n_known + 1]  # begin and end included
        tokens = np.array(self._tokens, np.int64)
        n_pair, n_from, n_to = context.transitions(tokens[:-1], tokens[1:])
        like = [context.references.session(reference).tolist() for reference in neighbours.references]
        self._followed: dict[int, dict[int, float]] = {}  # by the normal sessions most like this one
        for other, weight in zip(like, neighbours.weights.tolist(), strict=True):
            for before, event in pairwise([context.n_known, *other, context.n_known + 1]):
                successors = self._followed.setdefault(before, {})
                successors[event] = successors.get(event, 0.0) + weight
        self.doubts = np.maximum(_doubts(n_pair, n_from, n_to), _doubts(*self._counts_of_like(self._tokens)))
        self.doubts[bridges] = 0.0
        self._costs: dict[tuple[int, int], float] = {}
        others = like[:N_COMPARED]
        if sum(map(len, others)) * len(ids) > MAX_COMPARED_CELLS:
            others = []
        self._compared = [(bit_masks(other), len(other)) for other in others]
        self._distance = self._distance_of(ids)

    def _counts_of_like(self, tokens: list[int]) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Counts of the transitions in the normal sessions most like this one, as `Transition`."""
        into: dict[int, float] = {}
        for successors in self._followed.values():
            for event, weight in successors.items():
                into[event] = into.get(event, 0.0) + weight
        n_from = [sum(self._followed.get(before, {}).values()) for before in tokens[:-1]]
        n_pair = [self._followed.get(before, {}).get(event, 0.0) for before, event in pairwise(tokens)]
        return np.array(n_pair), np.array(n_from), np.array([into.get(event, 0.0) for event in tokens[1:]])

    def without(self, first: int, last: int) -> tuple[float, float]:
        """Gain of taking out events first..last, as one fault, and the doubt about the transitions at both ends."""
        before, *inside, after = self._tokens[first : last + 3]
        gain = self._cost(before, *inside, after) - self._cost(before, after) - self._cost_of_noise
        gain += self._approach([*self.ids[:first], *self.ids[last + 1 :]])
        return gain, float(self.doubts[first] + self.doubts[last + 1])

    def with_events(self, slot: int, events: list[int]) -> tuple[float, float]:
        """Gain of putting events in behind the first `slot` ones, and the doubt about the transition there now."""
        before, after = self._tokens[slot : slot + 2]
        gain = self._cost(before, after) - self._cost(before, *events, after)
        return gain + self._approach([*self.ids[:slot], *events, *self.ids[slot:]]), float(self.doubts[slot])

    def repairs(self) -> Iterator[Repair]:
        """Changes at the unlikely transitions."""
        n = len(self.ids)
        costs = np.array([self._cost(*pair) for pair in pairwise(self._tokens)])
        costs[self._bridges] = 0.0
        spots = np.flatnonzero(costs >= -np.log(UNLIKELY))
        spots = spots[np.argsort(-costs[spots], kind="stable")][:MAX_SPOTS]
        tried: set[tuple[Callable[[int], Iterator[Repair]], int]] = set()
        for spot in spots.tolist():  # the transition that leads to event `spot`
            for change, places in (
                (self._missing, (spot,)),
                (self._repeated, (spot,)),
                (self._surplus, (spot - 1, spot)),
                (self._swapped, (spot - 2, spot - 1, spot)),
            ):
                for at in places:
                    if 0 <= at <= n and (change, at) not in tried:
                        tried.add((change, at))
                        yield from change(at)

    def _missing(self, slot: int) -> Iterator[Repair]:
        """One event put back, any that training knows to lead from one side to the other."""
        before, after = self._tokens[slot : slot + 2]
        between, _ = self.context.successors(before)
        n_onward = self.context.transitions(between, np.full(len(between), after))[0]
        between = between[(n_onward > 0) & (between < self.context.n_known)]
        if not len(between):
            return
        gains = np.array([-self._cost(before, event, after) for event in between.tolist()])
        best = np.argsort(-gains, kind="stable")[:N_CANDIDATES]
        closer = np.array([self._approach([*self.ids[:slot], int(between[at]), *self.ids[slot:]]) for at in best])
        gains += closer.min()  # what was not compared is taken to be no nearer than the rest
        gains[best] += closer - closer.min()
        best = best[np.argsort(-gains[best], kind="stable")]
        total = float(np.logaddexp.reduce(gains))
        candidates = tuple((int(between[at]), float(np.exp(gains[at] - total))) for at in best)
        gain = self._cost(before, after) + total
        yield Repair("missing", slot, gain, float(self.doubts[slot]), range(slot, slot + 1), candidates=candidates)

    def _surplus(self, at: int) -> Iterator[Repair]:
        """One event taken out."""
        if at < len(self.ids):
            yield Repair("surplus", at, *self.without(at, at), range(at, at + 2))

    def _repeated(self, at: int) -> Iterator[Repair]:
        """What repeats the events right before `at` taken out, for each length that it may have."""
        ids = self.ids
        for period in range(2, min(MAX_PERIOD, at, len(ids) - at) + 1):
            if ids[at] == ids[at - period] and ids[at : at + period] == ids[at - period : at]:
                end = at + period
                while ids[end : end + period] == ids[at : at + period]:
                    end += period
                gain, _ = self.without(at, end - 1)
                doubt = float(self.doubts[[*range(at, end + 1, period)]].sum())
                yield Repair("repeated", at, gain, doubt, range(at, end + 1), period)

    def _swapped(self, at: int) -> Iterator[Repair]:
        """An event exchanged with the next."""
        if at + 1 >= len(self.ids) or self.ids[at] == self.ids[at + 1]:
            return
        before, left, right, after = self._tokens[at : at + 4]
        gain = self._cost(before, left, right, after) - self._cost(before, right, left, after)
        gain += self._approach([*self.ids[:at], right, left, *self.ids[at + 2 :]])
        yield Repair("swapped", at, gain, float(self.doubts[at : at + 3].sum()), range(at, at + 3))

    def _cost(self, *tokens: int) -> float:
        """-log p of these tokens after the first of them."""
        return sum(self._transition_cost(tokens[at], tokens[at + 1]) for at in range(len(tokens) - 1))

    def _transition_cost(self, before: int, event: int) -> float:
        """-log p by like sessions, which fall back on all of training, which falls back on how common events are.

        New successors are as likely as they have been (Witten-Bell).
        """
        known = self._costs.get((before, event))
        if known is None:
            context = self.context
            seen = context.token_transition(before, event)
            n_new = max(int(context.n_successors[before]), 1)
            share = (seen.n_pair + n_new * float(context.transition_shares[event])) / (seen.n_from + n_new)
            if successors := self._followed.get(before):
                n_new = len(successors)
                share = (successors.get(event, 0.0) + n_new * share) / (sum(successors.values()) + n_new)
            known = self._costs[before, event] = -float(np.log(share))
        return known

    @property
    def _cost_of_noise(self) -> float:
        """What a surplus line costs: it may be any, of training or, as likely, another; so much for a copied run."""
        return float(np.log(2 * max(self.context.n_known, 1)))

    def _approach(self, changed: list[int]) -> float:
        """What a changed session gains by being nearer to a normal one."""
        return self._cost_of_distance(self._distance) - self._cost_of_distance(self._distance_of(changed))

    def _cost_of_distance(self, n_events: int) -> float:
        """-log of the chance that a normal session is as far from all of training: a power law through the chance that
        it is none of training's sequences.
        """
        return self.context.cost_of_difference * float(np.log2(1 + n_events))

    def _distance_of(self, ids: list[int]) -> int:
        return min((n + len(ids) - 2 * common_length(masks, n, ids) for masks, n in self._compared), default=0)


def _doubts(
    n_pair: Float64Array | Int64Array, n_from: Float64Array | Int64Array, n_to: Float64Array | Int64Array
) -> Float64Array:
    """-log of the share of the rarer event's occurrences that stand in each transition, smoothed, at least 0."""
    return np.asarray(-np.log(np.minimum((n_pair + 0.5) / (np.minimum(n_from, n_to) + 1), 1)), np.float64)
