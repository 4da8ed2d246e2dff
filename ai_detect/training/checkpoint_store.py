"""A folder of checkpoints: which are valid, which to go on from, which to keep.

Everything is read from the manifests each time: no pointer file, no modification time, no order of names decides.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ai_detect.errors import CheckpointError, ConfigError
from ai_detect.training.checkpoint import MANIFEST, Checkpoint, LoadedCheckpoint, load_checkpoint, read_checkpoint

logger = logging.getLogger(__name__)

SUPERSEDED = "superseded"
_NAME = re.compile(r"checkpoint-(\d{1,18})")
#: What a killed process can leave behind; `old` is a complete directory moved aside for a new one of its name.
_LEFT_OVER = re.compile(r"\.((?:checkpoint-\d+|model|run\.json|metrics[.\w]*))\.(tmp|old|gone)-(\d{1,9})")


@dataclass(frozen=True)
class Rejected:
    """A directory that is named like a checkpoint and is not one to go on from."""

    path: Path
    reason: str


def named_checkpoints(checkpoint_dir: Path) -> list[Path]:
    """Everything named `checkpoint-<integer>`, valid or not, by number."""
    if not checkpoint_dir.is_dir():
        return []
    numbered = [(int(match[1]), path) for path in checkpoint_dir.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered)]


def scan_checkpoints(checkpoint_dir: Path, *, verify: bool = False) -> tuple[list[Checkpoint], list[Rejected]]:
    """The valid checkpoints by ascending step, and the others with the reason; `verify` hashes and reads every part."""
    found: list[Checkpoint] = []
    rejected: list[Rejected] = []
    for path in named_checkpoints(checkpoint_dir):
        try:
            checkpoint = read_checkpoint(path)
            if verify:
                load_checkpoint(checkpoint)
            found.append(checkpoint)
        except CheckpointError as error:
            rejected.append(Rejected(path, str(error)))
    valid = []
    for checkpoint in found:
        if newer := next((other for other in found if _supersedes(other, checkpoint)), None):
            reason = f"superseded by {newer.path.name}, whose run went on from an earlier step"
            rejected.append(Rejected(checkpoint.path, f"{checkpoint.path} is {reason}"))
        else:
            valid.append(checkpoint)
    return sorted(valid, key=lambda checkpoint: checkpoint.step), rejected


def _supersedes(newer: Checkpoint, older: Checkpoint) -> bool:
    """Whether `newer` belongs to a later segment of the run that began below `older`'s step."""
    a, b = newer.manifest, older.manifest
    return a.run_id == b.run_id and a.segment > b.segment and a.parent is not None and a.parent.step < b.step


def ranked(checkpoints: Sequence[Checkpoint], eval_id: str | None) -> list[Checkpoint]:
    """Those with a validation loss on this evaluation data, best first; of equals the earlier step."""
    comparable = [
        (checkpoint.manifest.val_loss, checkpoint.step, checkpoint)
        for checkpoint in checkpoints
        if checkpoint.manifest.eval_id == eval_id
        and checkpoint.manifest.val_loss is not None
        and math.isfinite(checkpoint.manifest.val_loss)
    ]
    return [checkpoint for _, _, checkpoint in sorted(comparable, key=lambda entry: entry[:2])]


def latest_checkpoint(checkpoint_dir: Path) -> LoadedCheckpoint:
    """The valid checkpoint of the largest step; each newer one that is not valid is named in a warning.

    Raises CheckpointError where there is none.
    """
    valid, rejected = scan_checkpoints(checkpoint_dir)
    loaded, damaged = _first_sound(valid[::-1])
    newest = loaded.checkpoint.step if loaded else -1
    newer = [entry for entry in rejected if loaded is None or _number(entry.path) > newest]
    for entry in [*newer, *damaged]:
        logger.warning("not taken: %s", entry.reason)
    if loaded is None:
        raise _none_valid(checkpoint_dir, [*newer, *damaged])
    return loaded


