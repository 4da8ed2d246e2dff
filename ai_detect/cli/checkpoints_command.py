"""checkpoints: list, info, verify, diff, prune; tables for people, JSON for programs.

Keys of the JSON (documented, and only ever added to; null where a value is not known):
list    [{name, step, epoch, train_loss, val_loss, learning_rate, megabytes, timestamp, run_id, segment, valid, reason,
        tags}]; tags: latest, best (what resume would take), finished, model (its weights are the finished model's),
        superseded (left behind by a branch)
info    the manifest, and {path, hash, tags, config, trainer_state}
verify  [{name, valid, reason, megabytes}]
diff    {first, second, differences: [{group, name, first, second}], identical_weights, distance, weights: {tensor:
        distance, largest first, null where only one has it or the shapes differ}}
prune   [{name, reason}]
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ai_detect.artifacts import read_json
from ai_detect.cli.command_settings import CheckpointsCommand
from ai_detect.cli.progress import TerminalProgress
from ai_detect.cli.run_folders import finished_at
from ai_detect.config import unknown_name
from ai_detect.errors import CheckpointError, ConfigError
from ai_detect.pipeline import MODEL_CARD
from ai_detect.reporting.wording import visible
from ai_detect.training.checkpoint import Checkpoint, LoadedCheckpoint, load_checkpoint, read_checkpoint
from ai_detect.training.checkpoint_store import (
    SUPERSEDED,
    given_checkpoint,
    named_checkpoints,
    prune_checkpoints,
    ranked,
    scan_checkpoints,
)
from ai_detect.training.parts import decode_json, decode_object
from ai_detect.training.state import Segment, TrainerState

#: Columns of a table that is not shown on a terminal: nothing is folded or cut off there.
UNLIMITED = 100_000
#: Tensors of a comparison that people are shown; --json has all.
MAX_TENSORS = 12
STYLES = {"latest": "bold green", "best": "bold cyan", "finished": "green", "model": "cyan", "superseded": "dim"}


def run(command: CheckpointsCommand, typed: Mapping[str, Any]) -> int:
    """Do one of the actions; 4 where a checkpoint is broken or there is none."""
    actions = {"list": _list, "info": _info, "verify": _verify, "diff": _diff, "prune": _prune}
    return actions[command.action](command)


@dataclass(frozen=True)
class Entry:
    """A directory that is named like a checkpoint, as far as its manifest and trainer_state.json tell."""

    name: str  # below the folder
    step: int | None
    checkpoint: Checkpoint | None
    state: TrainerState | None
    reason: str | None  # why resume would not take it
    tags: tuple[str, ...] = ()


def _entries(folder: Path) -> list[Entry]:
    """All checkpoints of a folder with the tags that they have there; neither weights nor optimizer are read."""
    valid, rejected = scan_checkpoints(folder)
    read = [_entry(folder, item.path, None) for item in valid]
    read += [_entry(folder, item.path, item.reason) for item in rejected]
    read.sort(key=lambda entry: (entry.step or 0, entry.name))
    sound = [entry.checkpoint for entry in read if entry.checkpoint is not None and entry.reason is None]
    latest = sound[-1] if sound else None
    same_run = [item for item in sound if latest is not None and item.manifest.run_id == latest.manifest.run_id]
    best = ranked(same_run, latest.manifest.eval_id)[:1] if latest is not None else []
    model = _model_weights(folder)

    def tags(item: Checkpoint) -> Iterable[str]:
        if item is latest:
            yield "latest"
        if item in best:
            yield "best"
        if finished_at(folder, item.manifest.run_id) == item.step:
            yield "finished"
        if model is not None and model == _part_hash(item, "model.safetensors"):
            yield "model"

    tagged = []
    for entry in read:
        present: tuple[str, ...] = tuple(tags(entry.checkpoint)) if entry.checkpoint in sound else ()
        if entry.checkpoint is not None and entry.checkpoint not in sound and entry.state is not None:
            present = ("superseded",)
        tagged.append(_with_tags(entry, present))
    left = sorted((folder / SUPERSEDED).glob("*/checkpoint-*"), key=lambda path: (_number(path), path.parent.name))
    return tagged + [_with_tags(_entry(folder, path, None), ("superseded",)) for path in left]


def _entry(folder: Path, path: Path, reason: str | None) -> Entry:
    name = path.relative_to(folder).as_posix()
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError as error:
        return Entry(name, _number(path), None, None, reason or str(error))
    try:
        state = _state(checkpoint)
    except CheckpointError as error:
        return Entry(name, checkpoint.step, checkpoint, None, reason or str(error))
    return Entry(name, checkpoint.step, checkpoint, state, reason)


def _with_tags(entry: Entry, tags: tuple[str, ...]) -> Entry:
    return Entry(entry.name, entry.step, entry.checkpoint, entry.state, entry.reason, tags)


def _number(path: Path) -> int | None:
    digits = path.name.removeprefix("checkpoint-").partition(".")[0]
    return int(digits) if digits.isdecimal() else None


def _part(checkpoint: Checkpoint, name: str) -> bytes:
    """A small part, checked; the size was checked when the manifest was read."""
    path = checkpoint.path / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != _part_hash(checkpoint, name):
        raise CheckpointError(f"{path} is damaged (its sha256 is not the one in manifest.json)")
    return content


def _part_hash(checkpoint: Checkpoint, name: str) -> str:
    return next(part.sha256 for part in checkpoint.manifest.parts if part.name == name)


def _state(checkpoint: Checkpoint) -> TrainerState:
    path = checkpoint.path / "trainer_state.json"
    try:
        return TrainerState.from_json(decode_json(path, _part(checkpoint, path.name)))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _model_weights(folder: Path) -> str | None:
    """The sha256 of the finished model's weights, None where there is none."""
    try:
        return str(read_json(folder / "model" / MODEL_CARD)["parts"]["model.safetensors"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _list(command: CheckpointsCommand) -> int:
    entries = _entries(command.checkpoint_dir)
    if not entries:
        raise _none_in(command.checkpoint_dir)
    if command.json_:
        _print_json([_row(entry) for entry in entries])
        return 0
    console = _console()
    heads = ("checkpoint", "epoch", "train loss", "val loss", "rate", "MB", "age", "tags")
    table = _table(console, *heads, right=heads[1:7])
    for entry in entries:
        row = _row(entry)
        numbers = [_shown(row[name], ".5f") for name in ("train_loss", "val_loss")]
        numbers += [_shown(row["learning_rate"], ".3g"), _shown(row["megabytes"], ".2f"), _age(row["timestamp"])]
        notes = [Text(tag, STYLES[tag]) for tag in entry.tags]
        if entry.reason is not None:
            notes.append(Text("not valid", "red"))
        position = "-" if entry.state is None else entry.state.position.replace(" of ", "/")
        table.add_row(Text(visible(entry.name)), position, *numbers, Text(" ").join(notes))
    console.print(table)
    for entry in entries:
        if entry.reason is not None:
            console.print(Text(f"{visible(entry.name)}: {visible(entry.reason)}", "red"), soft_wrap=True)
    return 0


def _row(entry: Entry) -> dict[str, Any]:
    manifest = entry.checkpoint.manifest if entry.checkpoint is not None else None
    state = entry.state
    return {
        "name": entry.name,
        "step": entry.step,
        "epoch": None if state is None else round(state.epoch + state.samples_in_epoch / state.n_samples, 6),
        "train_loss": None if state is None else _train_loss(state),
        "val_loss": None if manifest is None else manifest.val_loss,
        "learning_rate": state.learning_rates[-1] if state is not None and state.learning_rates else None,
        "megabytes": None if entry.checkpoint is None else round(entry.checkpoint.n_bytes / 1e6, 2),
        "timestamp": None if manifest is None else manifest.timestamp,
        "run_id": None if manifest is None else manifest.run_id,
        "segment": None if manifest is None else manifest.segment,
        "valid": entry.reason is None,
        "reason": entry.reason,
        "tags": list(entry.tags),
    }


def _train_loss(state: TrainerState) -> float | None:
    """The mean since the evaluation before; that of the last evaluation where no step came since."""
    if state.interval_samples:
        return state.interval_loss / state.interval_samples
    return state.train_losses[-1] if state.train_losses else None


def _age(timestamp: str | None) -> str:
    try:
        written = datetime.fromisoformat((timestamp or "").replace("Z", "+00:00"))
        seconds = (datetime.now(timezone.utc) - written).total_seconds()
    except (ValueError, TypeError):  # not one of ours
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _info(command: CheckpointsCommand) -> int:
    (path,) = _paths(command)
    entries = {command.checkpoint_dir / entry.name: entry for entry in _entries(command.checkpoint_dir)}
    entry = entries.get(path) or _entry(path.parent, path, None)
    checkpoint, state = entry.checkpoint, entry.state
    if checkpoint is None or state is None:
        raise CheckpointError(str(entry.reason))
    if command.json_:
        config = decode_object(checkpoint.path / "config.json", _part(checkpoint, "config.json"))
        about = {"path": str(checkpoint.path), "hash": checkpoint.hash, "tags": list(entry.tags)}
        _print_json(
            {**checkpoint.manifest.model_dump(mode="json"), **about, "config": config, "trainer_state": state.to_json()}
        )
        return 0
    console = _console()
    table = _table(console, "", "")
    for name, values in _summary(entry, checkpoint, state):
        for number, value in enumerate(values):
            table.add_row(Text("" if number else name, "bold"), Text(visible(value)))
    console.print(table)
    return 0


def _summary(entry: Entry, checkpoint: Checkpoint, state: TrainerState) -> Iterable[tuple[str, list[str]]]:
    """What a checkpoint is, in words: (topic, lines)."""
    manifest, early, schedule = checkpoint.manifest, state.early_stopping, state.schedule
    yield "checkpoint", [f"{checkpoint.path}  {' '.join(entry.tags)}".rstrip(), f"written {manifest.timestamp}"]
    if entry.reason is not None:
        yield "not valid", [entry.reason]
    phases = {"train": "training", "fit": "training is complete; the detectors are fitted next", "done": "done"}
    due = ", an evaluation comes first" if state.evaluation_due else ""
    samples = f"{state.samples_in_epoch:,} of {state.n_samples:,} sessions of the present epoch"
    yield "position", [f"step {state.step:,}, epoch {state.position} ({samples})", f"{phases[state.phase]}{due}"]
    yield (
        "loss",
        [f"training {_shown(_train_loss(state), '.6g')}, validation {_shown(manifest.val_loss, '.6g')}"]
        + [f"best validation {early.best_val_loss:.6g} at step {early.best_step}"] * (early.best_val_loss is not None),
    )
    rate = "-" if not state.learning_rates else f"{state.learning_rates[-1]:.3g} at the last evaluation"
    plan = (
        f"constant at {schedule.constant_factor:.3g} of the peak"
        if schedule.constant_factor is not None
        else f"warm-up over {schedule.warmup_samples:,} sessions, then down to {schedule.floor_factor:.3g} of the peak "
        f"at epoch {schedule.end_samples / state.n_samples:.3g}"
    )
    yield "learning rate", [rate, plan]
    patience = "off" if early.patience is None else f"{early.patience_counter} of {early.patience} evaluations"
    stopped = [f"stopped: {early.stop_reason}"] if early.stopped else []
    yield "early stopping", [f"{patience}{'' if early.patience is None else ' without improvement'}", *stopped]
    yield "data", list(_data(state.provenance))
    yield "lineage", [_segment(segment) for segment in state.lineage]
    yield "software", [", ".join(f"{name} {version}" for name, version in state.versions.items())]
    yield "parts", [f"{part.name:<20} {part.size:>12,} bytes  sha256 {part.sha256}" for part in manifest.parts]
    yield "identity", [f"run {manifest.run_id}, segment {manifest.segment}, hash {checkpoint.hash}"]


def _data(provenance: Mapping[str, Any]) -> Iterable[str]:
    for name, value in provenance.items():
        if not isinstance(value, list):
            yield f"{name} {'-' if value is None else value}"
            continue
        for item in value:
            yield f"{name} " + (_file(item) if isinstance(item, Mapping) else str(item))


def _file(fingerprint: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value}" for name, value in fingerprint.items() if name not in ("head_sha256", "tail_sha256")
    )


def _segment(segment: Segment) -> str:
    origin = "from the start" if segment.parent is None else f"from step {segment.parent.step}"
    changes = [f"{name} {_change(value)}" for name, value in segment.overrides.items()]
    changed = f", with {', '.join(changes)}" if changes else ""
    return f"{segment.segment}: {segment.started} {origin} to epoch {segment.target_epochs}{changed}"


def _change(value: Any) -> str:
    return f"{value[0]} -> {value[1]}" if isinstance(value, list) and len(value) == 2 else str(value)


def _verify(command: CheckpointsCommand) -> int:
    """Hash and read every part of the named checkpoints, or of all."""
    paths = _paths(command) or named_checkpoints(command.checkpoint_dir)
    if not paths:
        raise _none_in(command.checkpoint_dir)
    rows: list[dict[str, Any]] = []
    with TerminalProgress(False).stage("verifying", sum(map(_n_bytes, paths)), "bytes") as advance:
        for path in paths:
            row: dict[str, Any] = {"name": path.name, "valid": True, "reason": None, "megabytes": None}
            try:
                row["megabytes"] = round(load_checkpoint(read_checkpoint(path)).checkpoint.n_bytes / 1e6, 2)
            except CheckpointError as error:
                row |= {"valid": False, "reason": str(error)}
            rows.append(row)
            advance(_n_bytes(path))
    if command.json_:
        _print_json(rows)
    else:
        console = _console()
        for row in rows:
            said = "valid, every byte is the one that was written" if row["valid"] else visible(row["reason"])
            console.print(Text(f"{row['name']}: ").append(said, "green" if row["valid"] else "red"), soft_wrap=True)
    return 0 if all(row["valid"] for row in rows) else 4


def _n_bytes(path: Path) -> int:
    return sum(item.lstat().st_size for item in path.iterdir()) if path.is_dir() else 0


def _diff(command: CheckpointsCommand) -> int:
    """Settings, position, losses, versions, data and weights that differ."""
    first, second = (given_checkpoint(path) for path in _paths(command))
    groups = [_facts(loaded) for loaded in (first, second)]
    rows: list[dict[str, Any]] = [
        {"group": group, "name": name, "first": a.get(name), "second": b.get(name)}
        for group, (a, b) in {group: (groups[0][group], groups[1][group]) for group in groups[0]}.items()
        for name in [*a, *(name for name in b if name not in a)]
        if a.get(name) != b.get(name)
    ]
    moved = _distances(first.model_state, second.model_state)
    identical = all(
        name in first.model_state
        and name in second.model_state
        and torch.equal(first.model_state[name], second.model_state[name])
        for name in moved
    )
    distance = sum(value**2 for value in moved.values() if value is not None) ** 0.5
    names = [loaded.checkpoint.path.name for loaded in (first, second)]
    if command.json_:
        compared = {"identical_weights": identical, "distance": distance, "weights": moved}
        _print_json({"first": names[0], "second": names[1], "differences": rows, **compared})
        return 0
    console = _console()
    if rows:
        table = _table(console, "", "", *map(visible, names))
        previous = ""
        for row in rows:
            group = "" if row["group"] == previous else row["group"]
            previous = row["group"]
            values = [Text(visible(_shown(row[side], ".6g"))) for side in ("first", "second")]
            table.add_row(Text(group, "bold"), visible(row["name"]), *values)
        console.print(table)
    if identical:
        console.print(
            f"weights: distance 0 over {len(moved)} tensors: identical weights", style="green", soft_wrap=True
        )
        return 0
    console.print(f"weights: distance {distance:.6g} over {len(moved)} tensors, the largest first:", soft_wrap=True)
    table = _table(console, "tensor", "distance", right=("distance",))
    for name, value in list(moved.items())[:MAX_TENSORS]:
        table.add_row(Text(visible(name)), "not in both, or of another shape" if value is None else f"{value:.6g}")
    console.print(table)
    if len(moved) > MAX_TENSORS:
        console.print(f"and {len(moved) - MAX_TENSORS} more: --json lists all")
    return 0


def _facts(loaded: LoadedCheckpoint) -> dict[str, dict[str, Any]]:
    """What is compared, by group."""
    state, manifest = loaded.trainer_state, loaded.checkpoint.manifest
    early = state.early_stopping
    return {
        "settings": loaded.config,
        "position": {
            "step": state.step,
            "epoch": state.position,
            "phase": state.phase,
            "run_id": state.run_id,
            "segment": state.segment.segment,
        },
        "losses": {
            "train_loss": _train_loss(state),
            "val_loss": manifest.val_loss,
            "eval_id": manifest.eval_id,
            "learning_rate": state.learning_rates[-1] if state.learning_rates else None,
            "best_val_loss": early.best_val_loss,
            "best_step": early.best_step,
            "patience_counter": early.patience_counter,
            "stop_reason": early.stop_reason,
        },
        "versions": dict(state.versions),
        "data": dict(state.provenance),
        "templates": {"content": _part_hash(loaded.checkpoint, "templates.json")[:12]},
    }


def _distances(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, float | None]:
    """Euclidean distance of each tensor, largest first; None, before all others, where they cannot be compared."""
    moved: dict[str, float | None] = {}
    for name in sorted(first.keys() | second.keys()):
        a, b = first.get(name), second.get(name)
        comparable = a is not None and b is not None and a.shape == b.shape
        moved[name] = (
            float((a.double() - b.double()).norm()) if comparable and a is not None and b is not None else None
        )
    return dict(sorted(moved.items(), key=lambda item: -float("inf") if item[1] is None else -item[1]))


def _prune(command: CheckpointsCommand) -> int:
    valid, _ = scan_checkpoints(command.checkpoint_dir)
    if not valid:
        raise CheckpointError(f"no valid checkpoint in {command.checkpoint_dir}; give --checkpoint_dir")
    removed = prune_checkpoints(
        command.checkpoint_dir,
        valid[-1].manifest.run_id,
        command.save_total_limit,
        command.keep_best,
        dry_run=command.dry_run,
    )
    if command.json_:
        _print_json([{"name": path.name, "reason": reason} for path, reason in removed])
        return 0
    console = _console()
    for path, reason in removed:
        said = f"{'would delete' if command.dry_run else 'deleted'} {path.name}: {reason}"
        console.print(Text(visible(said)), soft_wrap=True)
    if not removed:
        console.print("nothing to delete")
    return 0


def _paths(command: CheckpointsCommand) -> list[Path]:
    """The checkpoints that were named; raises ConfigError for the wrong number, CheckpointError for unknown names."""
    folder, names = command.checkpoint_dir, command.names
    n = {"info": 1, "diff": 2}.get(command.action)
    if n is not None and len(names) != n:
        there = ", ".join(path.name for path in named_checkpoints(folder)) or "none"
        raise ConfigError(
            f"checkpoints {command.action} takes {n} checkpoint name{'s' if n > 1 else ''}, got {len(names)} "
            f"(in {folder}: {there})"
        )
    return [_path(folder, name) for name in names]


def _path(folder: Path, name: str) -> Path:
    path = folder / (f"checkpoint-{name}" if name.isdecimal() else name)
    if path.exists():
        return path
    if not name.isdecimal() and Path(name).exists():
        return Path(name)
    there = {item.name: item for item in named_checkpoints(folder)}
    if not there:
        raise _none_in(folder)
    wanted = _number(path)
    if wanted is None:
        raise CheckpointError(f"{folder}: {unknown_name(name, there, 'checkpoint')} ({', '.join(there)} are there)")
    nearest = min(there.values(), key=lambda item: abs((_number(item) or 0) - wanted))
    raise CheckpointError(f"{path} does not exist; the nearest is {nearest.name}")


def _none_in(folder: Path) -> CheckpointError:
    if not folder.is_dir():
        return CheckpointError(f"{folder} does not exist; train first, or give --checkpoint_dir")
    return CheckpointError(f"no checkpoint in {folder}; train first, or give --checkpoint_dir")


def _shown(value: Any, figures: str) -> str:
    if isinstance(value, float):
        return format(value, figures)
    return "-" if value is None else str(value)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def _console() -> Console:
    """Standard output: coloured and as wide as it is on a terminal, else plain and of any width."""
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = UNLIMITED
    return console


def _table(console: Console, *heads: str, right: Sequence[str] = ()) -> Table:
    """A table that folds text where a terminal is narrow, but neither the first column nor numbers."""
    lines = SIMPLE_HEAD if console.is_terminal and any(heads) else None
    table = Table(box=lines, show_header=any(heads), pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for number, head in enumerate(heads):
        whole = number == 0 or head in right
        table.add_column(head, justify="right" if head in right else "left", overflow="fold", no_wrap=whole)
    return table
