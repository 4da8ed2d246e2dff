"""How far a run goes: the arithmetic of `--num_epochs`, `--total_epochs` and neither."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ai_detect.errors import ConfigError

DEFAULT_EPOCHS = 10
#: Further epochs where a finished run is resumed without a flag.
FURTHER_EPOCHS = 5

Phase = Literal["train", "fit", "done"]


@dataclass(frozen=True)
class EpochPlan:
    """Train up to `target_epochs`; or only the fit stage is left; or nothing is. `origin` says why, for people."""

    target_epochs: int
    action: Literal["train", "fit", "nothing"]
    origin: str


def plan_fresh(num_epochs: int | None) -> EpochPlan:
    """The plan of a new run."""
    if num_epochs is not None:
        return EpochPlan(num_epochs, "train", "--num_epochs")
    return EpochPlan(DEFAULT_EPOCHS, "train", f"default: {DEFAULT_EPOCHS} epochs")


def plan_fine_tuning(num_epochs: int | None, total_epochs: int | None) -> EpochPlan:
    """The plan of a run that goes on with other data, where it begins at epoch 0."""
    target = num_epochs or total_epochs or FURTHER_EPOCHS
    return EpochPlan(target, "train", f"--new_data: {target} epochs on the new log")


def plan_epochs(
    epoch: int, planned_epochs: int, phase: Phase, *, num_epochs: int | None = None, total_epochs: int | None = None
) -> EpochPlan:
    """The plan of a resumed run that has completed `epoch` epochs (whole ones: at position 2.4 this is 2).

    `phase` is what the checkpoint says is next: train, fit, or nothing (done).
    """
    if num_epochs is not None and total_epochs is not None:
        raise ConfigError("--num_epochs counts further epochs and --total_epochs all of them: give one")
    if num_epochs is not None:
        return EpochPlan(
            epoch + num_epochs, "train", f"--num_epochs {num_epochs}: {num_epochs} more after epoch {epoch}"
        )
    if total_epochs is not None:
        if epoch < total_epochs:
            return EpochPlan(total_epochs, "train", f"--total_epochs {total_epochs}")
        if phase == "done":
            return EpochPlan(total_epochs, "nothing", f"nothing to do: {epoch}/{total_epochs} epochs")
        if phase == "fit":
            return EpochPlan(
                total_epochs, "fit", f"{epoch}/{total_epochs} epochs are trained: only the fit stage is left"
            )
        return EpochPlan(total_epochs, "train", f"{epoch}/{total_epochs} epochs are trained")
    if phase == "fit":
        return EpochPlan(planned_epochs, "fit", "training had come to its end: only the fit stage is left")
    if phase == "train" or epoch < planned_epochs:
        return EpochPlan(planned_epochs, "train", f"the {planned_epochs} epochs that the run had planned")
    further = f"default: the {planned_epochs} planned epochs are done, {FURTHER_EPOCHS} more"
    return EpochPlan(epoch + FURTHER_EPOCHS, "train", further)
