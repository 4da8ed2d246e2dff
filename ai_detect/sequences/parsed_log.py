"""From a log's name to its sessions: found, read, parsed once (the events are cached on disk), cut."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ai_detect import artifacts
from ai_detect.config import InputSettings
from ai_detect.errors import DataError
from ai_detect.ingest.fingerprint import FileFingerprint, fingerprint_sources
from ai_detect.ingest.log_reader import LogSource, find_sources, stored_bytes
from ai_detect.ingest.messages import MessageReader, natural_session_field
from ai_detect.parsing.cache import cache_key, load_events, store_events
from ai_detect.parsing.events import learn_events, match_events
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.sequences.windowing import make_sessions, to_sequences
from ai_detect.tables import EventTable, SequenceTable, SessionTable

logger = logging.getLogger(__name__)


class Progress(Protocol):
    """Shows how far a long stage has come."""

    def stage(self, title: str, total: int | None, unit: str) -> AbstractContextManager[Callable[[int], None]]:
        """A stage of `total` units; yields the function that advances it."""
        ...


class Silent:
    """The `Progress` of a library call: none."""

    @contextmanager
    def stage(self, title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        """A stage that nobody watches."""
        yield lambda n: None


@dataclass(frozen=True)
class ParsedLog:
    """A log after parsing and grouping; `fingerprints` are empty where nothing was cached."""

    sources: tuple[LogSource, ...]
    fingerprints: tuple[FileFingerprint, ...]
    events: EventTable
    sessions: SessionTable
    sequences: SequenceTable


def learn_log(
    spec: str, settings: InputSettings, cache: Path, progress: Progress | None = None
) -> tuple[ParsedLog, TemplateMiner]:
    """Parse a training log, learning its templates; parsed again from `cache` where content and settings are the
    same.
    """
    sources = tuple(find_sources(spec))
    fingerprints = fingerprint_sources(sources)
    miner = TemplateMiner.from_drain_ini(settings.drain_config) if settings.drain_config else TemplateMiner()
    key = cache_key(fingerprints, settings, miner.content_hash)
    learned = cache / f"{key}.json"
    if learned.exists():
        try:
            stored = TemplateMiner.from_json(artifacts.read_json(learned))
            return match_log(spec, settings, stored, cache, progress, found=(sources, fingerprints)), stored
        except (OSError, ValueError) as error:
            logger.warning("%s: broken cached templates are ignored (%s)", learned, error)
    with _reader(sources, settings, progress) as reader:
        if settings.windowing != "session":
            field = natural_session_field(reader.format)
            flag = f"--session_field {field}" if field else "--session_regex, if they carry the id of a request or job,"
            logger.info("lines are scored in windows; %s would score what belongs together", flag)
        events = learn_events(reader, miner)
    store_events(cache, cache_key(fingerprints, settings, miner.content_hash), events)
    try:
        artifacts.write_json(learned, miner.to_json())
    except OSError as error:
        logger.warning("%s: the templates could not be cached (%s)", learned, error)
    return _grouped(sources, fingerprints, events, settings), miner


def match_log(
    spec: str,
    settings: InputSettings,
    miner: TemplateMiner,
    cache: Path | None = None,
    progress: Progress | None = None,
    *,
    found: tuple[tuple[LogSource, ...], tuple[FileFingerprint, ...]] | None = None,
) -> ParsedLog:
    """Parse a log with templates that are known; with a `cache`, at most once for the same content, settings and
    templates.
    """
    sources, fingerprints = found or (tuple(find_sources(spec)), ())
    if cache is not None and not fingerprints:
        fingerprints = fingerprint_sources(sources)
    key = cache_key(fingerprints, settings, miner.content_hash)
    events = load_events(cache, key) if cache is not None else None
    if events is None:
        with _reader(sources, settings, progress) as reader:
            events = match_events(reader, miner)
        if cache is not None:
            store_events(cache, key, events)
    return _grouped(sources, fingerprints, events, settings)


@contextmanager
def _reader(
    sources: Sequence[LogSource], settings: InputSettings, progress: Progress | None
) -> Iterator[MessageReader]:
    with (progress or Silent()).stage("parsing", stored_bytes(sources), "B") as advance:
        reader = MessageReader(sources, settings, on_progress=advance)
        logger.info(
            "%s: read as '%s'", sources[0].path if len(sources) == 1 else f"{len(sources)} files", reader.format.name
        )
        yield reader


def _grouped(
    sources: tuple[LogSource, ...],
    fingerprints: tuple[FileFingerprint, ...],
    events: EventTable,
    settings: InputSettings,
) -> ParsedLog:
    sessions = make_sessions(events, settings)
    if len(sessions) == 0:
        raise DataError(f"{sources[0].path}: no session in {len(events)} messages")
    return ParsedLog(sources, fingerprints, events, sessions, to_sequences(events, sessions))
