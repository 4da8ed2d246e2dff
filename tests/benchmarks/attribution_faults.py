"""Faults that are planted in normal sessions: what each does to a session, and what a finding should name.

Where order and number of messages matter (known, removed, swapped, repeated), in sessions that are themselves within
what training shows (see `Training`), so that the fault is what is wrong with them:

foreign, unseen     a message whose template training does not have, anywhere but first
foreign, known      a message that training has, but never together with the set of messages that the session has
removed             any line
swapped             two neighbours whose order training reverses in at most 1 % of the places where they are neighbours
repeated            three lines in a row, two or three times more, right behind themselves
delayed             a line ten times later than training ever shows before this message or after the one before it, and
                    a minute at least; only where training shows how long these take
odd number          a number ten times the largest that training has in its place
new value           a value that training never has in its place, such as another user or address

Values are changed only in places that a reader of the training log would call checkable (see `checkable`). A session
that is as in training afterwards is no fault that anybody could tell: such sessions are counted and left out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from ai_detect.parsing.values import hash_of
from ai_detect.reporting.reasons import Reason
from ai_detect.tables import MAX_VALUES, BoolArray, SequenceTable, ValueTable

#: Fewer training sessions than this do not show what a place usually holds, or how long something takes.
LEAST_SHOWN = 100
#: Sessions for each value of a place that holds few of them.
SESSIONS_A_VALUE = 20
#: Times the 99 % quantile that the largest number of a narrow range is at most.
NARROW = 3
#: Times the largest number of the earlier half of training that those of the later half are at most.
STEADY = 1.5
#: Times the largest number or gap of training that `never_seen` takes for one that training never has.
FAR = 3
#: What a value becomes that training never has; one of them will do.
NEVER_SEEN = tuple(f"never-seen-{number}" for number in range(100))


class Checkable(NamedTuple):
    """A place in a message whose values a reader can check, and a value that does not belong there."""

    kind: Literal["number", "word"]
    number: float  # ten times the largest; NaN where the number stays as it is
    key: int  # hash of the value
    known: frozenset[int] = frozenset()  # hashes of the words of training

    def is_odd(self, number: np.ndarray, key: np.ndarray) -> BoolArray:
        """Which values training never has there, nor nearly."""
        if self.kind == "number":
            return np.asarray(number >= FAR * self.number / 10)
        return ~np.isin(key, list(self.known))


def checkable(sequences: SequenceTable, values: ValueTable) -> dict[tuple[int, int], Checkable]:
    """The checkable places (event, slot) of training sessions in order of time, with `values` row for row.

    A number is where its largest value is hardly beyond what is usual, and the later half of the sessions goes hardly
    beyond the earlier half: times, sizes and counts, but nothing that counts on. A word is where there are few
    values, none of them new in the later half. In both cases a hundred sessions show it.
    """
    session = np.repeat(np.arange(len(sequences)), sequences.lengths)[values.event]
    place = sequences.event_id[values.event].astype(np.int64) * (MAX_VALUES + 1) + values.slot
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    found = {}
    for rows in np.split(order, starts[1:]):
        n_sessions = len(np.unique(session[rows]))
        if n_sessions < LEAST_SHOWN:
            continue
        odd = _odd_value(values.number[rows], values.key[rows], session[rows] < len(sequences) / 2, n_sessions)
        if odd is not None:
            found[divmod(int(place[rows[0]]), MAX_VALUES + 1)] = odd
    return found


def _odd_value(number: np.ndarray, key: np.ndarray, early: np.ndarray, n_sessions: int) -> Checkable | None:
    """What does not belong among the values of one place; None where that cannot be told."""
    if early.all() or not early.any():
        return None
    keys, numbers = np.unique(key), np.unique(number)
    pairs = np.unique(np.stack([number.astype(np.float64), key.astype(np.float64)]), axis=1)
    # the number of an address is its port, and says nothing of the address
    if np.isfinite(number).all() and pairs.shape[1] <= 1.1 * min(len(keys), len(numbers)):
        largest, usual = float(numbers[-1]), float(np.quantile(number, 0.99))
        steady = float(number[~early].max()) <= STEADY * float(number[early].max())
        if largest > 0 and largest <= NARROW * usual and steady:
            return Checkable("number", 10 * largest, _signed(hash_of(repr(10 * largest))))
        return None
    few = SESSIONS_A_VALUE * len(keys) <= n_sessions and np.isin(key[~early], key[early]).all()
    new = [text for text in NEVER_SEEN if _signed(hash_of(text)) not in keys]
    known = frozenset(keys.tolist())
    return Checkable("word", float("nan"), _signed(hash_of(new[0])), known) if few else None


def _signed(hash_32: int) -> int:
    """A hash as a `ValueTable` keeps it."""
    return hash_32 - (hash_32 >> 31 << 32)


#: Messages that none of the logs has; two of each in the words of an ordinary message, the others of a failure.
UNSEEN = (
    "Out of memory: killed process <NUM> (worker)",
    "checksum mismatch on device <*>, sector <NUM>",
    "certificate of <IP> has expired",
    "segmentation fault at <HEX>",
    "configuration reloaded from <PATH>",
    "license check failed, falling back to trial mode",
    "clock moved backwards by <NUM> ms",
    "nightly maintenance finished in <NUM> s",
)


class Training:
    """What the training sessions hold, whatever they are labelled.

    A session varies as usual where training has its set of messages, none of them more or less often than in the
    training sessions of this set, and each of its transitions, begin and end included.
    """

    def __init__(self, sequences: SequenceTable, values: ValueTable) -> None:
        self.checkable = checkable(sequences, values)
        self.sequences: set[tuple[int, ...]] = set()
        self.transitions: Counter[tuple[int, int]] = Counter()
        self.usual: dict[frozenset[int], dict[int, tuple[int, int]]] = {}
        self.events: set[int] = set()
        lengths = np.unique(sequences.lengths)
        #: Events of a window, where sessions are windows of so many lines (the last one of a log may be shorter).
        self.window = int(lengths[-1]) if len(lengths) <= 2 and len(sequences) > 2 else None
        self.longest_before: dict[int, float] = {}
        self.longest_after: dict[int, float] = {}
        timed: Counter[int] = Counter()
        for session in range(len(sequences)):
            ids = sequences.session(session).tolist()
            self.sequences.add(tuple(ids))
            self.transitions.update(pairwise([-1, *ids, -1]))
            counts = Counter(ids)
            self.events |= counts.keys()
            usual = self.usual.setdefault(frozenset(counts), {})
            for event, n in counts.items():
                low, high = usual.get(event, (n, n))
                usual[event] = min(low, n), max(high, n)
            gaps = sequences.gap_s[sequences.offsets[session] : sequences.offsets[session + 1]].tolist()
            for (before, event), gap in zip(pairwise(ids), gaps[1:], strict=True):
                if gap == gap:
                    timed[event] += 1
                    self.longest_before[event] = max(gap, self.longest_before.get(event, 0.0))
                    self.longest_after[before] = max(gap, self.longest_after.get(before, 0.0))

        for event in [event for event in self.longest_before if timed[event] < LEAST_SHOWN]:
            del self.longest_before[event]

    def varies_as_usual(self, ids: Sequence[int]) -> bool:
        """Whether training shows such a session, but for the order of its parts."""
        counts = Counter(ids)
        usual = self.usual.get(frozenset(counts))
        return (
            usual is not None
            and all(usual[event][0] <= n <= usual[event][1] for event, n in counts.items())
            and all(self.transitions[pair] for pair in pairwise([-1, *ids, -1]))
        )


def never_seen(training: Training, sequences: SequenceTable, values: ValueTable) -> BoolArray:
    """Sessions with something that training never has: a message, two neighbours, a gap or number far beyond all of its
    place, a new word where there are few. The plainest of detectors, to tell what can be found, and at which price.
    """
    new = np.zeros(len(sequences), np.bool_)
    before, after = training.longest_before, training.longest_after
    for session in range(len(sequences)):
        ids = sequences.session(session).tolist()
        gaps = sequences.gap_s[sequences.offsets[session] : sequences.offsets[session + 1]].tolist()
        new[session] = any(not training.transitions[pair] for pair in pairwise([-1, *ids, -1])) or any(
            gap > FAR * max(before[right], after[left])
            for (left, right), gap in zip(pairwise(ids), gaps[1:], strict=True)
            if right in before and left in after
        )
    event = sequences.event_id[values.event]
    session_of = np.repeat(np.arange(len(sequences)), sequences.lengths)[values.event]
    for (checked, slot), value in training.checkable.items():
        rows = np.flatnonzero((event == checked) & (values.slot == slot))
        new[session_of[rows[value.is_odd(values.number[rows], values.key[rows])]]] = True
    return new


class Odd(NamedTuple):
    """A value in a place of a session's event."""

    position: int
    slot: int
    value: Checkable


