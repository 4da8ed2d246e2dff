"""Altered copies of a session are pure functions of events and seed, and do what their names say."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ai_detect.sequences.augmentation import light_view, mix64, mix64_array, shifted_negative

SEEDS = st.integers(0, (1 << 64) - 1)
SESSIONS = st.lists(st.integers(0, 20), max_size=60).map(lambda ids: np.array(ids, np.int32))


def test_mix64_is_fixed_for_ever() -> None:
    assert mix64() == 0
    assert mix64(0) == 0xE220A8397B1DCDAF  # the first output of splitmix64 seeded with 0
    assert mix64(1, 2) != mix64(2, 1)
    assert mix64(-1) == mix64((1 << 64) - 1)


@given(SEEDS, st.lists(SEEDS, min_size=1, max_size=5))
def test_the_vectorised_mix_is_the_same(seed: int, values: list[int]) -> None:
    assert mix64_array(np.array(values, np.uint64), seed).tolist() == [mix64(seed, value) for value in values]


@given(SESSIONS, SEEDS)
def test_copies_are_pure_and_leave_the_session_alone(ids: np.ndarray, seed: int) -> None:
    before = ids.copy()
    for make in (light_view, lambda events, s: shifted_negative(events, s, 21)):
        first, second = make(ids, seed), make(ids, seed)
        assert first.dtype == np.int32
        assert first.tolist() == second.tolist()
    assert ids.tolist() == before.tolist()


@given(SESSIONS, SEEDS)
def test_a_light_view_keeps_the_events_but_for_one_of_many(ids: np.ndarray, seed: int) -> None:
    lost = Counter(ids.tolist())
    lost.subtract(light_view(ids, seed).tolist())
    changed = {event: n for event, n in lost.items() if n}
    assert not changed or (list(changed.values()) == [1] and Counter(ids.tolist())[next(iter(changed))] >= 8)


@given(SESSIONS, SEEDS, st.integers(0, 30))
def test_a_shifted_negative_differs_from_its_session(ids: np.ndarray, seed: int, n_events: int) -> None:
    damaged = shifted_negative(ids, seed, n_events)
    assert damaged.tolist() != ids.tolist()
    assert all(0 <= event < max(n_events, 21) for event in damaged.tolist())


def test_every_kind_of_damage_occurs() -> None:
    ids = np.array([1, 2, 3, 4, 5, 6, 7, 8, 2, 3], np.int32)
    copies = [shifted_negative(ids, seed, 20).tolist() for seed in range(300)]
    original = Counter(ids.tolist())
    assert any(copy == ids.tolist()[: len(copy)] for copy in copies)  # cut short
    assert any(set(copy) - set(original) and len(copy) > len(ids) for copy in copies)  # foreign event inserted
    assert any(set(copy) - set(original) and len(copy) == len(ids) for copy in copies)  # replaced
    assert any(Counter(copy) == original for copy in copies)  # out of order
    assert any(len(copy) > len(ids) and set(copy) == set(original) for copy in copies)  # repeated
    assert any(len(copy) < len(ids) and copy[-1] == 3 and copy[0] == 1 for copy in copies)  # lost in the middle
