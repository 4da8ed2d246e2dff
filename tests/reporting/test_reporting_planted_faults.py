"""The benchmark of attribution: what it plants, and what it takes for right."""

from __future__ import annotations

import random

import numpy as np
import pytest
from attribution import FAULTS, Host, Normal, Planted, plant
from reporting_shop import sequence_table

from ai_detect.reporting.reasons import Reason

ABSENT = float("nan")
TRAINING = [[0, 1, 2, 3], [0, 1, 1, 2, 3], [0, 1, 1, 1, 2, 3], [4, 5], [4, 6, 5]]
NORMAL = Normal(sequence_table([(ids, [ABSENT, *(0.5 for _ in ids[1:])]) for ids in TRAINING]))


def host(ids: list[int], normal: Normal = NORMAL) -> Host:
    rows = list(range(100, 100 + len(ids)))
    row_of = {event: [event] for event in range(7)}
    return Host(rows, ids, [ABSENT, *(0.5 for _ in ids[1:])], normal, row_of, 7, (900, 2, 0.0))


def planted(name: str, ids: list[int], seed: int = 0) -> Planted:
    fault = next(fault for fault in FAULTS if fault.name == name)
    sample = plant(fault, iter([host(ids)] * 50), 1, random.Random(seed))
    assert len(sample.planted) == 1
    return sample.planted[0]


def test_normal_variation_is_what_training_shows() -> None:
    assert NORMAL.varies_as_usual([0, 1, 1, 2, 3])
    assert not NORMAL.varies_as_usual([0, 1, 1, 1, 1, 2, 3])  # too often
    assert not NORMAL.varies_as_usual([0, 2, 1, 3])  # another order
    assert not NORMAL.varies_as_usual([0, 1, 2, 3, 4, 5])  # not together
    assert NORMAL.window is None
    assert Normal(sequence_table([([0, 1], [ABSENT, 1])] * 3)).window == 2


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
    assert not NORMAL.varies_as_usual(removed.ids)
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
    assert sample.equal > 10  # one of three equal lines is gone: training has that
    assert len(sample.planted) + sample.equal + sample.usual == 60
    assert all(tuple(fault.ids) not in NORMAL.sequences for fault in sample.planted)


def test_a_window_keeps_its_length() -> None:
    windows = Normal(sequence_table([([0, 1, 2, 3], [ABSENT, 1, 1, 1])] * 5))
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
    normal = Normal(sequence_table([([0, 1, 2], [ABSENT, 3.0, 9.0]), ([0, 2], [ABSENT, 5.0])]))
    assert normal.longest_before == {1: 3.0, 2: 9.0}
    assert normal.longest_after == {0: 5.0, 1: 9.0}
    assert np.isfinite(list(normal.longest_before.values())).all()
