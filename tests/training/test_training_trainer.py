"""The loop itself: which samples, which rate, what ends it, what it reports."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_toy import ToyTask, continued, go_on, settings, start

from ai_detect.errors import CheckpointError, TrainingError
from ai_detect.training.checkpoint_store import given_checkpoint, latest_checkpoint, scan_checkpoints
from ai_detect.training.schedule import epoch_order


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path, step: int) -> bytes:
    return (folder / f"checkpoint-{step}/model.safetensors").read_bytes()


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (3, 4), (50, 1), (64, 2), (1, 7)])
def test_each_sample_once_an_epoch_in_the_seeds_order(tmp_path: Path, batch_size: int, accumulation: int) -> None:
    task = ToyTask()
    state = start(task, tmp_path, settings(batch_size=batch_size, gradient_accumulation=accumulation), epochs=2)
    expected = [(epoch, int(index)) for epoch in range(2) for index in epoch_order(50, 42, epoch)]
    assert task.seen == expected
    assert state.step == 2 * math.ceil(50 / (batch_size * accumulation))
    assert (state.epoch, state.samples_in_epoch, state.phase) == (2, 0, "fit")


def test_training_moves_the_weights_and_lowers_the_loss(tmp_path: Path) -> None:
    task = ToyTask()
    before = [parameter.clone() for parameter in task.model.parameters()]
    state = start(task, tmp_path, settings(), epochs=10)
    assert all(not torch.equal(a, b) for a, b in zip(before, task.model.parameters(), strict=True))
    assert state.train_losses[-1] < 0.8 * state.train_losses[0]
    assert state.val_losses[-1] == latest_checkpoint(tmp_path).checkpoint.manifest.val_loss


def test_the_gradient_is_the_mean_over_the_true_number_of_samples(tmp_path: Path) -> None:
    """Pieces of 3 of a step of 12, and the short last step, give the gradient of the whole."""
    norms = []
    for batch_size, accumulation in ((12, 1), (3, 4), (5, 3)):
        task = ToyTask(20)
        task.model[2].p = 0.0  # dropout draws differ with the shape of the batch
        folder = tmp_path / str(batch_size)
        options = settings(batch_size=batch_size, gradient_accumulation=accumulation)
        start(task, folder, options, epochs=1)
        norms.append([line["grad_norm"] for line in metrics(folder)])
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    assert norms[2][0] != pytest.approx(norms[0][0], rel=1e-5)  # 15 samples a step: another mean


def test_dropout_is_on_in_training_and_off_in_validation(tmp_path: Path) -> None:
    modes: list[tuple[str, bool, bool]] = []

    class Noting(ToyTask):
        def training_loss(self, indices: np.ndarray, epoch: int) -> tuple[Tensor, dict[str, float]]:
            modes.append(("train", self.model.training, torch.is_grad_enabled()))
            return super().training_loss(indices, epoch)

        def validation_loss(self) -> float | None:
            modes.append(("validate", self.model.training, torch.is_grad_enabled()))
            return super().validation_loss()

    start(Noting(), tmp_path, settings(), epochs=2)
    assert set(modes) == {("train", True, True), ("validate", False, False)}


def test_validation_does_not_disturb_training(tmp_path: Path) -> None:
    """Evaluating more often, even drawing random numbers there, leaves the weights as they are."""

    class Drawing(ToyTask):
        def validation_loss(self) -> float | None:
            torch.rand(3)
            return super().validation_loss()

    start(ToyTask(), tmp_path / "a", settings())
    start(Drawing(), tmp_path / "b", settings(save_strategy="steps", save_steps=2))
    start(ToyTask(validation=False), tmp_path / "c", settings())
    assert weights(tmp_path / "a", 21) == weights(tmp_path / "b", 21) == weights(tmp_path / "c", 21)


def test_saves_at_steps_and_always_at_the_end(tmp_path: Path) -> None:
    state = start(ToyTask(), tmp_path, settings(save_strategy="steps", save_steps=6))
    assert [checkpoint.step for checkpoint in scan_checkpoints(tmp_path)[0]] == [6, 12, 18, 21] == state.loss_steps
    assert [c.manifest.phase for c in scan_checkpoints(tmp_path)[0]] == ["train", "train", "train", "fit"]


def test_without_evaluation_data_the_latest_counts_and_nothing_stops(tmp_path: Path) -> None:
    state = start(ToyTask(validation=False), tmp_path, settings(patience=1))
    assert state.val_losses == [None] * 3 and state.early_stopping.best_val_loss is None
    assert not any("val_loss" in line for line in metrics(tmp_path))


def test_metrics_hold_each_step_once_and_the_mean_losses(tmp_path: Path) -> None:
    state = start(ToyTask(), tmp_path, settings())
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 22))
    assert [line["val_loss"] for line in lines if "val_loss" in line] == state.val_losses
    sizes = [8] * 6 + [2]
    for epoch in range(3):
        losses = [line["loss"] for line in lines[7 * epoch : 7 * epoch + 7]]
        assert state.train_losses[epoch] == pytest.approx(np.average(losses, weights=sizes))
        assert state.learning_rates[epoch] == lines[7 * epoch + 6]["learning_rate"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_one(tmp_path: Path, bad: float) -> None:
    class Exploding(ToyTask):
        def training_loss(self, indices: np.ndarray, epoch: int) -> tuple[Tensor, dict[str, float]]:
            loss, parts = super().training_loss(indices, epoch)
            return (loss * bad if len(self.seen) > 80 else loss), parts

    with pytest.raises(TrainingError, match=r"step 11.*checkpoint-7.*--learning_rate"):
        start(Exploding(), tmp_path, settings())
    assert [checkpoint.step for checkpoint in scan_checkpoints(tmp_path, verify=True)[0]] == [7]
    go_on(ToyTask(), tmp_path, settings())
    assert latest_checkpoint(tmp_path).checkpoint.step == 21


def test_a_gradient_that_is_not_finite_stops(tmp_path: Path) -> None:
    class Steep(ToyTask):
        def training_loss(self, indices: np.ndarray, epoch: int) -> tuple[Tensor, dict[str, float]]:
            loss, parts = super().training_loss(indices, epoch)
            return loss + (loss - loss.detach()) * 1e38 * 1e38, parts  # the value stays, its slope is infinite

    with pytest.raises(TrainingError, match=r"norm became|loss became"):
        start(Steep(), tmp_path, settings())


def test_a_validation_loss_that_is_not_finite_is_never_best(tmp_path: Path) -> None:
    losses = iter([3.0, math.nan, 2.5])

    class Odd(ToyTask):
        def validation_loss(self) -> float | None:
            return next(losses)

    state = start(Odd(), tmp_path, settings())
    assert state.val_losses == [3.0, None, 2.5] and state.early_stopping.best_step == 21


def falling_then(*losses: float) -> Callable[[], ToyTask]:
    """A task whose validation losses are given, by number of samples seen so far: a function of the position."""

    class Given(ToyTask):
        first = 0

        def validation_loss(self) -> float | None:
            return losses[min(self.first + len(self.seen) // 50, len(losses)) - 1]

    return Given


def test_early_stop_and_going_on_after_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    make = falling_then(3, 1, 2, 2, 2, 2, 2, 2, 2)
    state = start(make(), tmp_path, settings(patience=2), epochs=10)
    assert state.epoch == 4 and state.early_stopping.stopped and state.phase == "fit"
    assert "step 28" in str(state.early_stopping.stop_reason) and "stopped early" in caplog.text
    task = make()
    task.first = 4
    state = go_on(task, tmp_path, settings(patience=2), flags={"num_epochs": 1})
    assert "had stopped early" in caplog.text
    assert state.epoch == 5 and not state.early_stopping.stopped
    assert state.early_stopping.best_val_loss == 1 and state.early_stopping.patience_counter == 1


def test_early_stopping_resumed_stops_at_the_same_step(tmp_path: Path) -> None:
    make = falling_then(3, 1, 2, 2, 2, 2)
    start(make(), tmp_path / "straight", settings(patience=3), epochs=10)
    for epoch in (1, 2, 3, 4):
        folder = tmp_path / str(epoch)
        start(make(), folder, settings(patience=3), epochs=10)
        task = make()
        task.first = epoch
        loaded = given_checkpoint(folder / f"checkpoint-{7 * epoch}")
        state = go_on(task, folder, settings(patience=3), loaded)
        assert (state.step, state.early_stopping.stopped) == (35, True)
        assert state.early_stopping == latest_checkpoint(tmp_path / "straight").trainer_state.early_stopping
        assert weights(folder, 35) == weights(tmp_path / "straight", 35)


def test_another_evaluation_set_resets_best_and_patience(tmp_path: Path) -> None:
    start(ToyTask(), tmp_path, settings())
    loaded = latest_checkpoint(tmp_path)
    state = continued(loaded, tmp_path, settings(), flags={"num_epochs": 1}, eval_id="other")
    assert state.early_stopping.best_val_loss is None and state.val_loss is None and state.eval_id == "other"


@pytest.mark.parametrize(
    ("flags", "target"), [({"num_epochs": 3}, 6), ({}, 8), ({"total_epochs": 5}, 5)]
)  # of a finished run of 3 epochs
def test_a_finished_run_is_extended_and_still_learns(tmp_path: Path, flags: dict[str, int], target: int) -> None:
    start(ToyTask(), tmp_path, settings())
    loaded = latest_checkpoint(tmp_path)
    loaded.trainer_state.phase = "done"
    state = go_on(ToyTask(), tmp_path, settings(), loaded, flags=flags)
    assert state.epoch == state.planned_epochs == target
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, 7 * target + 1))
    rates = [line["learning_rate"] for line in metrics(tmp_path)[21:]]
    assert rates == [pytest.approx(0.001)] * len(rates)


@pytest.mark.parametrize("policy", ["rewarm", "constant"])
def test_rate_policies_of_an_extension(tmp_path: Path, policy: str) -> None:
    start(ToyTask(), tmp_path, settings())
    go_on(ToyTask(), tmp_path, settings(), flags={"num_epochs": 3}, changes={"lr_policy": policy})
    rates = [line["learning_rate"] for line in metrics(tmp_path)[21:]]
    if policy == "constant":
        assert rates == [pytest.approx(0.001)] * 21
    else:
        assert max(rates) > 0.009 and rates[-1] == pytest.approx(0.001) and rates[0] < max(rates)


def test_a_typed_learning_rate_is_applied_to_the_same_curve(tmp_path: Path) -> None:
    start(ToyTask(), tmp_path / "a", settings())
    start(ToyTask(), tmp_path / "b", settings())
    loaded = given_checkpoint(tmp_path / "b/checkpoint-7")
    changes = {"overrides": {"learning_rate": [0.01, 0.02]}}
    state = go_on(ToyTask(), tmp_path / "b", settings(learning_rate=0.02), loaded, changes=changes)
    a, b = ([line["learning_rate"] for line in metrics(tmp_path / name)] for name in "ab")
    assert b[:7] == a[:7] and b[7:] == pytest.approx([2 * rate for rate in a[7:]])
    assert state.lineage[-1].overrides == {"learning_rate": [0.01, 0.02]}


def test_another_batch_size_in_mid_epoch_still_gives_every_sample_once(tmp_path: Path) -> None:
    first = ToyTask()
    start(first, tmp_path, settings(save_strategy="steps", save_steps=3), epochs=2)
    second = ToyTask()
    loaded = given_checkpoint(tmp_path / "checkpoint-3")
    go_on(second, tmp_path, settings(batch_size=5), loaded)
    counts = Counter(first.seen[:24] + second.seen)
    assert set(counts.values()) == {1} and len(counts) == 100


def test_an_optimizer_of_another_model_is_refused(tmp_path: Path) -> None:
    start(ToyTask(), tmp_path, settings())
    loaded = latest_checkpoint(tmp_path)
    loaded.optimizer_state["9.weight"] = loaded.optimizer_state["0.weight"]
    with pytest.raises(CheckpointError, match=r"9\.weight"):
        go_on(ToyTask(), tmp_path, settings(), loaded, flags={"num_epochs": 1})


def test_reduced_precision_trains(tmp_path: Path) -> None:
    state = start(ToyTask(), tmp_path, settings(precision="bf16"), epochs=4)
    assert state.train_losses[-1] < state.train_losses[0]
    saved = latest_checkpoint(tmp_path)
    assert {tensor.dtype for tensor in saved.model_state.values()} == {torch.float32}


def test_seek_costs_the_same_anywhere(tmp_path: Path) -> None:
    """Resumed late in an epoch, the first samples asked for are the next ones: nothing is built to be dropped."""
    start(ToyTask(2000), tmp_path, settings(batch_size=8, save_strategy="steps", save_steps=245), epochs=1)
    task = ToyTask(2000)
    go_on(task, tmp_path, settings(), given_checkpoint(tmp_path / "checkpoint-245"))
    assert task.seen == [(0, int(index)) for index in epoch_order(2000, 42, 0)[245 * 8 :]]


def test_progress_is_reported_every_step(tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []
    start(ToyTask(), tmp_path, settings(), on_step=lambda state, values: seen.append((state.step, values["loss"])))
    assert [step for step, _ in seen] == list(range(1, 22))
    assert all(a != b for (_, a), (_, b) in itertools.pairwise(seen))