def best_checkpoint(checkpoint_dir: Path) -> LoadedCheckpoint:
    """The valid checkpoint of the lowest validation loss on the latest one's evaluation data.

    Raises CheckpointError where none has a validation loss; the latest is no substitute.
    """
    latest = latest_checkpoint(checkpoint_dir).checkpoint
    same_run = [c for c in scan_checkpoints(checkpoint_dir)[0] if c.manifest.run_id == latest.manifest.run_id]
    candidates = ranked(same_run, latest.manifest.eval_id)
    loaded, damaged = _first_sound(candidates)
    for entry in damaged:
        logger.warning("not taken: %s", entry.reason)
    if loaded is None:
        raise CheckpointError(
            f"no valid checkpoint in {checkpoint_dir} has a validation loss on the present evaluation data, so none is "
            f"best; leave out --use_best_checkpoint to take the latest ({latest.path.name})"
        )
    return loaded


def given_checkpoint(path: Path, *, allow_missing: bool = False) -> LoadedCheckpoint:
    """Exactly this checkpoint; raises CheckpointError naming what is wrong and the nearest valid one.

    With `allow_missing` its optimizer.pt may be gone: the state of the optimizer is empty then.
    """
    path = path.resolve() if path.is_symlink() else path
    try:
        if not path.exists():
            raise CheckpointError(f"{path} does not exist")
        if (path / "model.safetensors").exists() and not (path / MANIFEST).exists():
            raise CheckpointError(
                f"{path} holds weights without the state of training, as a finished model does: no resume from it"
            )
        if named_checkpoints(path):
            raise CheckpointError(f"{path} is a folder of checkpoints, not one of them")
        if path.name.startswith("."):
            raise CheckpointError(f"{path} was never completed")
        return load_checkpoint(read_checkpoint(path, allow_missing=allow_missing))
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_nearest(path)}") from error


def _first_sound(candidates: Sequence[Checkpoint]) -> tuple[LoadedCheckpoint | None, list[Rejected]]:
    damaged: list[Rejected] = []
    for checkpoint in candidates:
        try:
            return load_checkpoint(checkpoint), damaged
        except CheckpointError as error:
            damaged.append(Rejected(checkpoint.path, str(error)))
    return None, damaged


def _none_valid(checkpoint_dir: Path, rejected: Sequence[Rejected]) -> CheckpointError:
    if not rejected:
        return CheckpointError(
            f"no checkpoint in {checkpoint_dir}; train first, or give --checkpoint_dir or --checkpoint_path"
        )
    more = f" (and {len(rejected) - 1} more)" if len(rejected) > 1 else ""
    return CheckpointError(
        f"no valid checkpoint in {checkpoint_dir}: {rejected[-1].reason}{more}; train anew with --overwrite"
    )


def _nearest(path: Path) -> str:
    for folder in (path, path.parent):
        valid = [loaded for loaded in scan_checkpoints(folder)[0] if loaded.path != path]
        wanted = _number(path)
        for checkpoint in sorted(valid, key=lambda c: (abs(c.step - wanted) if wanted >= 0 else -c.step, -c.step)):
            try:
                load_checkpoint(checkpoint)
                return f"the nearest valid checkpoint is {checkpoint.path}"
            except CheckpointError:
                continue  # the next nearest may be sound
    return "there is no valid checkpoint beside it"


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def next_segment(checkpoint_dir: Path, loaded: LoadedCheckpoint) -> int:
    """A number for the segment that goes on from `loaded`, larger than any the folder knows."""
    seen = {loaded.checkpoint.manifest.segment}
    for pattern, name in (("metrics.*.jsonl", r"metrics\.(\d{1,9})\.jsonl"), (f"{SUPERSEDED}/*", r"(\d{1,9})")):
        seen |= {int(match[1]) for path in checkpoint_dir.glob(pattern) if (match := re.fullmatch(name, path.name))}
    for path in named_checkpoints(checkpoint_dir):
        try:
            seen.add(read_checkpoint(path).manifest.segment)
        except CheckpointError:
            continue  # a broken one is reported where checkpoints are chosen
    return max(seen) + 1


def make_way(checkpoint_dir: Path, name: str, segment: int) -> Path:
    """A free place for a directory that a segment leaves behind."""
    folder = checkpoint_dir / SUPERSEDED / str(segment)
    places = [folder / name, *(folder / f"{name}.{copy}" for copy in range(1, 1000))]
    return next(place for place in places if not os.path.lexists(place))


