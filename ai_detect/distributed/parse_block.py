"""One block read and matched with the frozen templates, and kept in the work folder."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ai_detect import artifacts
from ai_detect.config import InputSettings
from ai_detect.distributed.blocks import LogBlock
from ai_detect.errors import ConfigError, DataError
from ai_detect.ingest.log_format import named_format
from ai_detect.ingest.messages import MessageReader, PartOfLog
from ai_detect.ingest.timestamps import AT_FIRST, ClockState
from ai_detect.model_file import MODEL_CARD
from ai_detect.parsing.cache import load_events, store_events
from ai_detect.parsing.events import match_events
from ai_detect.pipeline import LogAnomalyPipeline
from ai_detect.tables import EventTable
from ai_detect.training.state import versions

#: In the work folder: the software that the job was begun with.
VERSIONS_FILE = "versions.json"


class _Clock(BaseModel):
    """A `ClockState` in JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    year: int = Field(ge=1900, le=2200)
    day_of_year: int | None = Field(ge=0, le=500)
    day: int = Field(ge=0, lt=1 << 40)
    last_clock: int = Field(ge=-(1 << 60), lt=1 << 60)
    order: list[int]

    @property
    def state(self) -> ClockState:
        return ClockState(self.year, self.day_of_year, self.day, self.last_clock, tuple(self.order))


class ClockRun(BaseModel):
    """How the clock of a block ran: where it stood at the end, and the first of the times that are not whole."""

    model_config = ConfigDict(extra="forbid", strict=True)

    end: _Clock
    first_day_of_year: int | None
    first_clock: int | None

    def is_as_from(self, begun: ClockState, other: ClockState) -> bool:
        """Whether times read from `begun` on are those that would have been read from `other` on."""
        day_of_year, clock = self.first_day_of_year, self.first_clock
        return (
            begun.order == other.order
            and (day_of_year is None or begun.year_at(day_of_year) == other.year_at(day_of_year))
            and (clock is None or begun.day_at(clock) == other.day_at(clock))
        )

    def end_from(self, begun: ClockState, other: ClockState) -> ClockState:
        """Where the clock stands at the end if it begins at `other` instead of `begun`; exact where `is_as_from`."""
        end, day_of_year, clock = self.end.state, self.first_day_of_year, self.first_clock
        if day_of_year is None:
            end = end._replace(year=other.year, day_of_year=other.day_of_year)
        else:
            end = end._replace(year=end.year + other.year_at(day_of_year) - begun.year_at(day_of_year))
        if clock is None:
            return end._replace(day=other.day, last_clock=other.last_clock)
        return end._replace(day=end.day + other.day_at(clock) - begun.day_at(clock))


@dataclass(frozen=True)
class FrozenModel:
    """Where the model of a job lies, and the hex sha256 of its model.json, which holds those of all its parts."""

    folder: Path
    sha256: str


@dataclass(frozen=True)
class ParseTask:
    """A block to be parsed, from where the clock is thought to stand."""

    block: LogBlock
    clock: ClockState
    layout: str
    settings: InputSettings
    model: FrozenModel
    folder: Path  # where results go

    @property
    def key(self) -> str:
        """Name of the result: hex sha256 of all that it depends on within a work folder."""
        return artifacts.sha256_json([self.block.stamp, self.block.file_key, self.layout, list(self.clock)])

    @property
    def place(self) -> str:
        """Where the block is, for people."""
        source = self.block.source
        return f"{source.path}, bytes {source.begin} to {'the end' if source.end is None else source.end}"

    def from_clock(self, clock: ClockState) -> ParseTask:
        """The same block with another clock."""
        return replace(self, clock=clock)


def parse_block(task: ParseTask) -> None:
    """Parse a block, unless that is done; the result is there as a whole or not at all."""
    if clock_run(task) is not None:
        return
    block, settings = task.block, task.settings
    part = PartOfLog(named_format(task.layout, settings.message_field), block.file_key, task.clock)
    reader = MessageReader([block.source], settings, part=part)
    events = match_events(reader, frozen_model(task.model).miner)
    store_events(task.folder, task.key, events)
    if not (task.folder / task.key).is_dir():
        raise DataError(f"{task.folder}: the results of a block cannot be written; make room")
    state = reader.clock.state
    run = ClockRun(
        end=_Clock(**{**state._asdict(), "order": list(state.order)}),
        first_day_of_year=reader.clock.first_day_of_year,
        first_clock=reader.clock.first_clock,
    )
    artifacts.write_json(task.folder / f"{task.key}.json", run.model_dump())


def clock_run(task: ParseTask) -> ClockRun | None:
    """How the clock of the block ran; None where the block is not parsed, or only in part."""
    try:
        return ClockRun.model_validate(artifacts.read_json(task.folder / f"{task.key}.json"))
    except (OSError, ValueError, ValidationError):
        return None


def parsed_block(task: ParseTask) -> EventTable:
    """The memory-mapped events of a block; raises DataError where they are not there."""
    events = load_events(task.folder, task.key)
    if events is None:
        raise DataError(f"{task.folder / task.key}: the results of a block are broken; remove {task.folder.parent}")
    return events


@cache
def frozen_model(model: FrozenModel) -> LogAnomalyPipeline:
    """The model of the work folder, read once a process.

    Raises ConfigError where this process runs other software than the one that froze it: results would not be the same;
    CheckpointError or DataError where another model lies there now.
    """
    here, there = versions(), artifacts.read_json(model.folder.parent / VERSIONS_FILE)
    if here != there:
        differ = [
            f"{name} {here.get(name)} instead of {there.get(name)}" for name in there if here.get(name) != there[name]
        ]
        raise ConfigError(f"{platform.node()} has {', '.join(differ)}; install the same on all machines")
    loaded = LogAnomalyPipeline.load(model.folder)
    if artifacts.sha256_file(model.folder / MODEL_CARD) != model.sha256:
        raise DataError(f"{model.folder}: not the model that this job began with; remove {model.folder.parent}")
    return loaded


def at_true_clocks(tasks: Sequence[ParseTask], aside: Mapping[int, Any]) -> list[ParseTask]:
    """The tasks, each with a clock from which its times come out as those of the whole log read in order.

    A task whose block is parsed so already is not changed; of one that is to be done again, the clock is right unless
    one before it is done again too and shifts otherwise than foreseen. What is `aside` is passed over.
    """
    clock, settled = AT_FIRST, []
    for number, task in enumerate(tasks):
        clock = AT_FIRST if task.block.begins_series else clock
        run = None if number in aside else clock_run(task)
        if run is not None:
            begun = task.clock
            task = task if run.is_as_from(begun, clock) else task.from_clock(clock)
            clock = run.end_from(begun, clock)
        settled.append(task)
    return settled
