from __future__ import annotations

import numpy as np
import pytest
from detectors_made import N_KNOWN, sequences_of

import ai_detect.detectors.transitions as module
from ai_detect.detectors.transitions import Transitions

#: Event 1 follows 0 and 2 follows 1; what stands between 3 and 4 is another one of many each time.
SESSIONS = [[0, 1, 2, 3, 5 + i, 4] for i in range(20)] * 3 + [[0, 1, 2, 3, 25 + i, 4] for i in range(10)]
N_EVENTS = 40


@pytest.fixture(scope="module")
def fitted() -> Transitions:
    return Transitions.fit(sequences_of(SESSIONS), N_EVENTS)


def strangeness(fitted: Transitions, *sessions: list[int]) -> list[float]:
    return fitted.describe(sequences_of(list(sessions)))[1][:, 0].tolist()


def test_pairs_that_training_has_are_not_strange(fitted: Transitions) -> None:
    assert strangeness(fitted, *SESSIONS) == [0.0] * len(SESSIONS)


def test_a_new_pair_is_strange_where_the_same_always_comes_and_hardly_where_often_something_new_does(
    fitted: Transitions,
) -> None:
    swapped, new_between = strangeness(fitted, [0, 2, 1, 3, 5, 4], [0, 1, 2, 3, 39, 4])
    n = len(SESSIONS)
    # begins 0 -> 2, 2 -> 1 and 1 -> 3 are new, and nothing that was seen once stands beside any of them
    assert swapped == pytest.approx(3 * np.log((n + 1) / 0.5))
    # ten of seventy were seen once after 3, and nothing at all is known of what 39 stands beside
    assert new_between == pytest.approx(np.log((0 + 1) / 0.5) * 2)
    assert new_between < swapped / 5


def test_a_pair_is_as_strange_as_its_less_surprising_side(fitted: Transitions) -> None:
    """After 3 something new often comes; before 1 nothing but 0 ever did."""
    n = len(SESSIONS)
    (one,) = strangeness(fitted, [0, 1, 2, 3, 1, 2, 3, 5, 4])
    assert one == pytest.approx(np.log((n + 1) / (10 + 0.5)))


def test_a_strange_pair_counts_once_in_a_session(fitted: Transitions) -> None:
    once, thrice = strangeness(fitted, [0, 1, 0, 1, 2, 3, 5, 4], [0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 5, 4])
    assert once == thrice > 0


def test_the_end_and_the_begin_are_neighbours_too(fitted: Transitions) -> None:
    cut, late = strangeness(fitted, [0, 1, 2], [1, 2, 3, 5, 4])
    n = len(SESSIONS)
    assert cut == late == pytest.approx(np.log((n + 1) / 0.5))


def test_a_session_without_events_is_a_new_pair_of_begin_and_end(fitted: Transitions) -> None:
    order, strange = fitted.describe(sequences_of([[], SESSIONS[0]]))
    assert np.isfinite(order).all()
    assert strange[0, 0] == pytest.approx(np.log((len(SESSIONS) + 1) / 0.5))


def test_the_fit_does_not_depend_on_its_blocks(fitted: Transitions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 7)
    again = Transitions.fit(sequences_of(SESSIONS), N_EVENTS)
    assert all(np.array_equal(array, again.state()[name]) for name, array in fitted.state().items())


def test_state_round_trip_and_what_is_refused(fitted: Transitions) -> None:
    state = fitted.state()
    again = Transitions.from_state(state, N_EVENTS, 1000)
    sessions = sequences_of([[0, 2, 1], [7, 8, 39], []])
    for one, other in zip(fitted.describe(sessions), again.describe(sessions), strict=True):
        assert np.array_equal(one, other)
    for broken in (
        {**state, "codes": state["codes"][::-1]},
        {**state, "codes": state["codes"] + (N_EVENTS + 3) ** 2},
        {**state, "counts": state["counts"][1:]},
        {**state, "counts": state["counts"] * 0},
        {**state, "token_counts": state["token_counts"][:N_KNOWN]},
        {name: array[:0] for name, array in state.items()},
    ):
        with pytest.raises(ValueError, match=r"transitions|token_counts"):
            Transitions.from_state(broken, N_EVENTS, 1000)
