"""Where the numbers of each step go: metrics.jsonl always, TensorBoard or Weights & Biases if asked for.

Only numbers are sent, never text of a log.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from ai_detect.artifacts import fsync_directory, parse_json, read_file, write_bytes
from ai_detect.errors import ConfigError
from ai_detect.training.state import TrainerState

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
WANDB_PROJECT = "ai-detect"
#: Numbers and switches only: no console output (it names files), command line, code, machine or packages.
WANDB_SETTINGS: dict[str, Any] = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "host": "",
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


class Tracker(Protocol):
    """A place for metrics; steps rise, and values of the same step are put together.

    `flush` may be called from another thread while the training thread logs; all else is called from that one only.
    """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step."""

    def flush(self) -> None:
        """Make what was logged durable; called before each checkpoint."""

    def committed(self) -> None:
        """A checkpoint was saved: what was logged will not be taken back. Called again where it raised OSError."""

    def close(self) -> None:
        """Nothing more will come."""


class MetricsFile:
    """metrics.jsonl: one line a step, each step once, over all resumes; what it holds survives a kill at any point.

    On resume the lines after the checkpoint's step move to `metrics.<segment>.jsonl`. With `hold` (a branch, whose
    checkpoints replace others) metrics.jsonl is not touched before the segment's first checkpoint is on disk: until
    `committed` the lines go to `metrics.held-<segment>.jsonl`, which begins with the lines kept and becomes
    metrics.jsonl by a rename. Where a kill came between that checkpoint and the rename, the next resume renames it.
    """

    def __init__(self, folder: Path, state: TrainerState, *, hold: bool) -> None:
        self._folder = folder
        self._path = folder / METRICS
        self._start_step = state.step
        self._segment = state.segment.segment
        self._last: dict[str, float] = {}
        self._offset = self._end = 0  # of the last line: where it begins and ends
        self._last_line = b""
        self._failed = False
        for past in state.lineage[:-1]:
            if _held(folder, past.segment).exists():
                self._replace(_held(folder, past.segment), past.segment, past.parent.step if past.parent else 0)
        kept, tail = _split(self._path, state.step)
        self.held = hold
        if hold:
            _held(folder, self._segment).write_bytes(b"".join(kept))
        else:
            self._keep_tail(tail, self._segment)
            if self._path.exists() and self._path.read_bytes() != b"".join(kept):
                write_bytes(self._path, b"".join(kept))
            self._remove_held()
        path = _held(folder, self._segment) if hold else self._path
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        fsync_directory(folder)
        if kept:
            self._last, self._last_line = json.loads(kept[-1]), kept[-1]
            self._end = sum(map(len, kept))
            self._offset = self._end - len(kept[-1])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the step's line; a disk that refuses is warned of once and costs lines, not the run."""
        if self._last.get("step") == step:
            self._last = {**self._last, **values}
        else:
            self._last = {"step": step, **values}
            self._offset, self._last_line = self._end, b""
        self._write(_line(self._last))

    def flush(self) -> None:
        """Make the lines durable."""
        descriptor = self._descriptor
        if descriptor is not None:
            os.fsync(descriptor)

    def committed(self) -> None:
        """Put the lines that were held back in the place of the branch that was left."""
        if self.held:
            self._replace(_held(self._folder, self._segment), self._segment, self._start_step)
            self.held = False
            self._remove_held()

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _replace(self, held: Path, segment: int, branch_step: int) -> None:
        """Make a held file metrics.jsonl; may be killed and done again at any point."""
        self._keep_tail(_split(self._path, branch_step)[1], segment)
        os.replace(held, self._path)
        fsync_directory(self._folder)

    def _keep_tail(self, tail: Sequence[bytes], segment: int) -> None:
        if tail:
            write_bytes(self._folder / f"metrics.{segment}.jsonl", b"".join(tail))

    def _remove_held(self) -> None:
        """Delete what segments held that never had a checkpoint, or none that is still in the way."""
        for path in self._folder.glob("metrics.held-*.jsonl"):
            path.unlink()

    def _write(self, line: bytes) -> None:
        """Put the last line in its place: over a shorter one of the same step, so that no kill finds neither."""
        assert self._descriptor is not None
        try:
            if os.pwrite(self._descriptor, line, self._offset) != len(line):
                raise OSError("no room for a whole line")
            self._last_line, self._end = line, self._offset + len(line)
            os.ftruncate(self._descriptor, self._end)
        except OSError as error:
            if not self._failed:
                logger.warning("%s cannot be written (%s); training goes on", self._path, error)
            self._failed = True
            with suppress(OSError):  # the next line that can be written cuts off what this one leaves
                os.pwrite(self._descriptor, self._last_line, self._offset)
                os.ftruncate(self._descriptor, self._end)


def _held(folder: Path, segment: int) -> Path:
    return folder / f"metrics.held-{segment}.jsonl"


