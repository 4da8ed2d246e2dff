"""How odd the values in a message are, and the time before it, beside those of training.

Every place of a message where its template has a mask or a wildcard is a slot of its event. What a slot holds is told
by counts alone: numbers have tails, words of which there are few make a new one odd, and where nearly every session
brings a new value nothing follows from one. Time makes two more slots: the gap to the event before, and the time since
the same event. A number is compared with those after the same event before; where there are too few, with all of its
slot; a gap then with all gaps.

A probability is a share of training sessions, so that a session with a thousand values counts once. A training session
is judged by the others alone: what only it holds is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ai_detect.artifacts import check_array
from ai_detect.tables import (
    MAX_VALUES,
    BoolArray,
    Float32Array,
    Float64Array,
    Int32Array,
    Int64Array,
    SequenceTable,
    ValueTable,
    check_offsets,
)

#: Slots of an event beside its values, and no slot.
SINCE_SAME_EVENT, GAP, NO_SLOT = MAX_VALUES, MAX_VALUES + 1, -1
_SLOTS = MAX_VALUES + 2
#: Fewer sessions say too little of a number after the same event: the wider group is asked instead.
_ENOUGH_SESSIONS = 50
#: A tail is measured on so many sessions. Widths are in nats of the value: the narrowest, and what one session that
#: has no other beside it leaves open.
_TAIL_SESSIONS, _NARROWEST, _WIDTH_OF_ONE = 20, 0.1, 2.0
#: Shape of the tails beyond training, as of a generalised Pareto distribution of the logarithm.
_SHAPE = 0.5
#: Values that are kept of a numeric slot: so many of each end, and this many steps of equal mass between.
_KEPT_ENDS, _KEPT_STEPS = 64, 256
#: Smallest number told from 0, in its unit; a second counts as a thousand of these.
_RESOLUTION = 1e-3
_LONGEST_GAP_S = 1e9
#: Training is measured on an even sample of sessions with about so many events; more only cost memory.
_MAX_EVENTS = 1_000_000
#: Events that are looked at together; only memory depends on it.
_BLOCK = 1 << 19
#: Beyond any number of events, of sessions, and any mass or log-scaled number.
_MOST_EVENTS, _MOST_SESSIONS, _LARGEST = 1 << 29, 1 << 40, 1e12


class ValueSurprise(NamedTuple):
    """What is oddest in each event: its surprise in nats, (n_events,) float32, and its slot, (n_events,) int32.

    A slot is the number of a value of the event, or `SINCE_SAME_EVENT`, `GAP`, or `NO_SLOT` where the surprise is 0.
    """

    surprise: Float32Array
    slot: Int32Array


class _Observed(NamedTuple):
    """Values of events, one a row: of which event, in which slot, and what is comparable with what."""

    row: Int64Array
    session: Int64Array
    slot: Int64Array
    groups: Int64Array  # (n_levels, n): what it is compared with, from narrow to wide; -1 on a level that has none
    value: np.ndarray  # log-scaled number, float64, or hash, int64

    def widest(self) -> Int64Array:
        """The widest level of each."""
        return np.asarray(len(self.groups) - 1 - np.argmax(self.groups[::-1] >= 0, axis=0), np.int64)

    def level(self, n_sessions: Int64Array) -> Int64Array:
        """The narrowest level with enough sessions, else the widest; `n_sessions` (n_levels, n)."""
        enough = n_sessions >= _ENOUGH_SESSIONS
        return np.where(enough.any(axis=0), np.argmax(enough, axis=0), self.widest())


@dataclass(frozen=True)
class _Numbers:
    """Tails of the numbers in groups; group i has the values `offsets[i]:offsets[i + 1]`."""

    groups: Int64Array  # ascending
    n_sessions: Int64Array
    edges: Float64Array  # (n_groups, 2, 3): upper and lower (negated) end: outermost value, width of the tail, drift
    offsets: Int64Array
    values: Float64Array  # distinct, ascending in each group
    at_least: Float64Array  # sessions with such a value or a larger one, in parts of their values
    at_most: Float64Array

    @classmethod
    def joined(cls, parts: list[_Numbers]) -> _Numbers:
        """All these groups; those of a part come after those of the part before."""
        names = [name for name in cls.__annotations__ if name != "offsets"]
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        n_values = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(**columns, offsets=np.append(0, np.cumsum(n_values)))

    def surprise(self, group: Int64Array, value: Float64Array) -> Float64Array:
        """-ln of the share of training that is as far out; 0 for a group that training does not have."""
        at, there = _look_up(self.groups, group)
        surprise = np.zeros(len(group))
        at, value = at[there], value[there]
        begin, end = self.offsets[at], self.offsets[at + 1]
        right = _first_at_least(self.values, begin, end, value)
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
        at, there = _look_up(self.groups, group)
        n = np.zeros(len(group), np.int64)
        n[there] = self.n_sessions[at[there]]
        return n


@dataclass(frozen=True)
class _Words:
    """Surprise of the values in groups by how many sessions hold them; group i has the keys
    `offsets[i]:offsets[i + 1]`.
    """

    groups: Int64Array  # ascending
    unseen: Float64Array  # surprise of a value that is not among the keys
    offsets: Int64Array
    keys: Int64Array  # ascending in each group
    surprises: Float64Array

    def surprise(self, group: Int64Array, key: Int64Array) -> Float64Array:
        """-ln of the share of training values as rare; 0 for a group that training does not have."""
        at, there = _look_up(self.groups, group)
        surprise = np.zeros(len(group))
        at, key = at[there], key[there]
        end = self.offsets[at + 1]
        place = _first_at_least(self.keys, self.offsets[at], end, key)
        known = place < end
        known[known] = self.keys[place[known]] == key[known]
        surprises = self.unseen[at]
        surprises[known] = self.surprises[place[known]]
        surprise[there] = surprises
        return surprise


@dataclass(frozen=True)
class ValueModel:
    """What training says of the values in each slot, and of time."""

    n_events: int  # event ids below are known
    numbers: _Numbers
    words: _Words

    @classmethod
    def fit(cls, sequences: SequenceTable, values: ValueTable, n_events: int) -> tuple[ValueModel, ValueSurprise]:
        """Learn from training sessions in order of time; also returns how odd each of them is beside the others.

        `values` are those of the sequences' events, row for row; event ids from `n_events` on are of no known template.
        """
        _check_aligned(sequences, values)
        stride = -(-max(len(sequences.event_id), 1) // _MAX_EVENTS)
        if stride == 1:
            return cls._fit(sequences, values, n_events)
        number = np.arange(len(sequences))
        sampled = number % stride == 0
        rows = np.repeat(sampled, sequences.lengths)
        model, own = cls._fit(sequences.take(number[sampled]), values.take(np.flatnonzero(rows)), n_events)
        rest = model.surprise(sequences.take(number[~sampled]), values.take(np.flatnonzero(~rows)))
        both = ValueSurprise(np.empty(len(rows), np.float32), np.empty(len(rows), np.int32))
        for whole, of_sample, of_rest in zip(both, own, rest, strict=True):
            whole[rows], whole[~rows] = of_sample, of_rest
        return model, both

    @classmethod
    def _fit(cls, sequences: SequenceTable, values: ValueTable, n_events: int) -> tuple[ValueModel, ValueSurprise]:
        numbers, words = _observed(sequences, values, n_events)
        middle = len(sequences) / 2
        tails, of_numbers, n_others = _fit_numbers(numbers, middle)
        counts, of_words = _fit_words(words, middle)
        oddest = _Oddest(len(sequences.event_id))
        oddest.offer(words, of_words)
        level = numbers.level(n_others)
        oddest.offer(numbers, of_numbers[level, np.arange(len(level))])
        return cls(n_events, tails, counts), oddest.result()

    def surprise(self, sequences: SequenceTable, values: ValueTable) -> ValueSurprise:
        """How odd the events of new sessions are; `values` are those of the sequences' events, row for row."""
        _check_aligned(sequences, values)
        parts = [
            self._block(sequences.take(np.arange(begin, end)), values, int(sequences.offsets[begin]))
            for begin, end in _blocks(sequences)
        ]
        surprise = np.concatenate([np.zeros(0, np.float32), *(part.surprise for part in parts)])
        return ValueSurprise(surprise, np.concatenate([np.zeros(0, np.int32), *(part.slot for part in parts)]))

    def _block(self, sequences: SequenceTable, values: ValueTable, first_event: int) -> ValueSurprise:
        n = len(sequences.event_id)
        values = values.take(np.arange(first_event, first_event + n))
        numbers, words = _observed(sequences, values, self.n_events)
        oddest = _Oddest(n)
        oddest.offer(words, self.words.surprise(words.groups[0], words.value))
        level = numbers.level(np.stack([self.numbers.n_in(groups) for groups in numbers.groups]))
        group = numbers.groups[level, np.arange(len(level))]
        oddest.offer(numbers, self.numbers.surprise(group, numbers.value))
        return oddest.result()

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that `from_state` takes."""
        arrays = {"n_events": np.array([self.n_events])}
        for kind, part in (("numbers", self.numbers), ("words", self.words)):
            arrays |= {f"{kind}_{name}": array for name, array in vars(part).items()}
        return arrays

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray]) -> ValueModel:
        """The model that was saved; raises KeyError or ValueError where the arrays are not one."""
        check_array("n_events", arrays["n_events"], np.int64, (1,), low=0, high=_MOST_EVENTS)
        n_events = int(arrays["n_events"][0])
        numbers = _Numbers(**_stored("numbers", _Numbers, arrays))
        words = _Words(**_stored("words", _Words, arrays))
        n = len(numbers.groups)
        _check_groups(
            "numbers", numbers.groups, numbers.offsets, numbers.values, 1 + n_events * (1 + n_events) * _SLOTS
        )
        check_array("numbers_n_sessions", numbers.n_sessions, np.int64, (n,), low=1, high=_MOST_SESSIONS)
        check_array("numbers_edges", numbers.edges, np.float64, (n, 2, 3), low=-_LARGEST, high=_LARGEST)
        check_array("widths of tails", numbers.edges[:, :, 1], np.float64, (n, 2), low=_NARROWEST)
        check_array("drift of tails", numbers.edges[:, :, 2], np.float64, (n, 2), low=1)
        check_array("numbers_values", numbers.values, np.float64, (None,), low=-_LARGEST, high=_LARGEST)
        for name, mass in (("at_least", numbers.at_least), ("at_most", numbers.at_most)):
            check_array(f"numbers_{name}", mass, np.float64, numbers.values.shape, low=0)
            if (mass > np.repeat(numbers.n_sessions, np.diff(numbers.offsets)) * (1 + 1e-9)).any():
                raise ValueError(f"numbers_{name} counts more sessions than there are")
        if (np.diff(numbers.offsets) == 0).any():
            raise ValueError("numbers holds a group without values")
        _check_groups("words", words.groups, words.offsets, words.keys, 1 + n_events * _SLOTS)
        check_array("words_keys", words.keys, np.int64, (None,))
        check_array("words_unseen", words.unseen, np.float64, words.groups.shape, low=0, high=_LARGEST)
        check_array("words_surprises", words.surprises, np.float64, words.keys.shape, low=0, high=_LARGEST)
        return cls(n_events, numbers, words)


def _check_aligned(sequences: SequenceTable, values: ValueTable) -> None:
    if len(values) != len(sequences.event_id):
        raise ValueError(f"values of {len(values)} events, expected {len(sequences.event_id)}")


def _stored(kind: str, part: type, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: arrays[f"{kind}_{name}"] for name in part.__annotations__}


def _check_groups(kind: str, groups: Int64Array, offsets: Int64Array, values: np.ndarray, n_groups: int) -> None:
    """Raise ValueError unless the groups rise below `n_groups`, and the values in each group rise."""
    check_array(f"{kind}_groups", groups, np.int64, (None,), low=0, high=n_groups - 1)
    if values.ndim != 1 or offsets.shape != (len(groups) + 1,):
        raise ValueError(f"{kind}_offsets does not fit its groups")
    check_offsets(f"{kind}_offsets", offsets, len(values))
    falls = np.flatnonzero(values[1:] <= values[:-1]) + 1
    if (groups[1:] <= groups[:-1]).any() or not np.isin(falls, offsets).all():
        raise ValueError(f"{kind} does not rise")


class _Oddest:
    """The largest surprise of each event so far, and its slot."""

    def __init__(self, n_events: int) -> None:
        self._surprise = np.zeros(n_events)
        self._slot = np.full(n_events, NO_SLOT, np.int32)

    def offer(self, observed: _Observed, surprise: Float64Array) -> None:
        """Take what is odder than anything before."""
        for slot in range(GAP + 1):  # an event occurs once in a slot
            of = np.flatnonzero(observed.slot == slot)
            of = of[surprise[of] > self._surprise[observed.row[of]]]
            self._surprise[observed.row[of]] = surprise[of]
            self._slot[observed.row[of]] = slot

    def result(self) -> ValueSurprise:
        return ValueSurprise(self._surprise.astype(np.float32), self._slot)


def _blocks(sequences: SequenceTable) -> list[tuple[int, int]]:
    """Neighbouring sessions of about `_BLOCK` events, as (first, behind the last)."""
    n = len(sequences)
    bounds = np.searchsorted(sequences.offsets, np.arange(0, len(sequences.event_id) + _BLOCK, _BLOCK))
    bounds = np.unique(np.append(np.minimum(bounds, n), [0, n]))
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


def _observed(sequences: SequenceTable, values: ValueTable, n_events: int) -> tuple[_Observed, _Observed]:
    """The numbers in the slots of events, time among them; and all values as words."""
    event = sequences.event_id.astype(np.int64)
    event[event >= n_events] = n_events  # any event of no known template
    session = np.repeat(np.arange(len(sequences)), sequences.lengths)
    before = np.full(len(event), n_events)
    before[1:] = np.where(session[1:] == session[:-1], event[:-1], n_events)

    row, slot = values.event, values.slot
    known = np.flatnonzero(event[row] < n_events)
    row, slot = row[known], slot[known]
    group = _own(event[row], slot)
    words = _Observed(row, session[row], slot, group[None], values.key[known].astype(np.int64))
    number = values.number[known].astype(np.float64)
    finite = np.flatnonzero(np.isfinite(number))
    again, since = _since_same_event(sequences, session, event)
    known = np.flatnonzero(event[again] < n_events)
    again, since = again[known], since[known]
    later = np.flatnonzero(np.isfinite(sequences.gap_s))
    columns = (
        (row[finite], slot[finite], number[finite]),
        (again, np.full(len(again), SINCE_SAME_EVENT), since),
        (later, np.full(len(later), GAP), _seconds(sequences.gap_s[later])),
    )
    row, slot, number = (np.concatenate(column) for column in zip(*columns, strict=True))
    has_event, has_before = event[row] < n_events, before[row] < n_events
    groups = [
        np.where(has_event & has_before, _after(before[row], event[row], slot, n_events), -1),
        np.where(has_event, _own(event[row], slot), -1),
        np.where(slot == GAP, 0, -1),
    ]
    return _Observed(row, session[row], slot, np.stack(groups), _log_scaled(number)), words


def _own(event: Int64Array, slot: Int64Array) -> Int64Array:
    """The group of a slot of an event; 0 is that of all gaps."""
    return 1 + event * _SLOTS + slot


def _after(before: Int64Array, event: Int64Array, slot: Int64Array, n_events: int) -> Int64Array:
    """The group of a slot of an event after another."""
    return _own(n_events * (1 + before) + event, slot)


def _since_same_event(
    sequences: SequenceTable, session: Int64Array, event: Int64Array
) -> tuple[Int64Array, Float64Array]:
    """Events that are not the first of their kind in their session, and the seconds since the one before, where these
    are known.
    """
    # whole microseconds: sums of these are exact, wherever a session stands
    clock = np.cumsum(np.round(_seconds(sequences.gap_s) * 1e6).astype(np.int64))
    n_unknown = np.cumsum(np.isnan(sequences.gap_s))
    order = np.lexsort((event, session))
    same = np.flatnonzero((np.diff(session[order]) == 0) & (np.diff(event[order]) == 0))
    later, earlier = order[same + 1], order[same]
    is_known = n_unknown[later] == n_unknown[earlier]
    later, earlier = later[is_known], earlier[is_known]
    return later, (clock[later] - clock[earlier]) / 1e6


def _seconds(gap_s: Float32Array) -> Float64Array:
    return np.clip(np.nan_to_num(gap_s.astype(np.float64)), 0, _LONGEST_GAP_S)


def _log_scaled(number: Float64Array) -> Float64Array:
    """The logarithm of a number, but straight through 0."""
    return np.asarray(np.arcsinh(number / _RESOLUTION), np.float64)


def _look_up(groups: Int64Array, group: Int64Array) -> tuple[Int64Array, BoolArray]:
    """Where each group stands among the ascending `groups`, and whether it does."""
    at = np.searchsorted(groups, group)
    there = at < len(groups)
    there[there] = groups[at[there]] == group[there]
    return at, there


def _first_at_least(values: np.ndarray, begin: Int64Array, end: Int64Array, wanted: np.ndarray) -> Int64Array:
    """The first place from `begin` to `end` whose value is not below the wanted one; `end` where all are."""
    low, high = begin.copy(), end.copy()
    while (open_ := np.flatnonzero(low < high)).size:
        middle = (low[open_] + high[open_]) // 2
        below = values[middle] < wanted[open_]
        low[open_[below]] = middle[below] + 1
        high[open_[~below]] = middle[~below]
    return low


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
        distance = np.where(beyond, np.maximum((-value if side else value) - outermost, 0), 0)
        surprise = np.log((n + 1) / (np.maximum(mass, 0) + 1)) - np.log(drift)
        sides.append(surprise + np.log1p(_SHAPE * distance / width) / _SHAPE)
    return np.asarray(np.maximum(np.maximum(*sides) - np.log(2), 0), np.float64)  # two sides: twice the share


class _Tokens(NamedTuple):
    """The distinct values of each session in each group, sorted by group, session and value."""

    groups: Int64Array  # the distinct groups, ascending
    group: Int64Array  # index into groups
    session: Int64Array
    value: np.ndarray
    run: Int64Array  # number of the (group, session)
    run_begin: Int64Array  # first token of each run, and the number of tokens behind the last
    of_observed: Int64Array  # the token of each observed value

    @classmethod
    def of(cls, group: Int64Array, session: Int64Array, value: np.ndarray) -> _Tokens:
        groups, group = np.unique(group, return_inverse=True)
        order = np.lexsort((value, session, group))
        ordered = [group[order], session[order], value[order]]
        new_run, new = (_changes(ordered[:n]) for n in (2, 3))
        first = np.flatnonzero(new)
        of_observed = np.empty(len(order), np.int64)
        of_observed[order] = np.cumsum(new) - 1
        run = (np.cumsum(new_run) - 1)[first]
        run_begin = np.append(np.flatnonzero(_changes([run])), len(run))
        group, session, value = (column[first] for column in ordered)
        return cls(groups, group, session, value, run, run_begin, of_observed)

    @property
    def weight(self) -> Float64Array:
        """What a token counts: all of a session's in a group count 1."""
        return 1 / np.diff(self.run_begin)[self.run]

    @property
    def n_sessions(self) -> Int64Array:
        """Sessions in each group."""
        return np.bincount(self.group[self.run_begin[:-1]], minlength=len(self.groups))


