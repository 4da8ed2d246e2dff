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

import json
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ai_detect.artifacts import read_json
from ai_detect.cli.checkpoint_tables import print_diff, print_info, print_list, print_pruned, print_verified
from ai_detect.cli.command_settings import CheckpointsCommand
from ai_detect.cli.progress import TerminalProgress
from ai_detect.cli.run_folders import finished_at, locked
from ai_detect.config import unknown_name
from ai_detect.errors import CheckpointError, ConfigError
from ai_detect.model_file import MODEL_CARD
from ai_detect.training.checkpoint import (
    Checkpoint,
    LoadedCheckpoint,
    load_checkpoint,
    read_checkpoint,
    read_part,
    read_state,
)
from ai_detect.training.checkpoint_store import (
    SUPERSEDED,
    given_checkpoint,
    named_checkpoints,
    prune_checkpoints,
    ranked,
    scan_checkpoints,
)
from ai_detect.training.parts import decode_object
from ai_detect.training.state import TrainerState


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


def _list(command: CheckpointsCommand) -> int:
    entries = _entries(command.checkpoint_dir)
    if not entries:
        raise _none_in(command.checkpoint_dir)
    rows = [_row(entry) for entry in entries]
    if command.json_:
        _print_json(rows)
    else:
        print_list(rows, ["-" if entry.state is None else entry.state.position for entry in entries])
    return 0


def _info(command: CheckpointsCommand) -> int:
    (path,) = _paths(command)
    entries = {command.checkpoint_dir / entry.name: entry for entry in _entries(command.checkpoint_dir)}
    entry = entries.get(path) or _entry(path.parent, path, None)
    checkpoint, state = entry.checkpoint, entry.state
    if checkpoint is None or state is None:
        raise CheckpointError(str(entry.reason))
    if command.json_:
        _print_json(
            {
                **checkpoint.manifest.model_dump(mode="json"),
                "path": str(checkpoint.path),
                "hash": checkpoint.hash,
                "tags": list(entry.tags),
                "config": decode_object(checkpoint.path / "config.json", read_part(checkpoint, "config.json")),
                "trainer_state": state.to_json(),
            }
        )
    else:
        print_info(checkpoint, state, entry.tags, entry.reason)
    return 0


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
                row["megabytes"] = _megabytes(load_checkpoint(read_checkpoint(path)).checkpoint)
            except CheckpointError as error:
                row |= {"valid": False, "reason": str(error)}
            rows.append(row)
            advance(_n_bytes(path))
    if command.json_:
        _print_json(rows)
    else:
        print_verified(rows)
    return 0 if all(row["valid"] for row in rows) else 4


def _diff(command: CheckpointsCommand) -> int:
    """Settings, position, losses, versions, data and weights that differ."""
    first, second = (given_checkpoint(path) for path in _paths(command))
    a, b = _facts(first), _facts(second)
    differences = [
        {"group": group, "name": name, "first": a[group].get(name), "second": b[group].get(name)}
        for group in a
        for name in a[group] | b[group]
        if a[group].get(name) != b[group].get(name)
    ]
    weights = _distances(first.model_state, second.model_state)
    comparison = {
        "first": first.checkpoint.path.name,
        "second": second.checkpoint.path.name,
        "differences": differences,
        "identical_weights": first.model_state.keys() == second.model_state.keys()
        and all(torch.equal(tensor, second.model_state[name]) for name, tensor in first.model_state.items()),
        "distance": sum(value**2 for value in weights.values() if value is not None) ** 0.5,
        "weights": weights,
    }
    if command.json_:
        _print_json(comparison)
    else:
        print_diff(comparison)
    return 0


