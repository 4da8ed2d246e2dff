"""Odd values and odd times stand out, each training session is judged by the others, and a batch changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_detect.detectors import value_tails
from ai_detect.detectors import values as module
from ai_detect.detectors.value_slots import GAP, NO_SLOT, SINCE_SAME_EVENT
from ai_detect.detectors.values import ValueModel, ValueSurprise
from ai_detect.tables import SequenceTable, ValueTable

#: (event, gap in s, [(number, hash)])
Event = tuple[int, float, list[tuple[float, int]]]
N_EVENTS = 4
NAN = float("nan")


def tables(sessions: list[list[Event]]) -> tuple[SequenceTable, ValueTable]:
    events = [event for session in sessions for event in session]
    offsets = np.cumsum([0, *map(len, sessions)]).astype(np.int64)
    own = [value for _, _, values in events for value in values]
    value_offsets = np.cumsum([0, *(len(values) for _, _, values in events)]).astype(np.int64)
    return (
        SequenceTable(
            offsets,
            np.array([event for event, _, _ in events], np.int32),
            np.array([gap for _, gap, _ in events], np.float32),
        ),
        ValueTable(
            value_offsets,
            np.array([number for number, _ in own], np.float32),
            np.array([key for _, key in own], np.int32),
        ),
    )


def fit(sessions: list[list[Event]]) -> tuple[ValueModel, ValueSurprise]:
    return ValueModel.fit(*tables(sessions), N_EVENTS)


NUMBERS = st.sampled_from([NAN, 0.0, 1.0, 2.0, 2.5, -3.0, 40.0, 1e6])
EVENTS = st.tuples(
    st.sampled_from([0, 0, 1, N_EVENTS]),  # the last is of no known template
    st.sampled_from([NAN, 0.0, 0.5, 1.0, 2.0, 60.0]),
    st.lists(st.tuples(NUMBERS, st.integers(0, 4)), max_size=2),
)
SESSIONS = st.lists(st.lists(EVENTS, max_size=5), min_size=1, max_size=9)


@settings(max_examples=250, deadline=None)
@given(SESSIONS, st.integers(1, 3))
def test_a_training_session_is_judged_as_if_it_had_not_been_there(sessions: list[list[Event]], enough: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(value_tails, "_ENOUGH_SESSIONS", enough)
        _, own = fit(sessions)
        begin = 0
        for number, session in enumerate(sessions):
            others, _ = fit([[] if number == other else sessions[other] for other in range(len(sessions))])
            expected = others.surprise(*tables([session]))
            place = slice(begin, begin + len(session))
            np.testing.assert_allclose(own.surprise[place], expected.surprise, atol=1e-5)
            begin += len(session)


@settings(max_examples=100, deadline=None)
@given(SESSIONS, SESSIONS, st.randoms(use_true_random=False), st.integers(1, 4))
def test_a_session_is_scored_alone_in_any_batch_and_order(
    training: list[list[Event]], sessions: list[list[Event]], random: object, block: int
) -> None:
    model, _ = fit(training)
    alone = [model.surprise(*tables([session])) for session in sessions]
    order = list(range(len(sessions)))
    random.shuffle(order)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        together = model.surprise(*tables([sessions[i] for i in order]))
    for whole, parts in zip(together, zip(*(alone[i] for i in order), strict=True), strict=True):
        assert whole.tobytes() == np.concatenate(parts).tobytes()
    assert together.surprise.dtype == np.float32 and together.slot.dtype == np.int32
    assert (together.surprise >= 0).all() and np.isfinite(together.surprise).all()
    assert ((together.slot == NO_SLOT) == (together.surprise == 0)).all()
    again = ValueModel.from_state(model.state()).surprise(*tables([sessions[i] for i in order]))
    assert again.surprise.tobytes() == together.surprise.tobytes()


def service(n: int, seed: int = 0) -> list[list[Event]]:
    """Sessions: a request (user, port, its id), a step with a size, and a heartbeat each minute."""
    random = np.random.default_rng(seed)
    sessions: list[list[Event]] = []
    for number in range(n):
        user = int(random.choice(5, p=[0.4, 0.3, 0.2, 0.08, 0.02]))
        size = float(np.exp(random.normal(10, 1)))
        request: Event = (
            0,
            NAN,
            [(NAN, user), (float(random.integers(30000, 60000)), 10_000 + int(random.integers(1 << 30)))],
        )
        work: Event = (
            1,
            float(random.exponential(0.1)),
            [(size, int(random.integers(1 << 30))), (1e6 + number, number)],
        )
        beats: list[Event] = [(2, 60 + float(random.normal(0, 0.5)), []) for _ in range(4)]
        sessions.append([request, work, *beats])
    return sessions


NORMAL = service(1000)
TIMES = (GAP, SINCE_SAME_EVENT)
FAULTS: dict[str, tuple[Callable[[list[Event]], list[Event]], int, tuple[int, ...]]] = {
    "a size a thousand times as large": (
        lambda s: [s[0], (1, s[1][1], [(s[1][2][0][0] * 1e3, 77), s[1][2][1]]), *s[2:]],
        1,
        (0,),
    ),
    "a size next to nothing": (lambda s: [s[0], (1, s[1][1], [(0.0, 77), s[1][2][1]]), *s[2:]], 1, (0,)),
    "a new user": (lambda s: [(0, NAN, [(NAN, 99), s[0][2][1]]), *s[1:]], 0, (0,)),
    "a delay": (lambda s: [s[0], (1, 20.0, s[1][2]), *s[2:]], 1, (GAP,)),
    "a heartbeat too early": (lambda s: [*s[:3], (2, 1.0, []), *s[4:]], 3, TIMES),
    "a heartbeat that pauses": (
        lambda s: [*s[:3], (3, 60.0, []), (3, 60.0, []), (3, 60.0, []), (2, 60.0, [])],
        6,
        (SINCE_SAME_EVENT,),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_the_oddest_of_its_session_and_odder_than_normal_ones(fault: str) -> None:
    plant, event, slots = FAULTS[fault]
    model, own = fit(NORMAL)
    column = int(fault == "a new user")
    usual = np.maximum.reduceat(own.surprise[:, column], tables(NORMAL)[0].offsets[:-1]).max()
    for session in service(20, seed=5):
        found = model.surprise(*tables([plant(session)]))
        assert np.argmax(found.surprise[:, column]) == event
        assert found.slot[event, column] in slots
        assert found.surprise[event, column] >= 0.999 * usual


def test_new_sessions_are_as_odd_as_training_sessions() -> None:
    model, own = fit(NORMAL)
    fresh = service(1000, seed=9)
    odd, usual = (
        np.maximum.reduceat(surprise, tables(sessions)[0].offsets[:-1], axis=0)
        for surprise, sessions in ((model.surprise(*tables(fresh)).surprise, fresh), (own.surprise, NORMAL))
    )
    for share in (0.5, 0.9, 0.99):
        limit, chance = np.quantile(usual, share, axis=0), 4 * np.sqrt(share * (1 - share) / 500)
        # many words are as odd as each other
        assert (np.mean(odd > limit + 0.02, axis=0) < 1 - share + chance).all()
        assert (np.mean(odd >= limit - 0.02, axis=0) > 1 - share - chance).all()


def test_identifiers_and_counters_say_nothing() -> None:
    model, _ = fit([[(0, NAN, [(1e5 + 7 * number, number)])] for number in range(400)])
    new = model.surprise(*tables([[(0, NAN, [(1e5 + 7 * number, number)])] for number in range(400, 900)]))
    assert new.surprise.max() < 1.5
    ids = [[(0, NAN, [(NAN, number)]), (0, NAN, [(NAN, number)])] for number in range(400)]
    shared = [[(0, NAN, [(NAN, number // 3)])] for number in range(400)]  # such as the date
    for sessions in (ids, shared):
        model, own = fit(sessions)  # type: ignore[arg-type]
        assert own.surprise.max() < 1
        assert model.surprise(*tables([[(0, NAN, [(NAN, 12345)])]])).surprise.max() < 1


def test_one_odd_training_session_does_not_make_the_next_one_normal() -> None:
    user: list[list[Event]] = [[(0, NAN, [(float(number % 5), number % 5)])] for number in range(500)]
    burst: list[Event] = [(0, NAN, [(1e6 + number, 100 + number)]) for number in range(1000)]
    model, own = fit([*user, burst])
    assert own.surprise[500:].min() > 4
    assert model.surprise(*tables([[(0, NAN, [(1.0, 77)])]])).surprise[0, 1] > 4
    assert model.surprise(*tables([[(0, NAN, [(1e9, 1)])]])).surprise[0, 0] > 4


def test_a_large_log_is_measured_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = fit(NORMAL)
    monkeypatch.setattr(module, "_MAX_EVENTS", 1700)
    model, own = fit(NORMAL)
    sequences, values = tables(NORMAL)
    sampled = np.repeat(np.arange(len(sequences)) % 4 == 0, sequences.lengths)
    as_new = model.surprise(sequences, values)
    np.testing.assert_array_equal(own.surprise[~sampled], as_new.surprise[~sampled])
    assert (own.surprise[sampled] != as_new.surprise[sampled]).any()
    assert len(model.state()["numbers_values"]) < len(whole.state()["numbers_values"])


def test_thinned_numbers_say_about_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    thin, _ = fit(NORMAL)
    monkeypatch.setattr(value_tails, "_KEPT_ENDS", 1 << 20)
    full, _ = fit(NORMAL)
    assert len(thin.state()["numbers_values"]) < len(full.state()["numbers_values"])
    fresh = tables(service(300, seed=3))
    np.testing.assert_allclose(thin.surprise(*fresh).surprise, full.surprise(*fresh).surprise, atol=0.15)


def test_values_of_other_events_are_refused() -> None:
    sequences, values = tables(NORMAL[:3])
    model, _ = fit(NORMAL[:3])
    for call in (
        lambda: model.surprise(sequences, values.take(np.arange(2))),
        lambda: ValueModel.fit(sequences, ValueTable.none(1), 4),
    ):
        with pytest.raises(ValueError, match="values of"):
            call()


def test_no_sessions_and_no_values() -> None:
    empty = tables([])
    model, own = ValueModel.fit(*empty, 0)
    assert len(own.surprise) == 0
    model = ValueModel.from_state(model.state())
    assert model.surprise(*tables(NORMAL[:2])).surprise.max() == 0
    assert len(model.surprise(*empty).surprise) == 0


def test_groups_that_do_not_rise_are_refused() -> None:
    for name in ("numbers_groups", "words_groups", "numbers_values", "words_keys"):
        array = STATE[name].copy()
        array[:2] = array[1::-1]
        with pytest.raises(ValueError, match="does not rise"):
            ValueModel.from_state({**STATE, name: array})


STATE = fit(NORMAL[:60])[0].state()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(STATE)), st.data())
def test_a_damaged_state_is_a_value_error_or_sound(name: str, data: st.DataObject) -> None:
    array = STATE[name].copy()
    change = data.draw(st.sampled_from(["cut", "value", "dtype", "shape", "missing", "longer"]))
    arrays = dict(STATE)
    if change == "missing":
        del arrays[name]
    elif change == "cut":
        arrays[name] = array[: data.draw(st.integers(0, max(len(array) - 1, 0)))]
    elif change == "longer":
        arrays[name] = np.concatenate([array, array])
    elif change == "dtype":
        arrays[name] = array.astype(data.draw(st.sampled_from([np.float32, np.int32, np.float64, np.int64, np.uint8])))
    elif change == "shape":
        arrays[name] = array[None]
    else:
        odd = (
            [-1, 0, 1, 1 << 40, 1 << 62, -(1 << 62)]
            if array.dtype.kind == "i"
            else [NAN, np.inf, -1, 0, 1e300, 0.5, 1e6]
        )
        array.flat[data.draw(st.integers(0, array.size - 1))] = data.draw(st.sampled_from(odd))
        arrays[name] = array
    try:
        model = ValueModel.from_state(arrays)
    except (KeyError, ValueError):
        return
    found = model.surprise(*tables(NORMAL[50:70]))
    assert np.isfinite(found.surprise).all() and (found.surprise >= 0).all()
