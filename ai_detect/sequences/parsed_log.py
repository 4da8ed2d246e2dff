"""From a log's name to its sessions: found, read, parsed once (the events are cached on disk), cut."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ai_detect import artifacts, scratch
from ai_detect.config import InputSettings
from ai_detect.errors import DataError
from ai_detect.ingest.fingerprint import FileFingerprint, fingerprint_sources
from ai_detect.ingest.log_sources import LogSource, find_sources, stored_bytes
from ai_detect.ingest.messages import MessageReader, natural_session_field
from ai_detect.parsing.cache import cache_key, load_entry, load_events, store_entry, store_events, string_columns
from ai_detect.parsing.events import learn_events, match_events
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.sequences.session_blocks import session_blocks
from ai_detect.sequences.windowing import make_sessions, say_what_is_left_out, to_sequences
from ai_detect.tables import (
    EventTable,
    Int8Array,
    Int64Array,
    SequenceTable,
    SessionTable,
    StringColumn,
    ValueTable,
    ragged_rows,
)

logger = logging.getLogger(__name__)

_COLUMNS = ("offsets", "rows", "event_id", "gap_s")
#: Sessions that are gathered at once; only memory depends on it.
_GATHERED = 256


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


class SomeSessions(NamedTuple):
    """Sessions of a log; values and levels are those of the sequences' events, row for row."""

    sequences: SequenceTable
    values: ValueTable
    level: Int8Array


class Gathered(NamedTuple):
    """Some sessions of a log, ascending, with the values of their events, row for row."""

    sessions: Int64Array
    sequences: SequenceTable
    values: ValueTable

    def take(self, places: Int64Array) -> tuple[SequenceTable, ValueTable]:
        """The sessions at these places, in this order."""
        sequences = self.sequences.take(places)
        return sequences, self.values.take(ragged_rows(self.sequences.offsets[places], sequences.lengths))


@dataclass(frozen=True)
class ParsedLog:
    """A log after parsing and grouping; `fingerprints` are empty where nothing was cached."""

    sources: tuple[LogSource, ...]
    fingerprints: tuple[FileFingerprint, ...]
    events: EventTable
    sessions: SessionTable
    sequences: SequenceTable

    def take(self, sessions: Int64Array) -> ParsedLog:
        """The same events with these sessions alone, in this order."""
        sequences = self.sequences.take(sessions)
        keys = StringColumn.of(self.sessions.keys[session] for session in sessions.tolist())
        bounds = self.sessions.offsets[sessions]
        rows = self.sessions.rows[ragged_rows(bounds, sequences.lengths)]
        return replace(self, sessions=SessionTable(keys, sequences.offsets, rows), sequences=sequences)

    @property
    def values(self) -> ValueTable:
        """The values of the events of `sequences`, in their order; of a long log they are in files."""
        return self.events.values.take(self.sessions.rows)

    def of_sessions(self, sessions: Int64Array) -> SomeSessions:
        """What is known of these sessions, in this order; of all together it may take much memory."""
        sequences = self.sequences.take(sessions)
        rows = self.sessions.rows[ragged_rows(self.sessions.offsets[sessions], sequences.lengths)]
        return SomeSessions(sequences, self.events.values.take(rows), self.events.level[rows])

    def gathered(self, sessions: Int64Array) -> Gathered:
        """What is known of sessions that lie all over the log, copied so that it lies together; read from the first to
        the last, as each page of a column is then read once.
        """
        in_order = np.unique(sessions)
        event_id, gap_s, n_events = (scratch.Growing(dtype) for dtype in (np.int32, np.float32, np.int64))
        number, key, n_values = (scratch.Growing(dtype) for dtype in (np.float32, np.int32, np.int64))
        lengths = self.sequences.offsets[in_order + 1] - self.sequences.offsets[in_order]
        for block in session_blocks(scratch.offsets_of(lengths), _GATHERED):
            sequences, values, _ = self.of_sessions(in_order[block])
            event_id.append(sequences.event_id)
            gap_s.append(sequences.gap_s)
            n_events.append(sequences.lengths)
            number.append(values.number)
            key.append(values.key)
            n_values.append(np.diff(values.offsets))
        offsets, of_values = (scratch.offsets_of(counts.column()) for counts in (n_events, n_values))
        return Gathered(
            in_order,
            SequenceTable(offsets, event_id.column(), gap_s.column()),
            ValueTable(of_values, number.column(), key.column()),
        )