def _prune(command: CheckpointsCommand) -> int:
    folder = command.checkpoint_dir
    if not named_checkpoints(folder):
        raise _none_in(folder)
    with nullcontext() if command.dry_run else locked(folder):  # never beside a trainer, which prunes too
        valid, _ = scan_checkpoints(folder)
        if not valid:
            raise CheckpointError(f"no valid checkpoint in {folder}; give --checkpoint_dir")
        run_id = valid[-1].manifest.run_id
        removed = prune_checkpoints(
            folder, run_id, command.save_total_limit, command.keep_best, dry_run=command.dry_run
        )
    rows = [{"name": path.name, "reason": reason} for path, reason in removed]
    if command.json_:
        _print_json(rows)
    else:
        print_pruned(rows, dry_run=command.dry_run)
    return 0


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

    def tags(entry: Entry) -> Iterable[str]:
        item = entry.checkpoint
        if item is None or entry.state is None:
            return
        if entry.reason is not None:
            yield "superseded"
            return
        if item is latest:
            yield "latest"
        if item in best:
            yield "best"
        if finished_at(folder, item.manifest.run_id) == item.step:
            yield "finished"
        if model is not None and model == item.part("model.safetensors").sha256:
            yield "model"

    left = sorted((folder / SUPERSEDED).glob("*/checkpoint-*"), key=lambda path: (_number(path), path.parent.name))
    return [replace(entry, tags=tuple(tags(entry))) for entry in read] + [
        replace(_entry(folder, path, None), tags=("superseded",)) for path in left
    ]


def _entry(folder: Path, path: Path, reason: str | None) -> Entry:
    name = path.relative_to(folder).as_posix()
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError as error:
        return Entry(name, _number(path), None, None, reason or str(error))
    try:
        state = read_state(checkpoint)
    except CheckpointError as error:
        return Entry(name, checkpoint.step, checkpoint, None, reason or str(error))
    return Entry(name, checkpoint.step, checkpoint, state, reason)


def _number(path: Path) -> int | None:
    digits = path.name.removeprefix("checkpoint-").partition(".")[0]
    return int(digits) if digits.isdecimal() else None


def _model_weights(folder: Path) -> str | None:
    """The sha256 of the finished model's weights, None where there is none."""
    try:
        return str(read_json(folder / "model" / MODEL_CARD)["parts"]["model.safetensors"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _row(entry: Entry) -> dict[str, Any]:
    manifest = entry.checkpoint.manifest if entry.checkpoint is not None else None
    state = entry.state
    return {
        "name": entry.name,
        "step": entry.step,
        "epoch": None if state is None else round(state.epoch + state.samples_in_epoch / state.n_samples, 6),
        "train_loss": None if state is None else state.train_loss,
        "val_loss": None if manifest is None else manifest.val_loss,
        "learning_rate": state.learning_rates[-1] if state is not None and state.learning_rates else None,
        "megabytes": None if entry.checkpoint is None else _megabytes(entry.checkpoint),
        "timestamp": None if manifest is None else manifest.timestamp,
        "run_id": None if manifest is None else manifest.run_id,
        "segment": None if manifest is None else manifest.segment,
        "valid": entry.reason is None,
        "reason": entry.reason,
        "tags": list(entry.tags),
    }


def _megabytes(checkpoint: Checkpoint) -> float:
    return round(checkpoint.n_bytes / 1e6, 2)


def _n_bytes(path: Path) -> int:
    return sum(item.lstat().st_size for item in path.iterdir()) if path.is_dir() else 0


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
            "train_loss": state.train_loss,
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
        "templates": {"content": loaded.checkpoint.part("templates.json").sha256[:12]},
    }


def _distances(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, float | None]:
    """Euclidean distance of each tensor, largest first; None, before all others, where they cannot be compared."""
    moved: dict[str, float | None] = {}
    for name in sorted(first.keys() | second.keys()):
        a, b = first.get(name), second.get(name)
        if a is None or b is None or a.shape != b.shape:
            moved[name] = None
        else:
            moved[name] = float((a.double() - b.double()).norm())
    return dict(sorted(moved.items(), key=lambda item: -float("inf") if item[1] is None else -item[1]))


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


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))
