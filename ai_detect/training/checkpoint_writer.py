"""Saving during a run, beside the training: a disk that refuses costs a warning and a later attempt, not the run."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from torch import Tensor, nn

from ai_detect.artifacts import hidden
from ai_detect.config import TrainingSettings
from ai_detect.errors import CheckpointError, ConfigError
from ai_detect.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ai_detect.training.checkpoint_store import branch, make_way, prune_checkpoints, superseded_by
from ai_detect.training.optimizer import AdamW
from ai_detect.training.parts import OptimizerState, copy_weights, encode_model, encode_optimizer
from ai_detect.training.state import TrainerState

logger = logging.getLogger(__name__)

#: Steps between attempts to save grow up to this while the disk refuses.
MAX_RETRY_STEPS = 1024


class CheckpointWriter:
    """Saves one run's checkpoints, moves left-behind branches aside, prunes; remembers whether the disk refused.

    The state is copied in memory by the caller's thread; hashing and writing are done by another, one checkpoint at a
    time. `fixed_parts` are the parts that do not change while training: config.json and templates.json. `flush` makes
    the metrics durable; it is called by the other thread before each checkpoint.
    """

    def __init__(
        self,
        checkpoint_dir: Path,
        settings: TrainingSettings,
        fixed_parts: Mapping[str, bytes],
        flush: Callable[[], None] = lambda: None,
    ) -> None:
        self.last_saved: Checkpoint | None = None
        self.failure: OSError | None = None
        self._checkpoint_dir = checkpoint_dir
        self._settings = settings
        self._fixed_parts = fixed_parts
        self._flush = flush
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._under_way: tuple[int, Future[Checkpoint]] | None = None
        self._retry_step = 0
        self._retry_wait = 1

    def retry_due(self, step: int) -> bool:
        """Whether a save was refused and it is time for another attempt."""
        return self.failure is not None and step >= self._retry_step

    def start(self, state: TrainerState, model: nn.Module, optimizer: AdamW) -> None:
        """Copy all there is to save and begin to save it; a save still under way must have been collected."""
        assert self._under_way is None
        self.failure = None
        copied = state.model_copy(deep=True)
        job = self._thread.submit(self._save, copied, copy_weights(model), optimizer.state(), self.last_saved is None)
        self._under_way = (state.step, job)

    def collect(self, *, wait: bool) -> bool | None:
        """Whether the save under way succeeded; None where there is none or, unless `wait`, it is not done.

        Raises TrainingError where the weights were not finite.
        """
        if self._under_way is None or not (wait or self._under_way[1].done()):
            return None
        saved_step, job = self._under_way
        self._under_way = None
        try:
            self.last_saved = job.result()
        except (OSError, MemoryError) as error:
            # Memory that does not suffice for a second copy of the weights is no reason to lose the first.
            short = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            self.failure = error if isinstance(error, OSError) else short
            self._retry_step = saved_step + self._retry_wait
            self._retry_wait = min(2 * self._retry_wait, MAX_RETRY_STEPS)
            logger.warning(
                "checkpoint-%d cannot be saved (%s); training goes on, next attempt by step %d",
                saved_step,
                self.failure,
                self._retry_step,
            )
            return False
        self.failure, self._retry_wait = None, 1
        return True

    def close(self) -> None:
        """Wait for a save under way, whatever became of it."""
        self._thread.shutdown(wait=True)

    def _save(
        self, state: TrainerState, weights: Mapping[str, Tensor], optimizer_state: OptimizerState, is_first: bool
    ) -> Checkpoint:
        """Save, then branch and prune; raises OSError where the disk refused (nothing on disk has changed then)."""
        self._flush()
        parts = {
            **self._fixed_parts,
            "model.safetensors": encode_model(weights),
            "optimizer.pt": encode_optimizer(optimizer_state),
        }
        other = self._place_for_other(state)
        saved = write_checkpoint(self._checkpoint_dir, state, parts, other)
        shown = "" if state.val_loss is None else f", validation loss {state.val_loss:.6g}"
        logger.info("saved %s (epoch %s%s)", saved.path, state.position, shown)
        try:
            self._tidy(state, is_first, other)
        except OSError as error:
            logger.warning("old checkpoints cannot be moved or deleted (%s); they stay", error)
        return saved

    def _place_for_other(self, state: TrainerState) -> Path | None:
        """Where a directory of the new one's name lies until the new one is there; None where it is this segment's own
        or the one resumed from, and not kept.
        """
        path = self._checkpoint_dir / f"checkpoint-{state.step}"
        if not os.path.lexists(path):
            return None
        try:
            found = read_checkpoint(path).manifest
            parent = state.segment.parent
            own = found.segment == state.segment.segment or (parent is not None and found.step == parent.step)
            if found.run_id == state.run_id and own:
                return None
        except CheckpointError as error:
            logger.warning("%s; moved out of the way", error)
        return hidden(path, superseded_by(state.segment.segment))

    def _tidy(self, state: TrainerState, first_of_segment: bool, other: Path | None) -> None:
        if other is not None:
            make_way(self._checkpoint_dir, other, f"checkpoint-{state.step}", state.segment.segment)
        parent = state.segment.parent
        if first_of_segment and parent is not None:
            for moved in branch(self._checkpoint_dir, state.run_id, parent.step, state.segment.segment):
                logger.info("the run went on from step %d: an older branch is now %s", parent.step, moved)
        keep_last, keep_best = self._settings.save_total_limit, self._settings.keep_best
        for path, reason in prune_checkpoints(self._checkpoint_dir, state.run_id, keep_last, keep_best):
            logger.info("deleted %s: %s", path.name, reason)


def check_room(checkpoint_dir: Path, n_bytes: int, n_kept: int) -> None:
    """Try to write, and warn where `n_kept` checkpoints of `n_bytes` and one being written may not fit.

    Raises ConfigError where the folder cannot be written to.
    """
    probe = checkpoint_dir / f".run.json.tmp-{os.getpid()}"
    try:
        checkpoint_dir.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"probe")
        probe.unlink()
        free = shutil.disk_usage(checkpoint_dir).free
    except OSError as error:
        raise ConfigError(f"{checkpoint_dir} cannot be written to ({error}); give another --checkpoint_dir") from error
    needed = n_bytes * (n_kept + 1)
    if free < needed:
        megabytes = (free / 1e6, needed / 1e6)
        logger.warning("%.0f MB are free for checkpoints that need about %.0f MB; lower --save_total_limit", *megabytes)