@dataclass(frozen=True)
class Planted:
    """A session with a fault: where its events come from, what they are now, and what a finding should name."""

    rows: list[int]  # event rows of the log
    ids: list[int]
    gaps: list[float]
    kinds: frozenset[str]
    lines: frozenset[int]  # positions that are at fault, or stand beside the hole
    slots: frozenset[int] = frozenset()  # places of the hole, in events before it
    missing: frozenset[int] = frozenset()  # what may be missing: the removed message, and what else may stand there

    odd: Odd | None = None  # the value that is not the log's

    def is_placed(self, reason: Reason) -> bool:
        """Whether the line that a reason names first is one at fault, or its hole the one made."""
        return reason.positions[0] in self.lines if reason.positions else reason.slot in self.slots

    def is_kind(self, reason: Reason) -> bool:
        """Whether a reason has the kind of this fault; also the message that is missing, or which value is odd."""
        told = {reason.event, *(event for event, _ in reason.expected)}
        return (
            reason.kind in self.kinds
            and (not self.missing or not self.missing.isdisjoint(told))
            and (self.odd is None or reason.facts.get("value") == self.odd.slot + 1)
        )


@dataclass(frozen=True)
class Host:
    """A held-out normal session, and the log it is from."""

    rows: list[int]
    ids: list[int]
    gaps: list[float]
    training: Training
    row_of: dict[int, list[int]]  # rows of the log by event
    first_new_event: int  # ids from here on are the templates of `UNSEEN`
    next_row: tuple[int, int, float] | None  # the event after the session's last, where there is one

    def windowed(self, fault: Planted) -> Planted:
        """A fault as a window of so many lines shows it: what is too much falls out, and the next line comes in."""
        size = self.training.window
        if size is None or len(self.ids) != size:
            return fault
        rows, ids, gaps = fault.rows[:size], fault.ids[:size], fault.gaps[:size]
        if len(ids) < size and self.next_row is not None:
            row, event, gap = self.next_row
            rows, ids, gaps = [*rows, row], [*ids, event], [*gaps, gap]
        return replace(fault, rows=rows, ids=ids, gaps=gaps)

    def insert(self, at: int, row: int, event: int, kinds: set[str]) -> Planted:
        """With one more line, half way in time between its neighbours."""
        gap = self.gaps[at] / 2 if at < len(self.gaps) else self.gaps[-1]
        after = [gap, *self.gaps[at + 1 :]] if at < len(self.gaps) else []
        return Planted(
            [*self.rows[:at], row, *self.rows[at:]],
            [*self.ids[:at], event, *self.ids[at:]],
            [*self.gaps[:at], gap, *after],
            frozenset(kinds),
            frozenset({at}),
        )


