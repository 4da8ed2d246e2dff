"""Numbers in groups: how far out one lies, beside those of the training sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ai_detect.artifacts import check_array
from ai_detect.detectors.value_groups import Tokens, beginnings, changes, check_groups, first_at_least, is_more, look_up
from ai_detect.detectors.value_slots import Observed
from ai_detect.tables import BoolArray, Float64Array, Int64Array

#: A tail goes from this quantile of the sessions to the outermost one; the narrowest, in nats of the value: a number
#: below three times the largest of training is nothing to speak of.
_INNER, _NARROWEST = 0.95, float(np.log(3))
#: Fewer sessions do not show how far out a value may lie.
_ENOUGH_SESSIONS = 100
#: Values that are kept of a numeric slot: so many of each end, and this many steps of equal mass between.
_KEPT_ENDS, _KEPT_STEPS = 64, 256
#: Beyond any number of sessions, and any log-scaled number.
_MOST_SESSIONS, _LARGEST = 1 << 40, 1e12


@dataclass(frozen=True)
class NumberTails:
    """Tails of the numbers in groups; group i has the values `offsets[i]:offsets[i + 1]`."""

    groups: Int64Array  # ascending
    n_sessions: Int64Array
    edges: Float64Array  # (n_groups, 2, 3): upper and lower (negated) end: outermost value, width of the tail, drift
    offsets: Int64Array
    values: Float64Array  # distinct, ascending in each group
    at_least: Float64Array  # sessions with such a value or a larger one, in parts of their values
    at_most: Float64Array

    @classmethod
    def fit(cls, observed: Observed, middle: float) -> tuple[NumberTails, Float64Array]:
        """Tails of numbers; and the surprise of each observed one beside the other sessions, (n,). Sessions from
        `middle` on are the later ones.
        """
        tokens = Tokens.of(observed.group, observed.session, observed.value)
        n_groups, weight, n_sessions = len(tokens.groups), tokens.weight, tokens.n_sessions
        order = np.lexsort((tokens.value, tokens.group))
        group, value = tokens.group[order], tokens.value[order]
        begins = beginnings(group, n_groups)
        new = changes([group, value])
        first = np.flatnonzero(new)  # of each distinct value in its group
        behind = np.append(first[1:], len(order))
        tie = np.cumsum(new) - 1
        mass = np.append(0, np.cumsum(weight[order]))
        most = n_sessions[group[first]]  # rounding may make a little more
        at_most = np.minimum(mass[behind] - mass[begins[group[first]]], most)
        at_least = np.minimum(mass[begins[group[first] + 1]] - mass[first], most)

        # the others of a token's session: all but its own run
        tie_of = np.empty(len(order), np.int64)
        tie_of[order] = tie
        place = np.arange(len(order))
        own_above = tokens.run_begin[tokens.run + 1] - place
        own_below = place - tokens.run_begin[tokens.run] + 1
        n_above = begins[tokens.group + 1] - first[tie_of] - own_above
        n_below = behind[tie_of] - begins[tokens.group] - own_below
        drift = [_drift(tokens, side, middle) for side in (0, 1)]
        edges, edges_of_others = (
            np.stack([_edges(tokens, side, without_last, drift[side]) for side in (0, 1)], axis=1)
            for without_last in (False, True)
        )
        n_others = n_sessions[tokens.group] - 1
        surprise = _numeric(
            tokens.value,
            at_least[tie_of] - own_above * weight,
            at_most[tie_of] - own_below * weight,
            n_others,
            (n_above == 0) & (n_others > 0),
            (n_below == 0) & (n_others > 0),
            edges_of_others[tokens.group],
        )
        kept = _kept(group[first], at_most, n_sessions)
        offsets = beginnings(group[first][kept], n_groups)
        columns = (column[kept] for column in (value[first], at_least, at_most))
        return cls(tokens.groups, n_sessions, edges, offsets, *columns), surprise[tokens.of_observed]

    def surprise(self, group: Int64Array, value: Float64Array) -> Float64Array:
        """-ln of the share of training that is as far out; 0 for a group that training does not have."""
        at, there = look_up(self.groups, group)
        surprise = np.zeros(len(group))
        at, value = at[there], value[there]
        begin, end = self.offsets[at], self.offsets[at + 1]
        right = first_at_least(self.values, begin, end, value)
        place = np.minimum(right, len(self.values) - 1)
        equal = (right < end) & (self.values[place] == value)
        of_values, of_gaps = self._told
        told = np.where(equal, of_values[place], of_gaps[right + at])
        beyond = np.flatnonzero(~equal & ((right == begin) | (right == end)))
        if len(beyond):
            at, right = at[beyond], right[beyond]
            above, below = (mass[right + at] for mass in self._masses_of_gaps)
            is_largest, is_smallest = right == end[beyond], right == begin[beyond]
            edges = self.edges[at]
            told[beyond] = _numeric(value[beyond], above, below, self.n_sessions[at], is_largest, is_smallest, edges)
        surprise[there] = told
        return surprise

    @cached_property
    def _told(self) -> tuple[Float64Array, Float64Array]:
        """Surprise of each value, and of what lies before each value of a group and, as if it were near, behind the
        last: what group i has of these begins at `offsets[i] + i`.
        """
        told = []
        for n_more, (above, below) in enumerate(((self.at_least, self.at_most), self._masses_of_gaps)):
            group = np.repeat(np.arange(len(self.groups)), np.diff(self.offsets) + n_more)
            nowhere = np.zeros(len(group), np.bool_)
            n, edges = self.n_sessions[group], self.edges[group]
            told.append(_numeric(np.zeros(len(group)), above, below, n, nowhere, nowhere, edges))
        return told[0], told[1]

    @cached_property
    def _masses_of_gaps(self) -> tuple[Float64Array, Float64Array]:
        """Sessions at or above, and at or below what lies before each value of a group and behind the last. What is not
        kept lies between its neighbours; where all is kept, both say the same.
        """
        group = np.repeat(np.arange(len(self.groups)), np.diff(self.offsets) + 1)
        value = np.arange(len(group)) - group  # behind the gap
        n = self.n_sessions[group]
        is_first, is_last = value == self.offsets[group], value == self.offsets[group + 1]
        above = np.where(is_first, n, n - self.at_most[np.maximum(value - 1, 0)])
        below = np.where(is_last, n, n - self.at_least[np.minimum(value, len(self.values) - 1)])
        return above, below

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that `from_state` takes."""
        return {f"numbers_{name}": getattr(self, name) for name in type(self).__annotations__}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], n_groups: int) -> NumberTails:
        """The tails that were saved, of groups below `n_groups`; raises KeyError or ValueError where the arrays are not
        such.
        """
        made = cls(**{name: arrays[f"numbers_{name}"] for name in cls.__annotations__})
        n = len(made.groups)
        check_groups("numbers", made.groups, made.offsets, made.values, n_groups)
        check_array("numbers_n_sessions", made.n_sessions, np.int64, (n,), low=1, high=_MOST_SESSIONS)
        check_array("numbers_edges", made.edges, np.float64, (n, 2, 3), low=-_LARGEST, high=_LARGEST)
        check_array("widths of tails", made.edges[:, :, 1], np.float64, (n, 2), low=_NARROWEST)
        check_array("drift of tails", made.edges[:, :, 2], np.float64, (n, 2), low=1)
        check_array("numbers_values", made.values, np.float64, (None,), low=-_LARGEST, high=_LARGEST)
        for name, mass in (("at_least", made.at_least), ("at_most", made.at_most)):
            check_array(f"numbers_{name}", mass, np.float64, made.values.shape, low=0)
            if (mass > np.repeat(made.n_sessions, np.diff(made.offsets)) * (1 + 1e-9)).any():
                raise ValueError(f"numbers_{name} counts more sessions than there are")
        if (np.diff(made.offsets) == 0).any():
            raise ValueError("numbers holds a group without values")
        return made