def branch(checkpoint_dir: Path, run_id: str, parent_step: int, segment: int) -> list[Path]:
    """Move this run's checkpoints above `parent_step` that earlier segments left to `superseded/<segment>/`."""
    moved = []
    for path in named_checkpoints(checkpoint_dir):
        if _number(path) <= parent_step:
            continue
        try:
            manifest = read_checkpoint(path).manifest
        except CheckpointError:
            continue  # no evidence that it is ours
        if manifest.run_id == run_id and manifest.segment < segment:
            place = make_way(checkpoint_dir, path.name, segment)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, place)
            moved.append(place)
    return moved


def prune_checkpoints(
    checkpoint_dir: Path, run_id: str, keep_last: int, keep_best: int, *, verify: bool = False, dry_run: bool = False
) -> list[tuple[Path, str]]:
    """Delete what neither the newest `keep_last` nor the best `keep_best` hold; returns each with the reason.

    Only this run's valid checkpoints count and are touched; the latest and the best are kept whatever the numbers.
    """
    valid = [c for c in scan_checkpoints(checkpoint_dir, verify=verify)[0] if c.manifest.run_id == run_id]
    if not valid:
        return []
    newest = valid[-max(keep_last, 1) :]
    best = ranked(valid, valid[-1].manifest.eval_id)[: max(keep_best, 1)]
    kept = f"kept are the newest ({_names(newest)})" + (f" and the best ({_names(best)})" if best else "")
    removed = []
    for checkpoint in valid:
        if checkpoint in newest or checkpoint in best:
            continue
        loss = checkpoint.manifest.val_loss
        reason = f"{kept}; this one has {'no validation loss' if loss is None else f'validation loss {loss:.6g}'}"
        if not dry_run:
            # Renamed first: a kill while it is deleted must not leave a torn directory under a checkpoint's name.
            gone = checkpoint.path.with_name(f".{checkpoint.path.name}.gone-{os.getpid()}")
            os.rename(checkpoint.path, gone)
            shutil.rmtree(gone)
        removed.append((checkpoint.path, reason))
    return removed


def _names(checkpoints: Sequence[Checkpoint]) -> str:
    return ", ".join(checkpoint.path.name for checkpoint in checkpoints)


def sweep_stale(checkpoint_dir: Path) -> list[Path]:
    """Remove what killed processes left half-written; a complete directory moved aside for a lost one comes back."""
    swept = []
    for path in sorted(checkpoint_dir.iterdir()) if checkpoint_dir.is_dir() else []:
        match = _LEFT_OVER.fullmatch(path.name)
        if match is None or _is_other_process(int(match[3])):
            continue
        final = path.with_name(match[1])
        if match[2] == "old" and not os.path.lexists(final):
            os.rename(path, final)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        swept.append(path)
    return swept


def _is_other_process(pid: int) -> bool:
    """Whether a process of this number lives and is not this one (containers give the same number again)."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return pid > 0


def refuse_occupied(checkpoint_dir: Path) -> None:
    """Raise ConfigError where a new run would mix with the checkpoints of an earlier one."""
    if found := named_checkpoints(checkpoint_dir):
        raise ConfigError(
            f"{checkpoint_dir} holds checkpoints of an earlier run ({found[-1].name}); go on with resume_train.py, "
            "or give another --checkpoint_dir, or discard them with --overwrite"
        )


def set_run_aside(checkpoint_dir: Path) -> Path | None:
    """Move an earlier run's checkpoints, branches, metrics and model out of the way; None where there is none."""
    own = [checkpoint_dir / name for name in (SUPERSEDED, "model", "tensorboard", "run.json")]
    found = [*named_checkpoints(checkpoint_dir), *filter(os.path.lexists, own), *checkpoint_dir.glob("metrics*.jsonl")]
    if not found:
        return None
    aside = checkpoint_dir / f".overwritten-{os.getpid()}"
    aside.mkdir(parents=True)
    for path in found:
        os.replace(path, aside / path.name)
    return aside


def put_run_back(checkpoint_dir: Path, aside: Path) -> None:
    """Undo `set_run_aside`, after a run that came to no checkpoint; what that run left is removed."""
    for path in aside.iterdir():
        target = checkpoint_dir / path.name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        os.replace(path, target)
    aside.rmdir()
