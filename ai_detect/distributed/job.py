"""A log scored in parts by an engine: what is done, in which order, and what becomes of parts that fail.

    blocks of lines -> parsed apart -> merged -> sessions -> shards of sessions -> measured apart -> one table of scores

The result is that of a single process, to the byte. Each part's result is a file in the work folder, named by all that
it depends on: after a crash what is there is not done again.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from ai_detect import artifacts
from ai_detect.config import AlarmSettings, InputSettings
from ai_detect.distributed.blocks import clock_of_sample, cut_log
from ai_detect.distributed.merge import merge_events
from ai_detect.distributed.parse_block import (
    VERSIONS_FILE,
    FrozenModel,
    ParseTask,
    at_true_clocks,
    clock_run,
    parse_block,
    parsed_block,
)
from ai_detect.distributed.score_shard import MergedLog, ScoreTask, cut_sessions, score_shard, scored_shards
from ai_detect.errors import ConfigError, DataError
from ai_detect.ingest.log_sources import find_sources
from ai_detect.ingest.messages import IngestCounters, MessageReader
from ai_detect.ingest.timestamps import AT_FIRST
from ai_detect.model_file import MODEL_CARD
from ai_detect.parsing.cache import load_events, store_events
from ai_detect.pipeline import LogAnomalyPipeline, Scored
from ai_detect.tables import EventTable
from ai_detect.training.state import versions

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Events of a shard of sessions.
SHARD_EVENTS = 250_000


class Engine(Protocol):
    """Runs parts of a job somewhere."""

    def run(self, work: Callable[[T], None], items: Sequence[T], title: str) -> dict[int, str]:
        """Do the work on each item, in any order; returns those that failed again and again, by number, and why."""
        ...


@dataclass(frozen=True)
class SetAside:
    """A part of the input that could not be done."""

    stage: str  # parsing or scoring
    part: str
    reason: str


@dataclass
class Job:
    """A log to be scored by a model, in parts; `set_aside` lists those that could not be done."""

    pipeline: LogAnomalyPipeline
    settings: InputSettings
    engine: Engine
    folder: Path  # of results; the work folder is made in it
    block_bytes: int
    shard_events: int = SHARD_EVENTS
    set_aside: list[SetAside] = field(default_factory=list)

    @property
    def work(self) -> Path:
        """The folder of what is done so far, named by model, settings and software."""
        reading = self.settings.model_dump(mode="json")
        model = self.pipeline.card["hash"], self.pipeline.miner.content_hash
        return Path(os.path.abspath(self.folder)) / f"work-{artifacts.sha256_json([versions(), model, reading])[:16]}"

    def parse(self, spec: str) -> MergedLog:
        """What `LogAnomalyPipeline.parse` makes of a log; raises also where no block of it could be parsed."""
        sources = tuple(find_sources(spec))
        if any(source.spool for source in sources):
            raise ConfigError(f"--log_file {spec}: other processes cannot read this one's input; give files")
        reader = MessageReader(sources, self.settings)
        name = sources[0].path if len(sources) == 1 else f"{len(sources)} files"
        logger.info("%s: read as '%s'", name, reader.format.name)
        tasks, failed = self._parsed(reader)
        blocks = [task.block for task in tasks]
        done = [task.key for number, task in enumerate(tasks) if number not in failed]
        if not done:
            raise DataError(f"{spec}: none of its {len(tasks)} blocks could be read; {tasks[0].place}: {failed[0]}")
        self.set_aside += [SetAside("parsing", tasks[number].place, failed[number]) for number in sorted(failed)]
        log = MergedLog(self.work / "log", artifacts.sha256_json([done, sorted(failed)]), sources, self.settings)
        events = load_events(log.folder, log.key)
        if events is None:

            def load(number: int) -> EventTable | None:
                return None if number in failed else parsed_block(tasks[number])

            events = merge_events(blocks, load, self.pipeline.miner.templates)
            store_events(log.folder, log.key, events)
        reader.check_counted(IngestCounters(**events.counters))
        return log

    def _parsed(self, reader: MessageReader) -> tuple[list[ParseTask], dict[int, str]]:
        """The tasks of all blocks, done but for those that failed, which are returned with the reason by number."""
        model, anywhere = self._model, clock_of_sample(reader)
        tasks = [
            ParseTask(
                block,
                AT_FIRST if block.begins_series else anywhere,
                reader.format.name,
                self.settings,
                model,
                self.work / "blocks",
            )
            for block in cut_log(reader, self.block_bytes)
        ]
        failed: dict[int, str] = {}
        for n_rounds in count():
            todo = [number for number, task in enumerate(tasks) if number not in failed and clock_run(task) is None]
            if n_rounds == 0 and len(todo) < len(tasks):
                logger.info("%d of %d blocks were parsed before", len(tasks) - len(todo), len(tasks))
            reasons = self.engine.run(parse_block, [tasks[number] for number in todo], "parsing") if todo else {}
            failed |= {todo[at]: reason for at, reason in reasons.items()}
            settled = at_true_clocks(tasks, failed)
            if settled == tasks:
                return tasks, failed
            tasks = settled
        raise AssertionError("there is always another round")

    def score(
        self,
        log: MergedLog,
        *,
        method: str | None = None,
        threshold: float | None = None,
        alarm: AlarmSettings | None = None,
    ) -> Scored:
        """What `LogAnomalyPipeline.score` says of the log, but for sessions of shards that are set aside.

        Raises DataError where no shard could be scored.
        """
        method = method or self.pipeline.bank.default_method
        self.pipeline.bank.threshold(method, alarm)
        parsed = log.load()
        tasks = [
            ScoreTask(log, first, behind, method, self._model, self.work / "scores")
            for first, behind in cut_sessions(parsed.sequences, self.shard_events)
        ]
        todo = [number for number, task in enumerate(tasks) if not task.path.exists()]
        if len(todo) < len(tasks):
            logger.info("%d of %d shards were scored before", len(tasks) - len(todo), len(tasks))
        (self.work / "scores").mkdir(exist_ok=True)
        reasons = self.engine.run(score_shard, [tasks[number] for number in todo], "scoring") if todo else {}
        failed = {todo[at]: reason for at, reason in reasons.items()}
        keys = parsed.sessions.keys
        for number, reason in sorted(failed.items()):
            first, last = keys[tasks[number].first], keys[tasks[number].behind - 1]
            self.set_aside.append(SetAside("scoring", f"sessions {first} to {last}", reason))
        done = [task for number, task in enumerate(tasks) if number not in failed]
        if not done:
            raise DataError(f"{log.sources[0].path}: no shard of sessions could be scored: {failed[0]}")
        if failed:
            parsed = parsed.take(np.concatenate([np.arange(task.first, task.behind) for task in done]))
        raw = scored_shards(done, self.pipeline.bank.methods[method].fusion.weights)
        return self.pipeline.judge(parsed, raw, method=method, threshold=threshold, alarm=alarm)

    def told_in(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """summary.json of a log of which something is set aside."""
        notes = [
            f"{part.stage} failed again and again and is left out: {part.part} ({part.reason}); the same command tries "
            "this alone once more"
            for part in self.set_aside
        ]
        aside = [asdict(part) for part in self.set_aside]
        return {**summary, "notes": [*notes, *summary["notes"]], "set_aside": aside}

    def finish(self) -> None:
        """Remove the work folder, unless something is set aside: then another run does that alone."""
        if not self.set_aside:
            shutil.rmtree(self.work, ignore_errors=True)

    @cached_property
    def _model(self) -> FrozenModel:
        """The model, put where the others read it: neither a new training nor another folder changes it meanwhile.

        One that lies there is replaced: the same model gives the same bytes, and another one is not this job's.
        """
        folder, pipeline = self.work / "model", self.pipeline
        try:
            (self.work / "blocks").mkdir(parents=True, exist_ok=True)
            artifacts.write_json(self.work / VERSIONS_FILE, versions())
            LogAnomalyPipeline(
                pipeline.settings,
                pipeline.miner,
                pipeline.encoder,
                pipeline.bank,
                pipeline.normal,
                pipeline.values,
                pipeline.card,
            ).save(folder)
            return FrozenModel(folder, artifacts.sha256_file(folder / MODEL_CARD))
        except OSError as error:
            raise DataError(f"{self.work} cannot be written ({error.strerror}); give another --output_dir") from error