def _extremes(tokens: Tokens, side: int) -> tuple[Int64Array, Float64Array, Int64Array]:
    """The outermost value of each session in each group, sorted by group and value: group, value, session."""
    row = tokens.run_begin[:-1] if side else tokens.run_begin[1:] - 1
    value = -tokens.value[row] if side else tokens.value[row]
    order = np.lexsort((value, tokens.group[row]))
    return tokens.group[row][order], value[order], tokens.session[row][order]


def _edges(tokens: Tokens, side: int, without_last: bool, drift: Float64Array) -> Float64Array:
    """Outermost value, width of the tail, and drift of each group, (n_groups, 3).

    `without_last`: as the session with the outermost value sees the others.
    """
    group, value, _ = _extremes(tokens, side)
    begins = beginnings(group, len(tokens.groups))
    begin, end = begins[:-1], begins[1:] - without_last
    last = np.maximum(end - 1, begin)  # a group of one session has no others; nothing is asked of it then
    inner = np.minimum(begin + (_INNER * (end - begin)).astype(np.int64), last)
    return np.column_stack([value[last], np.maximum(value[last] - value[inner], _NARROWEST), drift])


def _drift(tokens: Tokens, side: int, middle: float) -> Float64Array:
    """How many times as often as chance has it later sessions lie beyond the outer values of the earlier ones.

    Counters rise: each session then is beyond all before, and a value beyond training says nothing.
    """
    group, value, session = _extremes(tokens, side)
    n_groups = len(tokens.groups)
    begins = beginnings(group, n_groups)
    is_early = session < middle
    early = np.append(0, np.cumsum(is_early))
    tie = np.flatnonzero(changes([group, value]))
    tie = tie[np.cumsum(changes([group, value])) - 1]
    n_early_above = early[begins[group + 1]] - early[tie]  # early sessions with this value or one further out
    n_early = np.bincount(group[is_early], minlength=n_groups)
    n_late = np.bincount(group[~is_early], minlength=n_groups)
    drift = np.ones(n_groups)
    level = 1
    while level <= n_early.max(initial=0):
        found = np.bincount(group[~is_early & (n_early_above < level)], minlength=n_groups)
        expected = n_late * level / (n_early + 1)
        drifts = (n_early >= level) & is_more(found, expected)
        drift[drifts] = np.maximum(drift, found / np.maximum(expected, 1e-12))[drifts]
        level *= 2
    return drift


