"""The training loop: one page that knows nothing of logs, and that can be killed after any instruction.

What a step does depends on the state and the weights alone, so a run that is killed and resumed ends with the bytes of
a run that was never touched.
"""

from __future__ import annotations

import logging
import math
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ai_detect.config import TrainingSettings
from ai_detect.errors import Interrupted, TrainingError
from ai_detect.process_group import ProcessGroup
from ai_detect.tables import Int64Array
from ai_detect.training.checkpoint import LoadedCheckpoint
from ai_detect.training.checkpoint_store import scan_checkpoints
from ai_detect.training.checkpoint_writer import CheckpointWriter, check_room
from ai_detect.training.optimizer import AdamW
from ai_detect.training.parts import encode_json, load_weights
from ai_detect.training.schedule import epoch_order, order_check, seed_step
from ai_detect.training.state import TrainerState, now, samples_per_step
from ai_detect.training.tracking import Tracker, open_trackers

logger = logging.getLogger(__name__)

#: Seconds before each further attempt to save the last state, where the disk refuses it.
FINAL_WAITS_S = (1.0, 5.0)


class TrainingTask(Protocol):
    """What is trained: a model on its device, and its loss on samples that are known by their index."""

    @property
    def model(self) -> nn.Module:
        """The module whose parameters are trained."""

    @property
    def n_samples(self) -> int:
        """Number of training samples."""

    @property
    def group(self) -> ProcessGroup:
        """The processes that share each batch."""

    def training_loss(self, indices: Int64Array, epoch: int) -> tuple[Tensor, dict[str, float]]:
        """Mean loss over these samples and its parts: a function of weights, indices, epoch and torch's generators.

        Of several processes each returns its share, and the sum is the mean.
        """

    def prepare(self, indices: Int64Array, epoch: int) -> None:
        """Begin, beside what else is done, to build what `training_loss` of these samples will need; no result of it
        depends on this.
        """

    def validation_loss(self) -> float | None:
        """Loss on the evaluation data, a function of the weights, equal in all processes; None without such data."""


def _never() -> None:
    return None


def _no_request() -> bool:
    return False


def train(
    task: TrainingTask,
    state: TrainerState,
    settings: TrainingSettings,
    *,
    checkpoint_dir: Path,
    config: Mapping[str, Any],
    templates: Mapping[str, Any],
    resumed: LoadedCheckpoint | None = None,
    should_stop: Callable[[], int | None] = _never,
    take_save_request: Callable[[], bool] = _no_request,
    on_step: Callable[[TrainerState, Mapping[str, float]], None] | None = None,
    last_step: int | None = None,
) -> TrainerState:
    """Train from `state` to its planned epochs, an early stop or `last_step`, with a checkpoint at each evaluation.

    With `resumed`, weights and optimizer are taken from that checkpoint (not for other data: there the caller gives the
    model its weights and the optimizer starts anew). `should_stop` gives the number of a signal that asks to stop.
    Several processes (`task.group`) take the same steps; the first writes all files. Raises Interrupted after such a
    signal, its state saved; TrainingError where the loss or a gradient is not finite, memory does not suffice, the last
    state cannot be saved or another process has ended; CheckpointError where `resumed` does not fit the model.
    """
    optimizer = AdamW(task.model, settings.weight_decay)
    if resumed is not None:
        load_weights(task.model, resumed.model_state, resumed.checkpoint.path)
        optimizer.load(resumed.optimizer_state, resumed.checkpoint.path)
    trackers: list[Tracker] = []
    writer = None
    if task.group.is_first:
        trackers, writer = _open_files(task, state, settings, checkpoint_dir, config, templates)
    run = _Run(task, state, settings, optimizer, writer, trackers, last_step)
    try:
        while True:
            stop, save_requested = task.group.largest(should_stop() or 0, int(take_save_request()))
            if stop:
                raise Interrupted("", stop)
            run.collect(wait=False)
            if state.evaluation_due:
                run.evaluate()
                run.save()
            elif save_requested or run.retry_due:
                run.save()
            if run.is_finished:
                break
            values = run.step()
            if on_step is not None:
                on_step(state, values)
        run.finish()
    except Interrupted as stopped:
        number = stopped.exit_code - 128
        where = run.save_for_later()
        task.group.raise_together(None)  # torchrun ends the others when one has ended: not before the save
        raise Interrupted(f"stopped by {signal.Signals(number).name} at {where}", number) from None
    finally:
        if writer is not None:
            writer.close()
        for tracker in trackers:
            tracker.close()
    return state


