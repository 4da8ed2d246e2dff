"""The folders of a training run: refused before any work where they would cost somebody data or cannot be written."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ai_detect.artifacts import read_json
from ai_detect.errors import ConfigError
from ai_detect.model_file import MODEL_CARD, MODEL_PARTS
from ai_detect.training.checkpoint_store import (
    SUPERSEDED,
    scan_checkpoints,
    set_run_aside,
    settle_overwritten,
)

logger = logging.getLogger(__name__)


def check_model_dir(model_dir: Path) -> None:
    """Raise ConfigError unless the folder is not there, empty, or an older model: it will be replaced as a whole."""
    if not os.path.lexists(model_dir):
        return
    if not model_dir.is_dir():
        raise ConfigError(f"--model_dir {model_dir} is a file; give a folder of its own")
    names = {path.name for path in model_dir.iterdir()}
    if names and not (MODEL_CARD in names and names <= {MODEL_CARD, *MODEL_PARTS}):
        strange = sorted(names - {MODEL_CARD, *MODEL_PARTS})[:3]
        raise ConfigError(
            f"--model_dir {model_dir} holds other things than a model ({', '.join(strange)}); give a folder of its own"
        )


def folder_of_run(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint belongs to, also where a branch has left it behind."""
    folder = checkpoint.parent
    return folder.parent.parent if folder.parent.name == SUPERSEDED else folder


def check_writable(folders: dict[str, Path]) -> None:
    """Make the folders, by flag, and write to each; raises ConfigError naming the flag."""
    for flag, folder in folders.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ConfigError(f"{flag} {folder} cannot be written to ({error.strerror}); give another") from error


def check_one_run(checkpoint_dir: Path, run_id: str) -> None:
    """Raise ConfigError where the folder holds the checkpoints of another run than the one that goes on."""
    others = {item.manifest.run_id for item in scan_checkpoints(checkpoint_dir)[0]} - {run_id}
    if others:
        raise ConfigError(f"{checkpoint_dir} holds checkpoints of another run; give another --checkpoint_dir")


@contextmanager
def overwritten(checkpoint_dir: Path) -> Iterator[None]:
    """Put an earlier run aside; it is deleted when the new one has a checkpoint, and comes back where it has none."""
    aside = set_run_aside(checkpoint_dir)
    try:
        yield
    finally:
        if aside is not None:
            settle_overwritten(aside)


def finished_at(checkpoint_dir: Path, run_id: str) -> int | None:
    """The step at which the run ended with its model and report written; None where it has not."""
    try:
        finished = read_json(checkpoint_dir / "run.json")["finished"]
        step = finished["step"] if finished["run_id"] == run_id else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return step if type(step) is int else None


@contextmanager
def locked(checkpoint_dir: Path) -> Iterator[None]:
    """Keep other trainers out of the folder; the lock goes with the process, however it ends.

    Raises ConfigError where another process trains there. A file system without locks is taken as it is.
    """
    try:
        checkpoint_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(checkpoint_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ConfigError(
            f"--checkpoint_dir {checkpoint_dir} cannot be written to ({error.strerror}); give another"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another process trains in {checkpoint_dir}; wait for it, or give another --checkpoint_dir"
            ) from error
        except OSError as error:
            logger.warning("%s cannot be locked (%s): start no other trainer there", checkpoint_dir, error)
        yield
    finally:
        os.close(descriptor)
