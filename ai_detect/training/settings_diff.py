"""Which settings a resumed run uses: the checkpoint's, but for what was typed, and what each difference means."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ai_detect.config import AlarmSettings, OnResume, RunSettings, on_resume
from ai_detect.errors import ConfigError
from ai_detect.training.state import versions

logger = logging.getLogger(__name__)

#: Refused settings that --force overrides.
FORCEABLE = ("seed", "eval_ratio")
#: What a difference means, in the order in which they are shown.
EFFECTS: dict[OnResume, str] = {
    "harmless": "harmless",
    "warn": "allowed, recorded: results may differ",
    "refuse": "refused: would be another model",
}
#: Characters of a value in the table.
MAX_SHOWN = 41


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

    Raises ConfigError with both values of every setting that would make it another model, all differences told before.
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
    alarms = [item.name for item in differences if item.name in AlarmSettings.alarm_names and item.command is not None]
    if alarms:  # another way to say where an alarm begins takes the place of the checkpoint's
        others = [name for name in AlarmSettings.alarm_names if name not in alarms and old[name] is not None]
        differences += [Difference(name, old[name], None, on_resume(name)) for name in others]
    refused = [difference for difference in differences if difference.effect == "refuse"]
    if refused:
        logger.info("what differs from the checkpoint:\n%s", difference_table(differences))
        shown = "; ".join(f"--{item.name} {item.command} (checkpoint: {item.checkpoint})" for item in refused)
        remedy = (
            "--force overrides it"
            if all(item.name in FORCEABLE for item in refused)
            else "leave it out, or train anew in another --checkpoint_dir"
        )
        raise ConfigError(f"{shown}: would make another model than the checkpoint's; {remedy}")
    merged = {**old, **{difference.name: difference.command for difference in differences}}
    return RunSettings(**merged), differences


def software_differences(stored: Mapping[str, str], machine: Mapping[str, str]) -> list[Difference]:
    """Software and machine where they are not the checkpoint's: the last bits may differ then."""
    present = {**versions(), **machine}
    return [
        Difference(name, old, present.get(name), "warn") for name, old in stored.items() if present.get(name) != old
    ]


def difference_table(differences: Sequence[Difference]) -> str:
    """The differences as aligned text for people, one row each, what is refused last; long values are cut."""
    rows = [("what", "checkpoint", "command", "")] + [
        (item.name, _shown(item.checkpoint), _shown(item.command), EFFECTS[item.effect])
        for item in sorted(differences, key=lambda item: list(EFFECTS).index(item.effect))
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _shown(value: Any) -> str:
    """A value in at most MAX_SHOWN characters of one line; both ends are kept, as the end of a path tells most."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    half = (MAX_SHOWN - 1) // 2
    return text if len(text) <= MAX_SHOWN else f"{text[:half]}…{text[-half:]}"
