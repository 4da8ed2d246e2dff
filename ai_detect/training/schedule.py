"""Order, seeds and learning rate as pure functions of where training is: nothing random has to be saved or restored.

The shuffle is our own: library generators may change between versions, and a resumed epoch would see samples twice.
"""

from __future__ import annotations

import hashlib
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ai_detect.tables import Int64Array

#: The learning rate never falls below this share of its peak, so that an extended run still learns.
FLOOR_FACTOR = 0.1
#: Warm-up takes at most this share of the plan: a small log may have fewer steps than a usual warm-up.
MAX_WARMUP_SHARE = 0.2

LrPolicy = Literal["continue", "rewarm", "constant"]


def _splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64-bit words."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _key(*values: int) -> NDArray[np.uint64]:
    """Mix integers to one 64-bit word, as an array of one (numpy warns of overflow on scalars only)."""
    key = np.zeros(1, np.uint64)
    for value in values:
        key = _splitmix64(key ^ np.array([value & 0xFFFF_FFFF_FFFF_FFFF], np.uint64))
    return key


def epoch_order(n_samples: int, seed: int, epoch: int) -> Int64Array:
    """The permutation of range(n_samples) that this epoch follows, (n_samples,) int64."""
    keys = _splitmix64(_key(seed, epoch) ^ _splitmix64(np.arange(n_samples, dtype=np.uint64)))
    return np.argsort(keys).astype(np.int64, copy=False)  # all keys differ: the mix is a bijection


def order_check(order: Int64Array) -> str:
    """Hex hash of the first 1,024 entries and the length: another order on resume is an error, never a drift."""
    digest = hashlib.sha256(str(len(order)).encode())
    digest.update(order[:1024].astype("<i8").tobytes())
    return digest.hexdigest()[:32]


def seed_step(seed: int, step: int) -> None:
    """Seed torch's generators for an optimizer step, for tasks that draw from them; step 0: initial weights."""
    import torch  # here, so that reading what a run has done needs none

    torch.manual_seed(int(_key(seed, step)[0] >> np.uint64(1)))


class LearningRateSchedule(BaseModel):
    """Constants of the learning rate, frozen when a plan is made; all in samples, so a batch size changes nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    start_samples: int = Field(ge=0)
    warmup_steps: int = Field(ge=0)  # the setting that warmup_samples was made from
    warmup_samples: int = Field(ge=0)
    end_samples: int = Field(ge=0)
    floor_factor: float = Field(gt=0, le=1)
    constant_factor: float | None = Field(gt=0, le=1)  # with --lr_policy constant

    def factor(self, samples: int) -> float:
        """Share of the peak rate, in (0, 1], for the step that ends after `samples` samples of this data."""
        if self.constant_factor is not None:
            return self.constant_factor
        position = samples - self.start_samples
        if position <= self.warmup_samples and self.warmup_samples:
            return max(position, 1) / self.warmup_samples
        decay_samples = self.end_samples - self.start_samples - self.warmup_samples
        progress = min(1.0, (position - self.warmup_samples) / decay_samples) if decay_samples > 0 else 1.0
        return self.floor_factor + (1 - self.floor_factor) * 0.5 * (1 + math.cos(math.pi * progress))


def plan_schedule(
    warmup_steps: int, samples_per_step: int, start_samples: int, end_samples: int
) -> LearningRateSchedule:
    """Linear warm-up, then a cosine decay that reaches the floor at `end_samples`."""
    longest = int(MAX_WARMUP_SHARE * (end_samples - start_samples))
    return LearningRateSchedule(
        start_samples=start_samples,
        warmup_steps=warmup_steps,
        warmup_samples=min(warmup_steps * samples_per_step, longest),
        end_samples=end_samples,
        floor_factor=FLOOR_FACTOR,
        constant_factor=None,
    )


def continue_schedule(
    schedule: LearningRateSchedule,
    policy: LrPolicy,
    *,
    samples: int,
    end_samples: int,
    warmup_steps: int,
    samples_per_step: int,
) -> LearningRateSchedule:
    """The schedule of a run resumed after `samples` samples, with a new target of `end_samples`.

    `continue` keeps the constants (beyond the planned decay: the floor), `rewarm` starts a new warm-up and decay,
    `constant` holds the present rate.
    """
    if policy == "rewarm":
        return plan_schedule(warmup_steps, samples_per_step, samples, end_samples)
    if policy == "constant":
        return schedule.model_copy(update={"constant_factor": schedule.factor(samples)})
    if warmup_steps != schedule.warmup_steps:
        again = plan_schedule(warmup_steps, samples_per_step, schedule.start_samples, schedule.end_samples)
        return again.model_copy(update={"constant_factor": schedule.constant_factor})
    return schedule