_Item = TypeVar("_Item")
Plant = Callable[[Host, random.Random], Planted | None]


def _foreign_unseen(host: Host, pick: random.Random) -> Planted | None:
    at = pick.randint(1, len(host.ids))
    event = host.first_new_event + pick.randrange(len(UNSEEN))
    return host.insert(at, host.rows[at - 1], event, {"unseen_event"})


def _foreign_known(host: Host, pick: random.Random) -> Planted | None:
    here = frozenset(host.ids)
    strangers = [
        event
        for event in sorted(host.training.events - here)
        if event in host.row_of and not any(here | {event} <= usual for usual in host.training.usual)
    ]
    if not strangers:
        return None
    event = pick.choice(strangers)
    return host.insert(
        pick.randint(1, len(host.ids)), pick.choice(host.row_of[event]), event, {"rare_event", "count", "order"}
    )


def _removed(host: Host, pick: random.Random) -> Planted | None:
    if len(host.ids) < 3:
        return None
    at = pick.randrange(len(host.ids))
    event, ids, gaps = host.ids[at], _without(host.ids, at), _without(host.gaps, at)
    if at == 0:
        gaps[0] = float("nan")
    elif at < len(gaps):
        gaps[at] += host.gaps[at]
    # where the line can be put back so that training knows the result, nobody can tell the one place from the other
    slots = {slot for slot in range(len(ids) + 1) if (*ids[:slot], event, *ids[slot:]) in host.training.sequences} | {
        at - 1,
        at,
        at + 1,
    }
    lines = {slot + side for slot in slots for side in (-1, 0)}
    # nor can anybody tell it from another message that training has between the two lines
    before, after = [-1, *ids, -1][at : at + 2]
    seen = host.training.transitions
    events = {other for other in host.training.events if seen[before, other] and seen[other, after]} | {event}
    return Planted(
        _without(host.rows, at),
        ids,
        gaps,
        frozenset({"missing"}),
        frozenset(lines),
        frozenset(slots),
        frozenset(events),
    )


