"""Events of a log that was parsed before: memory-mapped columns (npy) and JSON, one directory an entry."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ai_detect import __version__
from ai_detect.artifacts import atomic_directory, read_json, sha256_json, write_json
from ai_detect.config import InputSettings
from ai_detect.tables import EventTable, SourceSpan

if TYPE_CHECKING:
    from ai_detect.ingest.fingerprint import FileFingerprint

logger = logging.getLogger(__name__)

_SCHEMA_VERSION = 1
_COLUMNS = ("offset", "line", "timestamp", "event_id", "session_id", "level")
# What does not change events: windows are cut later, and the miner's hash stands for the content of the drain3.ini.
_NOT_READING = {"window_type", "window_size", "stride", "window_seconds", "drain_config"}


def cache_key(fingerprints: Sequence[FileFingerprint], input_settings: InputSettings, miner_hash: str) -> str:
    """Name of the entry for this content, these reading settings, this version and `TemplateMiner.content_hash`."""
    settings = input_settings.model_dump(mode="json", include=set(InputSettings.model_fields) - _NOT_READING)
    return sha256_json(
        {
            "schema_version": _SCHEMA_VERSION,
            "version": __version__,
            "files": [dataclasses.asdict(fingerprint) for fingerprint in fingerprints],
            "input": settings,
            "miner": miner_hash,
        }
    )


def store_events(folder: Path, key: str, events: EventTable) -> None:
    """Keep the events under this key; a disk that does not take them is logged, and the work goes on uncached."""
    meta = {
        "schema_version": _SCHEMA_VERSION,
        "key": key,
        "n_events": len(events),
        "n_known": events.n_known,
        "templates": list(events.templates),
        "session_keys": list(events.session_keys),
        "sources": [dataclasses.asdict(source) for source in events.sources],
        "counters": dict(events.counters),
    }
    try:
        with atomic_directory(folder / key) as temporary:
            for name in _COLUMNS:
                np.save(temporary / f"{name}.npy", getattr(events, name), allow_pickle=False)
            write_json(temporary / "events.json", meta)
    except OSError as error:
        logger.warning("%s: the parsed events could not be cached (%s)", folder, error)


def load_events(folder: Path, key: str) -> EventTable | None:
    """The events kept under this key, memory-mapped; None where there are none or the entry is broken (logged)."""
    entry = folder / key
    if not entry.is_dir():
        return None
    try:
        return _read_entry(entry, key)
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s: a broken cache entry is ignored (%s)", entry, error)
        return None


def _read_entry(entry: Path, key: str) -> EventTable:
    meta: dict[str, Any] = read_json(entry / "events.json")
    if meta["schema_version"] != _SCHEMA_VERSION or meta["key"] != key:
        raise ValueError("it was made for something else")
    columns = {name: np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _COLUMNS}
    events = EventTable(
        **columns,
        templates=_strings(meta["templates"]),
        n_known=meta["n_known"],
        session_keys=_strings(meta["session_keys"]),
        sources=tuple(SourceSpan(**source) for source in meta["sources"]),
        counters=meta["counters"],
    )
    if len(events) != meta["n_events"]:
        raise ValueError(f"{len(events)} events, expected {meta['n_events']}")
    return events


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError("expected a list of strings")
    return tuple(value)
