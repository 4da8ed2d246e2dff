"""When training stops by itself: a pure state machine, saved after the update of the same evaluation."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field


class EarlyStopping(BaseModel):
    """Best value so far and the evaluations since; `patience` is None where training never stops by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    patience: int | None = Field(ge=1)
    min_delta: float = Field(default=0.0, ge=0)
    best_val_loss: float | None = None
    best_step: int | None = None
    best_epoch: int | None = None
    patience_counter: int = Field(default=0, ge=0)
    stopped: bool = False
    stop_reason: str | None = None

    def update(self, val_loss: float | None, step: int, epoch: int) -> EarlyStopping:
        """The state after one evaluation; no evaluation data (None) changes nothing, NaN is no improvement."""
        if val_loss is None:
            return self
        if math.isfinite(val_loss) and (self.best_val_loss is None or val_loss < self.best_val_loss - self.min_delta):
            better = {"best_val_loss": val_loss, "best_step": step, "best_epoch": epoch, "patience_counter": 0}
            return self.model_copy(update=better)
        counter = self.patience_counter + 1
        if self.patience is None or counter < self.patience:
            return self.model_copy(update={"patience_counter": counter})
        best = "none was finite" if self.best_val_loss is None else f"{self.best_val_loss:.6g} at step {self.best_step}"
        reason = f"no better validation loss in {counter} evaluations up to step {step} (best {best})"
        return self.model_copy(update={"patience_counter": counter, "stopped": True, "stop_reason": reason})

    def continued(self, patience: int | None) -> EarlyStopping:
        """The state of a run that the user asked to go on: a stopped one counts from 0 again and keeps its best."""
        update: dict[str, object] = {"patience": patience}
        if self.stopped:
            update |= {"patience_counter": 0, "stopped": False, "stop_reason": None}
        return self.model_copy(update=update)