def _changes(columns: list[np.ndarray]) -> BoolArray:
    """Rows that differ from the row before, (n,) bool; the first does."""
    changes = np.ones(len(columns[0]), np.bool_)
    changes[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return changes


def _begins(group: Int64Array, n_groups: int) -> Int64Array:
    """Where each group begins in an ascending column, and the length of the column."""
    return np.searchsorted(group, np.arange(n_groups + 1))


def _fit_numbers(observed: _Observed, middle: float) -> tuple[_Numbers, Float64Array, Int64Array]:
    """Tails of numbers; the surprise of each observed one beside the other sessions, and how many these are, both
    (n_levels, n).
    """
    surprise, n_others = np.zeros(observed.groups.shape), np.zeros(observed.groups.shape, np.int64)
    models = []
    for level in reversed(range(len(observed.groups))):  # from wide to narrow the numbers of groups rise
        rows = np.flatnonzero(observed.groups[level] >= 0)
        tokens = _Tokens.of(observed.groups[level, rows], observed.session[rows], observed.value[rows])
        model, surprise[level, rows], n_others[level, rows] = _fit_level(tokens, middle)
        models.append(model)
    return _Numbers.joined(models), surprise, n_others


def _fit_level(tokens: _Tokens, middle: float) -> tuple[_Numbers, Float64Array, Int64Array]:
    """What `_fit_numbers` gives, for the groups of one level."""
    n_groups, weight, n_sessions = len(tokens.groups), tokens.weight, tokens.n_sessions
    order = np.lexsort((tokens.value, tokens.group))
    group, value = tokens.group[order], tokens.value[order]
    begins = _begins(group, n_groups)
    new = _changes([group, value])
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
    offsets = _begins(group[first][kept], n_groups)
    columns = (column[kept] for column in (value[first], at_least, at_most))
    model = _Numbers(tokens.groups, n_sessions, edges, offsets, *columns)
    return model, surprise[tokens.of_observed], n_others[tokens.of_observed]


def _extremes(tokens: _Tokens, side: int) -> tuple[Int64Array, Float64Array, Int64Array]:
    """The outermost value of each session in each group, sorted by group and value: group, value, session."""
    row = tokens.run_begin[:-1] if side else tokens.run_begin[1:] - 1
    value = -tokens.value[row] if side else tokens.value[row]
    order = np.lexsort((value, tokens.group[row]))
    return tokens.group[row][order], value[order], tokens.session[row][order]


def _edges(tokens: _Tokens, side: int, without_last: bool, drift: Float64Array) -> Float64Array:
    """Outermost value, width of the tail, and drift of each group, (n_groups, 3).

    `without_last`: as the session with the outermost value sees the others. The width is that of an exponential tail
    with the median of the outermost sessions, and more where these are few.
    """
    group, value, _ = _extremes(tokens, side)
    begins = _begins(group, len(tokens.groups))
    begin, end = begins[:-1], begins[1:] - without_last
    n_tail = np.minimum(end - begin, _TAIL_SESSIONS)
    last = np.maximum(end - 1, begin)  # a group of one session has no others; nothing is asked of it then
    inner, median = np.minimum(end - n_tail, last), np.minimum(end - (n_tail + 1) // 2, last)
    width = _NARROWEST + _WIDTH_OF_ONE / np.maximum(n_tail, 1) + (value[median] - value[inner]) / np.log(2)
    return np.column_stack([value[last], width, drift])


def _drift(tokens: _Tokens, side: int, middle: float) -> Float64Array:
    """How many times as often as chance has it later sessions lie beyond the outer values of the earlier ones.

    Counters rise: each session then is beyond all before, and a value beyond training says nothing.
    """
    group, value, session = _extremes(tokens, side)
    n_groups = len(tokens.groups)
    begins = _begins(group, n_groups)
    is_early = session < middle
    early = np.append(0, np.cumsum(is_early))
    tie = np.flatnonzero(_changes([group, value]))
    tie = tie[np.cumsum(_changes([group, value])) - 1]
    n_early_above = early[begins[group + 1]] - early[tie]  # early sessions with this value or one further out
    n_early = np.bincount(group[is_early], minlength=n_groups)
    n_late = np.bincount(group[~is_early], minlength=n_groups)
    drift = np.ones(n_groups)
    level = 1
    while level <= n_early.max(initial=0):
        found = np.bincount(group[~is_early & (n_early_above < level)], minlength=n_groups)
        expected = n_late * level / (n_early + 1)
        drifts = (n_early >= level) & _is_more(found, expected)
        drift[drifts] = np.maximum(drift, found / np.maximum(expected, 1e-12))[drifts]
        level *= 2
    return drift


def _is_more(found: np.ndarray, expected: Float64Array) -> BoolArray:
    """Whether a count is more than chance, which hardly ever strays four deviations, makes of what is expected."""
    return np.asarray(found > expected + 4 * np.sqrt(expected + 1))


def _kept(group: Int64Array, at_most: Float64Array, n_sessions: Int64Array) -> Int64Array:
    """Which distinct values are kept: all of a small group, else both ends and steps of equal mass between."""
    begins = _begins(group, len(n_sessions))
    place = np.arange(len(group))
    is_end = (place - begins[group] < _KEPT_ENDS) | (begins[group + 1] - place <= _KEPT_ENDS)
    step = np.floor(at_most / n_sessions[group] * _KEPT_STEPS)
    crosses = _changes([group, step])
    return np.flatnonzero(is_end | crosses)


def _fit_words(observed: _Observed, middle: float) -> tuple[_Words, Float64Array]:
    """Surprise of words; and that of each observed one beside the other sessions."""
    tokens = _Tokens.of(observed.groups[0], observed.session, observed.value)
    n_groups, weight, n_sessions = len(tokens.groups), tokens.weight, tokens.n_sessions
    order = np.lexsort((tokens.value, tokens.group))
    new = _changes([tokens.group[order], tokens.value[order]])
    first = np.flatnonzero(new)  # of each word in its group; sessions are in order, so of its first session too
    word = np.empty(len(order), np.int64)
    word[order] = np.cumsum(new) - 1
    held_by = np.diff(np.append(first, len(order)))  # sessions
    mass = np.bincount(word, weight, len(first)).astype(np.float64)
    n_held = held_by[word]

    word_group = tokens.group[order][first]
    most = int(held_by.max(initial=0)) + 3
    by_holders = _Cumulated(word_group * most + held_by, mass)
    is_first = np.zeros(len(order), np.bool_)
    is_first[order[first]] = True
    late = tokens.session >= middle
    n_late = np.bincount(tokens.group[tokens.run_begin[:-1]][late[tokens.run_begin[:-1]]], minlength=n_groups)
    new_mass = np.bincount(tokens.group[late & is_first], weight[late & is_first], n_groups)
    begins = np.arange(n_groups) * most
    expected = by_holders.sum(begins, begins + 1) / np.maximum(n_sessions, 1) * n_late
    news = np.where(_is_more(new_mass, expected), new_mass / np.maximum(n_late, 1), 0)

    def surprise(group: Int64Array, rare: Float64Array, n: np.ndarray) -> Float64Array:
        share = np.maximum((np.maximum(rare, 0) + 1) / (n + 1), news[group])
        return np.asarray(
            np.maximum(-np.log(share) - np.log(2), 0), np.float64
        )  # identifiers, new every second time, say nothing

    # a word that k sessions hold is as rare as those of k + 1 (Good, 1953): the next session that comes may bring it
    def rarer(group: Int64Array, n_holders: np.ndarray) -> Float64Array:
        return by_holders.sum(group * most, group * most + n_holders + 1)

    unseen = surprise(np.arange(n_groups), rarer(np.arange(n_groups), np.zeros(n_groups, np.int64)), n_sessions)
    surprises = surprise(word_group, rarer(word_group, held_by), n_sessions[word_group])
    telling = np.flatnonzero(surprises < unseen[word_group])
    keys = tokens.value[order][first][telling]
    model = _Words(tokens.groups, unseen, _begins(word_group[telling], n_groups), keys, surprises[telling])

    # without its own session a word has a holder less; so have the other words of that session
    own = _Cumulated(tokens.run * most + n_held, np.column_stack([weight, mass[word] - weight]))
    run = tokens.run * most
    lost = own.sum(run, run + n_held)[:, 0]
    gained = own.sum(run + n_held + 1, run + n_held + 1)[:, 1]
    others = by_holders.sum(tokens.group * most, tokens.group * most + n_held) - lost + gained
    of_token = surprise(tokens.group, others, n_sessions[tokens.group] - 1)
    return model, of_token[tokens.of_observed]


class _Cumulated:
    """Sums of values over ranges of their keys."""

    def __init__(self, keys: Int64Array, values: Float64Array) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._sums = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values[order], axis=0)])

    def sum(self, low: Int64Array, high: Int64Array) -> Float64Array:
        """Sums over the keys from `low` to `high`, both included."""
        begin, end = np.searchsorted(self._keys, low), np.searchsorted(self._keys, high, side="right")
        return np.asarray(self._sums[end] - self._sums[begin], np.float64)
