"""Where a run is: everything that `trainer_state.json` holds, and how a run begins and goes on."""

from __future__ import annotations

import hashlib
import logging
import platform
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import ai_detect
from ai_detect.config import TrainingSettings
from ai_detect.errors import CheckpointError
from ai_detect.training.early_stopping import EarlyStopping
from ai_detect.training.epochs import EpochPlan, Phase
from ai_detect.training.schedule import (
    LearningRateSchedule,
    LrPolicy,
    continue_schedule,
    epoch_order,
    order_check,
    plan_schedule,
)

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "numpy", "safetensors")
#: Largest count that is believed: every whole number up to it is exact as a float, and none overflows 64 bits.
MAX_COUNT = 1 << 53


class Parent(BaseModel):
    """The checkpoint that a segment went on from."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    step: int = Field(ge=0)
    hash: str


class Segment(BaseModel):
    """One uninterrupted stretch of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    segment: int = Field(ge=1)
    parent: Parent | None
    started: str
    target_epochs: int
    overrides: dict[str, Any]  # setting -> [checkpoint's value, value from now on]


class TrainerState(BaseModel):
    """The position of a run, its history, and what else the next step depends on.

    A position is `epoch` completed epochs and `samples_in_epoch` samples of the next, whole numbers both. `loss_steps`,
    `train_losses` (mean since the entry before), `val_losses` and `learning_rates` are parallel, one entry an
    evaluation.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    run_id: str
    phase: Phase  # what is next
    step: int = Field(ge=0, le=MAX_COUNT)
    epoch: int = Field(ge=0, le=MAX_COUNT)
    samples_in_epoch: int = Field(ge=0)
    n_samples: int = Field(ge=1, le=MAX_COUNT)
    planned_epochs: int = Field(ge=1, le=MAX_COUNT)
    seed: int = Field(ge=0)
    evaluation_due: bool  # stopped between the last step and its evaluation
    schedule: LearningRateSchedule
    order_check: str
    eval_id: str | None  # fingerprint of the validation data and objective
    val_loss: float | None  # of these weights
    loss_steps: list[int]
    train_losses: list[float]
    val_losses: list[float | None]
    learning_rates: list[float]
    interval_loss: float  # sum over the samples since the last entry of train_losses
    interval_samples: int = Field(ge=0)
    early_stopping: EarlyStopping
    timestamp: str  # of the last change, so that saving again what was loaded gives the same bytes
    provenance: dict[str, Any]  # data fingerprints, split ranges, parser and vocabulary hashes: the pipeline's
    versions: dict[str, str]
    trackers: dict[str, str]
    lineage: list[Segment] = Field(min_length=1)

    @property
    def segment(self) -> Segment:
        """The present stretch of the run."""
        return self.lineage[-1]

    @property
    def samples(self) -> int:
        """Samples of this data consumed so far, over all epochs."""
        return self.epoch * self.n_samples + self.samples_in_epoch

    @property
    def position(self) -> str:
        """Epochs for people: '2.4 of 10'."""
        tenths = 10 * self.samples_in_epoch // self.n_samples
        return f"{self.epoch}{f'.{tenths}' if self.samples_in_epoch else ''} of {self.planned_epochs}"

    @property
    def train_loss(self) -> float | None:
        """The mean since the last evaluation; that evaluation's where no step came since, None before any step."""
        if self.interval_samples:
            return self.interval_loss / self.interval_samples
        return self.train_losses[-1] if self.train_losses else None

    def to_json(self) -> dict[str, Any]:
        """A JSON object; early stopping's fields lie flat in it, where people look for them."""
        value = self.model_dump()
        early_stopping = value.pop("early_stopping")
        return {**value, **early_stopping}

    @classmethod
    def from_json(cls, value: object) -> TrainerState:
        """Strict inverse of `to_json`; raises ValueError naming every unknown, missing or ill-typed key, or the
        first contradiction between keys.
        """
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        names = EarlyStopping.model_fields
        if missing := sorted(names.keys() - value.keys()):
            raise ValueError(f"{', '.join(missing)} missing")
        nested = {key: item for key, item in value.items() if key not in names}
        nested["early_stopping"] = {key: item for key, item in value.items() if key in names}
        try:
            state = cls.model_validate(nested)
        except ValidationError as error:
            raise ValueError("; ".join(f"{_place(e['loc'])}: {e['msg']}" for e in error.errors())) from error
        if state.samples_in_epoch >= state.n_samples:
            raise ValueError(f"samples_in_epoch ({state.samples_in_epoch}) is not below n_samples ({state.n_samples})")
        columns = ("loss_steps", "train_losses", "val_losses", "learning_rates")
        lengths = [len(nested[name]) for name in columns]
        if len(set(lengths)) > 1:
            raise ValueError(f"{', '.join(columns)} have {lengths} entries, but are columns of one table")
        if state.evaluation_due and not state.interval_samples:
            raise ValueError("evaluation_due is true, but interval_samples is 0: no step came since the last one")
        return state


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def new_state(
    settings: TrainingSettings,
    plan: EpochPlan,
    n_samples: int,
    *,
    eval_id: str | None,
    provenance: Mapping[str, Any],
    machine: Mapping[str, str] = MappingProxyType({}),
) -> TrainerState:
    """The state of a run that has not begun; `machine` is what exactness depends on beside the software."""
    end = plan.target_epochs * n_samples
    return TrainerState(
        run_id=uuid.uuid4().hex[:16],
        phase="train",
        step=0,
        epoch=0,
        samples_in_epoch=0,
        n_samples=n_samples,
        planned_epochs=plan.target_epochs,
        seed=settings.seed,
        evaluation_due=False,
        schedule=plan_schedule(settings.warmup_steps, samples_per_step(settings), 0, end),
        order_check=order_check(epoch_order(n_samples, settings.seed, 0)),
        eval_id=eval_id,
        val_loss=None,
        loss_steps=[],
        train_losses=[],
        val_losses=[],
        learning_rates=[],
        interval_loss=0.0,
        interval_samples=0,
        early_stopping=EarlyStopping(patience=patience(settings)),
        timestamp=now(),
        provenance=dict(provenance),
        versions={**versions(), **machine},
        trackers={},
        lineage=[
            Segment(
                segment=1,
                parent=None,
                started=now(),
                target_epochs=plan.target_epochs,
                overrides={},
            )
        ],
    )


