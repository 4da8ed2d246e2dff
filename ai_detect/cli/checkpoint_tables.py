"""What `checkpoints` finds, drawn for people: coloured tables on a terminal, plain text that is never cut elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ai_detect.reporting.wording import visible
from ai_detect.training.checkpoint import Checkpoint
from ai_detect.training.state import Segment, TrainerState

#: Columns of a table that is not shown on a terminal: nothing is folded or cut off there.
UNLIMITED = 100_000
#: Tensors of a comparison that people are shown; --json has all.
MAX_TENSORS = 12
STYLES = {"latest": "bold green", "best": "bold cyan", "finished": "green", "model": "cyan", "superseded": "dim"}


def print_list(rows: Sequence[Mapping[str, Any]], positions: Sequence[str]) -> None:
    """A line a checkpoint, below them why some are not valid; `positions` are the epochs in words."""
    console = _console()
    heads = ("checkpoint", "epoch", "train loss", "val loss", "rate", "MB", "age", "tags")
    table = _table(console, *heads, right=heads[1:7])
    for row, position in zip(rows, positions, strict=True):
        numbers = [_shown(row[name], ".5f") for name in ("train_loss", "val_loss")]
        numbers += [_shown(row["learning_rate"], ".3g"), _shown(row["megabytes"], ".2f"), _age(row["timestamp"])]
        notes = [Text(tag, STYLES[tag]) for tag in row["tags"]]
        if not row["valid"]:
            notes.append(Text("not valid", "red"))
        table.add_row(Text(visible(row["name"])), position.replace(" of ", "/"), *numbers, Text(" ").join(notes))
    console.print(table)
    for row in rows:
        if not row["valid"]:
            console.print(Text(f"{visible(row['name'])}: {visible(row['reason'])}", "red"), soft_wrap=True)


def print_info(checkpoint: Checkpoint, state: TrainerState, tags: Sequence[str], reason: str | None) -> None:
    """All about one checkpoint, topic by topic; `reason` is why resume would not take it."""
    console = _console()
    table = _table(console, "", "")
    for topic, lines in _topics(checkpoint, state, tags, reason):
        for number, line in enumerate(lines):
            table.add_row(Text("" if number else topic, "bold"), Text(visible(line)))
    console.print(table)


def print_verified(rows: Sequence[Mapping[str, Any]]) -> None:
    """What verify found, a line a checkpoint."""
    console = _console()
    for row in rows:
        said = "valid, every byte is the one that was written" if row["valid"] else visible(row["reason"])
        console.print(Text(f"{row['name']}: ").append(said, "green" if row["valid"] else "red"), soft_wrap=True)


def print_diff(comparison: Mapping[str, Any]) -> None:
    """What differs between two checkpoints, by group, and how far each tensor moved."""
    console = _console()
    if comparison["differences"]:
        table = _table(console, "", "", visible(comparison["first"]), visible(comparison["second"]))
        previous = ""
        for row in comparison["differences"]:
            group = "" if row["group"] == previous else row["group"]
            previous = row["group"]
            values = [Text(visible(_shown(row[side], ".6g"))) for side in ("first", "second")]
            table.add_row(Text(group, "bold"), visible(row["name"]), *values)
        console.print(table)
    weights, n = comparison["weights"], len(comparison["weights"])
    if comparison["identical_weights"]:
        console.print(f"weights: distance 0 over {n} tensors: identical weights", style="green", soft_wrap=True)
        return
    distance = comparison["distance"]
    console.print(f"weights: distance {distance:.6g} over {n} tensors, the largest first:", soft_wrap=True)
    table = _table(console, "tensor", "distance", right=("distance",))
    for name, value in list(weights.items())[:MAX_TENSORS]:
        table.add_row(Text(visible(name)), "not in both, or of another shape" if value is None else f"{value:.6g}")
    console.print(table)
    if n > MAX_TENSORS:
        console.print(f"and {n - MAX_TENSORS} more: --json lists all")


def print_pruned(rows: Sequence[Mapping[str, Any]], *, dry_run: bool) -> None:
    """What was deleted and why, or would be."""
    console = _console()
    for row in rows:
        said = f"{'would delete' if dry_run else 'deleted'} {row['name']}: {row['reason']}"
        console.print(Text(visible(said)), soft_wrap=True)
    if not rows:
        console.print("nothing to delete")


def _topics(
    checkpoint: Checkpoint, state: TrainerState, tags: Sequence[str], reason: str | None
) -> Iterable[tuple[str, list[str]]]:
    """What a checkpoint is, in words: (topic, lines)."""
    manifest, early, schedule = checkpoint.manifest, state.early_stopping, state.schedule
    yield "checkpoint", [f"{checkpoint.path}  {' '.join(tags)}".rstrip(), f"written {manifest.timestamp}"]
    if reason is not None:
        yield "not valid", [reason]
    phases = {"train": "training", "fit": "training is complete; the detectors are fitted next", "done": "done"}
    due = ", an evaluation comes first" if state.evaluation_due else ""
    samples = f"{state.samples_in_epoch:,} of {state.n_samples:,} samples of the present epoch"
    yield "position", [f"step {state.step:,}, epoch {state.position} ({samples})", f"{phases[state.phase]}{due}"]
    losses = [f"training {_shown(state.train_loss, '.6g')}, validation {_shown(manifest.val_loss, '.6g')}"]
    if early.best_val_loss is not None:
        losses.append(f"best validation {early.best_val_loss:.6g} at step {early.best_step}")
    yield "loss", losses
    rate = "-" if not state.learning_rates else f"{state.learning_rates[-1]:.3g} at the last evaluation"
    plan = (
        f"constant at {schedule.constant_factor:.3g} of the peak"
        if schedule.constant_factor is not None
        else f"warm-up over {schedule.warmup_samples:,} samples, then down to {schedule.floor_factor:.3g} of the peak "
        f"at epoch {schedule.end_samples / state.n_samples:.3g}"
    )
    yield "learning rate", [rate, plan]
    patience = f"{early.patience_counter} of {early.patience} evaluations without improvement"
    stopped = [f"stopped: {early.stop_reason}"] if early.stopped else []
    yield "early stopping", ["off" if early.patience is None else patience, *stopped]
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


def _shown(value: Any, figures: str) -> str:
    if isinstance(value, float):
        return format(value, figures)
    return "-" if value is None else str(value)


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
