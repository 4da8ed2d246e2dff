"""Which settings a resumed run uses: the checkpoint's, but for what was typed, and what each difference means."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ai_detect.config import OnResume, RunSettings, on_resume
from ai_detect.errors import ConfigError

#: Refused settings that --force overrides.
FORCEABLE = ("seed", "eval_ratio")


@dataclass(frozen=True)
class Difference:
    """One setting that the command gives another value than the checkpoint."""

    name: str
    checkpoint: Any
    command: Any
    effect: OnResume


def resumed_settings(
    stored: RunSettings, command: RunSettings, typed: Collection[str], *, force: bool = False
) -> tuple[RunSettings, list[Difference]]:
    """The stored settings with every typed one applied, and the differences; `--num_epochs` is a plan, not a
    difference.

    Raises ConfigError with both values of every setting that would make it another model.
    """
    old, new = stored.model_dump(mode="json"), command.model_dump(mode="json")
    differences = []
    for name in RunSettings.model_fields:
        if name not in typed or name == "num_epochs" or old[name] == new[name]:
            continue
        if name == "window_type" and stored.windowing == command.windowing:
            continue
        effect = on_resume(name)
        if effect == "refuse" and force and name in FORCEABLE:
            effect = "warn"
        differences.append(Difference(name, old[name], new[name], effect))
    refused = [difference for difference in differences if difference.effect == "refuse"]
    if refused:
        shown = "; ".join(f"--{item.name} {item.command} (checkpoint: {item.checkpoint})" for item in refused)
        remedy = (
            "--force overrides it"
            if all(item.name in FORCEABLE for item in refused)
            else "leave it out, or train anew in another --checkpoint_dir"
        )
        raise ConfigError(f"{shown}: would make another model than the checkpoint's; {remedy}")
    merged = {**old, **{difference.name: difference.command for difference in differences}}
    return RunSettings(**merged), differences


def difference_table(differences: Sequence[Difference]) -> str:
    """The differences as text for people, one row each."""
    effects = {"harmless": "applied", "warn": "applied; recorded", "refuse": "refused"}
    rows = [("setting", "checkpoint", "command", "effect")] + [
        (item.name, str(item.checkpoint), str(item.command), effects[item.effect]) for item in differences
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