def learn_log(
    spec: str,
    settings: InputSettings,
    cache: Path,
    progress: Progress | None = None,
    *,
    miner: TemplateMiner | None = None,
) -> tuple[ParsedLog, TemplateMiner]:
    """Parse a training log, learning its templates, on from those of `miner` if one is given.

    It is parsed again from `cache` where content and settings are the same.
    """
    sources = tuple(find_sources(spec))
    fingerprints = fingerprint_sources(sources, cache)
    if miner is None:
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
    key = cache_key(fingerprints, settings, miner.content_hash)
    store_events(cache, key, events)
    try:
        artifacts.write_json(learned, miner.to_json())
    except OSError as error:
        logger.warning("%s: the templates could not be cached (%s)", learned, error)
    return ParsedLog(sources, fingerprints, events, *grouped(events, settings, sources, cache, key)), miner


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
        fingerprints = fingerprint_sources(sources, cache)
    key = cache_key(fingerprints, settings, miner.content_hash)
    events = load_events(cache, key) if cache is not None else None
    if events is None or events.templates[: events.n_known] != miner.templates:  # a cache of somebody's own making
        with _reader(sources, settings, progress) as reader:
            events = match_events(reader, miner)
        if cache is not None:
            store_events(cache, key, events)
    return ParsedLog(sources, fingerprints, events, *grouped(events, settings, sources, cache, key))


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


def grouped(
    events: EventTable, settings: InputSettings, sources: Sequence[LogSource], cache: Path | None, events_key: str
) -> tuple[SessionTable, SequenceTable]:
    """Sessions and sequences; with a `cache`, grouped once for the same events and windows."""
    windows = [settings.windowing, settings.window_size, settings.stride, settings.window_seconds]
    entry = None if cache is None else cache / artifacts.sha256_json([events_key, windows])
    found = None if entry is None else load_entry(entry, "sessions", _COLUMNS, partial(_stored_groups, events))
    if found is None:
        sessions = make_sessions(events, settings)
        found = sessions, to_sequences(events, sessions)
        if entry is not None:
            _store_groups(entry, *found)
    say_what_is_left_out(events, found[0], settings)
    if len(found[0]) == 0:
        raise DataError(f"{sources[0].path}: no session in {len(events)} messages")
    return found


def _store_groups(entry: Path, sessions: SessionTable, sequences: SequenceTable) -> None:
    columns = string_columns(sessions.keys)
    columns |= {"offsets": sessions.offsets, "rows": sessions.rows}
    columns |= {"event_id": sequences.event_id, "gap_s": sequences.gap_s}
    store_entry(entry, "sessions", columns, {})


def _stored_groups(
    events: EventTable, columns: Mapping[str, np.ndarray], keys: StringColumn, meta: Mapping[str, Any]
) -> tuple[SessionTable, SequenceTable]:
    """What `_store_groups` stored; raises ValueError where it does not fit the events."""
    offsets, rows, event_id, gap_s = (columns[name] for name in _COLUMNS)
    artifacts.check_array("rows", rows, np.int64, (None,), low=0, high=len(events) - 1)
    artifacts.check_array("event_id", event_id, np.int32, (len(rows),), low=0, high=len(events.templates) - 1)
    return SessionTable(keys, offsets, rows), SequenceTable(offsets, event_id, gap_s)
