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

from ai_detect.artifacts import hidden
from ai_detect.errors import CheckpointError, ConfigError
from ai_detect.training.checkpoint import MANIFEST, Checkpoint, LoadedCheckpoint, load_checkpoint, read_checkpoint

logger = logging.getLogger(__name__)

SUPERSEDED = "superseded"
_NAME = re.compile(r"checkpoint-(\d{1,18})")
#: The name under which a whole run lies hidden while another takes its folder.
OVERWRITTEN = "overwritten"
#: What a killed process can leave: `gone` was being deleted, `moving` is a run on its way aside or back,
#: `superseded-<segment>` is kept when a checkpoint of that segment has taken its name; the others see `hidden`.
_LEFT_OVER = re.compile(
    r"\.(?P<name>.+)\.(?P<kind>tmp|old|gone|moving|superseded-(?P<segment>\d{1,9}))-\d{1,9}", re.DOTALL
)
#: Names in the folder of a run under which something of ours is written; in its cache everything is.
_WRITTEN = re.compile(rf"checkpoint-\d+|model|run\.json|metrics[.\w]*|{OVERWRITTEN}")


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


def superseded_by(segment: int) -> str:
    """The kind of hidden name for what will go to `superseded/<segment>/` when the new one of its name is there."""
    return f"superseded-{segment}"


def make_way(checkpoint_dir: Path, path: Path, name: str, segment: int) -> Path:
    """Move what a segment leaves behind to `superseded/<segment>/<name>`, or `<name>.<number>` where that is taken."""
    folder = checkpoint_dir / SUPERSEDED / str(segment)
    places = [folder / name, *(folder / f"{name}.{copy}" for copy in range(1, 1000))]
    place = next(place for place in places if not os.path.lexists(place))
    folder.mkdir(parents=True, exist_ok=True)
    os.rename(path, place)
    return place


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
            moved.append(make_way(checkpoint_dir, path, path.name, segment))
    return moved


def prune_checkpoints(
    checkpoint_dir: Path, run_id: str, keep_last: int, keep_best: int, *, dry_run: bool = False
) -> list[tuple[Path, str]]:
    """Delete what neither the newest `keep_last` nor the best `keep_best` hold; returns each with the reason.

    Only this run's valid checkpoints count and are touched; the latest and the best are kept whatever the numbers.
    """
    valid = [c for c in scan_checkpoints(checkpoint_dir)[0] if c.manifest.run_id == run_id]
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
            _remove_hidden(checkpoint.path, checkpoint.path.name)
        removed.append((checkpoint.path, reason))
    return removed


def _names(checkpoints: Sequence[Checkpoint]) -> str:
    return ", ".join(checkpoint.path.name for checkpoint in checkpoints)


def sweep_stale(checkpoint_dir: Path) -> list[Path]:
    """Undo or complete what killed processes left half-done in the folder and its cache; returns what was swept.

    What was moved aside for something that never came returns to its place, also a whole run. To be called under the
    folder's lock, at the start of a command: whatever is half-done there is then nobody's work. The process number in
    a name is not asked whether it lives: it may be given again (in a container it is at each start), or be another
    machine's. What cannot be moved or deleted is warned of and stays.
    """
    swept = []
    for folder, names in ((checkpoint_dir, _WRITTEN), (checkpoint_dir / "cache", re.compile(".+", re.DOTALL))):
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            match = _LEFT_OVER.fullmatch(path.name)
            if match is None or not names.fullmatch(match["name"]):
                continue
            try:
                _sweep(path, match["name"], match["kind"], match["segment"])
            except OSError as error:
                logger.warning("%s, left by a killed process, cannot be moved or deleted (%s)", path, error)
                continue
            logger.info("swept %s, left by a killed process", path)
            swept.append(path)
    return swept


def _sweep(path: Path, name: str, kind: str, segment: str | None) -> None:
    if name == OVERWRITTEN and kind == "old":
        settle_overwritten(path)
    elif kind == "moving":
        _move_back(path)
    elif (kind == "old" or segment is not None) and not os.path.lexists(path.with_name(name)):
        os.rename(path, path.with_name(name))
    elif segment is not None:
        make_way(path.parent, path, name, int(segment))
    else:
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _remove_hidden(path: Path, name: str) -> None:
    """Remove a directory, first renamed: a kill meanwhile must leave nothing torn under a name that counts."""
    gone = hidden(path.with_name(name), "gone")
    os.rename(path, gone)
    shutil.rmtree(gone)


def refuse_occupied(checkpoint_dir: Path) -> None:
    """Raise ConfigError where a new run would mix with the checkpoints of an earlier one."""
    if found := named_checkpoints(checkpoint_dir):
        raise ConfigError(
            f"{checkpoint_dir} holds checkpoints of an earlier run ({found[-1].name}); go on with resume_train.py, "
            "or give another --checkpoint_dir, or discard them with --overwrite"
        )


def _run_files(checkpoint_dir: Path) -> list[Path]:
    """What a run has in its folder, beside the cache."""
    own = [checkpoint_dir / name for name in (SUPERSEDED, "model", "tensorboard", "run.json")]
    return [*named_checkpoints(checkpoint_dir), *filter(os.path.lexists, own), *checkpoint_dir.glob("metrics*.jsonl")]


def set_run_aside(checkpoint_dir: Path) -> Path | None:
    """Move an earlier run's checkpoints, branches, metrics and model out of the way; None where there is none.

    `settle_overwritten` ends it; after a kill, the next `sweep_stale` does.
    """
    found = _run_files(checkpoint_dir)
    if not found:
        return None
    moving, aside = (hidden(checkpoint_dir / OVERWRITTEN, kind) for kind in ("moving", "old"))
    moving.mkdir()
    for path in found:
        os.rename(path, moving / path.name)
    os.rename(moving, aside)  # from here on what has those names in the folder is the new run's
    return aside


def settle_overwritten(aside: Path) -> None:
    """Delete a run that was put aside if the new one has a checkpoint; else delete what that left, and put it back."""
    if named_checkpoints(aside.parent):
        _remove_hidden(aside, OVERWRITTEN)
        return
    for path in _run_files(aside.parent):
        _remove(path)
    moving = hidden(aside.with_name(OVERWRITTEN), "moving")
    os.rename(aside, moving)  # from here on what has those names in the folder has come back
    _move_back(moving)
    logger.info("%s: the earlier run is back, as the one that was to replace it has no checkpoint", aside.parent)


def _move_back(moving: Path) -> None:
    for path in moving.iterdir():
        os.rename(path, moving.parent / path.name)
    moving.rmdir()
