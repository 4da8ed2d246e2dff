"""One shard, neighbouring sessions, scored with the frozen model, and kept in the work folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from ai_detect import artifacts
from ai_detect.config import InputSettings
from ai_detect.distributed.parse_block import FrozenModel, frozen_model
from ai_detect.errors import DataError
from ai_detect.ingest.log_sources import LogSource
from ai_detect.parsing.cache import load_events
from ai_detect.sequences.parsed_log import ParsedLog, grouped
from ai_detect.tables import SequenceTable


@dataclass(frozen=True)
class MergedLog:
    """Where the events and sessions of the whole log lie."""

    folder: Path
    key: str
    sources: tuple[LogSource, ...]
    settings: InputSettings

    def load(self) -> ParsedLog:
        """The log, memory-mapped; sessions are grouped where that was not done before. Raises DataError where the
        events are broken, or hold no session.
        """
        events = load_events(self.folder, self.key)
        if events is None:
            raise DataError(f"{self.folder / self.key}: the merged log is broken; remove {self.folder.parent}")
        return ParsedLog(self.sources, (), events, *grouped(events, self.settings, self.sources, self.folder, self.key))


@dataclass(frozen=True)
class ScoreTask:
    """Sessions `first` to `behind` (exclusive) of a log, to be scored by a method."""

    log: MergedLog
    first: int
    behind: int
    method: str
    model: FrozenModel
    folder: Path  # where results go

    @property
    def path(self) -> Path:
        """The result's file: hex sha256 of all that it depends on within a work folder."""
        name = artifacts.sha256_json([self.log.key, self.first, self.behind, self.method])
        return self.folder / f"{name}.safetensors"


def cut_sessions(sequences: SequenceTable, n_events: int) -> list[tuple[int, int]]:
    """Neighbouring sessions of about `n_events` together, as (first, behind the last)."""
    n = len(sequences)
    ends = np.searchsorted(sequences.offsets, np.arange(n_events, len(sequences.event_id) + n_events, n_events))
    bounds = np.unique(np.concatenate([[0], np.minimum(ends, n), [n]])).tolist()
    return list(pairwise(bounds))


def score_shard(task: ScoreTask) -> None:
    """Score the sessions of a shard, before any calibration, unless that is done; the result is whole or not there."""
    if task.path.exists():
        return
    log = _merged(task.log).take(np.arange(task.first, task.behind))
    blocks = list(frozen_model(task.model).raw_scores(log, [task.method]))
    artifacts.write_arrays(task.path, {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]})


@cache
def _merged(log: MergedLog) -> ParsedLog:
    """The log, loaded once a process."""
    return log.load()


def scored_shards(tasks: Iterable[ScoreTask], components: Collection[str]) -> Iterator[dict[str, np.ndarray]]:
    """The raw scores of shard after shard, by these components; raises DataError where a result is not there, broken,
    or not that of its sessions.
    """
    for task in tasks:
        try:
            scores = artifacts.parse_arrays(artifacts.read_file(task.path))
            if odd := scores.keys() ^ set(components):
                raise ValueError(f"component {min(odd)!r:.100} is missing or unknown")
            for name, column in scores.items():
                artifacts.check_array(name, column, np.float64, (task.behind - task.first,))
        except (OSError, ValueError) as error:
            raise DataError(f"{task.path}: the result of a shard is broken ({error}); remove it") from error
        yield scores