def _without(values: list[_Item], at: int) -> list[_Item]:
    return [*values[:at], *values[at + 1 :]]


def _swapped(host: Host, pick: random.Random) -> Planted | None:
    seen = host.training.transitions
    places = [
        at
        for at, (left, right) in enumerate(pairwise(host.ids))
        if left != right and seen[right, left] <= 0.01 * (seen[left, right] + seen[right, left])
    ]
    if not places:
        return None
    at = pick.choice(places)
    rows, ids = list(host.rows), list(host.ids)
    for values in (rows, ids):
        values[at], values[at + 1] = values[at + 1], values[at]
    return Planted(rows, ids, list(host.gaps), frozenset({"order"}), frozenset({at, at + 1}))


def _repeated(host: Host, pick: random.Random) -> Planted | None:
    if len(host.ids) < 4:
        return None
    at, times = pick.randrange(1, len(host.ids) - 2), pick.randint(2, 3)

    def repeated(values: list[_Item]) -> list[_Item]:
        return [*values[: at + 3], *(values[at : at + 3] * times), *values[at + 3 :]]

    lines = frozenset(range(at, at + 3 * (times + 1)))
    return Planted(repeated(host.rows), repeated(host.ids), repeated(host.gaps), frozenset({"count"}), lines)


def _delayed(host: Host, pick: random.Random) -> Planted | None:
    before, after = host.training.longest_before, host.training.longest_after
    places = [at for at in range(1, len(host.ids)) if host.ids[at] in before and host.ids[at - 1] in after]
    if not places:
        return None
    at = pick.choice(places)
    gaps = list(host.gaps)
    gaps[at] = max(10 * before[host.ids[at]], 10 * after[host.ids[at - 1]], 60.0)
    return Planted(list(host.rows), list(host.ids), gaps, frozenset({"gap"}), frozenset({at}))


def _odd_number(host: Host, pick: random.Random) -> Planted | None:
    return _other_value(host, pick, "number")


def _new_value(host: Host, pick: random.Random) -> Planted | None:
    return _other_value(host, pick, "word")


def _other_value(host: Host, pick: random.Random, kind: str) -> Planted | None:
    places = [
        Odd(position, slot, value)
        for position, event in enumerate(host.ids)
        for slot in range(MAX_VALUES)
        if (value := host.training.checkable.get((event, slot))) is not None and value.kind == kind
    ]
    if not places:
        return None
    odd = pick.choice(places)
    at = frozenset({odd.position})
    return Planted(list(host.rows), list(host.ids), list(host.gaps), frozenset({"value"}), at, odd=odd)


@dataclass(frozen=True)
class Fault:
    """A way to damage a session: any session, or where order or number of messages matter one that varies as usual."""

    name: str
    plant: Plant
    needs_usual: bool = True


FAULTS = (
    Fault("foreign, unseen", _foreign_unseen, needs_usual=False),
    Fault("foreign, known", _foreign_known),
    Fault("removed", _removed),
    Fault("swapped", _swapped),
    Fault("repeated", _repeated),
    Fault("delayed", _delayed, needs_usual=False),
    Fault("odd number", _odd_number, needs_usual=False),
    Fault("new value", _new_value, needs_usual=False),
)


@dataclass
class Sample:
    """What was planted of one fault in one log, and how many trials gave a session as in training."""

    planted: list[Planted] = field(default_factory=list)
    as_in_training: int = 0


def plant(fault: Fault, hosts: Iterator[Host], wanted: int, pick: random.Random) -> Sample:
    """Plant a fault in one session after another until there are enough."""
    sample = Sample()
    for host in hosts:
        if len(sample.planted) == wanted:
            break
        if fault.needs_usual and not host.training.varies_as_usual(host.ids):
            continue
        damaged = fault.plant(host, pick)
        if damaged is None:
            continue
        planted = host.windowed(damaged)
        if min(planted.lines) >= len(planted.ids):
            continue
        if fault.needs_usual and host.training.varies_as_usual(planted.ids):
            sample.as_in_training += 1
        else:
            sample.planted.append(planted)
    return sample
