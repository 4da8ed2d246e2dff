"""Where the numbers of each step go: metrics.jsonl always, TensorBoard or Weights & Biases if asked for.

Only numbers are sent, never text of a log.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from ai_detect.artifacts import write_bytes
from ai_detect.errors import ConfigError
from ai_detect.training.state import TrainerState

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
WANDB_PROJECT = "ai-detect"


class Tracker(Protocol):
    """A place for metrics; steps rise, and values of the same step are put together."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step."""

    def flush(self) -> None:
        """Make what was logged durable; called before each checkpoint."""

    def committed(self) -> None:
        """A checkpoint was saved: what was logged will not be taken back. Called again where it raised OSError."""

    def close(self) -> None:
        """Nothing more will come."""


class MetricsFile:
    """metrics.jsonl: one line a step, each step once, over all resumes.

    On resume the lines after the checkpoint's step move to `metrics.<segment>.jsonl`. With `hold` (a branch, whose
    checkpoints replace others) nothing is touched before the segment's first checkpoint is on disk.
    """

    def __init__(self, folder: Path, step: int, segment: int, *, hold: bool) -> None:
        self._path = folder / METRICS
        self._start_step = step
        self._segment = segment
        self._held: dict[int, dict[str, float]] | None = {}
        self._descriptor: int | None = None
        self._last: dict[str, float] = {}
        self._last_offset = self._end = 0
        self._failed = False
        if not hold:
            self.committed()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the step's line; a disk that refuses is warned of once and costs lines, not the run."""
        if self._held is not None:
            self._held.setdefault(step, {}).update(values)
            return
        same = self._last.get("step") == step
        self._last = {**(self._last if same else {"step": step}), **values}
        self._write(self._last_offset if same else self._end, _line(self._last))

    def flush(self) -> None:
        """Make the lines durable."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def committed(self) -> None:
        """Cut the file at the step resumed from and write what was held back."""
        if self._held is None:
            return
        kept, tail = _split(self._path, self._start_step)
        if tail:
            write_bytes(self._path.with_name(f"metrics.{self._segment}.jsonl"), b"".join(tail))
        if self._path.exists() and self._path.read_bytes() != b"".join(kept):
            write_bytes(self._path, b"".join(kept))
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
        self._end = sum(map(len, kept))
        if kept:
            self._last = json.loads(kept[-1])
            self._last_offset = self._end - len(kept[-1])
        held, self._held = self._held, None
        for step, values in sorted(held.items()):
            self.log(step, values)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, offset: int, line: bytes) -> None:
        assert self._descriptor is not None
        try:
            os.ftruncate(self._descriptor, offset)
            self._end = offset
            if os.pwrite(self._descriptor, line, offset) != len(line):
                raise OSError("no room for a whole line")
            self._last_offset, self._end = offset, offset + len(line)
        except OSError as error:
            if not self._failed:
                logger.warning("%s cannot be written (%s); training goes on", self._path, error)
            self._failed = True


def _line(values: Mapping[str, float]) -> bytes:
    return (json.dumps(values) + "\n").encode()


def _split(path: Path, step: int) -> tuple[list[bytes], list[bytes]]:
    """Lines up to `step`, and those after; a torn last line is dropped."""
    kept: list[bytes] = []
    tail: list[bytes] = []
    if not path.exists():
        return kept, tail
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            number = json.loads(line)["step"]
        except (ValueError, TypeError, KeyError):
            continue
        if isinstance(number, int) and line.endswith(b"\n"):
            (kept if number <= step else tail).append(line)
    return kept, tail


class TensorBoardTracker:
    """Event files in `<checkpoint_dir>/tensorboard`; steps of a killed run that come again are purged."""

    def __init__(self, folder: Path, step: int) -> None:
        _require("tensorboard", "tensorboard")
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer: Any = writer(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one scalar a value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write the pending events."""
        self._writer.flush()

    def committed(self) -> None:
        """Event files are only ever appended to."""

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WandbTracker:
    """A Weights & Biases run that goes on under its stored id; a branch is a new run that names its parent."""

    def __init__(self, folder: Path, state: TrainerState, settings: Mapping[str, Any], *, branched: bool) -> None:
        wandb = _require("wandb", "wandb")
        stored = state.trackers.get("wandb")
        extra = {"parent": stored, "parent_step": state.step} if branched and stored else {}
        self._run: Any = wandb.init(
            project=WANDB_PROJECT,
            id=None if branched else stored,
            resume=None if branched or not stored else "allow",
            group=state.run_id,
            dir=str(folder),
            config={**settings, **extra},
        )
        state.trackers["wandb"] = str(self._run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values of one step."""
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """The service sends by itself."""

    def committed(self) -> None:
        """What was sent stays sent."""

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _require(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"--report_to {extra}: {module} is not installed; pip install 'ai-detect[{extra}]', or --report_to none"
        ) from error


def open_trackers(
    folder: Path,
    state: TrainerState,
    report_to: Literal["none", "tensorboard", "wandb"],
    settings: Mapping[str, Any],
    *,
    branched: bool,
) -> list[Tracker]:
    """The trackers of this segment, positioned after `state.step`; notes their ids in `state.trackers`.

    `settings` holds numbers and switches only. Raises ConfigError where a tracker is not installed.
    """
    trackers: list[Tracker] = []
    if report_to == "tensorboard":
        trackers.append(TensorBoardTracker(folder, state.step))
    elif report_to == "wandb":
        trackers.append(WandbTracker(folder, state, settings, branched=branched))
    trackers.append(MetricsFile(folder, state.step, state.segment.segment, hold=branched))
    return trackers
