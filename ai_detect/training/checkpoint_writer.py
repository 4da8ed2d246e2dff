"""Saving during a run: a disk that refuses costs a warning and a later attempt, not the run."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from ai_detect.config import TrainingSettings
from ai_detect.errors import CheckpointError, ConfigError
from ai_detect.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ai_detect.training.checkpoint_store import branch, make_way, prune_checkpoints
from ai_detect.training.optimizer import AdamW
from ai_detect.training.parts import encode_model, encode_optimizer
from ai_detect.training.state import TrainerState

logger = logging.getLogger(__name__)

#: Steps between attempts to save grow up to this while the disk refuses.
MAX_RETRY_STEPS = 1024


class CheckpointWriter:
    """Saves one run's checkpoints, moves left-behind branches aside, prunes; remembers whether the disk refused.

    `fixed_parts` are the parts that do not change while training: config.json and templates.json.
    """

    def __init__(self, checkpoint_dir: Path, settings: TrainingSettings, fixed_parts: Mapping[str, bytes]) -> None:
        self.last_saved: Checkpoint | None = None
        self.failure: OSError | None = None
        self._checkpoint_dir = checkpoint_dir
        self._settings = settings
        self._fixed_parts = fixed_parts
        self._retry_step = 0
        self._retry_wait = 1

    def retry_due(self, step: int) -> bool:
        """Whether a save was refused and it is time for another attempt."""
        return self.failure is not None and step >= self._retry_step

    def save(self, state: TrainerState, model: nn.Module, optimizer: AdamW) -> bool:
        """Save, then branch and prune; False where the disk refused (nothing on disk has changed then)."""
        parts = {
            **self._fixed_parts,
            "model.safetensors": encode_model(model),
            "optimizer.pt": encode_optimizer(optimizer.state()),
        }
        try:
            saved = write_checkpoint(self._checkpoint_dir, state, parts, self._place_for_other(state))
        except OSError as error:
            self.failure = error
            self._retry_step = state.step + self._retry_wait
            self._retry_wait = min(2 * self._retry_wait, MAX_RETRY_STEPS)
            logger.warning(
                "checkpoint-%d cannot be saved (%s); training goes on, next attempt by step %d",
                state.step,
                error,
                self._retry_step,
            )
            return False
        first_of_segment, self.last_saved = self.last_saved is None, saved
        self.failure, self._retry_wait = None, 1
        shown = "" if state.val_loss is None else f", validation loss {state.val_loss:.6g}"
        logger.info("saved %s (epoch %s%s)", saved.path, state.position, shown)
        try:
            self._tidy(state, first_of_segment)
        except OSError as error:
            logger.warning("old checkpoints cannot be moved or deleted (%s); they stay", error)
        return True

    def _place_for_other(self, state: TrainerState) -> Path | None:
        """Where a directory of the new one's name goes, None where it is this segment's own or the one resumed from."""
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
        return make_way(self._checkpoint_dir, path.name, state.segment.segment)

    def _tidy(self, state: TrainerState, first_of_segment: bool) -> None:
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
