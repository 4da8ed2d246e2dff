"""Numbers in groups: how far out one lies, beside those of the training sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ai_detect.artifacts import check_array
from ai_detect.detectors.value_groups import Tokens, beginnings, changes, check_groups, first_at_least, is_more, look_up
from ai_detect.detectors.value_slots import Observed
from ai_detect.tables import BoolArray, Float64Array, Int64Array

#: A tail is measured on so many sessions. Widths are in nats of the value: the narrowest, and what one session that
#: has no other beside it leaves open.
_TAIL_SESSIONS, _NARROWEST, _WIDTH_OF_ONE = 20, 0.1, 2.0
#: Shape of the tails beyond training, as of a generalised Pareto distribution of the logarithm.
_SHAPE = 0.5
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
    def fit(cls, observed: Observed, middle: float) -> tuple[NumberTails, Float64Array, Int64Array]:
        """Tails of numbers; the surprise of each observed one beside the other sessions, and how many these are, both
        (n_levels, n). Sessions from `middle` on are the later ones.
        """
        surprise, n_others = np.zeros(observed.groups.shape), np.zeros(observed.groups.shape, np.int64)
        models = []
        for level in reversed(range(len(observed.groups))):  # from wide to narrow the numbers of groups rise
            rows = np.flatnonzero(observed.groups[level] >= 0)
            tokens = Tokens.of(observed.groups[level, rows], observed.session[rows], observed.value[rows])
            model, surprise[level, rows], n_others[level, rows] = _fit_level(tokens, middle)
            models.append(model)
        return cls._joined(models), surprise, n_others

    def surprise(self, group: Int64Array, value: Float64Array) -> Float64Array:
        """-ln of the share of training that is as far out; 0 for a group that training does not have."""
        at, there = look_up(self.groups, group)
        surprise = np.zeros(len(group))
        at, value = at[there], value[there]
        begin, end = self.offsets[at], self.offsets[at + 1]
        right = first_at_least(self.values, begin, end, value)
        equal = (right < end) & (self.values[np.minimum(right, len(self.values) - 1)] == value)
        left = np.where(equal, right, right - 1)
        n = self.n_sessions[at]
        # what is not kept lies between its neighbours; where all is kept, both say the same
        above = np.where(equal, self.at_least[np.minimum(right, end - 1)], n - self.at_most[np.maximum(left, begin)])
        above = np.where(left < begin, n, above)
        below = np.where(equal, self.at_most[np.maximum(left, begin)], n - self.at_least[np.minimum(right, end - 1)])
        below = np.where(right >= end, n, below)
        surprise[there] = _numeric(value, above, below, n, right >= end, left < begin, self.edges[at])
        return surprise

    def n_in(self, group: Int64Array) -> Int64Array:
        """Training sessions that hold a value of the group."""
        at, there = look_up(self.groups, group)
        n = np.zeros(len(group), np.int64)
        n[there] = self.n_sessions[at[there]]
        return n

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that `from_state` takes."""
        return {f"numbers_{name}": array for name, array in vars(self).items()}

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

    @classmethod
    def _joined(cls, parts: list[NumberTails]) -> NumberTails:
        """All these groups; those of a part come after those of the part before."""
        names = [name for name in cls.__annotations__ if name != "offsets"]
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        n_values = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(**columns, offsets=np.append(0, np.cumsum(n_values)))


def _fit_level(tokens: Tokens, middle: float) -> tuple[NumberTails, Float64Array, Int64Array]:
    """What `NumberTails.fit` gives, for the groups of one level."""
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
    model = NumberTails(tokens.groups, n_sessions, edges, offsets, *columns)
    return model, surprise[tokens.of_observed], n_others[tokens.of_observed]


def _extremes(tokens: Tokens, side: int) -> tuple[Int64Array, Float64Array, Int64Array]:
    """The outermost value of each session in each group, sorted by group and value: group, value, session."""
    row = tokens.run_begin[:-1] if side else tokens.run_begin[1:] - 1
    value = -tokens.value[row] if side else tokens.value[row]
    order = np.lexsort((value, tokens.group[row]))
    return tokens.group[row][order], value[order], tokens.session[row][order]


def _edges(tokens: Tokens, side: int, without_last: bool, drift: Float64Array) -> Float64Array:
    """Outermost value, width of the tail, and drift of each group, (n_groups, 3).

    `without_last`: as the session with the outermost value sees the others. The width is that of an exponential tail
    with the median of the outermost sessions, and more where these are few.
    """
    group, value, _ = _extremes(tokens, side)
    begins = beginnings(group, len(tokens.groups))
    begin, end = begins[:-1], begins[1:] - without_last
    n_tail = np.minimum(end - begin, _TAIL_SESSIONS)
    last = np.maximum(end - 1, begin)  # a group of one session has no others; nothing is asked of it then
    inner, median = np.minimum(end - n_tail, last), np.minimum(end - (n_tail + 1) // 2, last)
    width = _NARROWEST + _WIDTH_OF_ONE / np.maximum(n_tail, 1) + (value[median] - value[inner]) / np.log(2)
    return np.column_stack([value[last], width, drift])


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
    """
    sides = []
    for side, (mass, beyond) in enumerate(((above, is_largest), (below, is_smallest))):
        outermost, width, drift = np.moveaxis(edges[:, side], -1, 0)
        surprise = np.log((n + 1) / (np.maximum(mass, 0) + 1)) - np.log(drift)
        out = np.flatnonzero(beyond)
        distance = np.maximum((-value[out] if side else value[out]) - outermost[out], 0)
        surprise[out] += np.log1p(_SHAPE * distance / width[out]) / _SHAPE
        sides.append(surprise)
    return np.asarray(np.maximum(np.maximum(*sides) - np.log(2), 0), np.float64)  # two sides: twice the share