def _open_files(
    task: TrainingTask,
    state: TrainerState,
    settings: TrainingSettings,
    checkpoint_dir: Path,
    config: Mapping[str, Any],
    templates: Mapping[str, Any],
) -> tuple[list[Tracker], CheckpointWriter]:
    """Trackers and writer of a run that goes on from `state`."""
    fixed_parts = {"config.json": encode_json(config), "templates.json": encode_json(templates)}
    n_bytes = sum(map(len, fixed_parts.values())) + 3 * sum(t.nbytes for t in task.model.state_dict().values())
    check_room(checkpoint_dir, n_bytes, settings.save_total_limit + settings.keep_best)
    branched = any(checkpoint.step > state.step for checkpoint in scan_checkpoints(checkpoint_dir)[0])
    trackers = open_trackers(
        checkpoint_dir, state, settings.report_to, _numbers(settings.model_dump()), branched=branched
    )
    return trackers, CheckpointWriter(checkpoint_dir, settings, fixed_parts, lambda: _tell(trackers, "flush"))


def _tell(trackers: Sequence[Tracker], event: Literal["flush", "committed"]) -> None:
    for tracker in trackers:
        try:
            tracker.flush() if event == "flush" else tracker.committed()
        except OSError as error:
            logger.warning("metrics cannot be written (%s); training goes on", error)


