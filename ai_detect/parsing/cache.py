"""What was made of a log before: memory-mapped columns (npy) and JSON, one directory an entry."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ai_detect import __version__, scratch
from ai_detect.artifacts import (
    atomic_directory,
    check_array,
    first_problem,
    open_file,
    read_json,
    sha256_json,
    write_json,
)
from ai_detect.config import InputSettings
from ai_detect.tables import LEVELS, EventTable, SourceSpan, StringColumn, ValueTable

if TYPE_CHECKING:
    from ai_detect.ingest.fingerprint import FileFingerprint

logger = logging.getLogger(__name__)

T = TypeVar("T")
Count = Annotated[int, Field(ge=0, lt=1 << 63)]

_SCHEMA_VERSION = 5
#: How a .npy file of one column begins, and what is read of it to see that.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<size>..)\{'descr': '(?P<dtype><[if][248]|\|[iu]1)', 'fortran_order': False, "
    rb"'shape': \((?P<n>\d{1,15}),\), \} *\n",
    re.DOTALL,
)
_MOST_HEADER = 256
_COLUMNS = ("offset", "line", "timestamp", "event_id", "session_id", "level")
_VALUE_COLUMNS = {"value_offsets": "offsets", "value_number": "number", "value_key": "key"}
_TEMPLATES = ("templates", "template_offsets")
# What does not change events: windows are cut later, and the miner's hash stands for the content of the drain3.ini.
_NOT_READING = {"window_type", "window_size", "stride", "window_seconds", "drain_config"}


class _StoredSource(BaseModel):
    """A `SourceSpan` in events.json."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path: str
    first_event: Count
    n_lines: Count
    n_bytes: Count


class _Stored(BaseModel):
    """What events.json says beside the columns."""

    model_config = ConfigDict(extra="forbid", strict=True)

    schema_version: int
    key: str
    n_events: Count
    n_known: Count
    sources: list[_StoredSource]
    counters: dict[str, Count]


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
    columns = {name: getattr(events, name) for name in _COLUMNS}
    columns |= {column: getattr(events.values, name) for column, name in _VALUE_COLUMNS.items()}
    meta = {
        "n_events": len(events),
        "n_known": events.n_known,
        "sources": [dataclasses.asdict(source) for source in events.sources],
        "counters": dict(events.counters),
    }
    texts = StringColumn.of(events.templates)  # JSON of all messages of a log could be too large to be read
    columns |= dict(zip(_TEMPLATES, (texts.content, texts.offsets), strict=True))
    store_entry(folder / key, "events", {**columns, **string_columns(events.session_keys)}, meta)


def store_entry(entry: Path, kind: str, columns: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Keep columns and what is known of them; a disk that does not take them is logged."""
    try:
        with atomic_directory(entry) as temporary:
            for name, column in columns.items():
                np.save(temporary / f"{name}.npy", column, allow_pickle=False)
            head = {"schema_version": _SCHEMA_VERSION, "key": entry.name}
            write_json(temporary / f"{kind}.json", {**head, **meta})
    except OSError as error:
        logger.warning("%s: the %s could not be cached (%s)", entry.parent, kind, error)


def string_columns(strings: Sequence[str]) -> dict[str, np.ndarray]:
    """Strings as the columns `keys` and `key_offsets` of an entry: those of a `StringColumn`."""
    column = strings if isinstance(strings, StringColumn) else StringColumn.of(strings)
    return {"keys": column.content, "key_offsets": column.offsets}


def load_events(folder: Path, key: str) -> EventTable | None:
    """The events kept under this key, memory-mapped; None where there are none or the entry is broken (logged)."""
    return load_entry(folder / key, "events", (*_COLUMNS, *_VALUE_COLUMNS, *_TEMPLATES), _events)


def load_entry(
    entry: Path,
    kind: str,
    names: Sequence[str],
    make: Callable[[dict[str, np.ndarray], StringColumn, dict[str, Any]], T],
) -> T | None:
    """What `make` makes of the entry's memory-mapped columns, its strings and what is known of them; None where there
    is no entry or it is broken (logged).
    """
    if not entry.is_dir():
        return None
    try:
        meta: dict[str, Any] = read_json(entry / f"{kind}.json")
        if meta["schema_version"] != _SCHEMA_VERSION or meta["key"] != entry.name:
            raise ValueError("it was made for something else")
        columns = {name: _column(entry, name) for name in (*names, "keys", "key_offsets")}
        return make(columns, StringColumn(columns.pop("keys"), columns.pop("key_offsets")), meta)
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s: a broken cache entry is ignored (%s)", entry, error)
        return None


def _column(entry: Path, name: str) -> np.ndarray:
    """A column of numbers, memory-mapped; raises OSError, or ValueError where the file is not as np.save writes it.

    np.load would take the file at its word: other kinds of file, other shapes, headers that are parsed as Python.
    """
    with open_file(entry / f"{name}.npy") as file:
        head = _HEADER.match(file.read(_MOST_HEADER))
        if head is None or int.from_bytes(head["size"], "little") != head.end() - 10:
            raise ValueError(f"{name}.npy is not a column of numbers")
        dtype, n = np.dtype(head["dtype"].decode()), int(head["n"])
        if os.fstat(file.fileno()).st_size != head.end() + n * dtype.itemsize:
            raise ValueError(f"{name}.npy does not hold {n} numbers")
        return scratch.mapped(file, dtype, n, head.end(), writable=False)


def _events(columns: dict[str, np.ndarray], session_keys: StringColumn, meta: dict[str, Any]) -> EventTable:
    try:
        stored = _Stored.model_validate(meta)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error
    event_columns: dict[str, Any] = {name: columns[name] for name in _COLUMNS}
    value_columns: dict[str, Any] = {name: columns[column] for column, name in _VALUE_COLUMNS.items()}
    events = EventTable(
        **event_columns,
        templates=tuple(StringColumn(*(columns[name] for name in _TEMPLATES))),
        n_known=stored.n_known,
        session_keys=session_keys,
        sources=tuple(SourceSpan(**source.model_dump()) for source in stored.sources),
        counters=stored.counters,
        values=ValueTable(**value_columns),
    )
    check_array("offset", events.offset, np.int64, (stored.n_events,), low=0)
    check_array("line", events.line, np.int32, (stored.n_events,), low=1)
    check_array("level", events.level, np.int8, (stored.n_events,), low=0, high=len(LEVELS) - 1)
    if len(events.values) != len(events):
        raise ValueError("the values are not those of the events")
    starts = [source.first_event for source in events.sources]
    if starts != sorted(starts) or max(starts, default=0) > len(events) or (len(events) and starts[:1] != [0]):
        raise ValueError("the sources do not hold the events")
    return events
