"""The benchmark of attribution: what it plants, and what it takes for right."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from attribution import with_sessions
from attribution_faults import FAULTS, UNSEEN, Checkable, Host, Odd, Planted, Training, checkable, never_seen, plant
from reporting_shop import sequence_table

from ai_detect.reporting.reasons import Reason
from ai_detect.sequences.parsed_log import ParsedLog
from ai_detect.tables import EventTable, SequenceTable, SessionTable, SourceSpan, ValueTable

ABSENT = float("nan")
SESSIONS = [[0, 1, 2, 3], [0, 1, 1, 2, 3], [0, 1, 1, 1, 2, 3], [4, 5], [4, 6, 5]]


def training_of(sequences: SequenceTable) -> Training:
    return Training(sequences, ValueTable.none(len(sequences.event_id)))


TRAINING = training_of(sequence_table([(ids, [ABSENT, *(0.5 for _ in ids[1:])]) for ids in SESSIONS * 40]))
#: What can be checked in the events of `host`: a number in event 1, a word in event 2.
SIZE, USER = Checkable("number", 640.0, 7), Checkable("word", ABSENT, 8)
TRAINING.checkable = {(1, 0): SIZE, (2, 3): USER}


def host(ids: list[int], training: Training = TRAINING) -> Host:
    rows = list(range(100, 100 + len(ids)))
    row_of = {event: [event] for event in range(7)}
    return Host(rows, ids, [ABSENT, *(0.5 for _ in ids[1:])], training, row_of, 7, (900, 2, 0.0))


def planted(name: str, ids: list[int], seed: int = 0) -> Planted:
    fault = next(fault for fault in FAULTS if fault.name == name)
    sample = plant(fault, iter([host(ids)] * 50), 1, random.Random(seed))
    assert len(sample.planted) == 1
    return sample.planted[0]


def test_normal_variation_is_what_training_shows() -> None:
    assert TRAINING.varies_as_usual([0, 1, 1, 2, 3])
    assert not TRAINING.varies_as_usual([0, 1, 1, 1, 1, 2, 3])  # too often
    assert not TRAINING.varies_as_usual([0, 2, 1, 3])  # another order
    assert not TRAINING.varies_as_usual([0, 1, 2, 3, 4, 5])  # not together
    assert TRAINING.window is None
    assert training_of(sequence_table([([0, 1], [ABSENT, 1])] * 3)).window == 2


@pytest.mark.parametrize("seed", range(5))
def test_what_is_planted(seed: int) -> None:
    ids = [0, 1, 1, 2, 3]
    unseen = planted("foreign, unseen", ids, seed)
    at = min(unseen.lines)
    assert unseen.ids[at] >= 7
    assert [*unseen.ids[:at], *unseen.ids[at + 1 :]] == ids
    known = planted("foreign, known", ids, seed)
    assert known.ids[min(known.lines)] in (4, 5, 6)
    removed = planted("removed", ids, seed)
    assert len(removed.ids) == len(removed.rows) == len(removed.gaps) == 4
    assert not TRAINING.varies_as_usual(removed.ids)
    swapped = planted("swapped", ids, seed)
    assert sorted(swapped.ids) == sorted(ids)
    assert [at for at in range(5) if swapped.ids[at] != ids[at]] == sorted(swapped.lines)
    repeated = planted("repeated", ids, seed)
    assert len(repeated.ids) in (11, 14)
    delayed = planted("delayed", ids, seed)
    assert delayed.ids == ids
    assert delayed.gaps[min(delayed.lines)] == 60


def test_what_nobody_could_tell_is_counted_and_left_out() -> None:
    removed = next(fault for fault in FAULTS if fault.name == "removed")
    sample = plant(removed, iter([host([0, 1, 1, 1, 2, 3])] * 60), 1000, random.Random(1))
    assert sample.as_in_training > 10  # one of three equal lines is gone: training has that
    assert len(sample.planted) + sample.as_in_training == 60
    assert all(tuple(fault.ids) not in TRAINING.sequences for fault in sample.planted)


def test_a_window_keeps_its_length() -> None:
    windows = training_of(sequence_table([([0, 1, 2, 3], [ABSENT, 1, 1, 1])] * 5))
    whole = Planted([100, 7, 101, 102, 103], [0, 7, 1, 2, 3], [ABSENT] * 5, frozenset(), frozenset({1}))
    assert host([0, 1, 2, 3], windows).windowed(whole).ids == [0, 7, 1, 2]
    short = Planted([100, 102, 103], [0, 2, 3], [ABSENT, 1, 1], frozenset(), frozenset({1}))
    assert host([0, 1, 2, 3], windows).windowed(short).rows == [100, 102, 103, 900]
    assert host([0, 1, 2, 3]).windowed(short) is short


def test_what_counts_as_named() -> None:
    fault = planted("removed", [0, 1, 2, 3], seed=2)
    slot, missing = max(fault.slots) - 1, max(fault.missing)
    right = Reason("missing", missing, (), 5.0, slot=slot)
    assert fault.is_placed(right) and fault.is_kind(right)
    assert not fault.is_kind(Reason("missing", 6, (), 5.0, slot=slot))
    assert not fault.is_placed(Reason("missing", missing, (), 5.0, slot=slot + 3))
    assert not fault.is_kind(Reason("order", missing, (slot,), 5.0))
    run = Planted([0] * 9, [0] * 9, [ABSENT] * 9, frozenset({"count"}), frozenset({3, 4}))
    assert run.is_placed(Reason("count", 0, (4, 5), 1.0))
    assert not run.is_placed(Reason("count", 0, (2, 3, 4), 1.0))  # the line that is named first is another


def test_the_longest_gaps_are_those_around_an_event() -> None:
    often = [([0, 1, 2], [ABSENT, 3.0, 9.0]), ([0, 2], [ABSENT, 5.0])] * 100
    training = training_of(sequence_table([*often, ([0, 3], [ABSENT, 1.0])]))
    assert training.longest_before == {1: 3.0, 2: 9.0}  # how long event 3 takes, one session does not show
    assert training.longest_after == {0: 5.0, 1: 9.0}


def value_table(rows: list[list[tuple[float, int]]]) -> ValueTable:
    """Values as (number, key) in the slots of events."""
    flat = [value for row in rows for value in row]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return ValueTable(
        offsets, np.array([number for number, _ in flat], np.float32), np.array([key for _, key in flat], np.int32)
    )


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([(64.0 - at % 7, at % 7) for at in range(200)], "number"),
        ([(ABSENT, at % 5) for at in range(200)], "word"),
        ([(3000.0 + at, at % 5) for at in range(200)], "word"),  # an address with a port: few addresses
        ([(3000.0 + at, at) for at in range(200)], "number"),  # grows, but by little
        ([(1.0 + at, at) for at in range(200)], None),  # counts on: nothing is beyond its range
        ([(1000.0 if at % 150 == 149 else 1.0, int(at % 150 == 149)) for at in range(200)], None),  # a long tail
        ([(ABSENT, at) for at in range(200)], None),  # names: always another
        ([(ABSENT, at % 3 + 3 * (at == 150)) for at in range(200)], None),  # a new one came later on
        ([(ABSENT, 1)] * 50, None),  # too few sessions
    ],
)
def test_what_a_reader_can_check(values: list[tuple[float, int]], kind: str | None) -> None:
    sequences = sequence_table([([3], [ABSENT])] * len(values))
    found = checkable(sequences, value_table([[value] for value in values]))
    assert list(found) == ([(3, 0)] if kind else [])
    for odd in found.values():
        assert odd.kind == kind
        assert odd.key not in {key for _, key in values}
        assert odd.number == 10 * max(number for number, _ in values) if kind == "number" else np.isnan(odd.number)


@pytest.mark.parametrize(("name", "odd"), [("odd number", SIZE), ("new value", USER)])
def test_a_value_is_planted_where_it_can_be_checked(name: str, odd: Checkable) -> None:
    fault = planted(name, [0, 1, 1, 2, 3])
    assert fault.ids == [0, 1, 1, 2, 3]
    assert fault.odd is not None and fault.odd.value == odd
    assert TRAINING.checkable[fault.ids[fault.odd.position], fault.odd.slot] == odd
    right = Reason("value", 1, (fault.odd.position,), 5.0, facts={"value": fault.odd.slot + 1})
    assert fault.is_placed(right) and fault.is_kind(right)
    assert not fault.is_kind(replace(right, facts={"value": fault.odd.slot + 2}))


def test_what_training_never_has() -> None:
    usual = ([0, 1, 2], [ABSENT, 1.0, 1.0])
    training = training_of(sequence_table([usual] * 120))
    size, user = Checkable("number", 640.0, 7), Checkable("word", ABSENT, 8, frozenset({3, 4}))
    training.checkable = {(1, 0): size, (2, 0): user}
    sessions = [
        usual,
        ([0, 1, 5], usual[1]),
        ([0, 2, 1], usual[1]),
        ([0, 1, 2], [ABSENT, 1.0, 4.0]),
        usual,
        usual,
        usual,
    ]
    rows = [[[], [(70.0, 1)], [(ABSENT, 3)]] for _ in sessions]
    rows[1][2] = rows[2][1] = rows[2][2] = []
    rows[4][1] = [(192.0, 1)]
    rows[5][2] = [(ABSENT, 5)]
    rows[6][2] = [(ABSENT, 4)]
    found = never_seen(training, sequence_table(sessions), value_table([row for session in rows for row in session]))
    assert found.tolist() == [False, True, True, True, True, True, False]


def test_a_log_with_planted_values_has_them_there_and_nowhere_else() -> None:
    n = 4
    numbers = [np.arange(n, dtype=dtype) for dtype in (np.int64, np.int32, np.int64)]
    zeros = [np.zeros(n, dtype) for dtype in (np.int32, np.int8)]
    values = value_table([[], [(64.0, 1), (5.0, 2)], [(9.0, 3)], [(63.0, 4), (6.0, 5)]])
    events = EventTable(
        *numbers,
        np.array([0, 1, 2, 1], np.int32),
        *zeros,
        ("a", "b", "c"),
        3,
        ("s",),
        (SourceSpan("x.log", 0, n, 9),),
        values=values,
    )
    log = ParsedLog((), (), events, SessionTable((), np.zeros(1, np.int64), np.zeros(0, np.int64)), sequence_table([]))
    size = Planted([0, 3, 2], [0, 1, 2], [1.0] * 3, frozenset(), frozenset({1}), odd=Odd(1, 0, SIZE))
    user = Planted([2, 0], [2, 0], [1.0] * 2, frozenset(), frozenset({0}), odd=Odd(0, 0, USER))
    none = Planted([3, 3], [1, 3], [1.0] * 2, frozenset({"unseen_event"}), frozenset({1}))
    made = with_sessions(log, [size, none, user])
    assert made.events.templates == ("a", "b", "c", *UNSEEN)
    assert made.sequences.event_id.tolist() == [0, 1, 2, 1, 3, 2, 0]
    assert made.events.event_id[made.sessions.rows].tolist() == [0, 1, 2, 1, 1, 2, 0]
    assert made.values.key.tolist() == [7, 5, 3, 4, 5, 4, 5, 8]
    assert made.values.number.tolist() == [640, 6, 9, 63, 6, 63, 6, 9]
    assert np.diff(made.values.offsets).tolist() == [0, 2, 1, 2, 2, 1, 0]
    assert log.values.number.size == 0 and log.events.values is values
