"""checkpoints: list, info, verify, diff, prune."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ai_detect.cli.command_settings import CheckpointsCommand
from ai_detect.errors import CheckpointError, ConfigError
from ai_detect.training.checkpoint import Checkpoint, load_checkpoint
from ai_detect.training.checkpoint_store import given_checkpoint, prune_checkpoints, ranked, scan_checkpoints


def run(command: CheckpointsCommand, typed: Mapping[str, Any]) -> int:
    """Do one of the actions; 4 where a checkpoint is broken or there is none."""
    actions = {"list": _list, "info": _info, "verify": _verify, "diff": _diff, "prune": _prune}
    return actions[command.action](command)


def _list(command: CheckpointsCommand) -> int:
    valid, rejected = scan_checkpoints(command.checkpoint_dir)
    if not valid and not rejected:
        raise CheckpointError(f"no checkpoint in {command.checkpoint_dir}; train first, or give --checkpoint_dir")
    best = ranked(valid, valid[-1].manifest.eval_id)[:1] if valid else []
    rows: list[dict[str, Any]] = [
        {
            "name": item.path.name,
            "step": item.step,
            "epoch": item.manifest.epoch,
            "val_loss": item.manifest.val_loss,
            "megabytes": round(item.n_bytes / 1e6, 2),
            "age": _age(item.manifest.timestamp),
            "valid": True,
            "tags": [tag for tag, chosen in (("latest", valid[-1:]), ("best", best)) if item in chosen],
        }
        for item in valid
    ] + [{"name": item.path.name, "valid": False, "reason": item.reason} for item in rejected]
    if command.json_:
        print(json.dumps(rows, indent=1))
        return 0
    print(f"{'checkpoint':<20} {'epoch':>5} {'val loss':>10} {'MB':>7} {'age':>8}  tags")
    for row in rows:
        if not row["valid"]:
            print(f"{row['name']:<20} not valid: {row['reason']}")
            continue
        loss = "-" if row["val_loss"] is None else f"{row['val_loss']:.5f}"
        figures = f"{row['epoch']:>5} {loss:>10} {row['megabytes']:>7} {row['age']:>8}"
        print(f"{row['name']:<20} {figures}  {' '.join(row['tags'])}")
    return 0


def _age(timestamp: str) -> str:
    seconds = (datetime.now(timezone.utc) - datetime.fromisoformat(timestamp.replace("Z", "+00:00"))).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _named(command: CheckpointsCommand, n: int | None) -> list[Checkpoint]:
    """The checkpoints that were named, all valid ones where none was."""
    if n is not None and len(command.names) != n:
        raise ConfigError(
            f"checkpoints {command.action} takes {n} checkpoint name{'s' if n > 1 else ''}, got {len(command.names)}"
        )
    if not command.names:
        return scan_checkpoints(command.checkpoint_dir)[0]
    return [given_checkpoint(_path(command, name)).checkpoint for name in command.names]


def _path(command: CheckpointsCommand, name: str) -> Path:
    if Path(name).exists():
        return Path(name)
    return command.checkpoint_dir / (f"checkpoint-{name}" if name.isdigit() else name)


def _info(command: CheckpointsCommand) -> int:
    (checkpoint,) = _named(command, 1)
    print(json.dumps(checkpoint.manifest.model_dump(mode="json"), indent=1))
    return 0


def _verify(command: CheckpointsCommand) -> int:
    """Hash and read every part of the named checkpoints, or of all."""
    found, rejected = scan_checkpoints(command.checkpoint_dir, verify=True)
    rows: list[dict[str, Any]] = []
    if command.names:
        for name in command.names:
            rows.append(_checked(_path(command, name)))
    else:
        rows = [{"name": item.path.name, "valid": True} for item in found]
        rows += [{"name": item.path.name, "valid": False, "reason": item.reason} for item in rejected]
    if not rows:
        raise CheckpointError(f"no checkpoint in {command.checkpoint_dir}; give --checkpoint_dir")
    if command.json_:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            print(
                f"{row['name']}: {'valid, every byte is the one that was written' if row['valid'] else row['reason']}"
            )
    return 0 if all(row["valid"] for row in rows) else 4


def _checked(path: Path) -> dict[str, Any]:
    try:
        given_checkpoint(path)
    except CheckpointError as error:
        return {"name": path.name, "valid": False, "reason": str(error)}
    return {"name": path.name, "valid": True}


def _diff(command: CheckpointsCommand) -> int:
    """Settings, position and weights that differ."""
    first, second = (load_checkpoint(item) for item in _named(command, 2))
    a, b = (_facts(item.config, item.checkpoint) for item in (first, second))
    rows = [
        {"name": key, "first": a.get(key), "second": b.get(key)} for key in sorted(a | b) if a.get(key) != b.get(key)
    ]
    shared = sorted(set(first.model_state) & set(second.model_state))
    moved = {
        name: float((first.model_state[name] - second.model_state[name]).norm())
        for name in shared
        if first.model_state[name].shape == second.model_state[name].shape
    }
    if command.json_:
        print(json.dumps({"differences": rows, "weights": moved}, indent=1))
        return 0
    _print_rows(rows)
    total = sum(value**2 for value in moved.values()) ** 0.5
    print(f"weights: distance {total:.6g} over {len(moved)} tensors")
    return 0


def _facts(config: Mapping[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    manifest = checkpoint.manifest
    position = {
        "step": manifest.step,
        "epoch": manifest.epoch,
        "val_loss": manifest.val_loss,
        "run_id": manifest.run_id,
    }
    return {**config, **position}


def _print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        print(f"{row['name']}: {row['first']} -> {row['second']}")


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
        print(json.dumps([{"name": path.name, "reason": reason} for path, reason in removed], indent=1))
        return 0
    for path, reason in removed:
        print(f"{'would delete' if command.dry_run else 'deleted'} {path.name}: {reason}")
    if not removed:
        print("nothing to delete")
    return 0