def _line(values: Mapping[str, float]) -> bytes:
    return (json.dumps(values) + "\n").encode()


def _split(path: Path, step: int) -> tuple[list[bytes], list[bytes]]:
    """Lines up to `step`, and those after; read from the end, where a torn or foreign line is dropped."""
    try:
        lines = read_file(path).splitlines(keepends=True)
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); move it away") from error
    tail: list[bytes] = []
    while lines:
        number = _step(lines[-1])
        if number is not None and number <= step:
            break
        line = lines.pop()
        if number is not None:
            tail.append(line)
    return lines, tail[::-1]


def metrics_up_to(path: Path, step: int) -> bytes:
    """The lines of metrics.jsonl up to a step; none where there is no such file."""
    return b"".join(_split(path, step)[0])


def _step(line: bytes) -> int | None:
    """The step of a whole line, None for a torn or foreign one."""
    try:
        number = parse_json(line)["step"]
    except (ValueError, TypeError, KeyError):
        return None
    return number if type(number) is int and line.endswith(b"\n") else None


class TensorBoardTracker:
    """Event files in `<checkpoint_dir>/tensorboard` that show what metrics.jsonl holds, each step once.

    A new event file begins with a purge, for every reader, of the steps from where the older files may differ, and with
    their lines of metrics.jsonl; in a branch it is not begun while `metrics` holds its lines back. `state.trackers`
    notes the segment whose lines the event files have.
    """

    def __init__(self, folder: Path, state: TrainerState, metrics: MetricsFile) -> None:
        self._folder = folder
        self._state = state
        self._metrics = metrics
        self._first_step = _uncertain_from(state) if (folder / TENSORBOARD).is_dir() else 0
        self._writer: Any = None
        self.committed()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one scalar a value; where the disk refuses, the event file is begun anew after the next checkpoint."""
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        except OSError as error:
            logger.warning("TensorBoard's events cannot be written (%s); training goes on", error)
            self.close()
            self._state.trackers.pop("tensorboard", None)

    def flush(self) -> None:
        """Write the pending events."""
        writer = self._writer
        if writer is not None:
            writer.flush()

    def committed(self) -> None:
        """Begin the event file, where it was not yet and the lines are in metrics.jsonl."""
        if self._writer is not None or self._metrics.held:
            return
        make_writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = make_writer(str(self._folder / TENSORBOARD), purge_step=self._first_step)
        for line in _split(self._folder / METRICS, self._first_step - 1)[1]:
            values: dict[str, float] = json.loads(line)
            step = int(values.pop("step"))
            if step == self._state.step and self._state.evaluation_due:  # left by a kill, and measured again
                values = {name: value for name, value in values.items() if not name.startswith("val_")}
            self.log(step, values)
        if self._writer is not None:  # all were taken
            self._state.trackers["tensorboard"] = str(self._state.segment.segment)

    def close(self) -> None:
        """Close the event file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                logger.warning("TensorBoard's last events cannot be written (%s)", error)


def _uncertain_from(state: TrainerState) -> int:
    """The step from which on event files may differ from metrics.jsonl: the last one, or where a segment began that
    has no note of being shown (it was killed before, or sent its metrics elsewhere).
    """
    past = state.lineage[:-1]
    segments = [str(segment.segment) for segment in past]
    noted = state.trackers.get("tensorboard")
    missed = past[segments.index(noted) + 1 :] if noted in segments else past
    if not missed:
        return state.step
    return missed[0].parent.step if missed[0].parent else 0


class WandbTracker:
    """A Weights & Biases run that goes on under its stored id; a branch is a new run that names its parent."""

    def __init__(self, folder: Path, state: TrainerState, settings: Mapping[str, Any], *, branched: bool) -> None:
        wandb = _require("wandb", "wandb")
        stored = state.trackers.get("wandb")
        extra = {"parent": stored, "parent_step": state.step} if branched and stored else {}
        try:
            self._run: Any = wandb.init(
                project=WANDB_PROJECT,
                id=None if branched else stored,
                resume=None if branched or not stored else "allow",
                group=state.run_id,
                dir=str(folder),
                config={**settings, **extra},
                settings=wandb.Settings(**WANDB_SETTINGS),
            )
        except wandb.Error as error:
            raise ConfigError(
                f"--report_to wandb: {str(error).splitlines()[0]}; log in with `wandb login`, set WANDB_MODE=offline, "
                "or give --report_to none"
            ) from error
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
    wandb = WandbTracker(folder, state, settings, branched=branched) if report_to == "wandb" else None
    if report_to == "tensorboard":
        _require("tensorboard", "tensorboard")  # before any file is touched
    metrics = MetricsFile(folder, state, hold=branched)
    trackers: list[Tracker] = [metrics]  # the first to be told: the others may read what it wrote
    if wandb is not None:
        trackers.append(wandb)
    elif report_to == "tensorboard":
        trackers.append(TensorBoardTracker(folder, state, metrics))
    return trackers
