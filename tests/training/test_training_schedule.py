from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ai_detect.training.schedule import (
    FLOOR_FACTOR,
    LearningRateSchedule,
    _splitmix64,
    continue_schedule,
    epoch_order,
    order_check,
    plan_schedule,
    seed_step,
)


def test_mix_is_splitmix64() -> None:
    # First outputs of the reference implementation seeded with 0: it adds the constant before each.
    words = _splitmix64(np.array([0, 0x9E3779B97F4A7C15], np.uint64))
    assert [hex(int(word)) for word in words] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]


@given(st.integers(0, 300), st.integers(0, 2**63 - 1), st.integers(0, 1000))
def test_order_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    order = epoch_order(n, seed, epoch)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(order, epoch_order(n, seed, epoch))


def mix(word: int) -> int:
    """SplitMix64 in plain integers."""
    mask = 2**64 - 1
    word = (word + 0x9E3779B97F4A7C15) & mask
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
    return word ^ (word >> 31)


@pytest.mark.parametrize(("seed", "epoch"), [(42, 0), (2**63 - 1, 7)])
def test_order_equals_the_plain_python_one(seed: int, epoch: int) -> None:
    key = mix(mix(seed) ^ epoch)
    assert epoch_order(200, seed, epoch).tolist() == sorted(range(200), key=lambda index: mix(key ^ mix(index)))


def test_order_is_fixed_for_all_time_and_differs_by_seed_and_epoch() -> None:
    assert epoch_order(10, 42, 0).tolist() == [9, 4, 0, 3, 5, 1, 6, 2, 7, 8]
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_order_looks_shuffled() -> None:
    firsts = [epoch_order(100, 1, epoch)[0] for epoch in range(300)]
    assert 40 < np.mean(firsts) < 60 and len(set(firsts)) > 80


def test_order_check_sees_length_and_order() -> None:
    checks = {order_check(epoch_order(n, seed, 0)) for n in (2000, 2001) for seed in (1, 2)}
    assert len(checks) == 4


def test_seed_step_repeats_a_step_and_no_other() -> None:
    def draw(seed: int, step: int) -> list[float]:
        seed_step(seed, step)
        return torch.rand(4).tolist()

    assert draw(1, 5) == draw(1, 5)
    assert draw(1, 5) != draw(1, 6) and draw(1, 5) != draw(2, 5)


def test_warm_up_then_cosine_to_the_floor_and_never_zero() -> None:
    schedule = plan_schedule(10, 8, 0, 1000)
    factors = [schedule.factor(samples) for samples in range(1, 3000)]
    assert factors[0] == 1 / 80 and factors[79] == 1.0
    assert all(a <= b for a, b in pairwise(factors[:80]))
    assert all(a >= b for a, b in pairwise(factors[80:]))
    assert factors[999] == pytest.approx(FLOOR_FACTOR) == factors[-1]
    assert min(factors[80:]) > 0


def test_warm_up_fits_a_short_plan() -> None:
    assert plan_schedule(1000, 128, 0, 500).warmup_samples == 100


@pytest.mark.parametrize("end", [0, 1, 2])
def test_degenerate_plans_have_a_rate(end: int) -> None:
    assert 0 < plan_schedule(0, 1, 0, end).factor(1) <= 1


def continued(schedule: LearningRateSchedule, policy: str, warmup_steps: int = 10) -> LearningRateSchedule:
    return continue_schedule(
        schedule, policy, samples=1000, end_samples=2000, warmup_steps=warmup_steps, samples_per_step=8
    )  # type: ignore[arg-type]


def test_policies_beyond_the_plan() -> None:
    schedule = plan_schedule(10, 8, 0, 1000)
    assert continued(schedule, "continue") == schedule
    rewarmed = continued(schedule, "rewarm")
    assert rewarmed.factor(1001) < 0.1 and rewarmed.factor(1080) == 1.0 and rewarmed.factor(2000) == pytest.approx(0.1)
    constant = continued(schedule, "constant")
    assert constant.factor(1001) == constant.factor(5000) == schedule.factor(1000)


def test_another_warm_up_is_applied() -> None:
    assert continued(plan_schedule(10, 8, 0, 1000), "continue", 20).warmup_samples == 160