def resumed_state(
    state: TrainerState,
    checkpoint_hash: str,
    settings: TrainingSettings,
    plan: EpochPlan,
    n_samples: int,
    *,
    segment: int,
    eval_id: str | None,
    provenance: Mapping[str, Any],
    overrides: Mapping[str, Any],
    machine: Mapping[str, str] = MappingProxyType({}),
    lr_policy: LrPolicy = "continue",
    force: bool = False,
) -> TrainerState:
    """The state that goes on from a checkpoint's on the same data, as a new segment (its number: `next_segment`).

    Raises CheckpointError where the samples' number or order is not the checkpoint's, unless `force`d.
    """
    same_order = n_samples == state.n_samples and settings.seed == state.seed
    order = order_check(epoch_order(n_samples, settings.seed, state.epoch))
    if not force and not (same_order and order == state.order_check):
        raise CheckpointError(
            f"the training samples do not come in the checkpoint's order ({n_samples} samples, seed {settings.seed}; "
            f"the checkpoint has {state.n_samples}, seed {state.seed}): give the same log, split and seed, or --force"
        )
    if state.early_stopping.stopped and plan.action == "train":
        logger.info(
            "the run had stopped early: %s; it goes on, patience starts again", state.early_stopping.stop_reason
        )
    # Forced onto another number of samples: the same share of the epoch stays consumed.
    in_epoch = state.samples_in_epoch * n_samples // state.n_samples
    samples = state.epoch * n_samples + in_epoch
    early = state.early_stopping.continued(patience(settings)) if plan.action == "train" else state.early_stopping
    if eval_id != state.eval_id:
        early = EarlyStopping(patience=patience(settings))
    return state.model_copy(
        deep=True,
        update={
            "phase": "train" if plan.action == "train" else state.phase,
            "samples_in_epoch": in_epoch,
            "n_samples": n_samples,
            "planned_epochs": plan.target_epochs,
            "seed": settings.seed,
            "schedule": continue_schedule(
                state.schedule,
                lr_policy,
                samples=samples,
                end_samples=plan.target_epochs * n_samples,
                warmup_steps=settings.warmup_steps,
                samples_per_step=samples_per_step(settings),
            ),
            "order_check": order,
            "eval_id": eval_id,
            "val_loss": state.val_loss if eval_id == state.eval_id else None,
            "early_stopping": early,
            "provenance": dict(provenance),
            "versions": {**versions(), **machine},
            "lineage": [*state.lineage, _new_segment(segment, state, checkpoint_hash, plan, overrides)],
        },
    )


def fine_tuned_state(
    state: TrainerState,
    checkpoint_hash: str,
    settings: TrainingSettings,
    plan: EpochPlan,
    n_samples: int,
    *,
    segment: int,
    eval_id: str | None,
    provenance: Mapping[str, Any],
    overrides: Mapping[str, Any],
    machine: Mapping[str, str],
) -> TrainerState:
    """The state that begins with a checkpoint's weights on other data: epochs, schedule and patience start anew, steps
    and history go on.
    """
    fresh = new_state(settings, plan, n_samples, eval_id=eval_id, provenance=provenance, machine=machine)
    kept = ("run_id", "step", "loss_steps", "train_losses", "val_losses", "learning_rates", "trackers")
    return fresh.model_copy(
        update={
            **{name: getattr(state.model_copy(deep=True), name) for name in kept},
            "lineage": [*state.lineage, _new_segment(segment, state, checkpoint_hash, plan, overrides)],
        }
    )


def _new_segment(
    segment: int, state: TrainerState, checkpoint_hash: str, plan: EpochPlan, overrides: Mapping[str, Any]
) -> Segment:
    return Segment(
        segment=segment,
        parent=Parent(step=state.step, hash=checkpoint_hash),
        started=now(),
        target_epochs=plan.target_epochs,
        overrides=dict(overrides),
    )


def samples_per_step(settings: TrainingSettings) -> int:
    """Samples that one optimizer step consumes (fewer at the end of an epoch)."""
    return settings.batch_size * settings.gradient_accumulation


def patience(settings: TrainingSettings) -> int | None:
    """Evaluations without improvement before training stops, None for never."""
    return None if settings.not_early_stopping else settings.patience


def now() -> str:
    """The time in UTC, RFC 3339."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = {"ai-detect": ai_detect.__version__, "python": platform.python_version(), "code": _code_hash()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "unknown"
    return tuple(found.items())


def versions() -> dict[str, str]:
    """Software that the numbers depend on; `code` is a hash of this package's sources."""
    return dict(_versions())


def _code_hash() -> str:
    root = Path(ai_detect.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