def _numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers and switches: what may leave the machine."""
    return {name: value for name, value in settings.items() if isinstance(value, (int, float, bool))}


@dataclass
class _Run:
    """What lives between the steps of one call of `train`."""

    task: TrainingTask
    state: TrainerState
    settings: TrainingSettings
    optimizer: AdamW
    writer: CheckpointWriter | None  # of the first process
    trackers: list[Tracker]
    last_step: int | None
    order: Int64Array | None = None  # of state.epoch
    unsaved: bool = False

    @property
    def is_finished(self) -> bool:
        return self.is_complete or (self.last_step is not None and self.state.step >= self.last_step)

    @property
    def is_complete(self) -> bool:
        """Whether the plan is fulfilled; `last_step` only interrupts it, and changes nothing that comes later."""
        return self.state.early_stopping.stopped or self.state.epoch >= self.state.planned_epochs

    def step(self) -> dict[str, float]:
        """One optimizer step; it ends with the epoch where fewer samples are left than a step takes."""
        state, settings, model = self.state, self.settings, self.task.model
        if self.order is None:
            self.order = epoch_order(state.n_samples, state.seed, state.epoch)
        size = samples_per_step(settings)
        following = self.order[state.samples_in_epoch : state.samples_in_epoch + size + settings.batch_size]
        batch, upcoming = np.split(following, [size])
        seed_step(state.seed, state.step + 1)
        rate = settings.learning_rate * state.schedule.factor(state.samples + len(batch))
        model.train()
        self.optimizer.zero_grad()
        loss, parts = self._backward(batch, upcoming)
        if not math.isfinite(loss):
            raise self._not_finite(f"the loss became {loss}", rate)
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm))
        if not math.isfinite(norm):
            raise self._not_finite(f"the gradient's norm became {norm}", rate)
        self.optimizer.step(rate)
        self._advance(len(batch), loss)
        position = round(state.samples / state.n_samples, 6)
        values = {"epoch": position, "loss": loss, **parts, "learning_rate": rate, "grad_norm": norm}
        self._log(values)
        return values

    def _backward(self, batch: Int64Array, upcoming: Int64Array) -> tuple[float, dict[str, float]]:
        """Accumulate the gradient of the mean over the batch's samples, in pieces of at most batch_size; `upcoming` is
        the first piece of the next step.
        """
        totals: dict[str, float] = {}
        pieces = np.split(batch, range(self.settings.batch_size, len(batch), self.settings.batch_size))
        try:
            for indices, following in pairwise([*pieces, upcoming]):
                share = len(indices) / len(batch)
                with self._autocast():
                    loss, parts = self.task.training_loss(indices, self.state.epoch)
                self.task.prepare(following, self.state.epoch)
                (loss * share).backward()  # type: ignore[no-untyped-call]
                for name, part in {"loss": float(loss.detach()), **parts}.items():
                    totals[name] = totals.get(name, 0.0) + float(part) * share
        except (MemoryError, RuntimeError) as error:
            # On the CPU torch has no type of error for it.
            text = str(error) or "MemoryError"
            if not isinstance(error, MemoryError) and not re.search("out of memory|can't allocate memory", text):
                raise
            raise self._out_of_memory(text.splitlines()[0]) from error
        summed = self.task.group.total_gradients(list(self.task.model.parameters()), list(totals.values()))
        totals = dict(zip(totals, summed, strict=True))
        return totals.pop("loss"), totals

    def _advance(self, n_samples: int, loss: float) -> None:
        state = self.state
        state.step += 1
        state.samples_in_epoch += n_samples
        state.interval_loss += loss * n_samples
        state.interval_samples += n_samples
        state.val_loss = None
        epoch_ended = state.samples_in_epoch == state.n_samples
        if epoch_ended:
            state.epoch, state.samples_in_epoch = state.epoch + 1, 0
            self.order = epoch_order(state.n_samples, state.seed, state.epoch)
            state.order_check = order_check(self.order)
        by_epoch = self.settings.save_strategy == "epoch"
        scheduled = epoch_ended if by_epoch else state.step % self.settings.save_steps == 0
        state.evaluation_due = scheduled or self.is_complete
        self.unsaved = True

    def evaluate(self) -> None:
        """Measure the validation loss, note the losses since the last evaluation, decide whether to stop."""
        state = self.state
        self.task.model.eval()
        with torch.no_grad(), self._autocast():
            measured = self.task.validation_loss()
        val_loss = None if measured is None else float(measured)
        if val_loss is not None and not math.isfinite(val_loss):
            logger.warning("the validation loss of step %d is %s: it counts as no improvement", state.step, val_loss)
        state.val_loss = val_loss if val_loss is not None and math.isfinite(val_loss) else None
        state.loss_steps.append(state.step)
        state.train_losses.append(state.interval_loss / state.interval_samples)
        state.val_losses.append(state.val_loss)
        state.learning_rates.append(self.settings.learning_rate * state.schedule.factor(state.samples))
        state.interval_loss, state.interval_samples = 0.0, 0
        state.early_stopping = state.early_stopping.update(val_loss, state.step, state.epoch)
        state.evaluation_due = False
        self.unsaved = True
        if self.is_complete:
            state.phase = "fit"
        if state.val_loss is not None:
            self._log({"val_loss": state.val_loss})
        if state.early_stopping.stopped:
            logger.info("stopped early: %s", state.early_stopping.stop_reason)

    @property
    def retry_due(self) -> bool:
        return self.writer is not None and self.writer.retry_due(self.state.step)

    def save(self) -> None:
        """Begin to save the state, if it has changed since."""
        if self.writer is None or not self.unsaved:
            return
        self.collect(wait=True)
        self.state.timestamp = now()
        self.unsaved = False
        self.writer.start(self.state, self.task.model, self.optimizer)

    def collect(self, *, wait: bool) -> None:
        """Learn what became of the save under way."""
        saved = self.writer.collect(wait=wait) if self.writer is not None else None
        if saved is not None:
            self.unsaved = self.unsaved or not saved
            if saved:
                _tell(self.trackers, "committed")

    def finish(self) -> None:
        """Make sure that the last state is on disk; raises TrainingError, in all processes, where it cannot be."""
        if self.state.phase == "train":  # already at its target when it was resumed
            self.state.phase, self.unsaved = "fit", True
        self.save()
        self.collect(wait=True)
        for wait_s in FINAL_WAITS_S:
            if self.unsaved and self.writer is not None:
                time.sleep(wait_s)
                self.save()
                self.collect(wait=True)
        problem = None
        if self.writer is not None and self.unsaved:
            problem = (
                f"training reached step {self.state.step}, but its checkpoint cannot be saved ({self.writer.failure}); "
                f"{self._last_saved() or 'none was saved'}; make room and resume"
            )
        self.task.group.raise_together(problem)

    def save_for_later(self) -> str:
        """Save what was not, and say in words where the run stands."""
        where = f"step {self.state.step} (epoch {self.state.position})"
        self.collect(wait=True)
        if not self.unsaved or self.writer is None:
            return f"{where}; its checkpoint was saved before" if self.state.step else f"{where}; nothing to save yet"
        self.save()
        self.collect(wait=True)
        if not self.unsaved and self.writer.last_saved is not None:
            return f"{where}; saved {self.writer.last_saved.path}, resume_train.py goes on from there"
        return f"{where}; it could not be saved ({self.writer.failure})"

    def _last_saved(self) -> str | None:
        self.collect(wait=True)
        if self.writer is None or self.writer.last_saved is None:
            return None
        return f"the last good checkpoint is {self.writer.last_saved.path}"

    def _log(self, values: Mapping[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(self.state.step, values)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "fp32":
            return nullcontext()
        return torch.autocast(next(self.task.model.parameters()).device.type, torch.bfloat16)

    def _not_finite(self, what: str, rate: float) -> TrainingError:
        return TrainingError(
            f"{what} at step {self.state.step + 1}; {self._last_saved() or 'earlier checkpoints are untouched'}; "
            f"resume with a --learning_rate below {rate:.3g}"
            + (" or --precision fp32" if self.settings.precision != "fp32" else "")
        )

    def _out_of_memory(self, what: str) -> TrainingError:
        size = self.settings.batch_size
        advice = f"--batch_size {size // 2} --gradient_accumulation {2 * self.settings.gradient_accumulation}"
        return TrainingError(
            f"out of memory at step {self.state.step + 1} ({what[:100]}); "
            f"{self._last_saved() or 'earlier checkpoints are untouched'}; "
            f"resume with {advice if size > 1 else 'another --device'}"
            + (", or with --precision bf16" if self.settings.precision == "fp32" else "")
        )
