from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ai_detect.training.early_stopping import EarlyStopping


def run(state: EarlyStopping, losses: Sequence[float | None]) -> EarlyStopping:
    for step, loss in enumerate(losses, 1):
        state = state.update(loss, step, step)
    return state


def test_stops_after_patience_evaluations_without_improvement() -> None:
    state = run(EarlyStopping(patience=2), [3.0, 2.0, 2.5])
    assert not state.stopped and state.patience_counter == 1
    state = state.update(2.0, 4, 4)  # equal is not better
    assert state.stopped and state.stop_reason is not None
    assert (state.best_val_loss, state.best_step, state.best_epoch) == (2.0, 2, 2)


def test_nan_is_no_improvement_and_never_best() -> None:
    state = run(EarlyStopping(patience=3), [math.nan, math.inf])
    assert state.best_val_loss is None and state.patience_counter == 2
    state = state.update(5.0, 3, 3)
    assert state.best_val_loss == 5.0 and state.patience_counter == 0
    assert run(EarlyStopping(patience=1), [math.nan]).stopped


def test_without_evaluation_data_nothing_happens() -> None:
    assert run(EarlyStopping(patience=1), [None] * 5) == EarlyStopping(patience=1)


def test_no_patience_never_stops_and_still_knows_the_best() -> None:
    state = run(EarlyStopping(patience=None), [1.0] + [2.0] * 50)
    assert not state.stopped and state.best_step == 1


def test_min_delta() -> None:
    assert run(EarlyStopping(patience=5, min_delta=0.1), [1.0, 0.95, 0.85]).best_val_loss == 0.85
    assert run(EarlyStopping(patience=5, min_delta=0.1), [1.0, 0.95]).patience_counter == 1


def test_a_stopped_run_that_goes_on_keeps_its_best() -> None:
    state = run(EarlyStopping(patience=1), [1.0, 2.0]).continued(4)
    assert not state.stopped and state.patience_counter == 0 and state.best_val_loss == 1.0 and state.patience == 4


def test_a_running_one_goes_on_as_it_was() -> None:
    state = run(EarlyStopping(patience=3), [1.0, 2.0])
    assert state.continued(3) == state


@given(st.lists(st.floats(allow_nan=True) | st.none(), max_size=30), st.integers(0, 30), st.integers(1, 4))
def test_saved_and_loaded_at_any_evaluation_makes_no_difference(
    losses: list[float | None], cut: int, patience: int
) -> None:
    straight = run(EarlyStopping(patience=patience), losses)
    first = run(EarlyStopping(patience=patience), losses[:cut])
    loaded = EarlyStopping.model_validate(first.model_dump())
    for step, loss in enumerate(losses[cut:], min(cut, len(losses)) + 1):
        loaded = loaded.update(loss, step, step)
    assert loaded == straight