def _kept(group: Int64Array, at_most: Float64Array, n_sessions: Int64Array) -> Int64Array:
    """Which distinct values are kept: all of a small group, else both ends and steps of equal mass between."""
    begins = beginnings(group, len(n_sessions))
    place = np.arange(len(group))
    is_end = (place - begins[group] < _KEPT_ENDS) | (begins[group + 1] - place <= _KEPT_ENDS)
    step = np.floor(at_most / n_sessions[group] * _KEPT_STEPS)
    crosses = changes([group, step])
    return np.flatnonzero(is_end | crosses)


def _numeric(
    value: Float64Array,
    above: Float64Array,
    below: Float64Array,
    n: np.ndarray,
    is_largest: BoolArray,
    is_smallest: BoolArray,
    edges: Float64Array,
) -> Float64Array:
    """Surprise of values with so many of n sessions at or above them, at or below; `is_largest`, `is_smallest`:
    beyond them all.

    Beyond training the odds fall by n + 1 with every width of the tail: so they fall within it.
    """
    sides = []
    for side, (mass, beyond) in enumerate(((above, is_largest), (below, is_smallest))):
        outermost, width, drift = np.moveaxis(edges[:, side], -1, 0)
        surprise = np.log((n + 1) / (np.maximum(mass, 0) + 1)) - np.log(drift)
        out = np.flatnonzero(beyond & (n >= _ENOUGH_SESSIONS))
        distance = np.maximum((-value[out] if side else value[out]) - outermost[out], 0)
        surprise[out] += np.log(n[out] + 1) * distance / width[out]
        sides.append(surprise)
    return np.asarray(np.maximum(np.maximum(*sides) - np.log(2), 0), np.float64)  # two sides: twice the share
