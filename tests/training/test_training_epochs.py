from __future__ import annotations

import pytest

from ai_detect.errors import ConfigError
from ai_detect.training.epochs import plan_epochs, plan_fresh


@pytest.mark.parametrize(
    ("epoch", "planned", "phase", "flags", "target", "action"),
    [
        # A finished run of 10 epochs (R3).
        (10, 10, "done", {"num_epochs": 3}, 13, "train"),
        (10, 10, "done", {}, 15, "train"),
        (10, 10, "done", {"total_epochs": 12}, 12, "train"),
        (10, 10, "done", {"total_epochs": 10}, 10, "nothing"),
        (10, 10, "done", {"total_epochs": 7}, 7, "nothing"),
        # Interrupted at 2.4 of 10.
        (2, 10, "train", {}, 10, "train"),
        (2, 10, "train", {"num_epochs": 3}, 5, "train"),
        (2, 10, "train", {"total_epochs": 5}, 5, "train"),
        # All epochs trained, interrupted before the last evaluation: that is finished first.
        (10, 10, "train", {}, 10, "train"),
        (10, 10, "train", {"total_epochs": 10}, 10, "train"),
        # Killed in the fit stage.
        (10, 10, "fit", {}, 10, "fit"),
        (10, 10, "fit", {"total_epochs": 10}, 10, "fit"),
        (10, 10, "fit", {"num_epochs": 1}, 11, "train"),
        # Stopped early at epoch 6 of 10.
        (6, 10, "fit", {}, 10, "fit"),
        (6, 10, "done", {}, 10, "train"),
        (6, 10, "done", {"num_epochs": 2}, 8, "train"),
    ],
)
def test_target(epoch: int, planned: int, phase: str, flags: dict[str, int], target: int, action: str) -> None:
    plan = plan_epochs(epoch, planned, phase, **flags)  # type: ignore[arg-type]
    assert (plan.target_epochs, plan.action) == (target, action)
    assert plan.origin


def test_nothing_to_do_is_said_in_words() -> None:
    assert plan_epochs(10, 10, "done", total_epochs=10).origin == "nothing to do: 10/10 epochs"


def test_both_flags_are_a_usage_error() -> None:
    with pytest.raises(ConfigError):
        plan_epochs(1, 2, "train", num_epochs=1, total_epochs=2)


def test_fresh_plans() -> None:
    assert plan_fresh(None).target_epochs == 10
    assert plan_fresh(4).target_epochs == 4
