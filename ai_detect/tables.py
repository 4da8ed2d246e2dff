"""The few columnar types that flow from room to room.

    raw lines -> EventTable -> SessionTable -> SequenceTable, ValueTable -> float32 matrices -> ScoreTable -> findings

Tables check dtype and shape when made and are frozen; their arrays may be memory-mapped.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from ai_detect import scratch

Int8Array = NDArray[np.int8]
UInt8Array = NDArray[np.uint8]
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: No timestamp on this line (numpy's NaT as int64).
NO_TIME = int(np.iinfo(np.int64).min)
#: No session key on this line.
NO_SESSION = -1
#: The first so many variable parts of a message are kept.
MAX_VALUES = 8
#: Strings, and about how many bytes of them, that are made at once; only memory depends on it.
_STRINGS_AT_ONCE, _TEXT_AT_ONCE = 1 << 14, 1 << 20
#: Sessions that are copied at once; only memory depends on it.
_SESSIONS_AT_ONCE = 1 << 13
#: Severity of a line as an int8; 0 where the header names none.
LEVELS = ("", "trace", "debug", "info", "notice", "warning", "error", "critical", "fatal")


def check_column(name: str, column: np.ndarray, dtype: type, length: int | None = None) -> None:
    """Raise ValueError unless `column` is one-dimensional with this dtype and length."""
    if column.dtype != np.dtype(dtype):
        raise ValueError(f"{name} has dtype {column.dtype}, expected {np.dtype(dtype)}")
    if column.ndim != 1:
        raise ValueError(f"{name} has {column.ndim} dimensions, expected 1")
    if length is not None and len(column) != length:
        raise ValueError(f"{name} has {len(column)} rows, expected {length}")


def check_offsets(name: str, offsets: np.ndarray, total: int) -> None:
    """Raise ValueError unless `offsets` are CSR row offsets into a column of `total` rows."""
    check_column(name, offsets, np.int64)
    ends = len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == total
    if not ends or any((np.diff(part) < 0).any() for part in rows_and_next(offsets)):
        raise ValueError(f"{name} must rise from 0 to {total}")


def rows_and_next(offsets: Int64Array) -> Iterator[Int64Array]:
    """CSR offsets in blocks, each with the first of the next one."""
    return (offsets[block.start : block.stop + 1] for block in scratch.blocks(len(offsets) - 1))


def _are_neighbours(rows: Int64Array) -> bool:
    """Whether the rows follow each other without a gap."""
    return len(rows) > 0 and all((np.diff(part) == 1).all() for part in rows_and_next(rows))


def _range(column: np.ndarray) -> tuple[int, int]:
    """Least and largest number of a column that has any."""
    low_high = [(int(column[block].min()), int(column[block].max())) for block in scratch.blocks(len(column))]
    return min(low for low, _ in low_high), max(high for _, high in low_high)


def ragged_rows(starts: Int64Array, counts: Int64Array) -> Int64Array:
    """The numbers `starts[i], starts[i] + 1, ...`, `counts[i]` of them, for each i in turn."""
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)


def added_up(one: tuple[Int64Array, Int64Array], other: tuple[np.ndarray, np.ndarray]) -> tuple[Int64Array, Int64Array]:
    """Two counts of ascending keys as one: the distinct keys, ascending, and the counts of each together."""
    keys, inverse = np.unique(np.concatenate([one[0], other[0]]), return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, inverse, np.concatenate([one[1], other[1]]))
    return keys.astype(np.int64), counts


class StringColumn(Sequence[str]):
    """Many strings as one column of bytes: string i is `content[offsets[i]:offsets[i + 1]]`, made when it is asked for.

    A million session keys so are there at once, where their list takes half a second to read. The bytes are UTF-8, with
    the surrogates that stand for a log's undecodable bytes.
    """

    def __init__(self, content: UInt8Array, offsets: Int64Array) -> None:
        check_column("content", content, np.uint8)
        check_offsets("offsets", offsets, len(content))
        self.content = content
        self.offsets = offsets
        for part in self._parts(0, len(self)):
            content[part[0] : part[-1]].tobytes().decode("utf-8", "surrogatepass")
            begins = part[:-1][part[:-1] < part[1:]]
            if (content[begins] & 0xC0 == 0x80).any():
                raise ValueError("a string begins within a character")

    @classmethod
    def of(cls, strings: Iterable[str]) -> StringColumn:
        """The column of these strings, which are not held all at once."""
        return cls.of_bytes(string.encode("utf-8", "surrogatepass") for string in strings)

    @classmethod
    def of_bytes(cls, strings: Iterable[bytes]) -> StringColumn:
        """The column of strings that are encoded as here."""
        content, lengths = scratch.Growing(np.uint8), scratch.Growing(np.int64)
        part: list[bytes] = []
        n_bytes = 0
        for string in strings:
            part.append(string)
            n_bytes += len(string)
            if n_bytes > _TEXT_AT_ONCE or len(part) == _STRINGS_AT_ONCE:
                content.append(np.frombuffer(b"".join(part), np.uint8))
                lengths.append(np.array([len(string) for string in part]))
                part, n_bytes = [], 0
        content.append(np.frombuffer(b"".join(part), np.uint8))
        lengths.append(np.array([len(string) for string in part], np.int64))
        return cls(content.column(), scratch.offsets_of(lengths.column()))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            chosen = range(*index.indices(len(self)))
            return tuple(self._from(chosen.start, chosen.stop) if chosen.step == 1 else map(self.__getitem__, chosen))
        at = range(len(self))[index]
        return self.content[self.offsets[at] : self.offsets[at + 1]].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return self._from(0, len(self))

    def _from(self, begin: int, end: int) -> Iterator[str]:
        for part in self._parts(begin, end):
            text = self.content[part[0] : part[-1]].tobytes()
            for first, last in pairwise((part - part[0]).tolist()):
                yield text[first:last].decode("utf-8", "surrogatepass")

    def _parts(self, begin: int, end: int) -> Iterator[Int64Array]:
        """The offsets of neighbouring strings that are made at once, each with the first of the next one; what lies in
        files is let go after each part but the last.
        """
        while begin < end:
            bounds = self.offsets[begin : min(begin + _STRINGS_AT_ONCE, end) + 1]
            n = max(1, int(np.searchsorted(bounds, bounds[0] + _TEXT_AT_ONCE, side="right")) - 1)
            yield bounds[: n + 1]
            begin += n
            if begin < end:
                scratch.let_go()

    def take(self, chosen: Int64Array) -> StringColumn:
        """The column of these strings, in this order."""
        content = scratch.Growing(np.uint8)
        lengths = scratch.filled(
            len(chosen), np.int64, lambda block: self.offsets[chosen[block] + 1] - self.offsets[chosen[block]]
        )
        for block in scratch.blocks(len(chosen), _STRINGS_AT_ONCE):
            content.append(self.content[ragged_rows(self.offsets[chosen[block]], lengths[block])])
        return StringColumn(content.column(), scratch.offsets_of(lengths))


@dataclass(frozen=True)
class ValueTable:
    """What the variable parts of messages were, CSR style: event i has the rows `offsets[i]:offsets[i + 1]`.

    They are in the order of the masks and wildcards of its template, one for each, at most `MAX_VALUES`: the slots.
    """

    offsets: Int64Array
    number: Float32Array  # sizes and durations in one unit; NaN where the value is no number
    key: Int32Array  # a hash of the value's text

    def __post_init__(self) -> None:
        check_column("number", self.number, np.float32)
        check_column("key", self.key, np.int32, len(self.number))
        check_offsets("offsets of values", self.offsets, len(self.number))
        if any(np.diff(part).max(initial=0) > MAX_VALUES for part in rows_and_next(self.offsets)):
            raise ValueError(f"an event has more than {MAX_VALUES} values")

    @classmethod
    def none(cls, n_events: int) -> ValueTable:
        """Events of which no values are known."""
        return cls(np.zeros(n_events + 1, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def event(self) -> Int64Array:
        """Which event each value is of."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def slot(self) -> Int64Array:
        """Which slot of its event each value is in."""
        return np.arange(len(self.number)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))

    def take(self, events: Int64Array) -> ValueTable:
        """The table of these events, in this order; neighbours in their order are a view, not a copy."""
        if _are_neighbours(events):
            begin, end = int(events[0]), int(events[-1]) + 1
            rows = slice(self.offsets[begin], self.offsets[end])
            return ValueTable(self.offsets[begin : end + 1] - self.offsets[begin], self.number[rows], self.key[rows])
        counts = scratch.filled(
            len(events), np.int8, lambda block: self.offsets[events[block] + 1] - self.offsets[events[block]]
        )
        number, key = scratch.Growing(np.float32), scratch.Growing(np.int32)
        for block in scratch.blocks(len(events)):
            taken = ragged_rows(self.offsets[events[block]], counts[block])
            number.append(self.number[taken])
            key.append(self.key[taken])
        return ValueTable(scratch.offsets_of(counts), number.column(), key.column())


@dataclass(frozen=True)
class SourceSpan:
    """One input file and where its events begin; its events end where the next file's begin."""

    path: str
    first_event: int
    n_lines: int
    n_bytes: int


class EventTally(NamedTuple):
    """Of each event id, (n_templates,) int64: messages, and the row of the first, -1 where there is none."""

    counts: Int64Array
    first: Int64Array


@dataclass(frozen=True)
class EventTable:
    """One row a message, in input order (a multi-line message is one row).

    A message's last line is the line before the next message of the same file. Raw text is not held: a report rereads
    it by `offset`. Event ids below `n_known` are the model's vocabulary; the others are messages that no template
    matched, one id for each distinct masked text, so that an unseen event keeps its words.
    """

    offset: Int64Array  # byte offset in the (decompressed) file
    line: Int32Array  # first line in its file, from 1
    timestamp: Int64Array  # ns since the epoch, UTC; NO_TIME where absent
    event_id: Int32Array
    session_id: Int32Array  # index into session_keys; NO_SESSION where the line has no key
    level: Int8Array  # index into LEVELS
    templates: tuple[str, ...]  # text by event id
    n_known: int
    session_keys: Sequence[str]
    sources: tuple[SourceSpan, ...]
    counters: Mapping[str, int] = field(default_factory=dict)  # what ingest met: lines, undecodable, truncated, ...
    values: ValueTable = field(default_factory=lambda: ValueTable.none(0))  # of each event, or of none

    def __post_init__(self) -> None:
        n = len(self.offset)
        columns: tuple[tuple[str, np.ndarray, type], ...] = (
            ("offset", self.offset, np.int64),
            ("line", self.line, np.int32),
            ("timestamp", self.timestamp, np.int64),
            ("event_id", self.event_id, np.int32),
            ("session_id", self.session_id, np.int32),
            ("level", self.level, np.int8),
        )
        for name, column, dtype in columns:
            check_column(name, column, dtype, n)
        for name, column, low, n_known in (
            ("event_id must index templates", self.event_id, 0, len(self.templates)),
            ("session_id must index session_keys", self.session_id, NO_SESSION, len(self.session_keys)),
        ):
            if n and not low <= _range(column)[0] <= _range(column)[1] < n_known:
                raise ValueError(name)
        if not 0 <= self.n_known <= len(self.templates):
            raise ValueError("n_known must lie between 0 and the number of templates")
        if len(self.values) not in (0, n):
            raise ValueError(f"values of {len(self.values)} events, expected {n}")

    def __len__(self) -> int:
        return len(self.offset)

    @cached_property
    def tally(self) -> EventTally:
        """How often each event occurs, and where first."""
        n = len(self.templates)
        counts, first = np.zeros(n, np.int64), np.full(n, -1, np.int64)
        place = np.empty(n, np.int64)
        for block in scratch.blocks(len(self)):
            events = self.event_id[block]
            own = np.bincount(events, minlength=n)
            place[events[::-1]] = np.arange(block.stop - 1, block.start - 1, -1)
            new = np.flatnonzero((own > 0) & (counts == 0))
            first[new] = place[new]
            counts += own
        return EventTally(counts, first)

    def source_of(self, row: int) -> SourceSpan:
        """The file that event `row` was read from."""
        return self.sources[bisect_right(self._starts, row) - 1]

    @cached_property
    def _starts(self) -> list[int]:
        return [source.first_event for source in self.sources]

    def last_line(self, row: int) -> int:
        """The last line (from 1) of the message in `row`, continuation lines included."""
        source = self.source_of(row)
        if row + 1 < len(self) and self.source_of(row + 1) is source:
            return int(self.line[row + 1]) - 1
        return source.n_lines


@dataclass(frozen=True)
class SessionTable:
    """Sessions as rows of an EventTable, CSR style: session i holds `rows[offsets[i]:offsets[i + 1]]`.

    Rows of a session are in input order; windows may share rows, so overlap needs no special case.
    """

    keys: Sequence[str]
    offsets: Int64Array
    rows: Int64Array

    def __post_init__(self) -> None:
        check_column("rows", self.rows, np.int64)
        check_offsets("offsets", self.offsets, len(self.rows))
        if len(self.keys) != len(self.offsets) - 1:
            raise ValueError(f"{len(self.keys)} keys for {len(self.offsets) - 1} sessions")

    def __len__(self) -> int:
        return len(self.keys)

    def rows_of(self, session: int) -> Int64Array:
        """Event rows of one session."""
        return self.rows[self.offsets[session] : self.offsets[session + 1]]


@dataclass(frozen=True)
class SequenceTable:
    """What the encoder and the views see of sessions: event ids and the seconds since the event before.

    Session i is `event_id[offsets[i]:offsets[i + 1]]`; `gap_s` is NaN for a first event and where a time is missing.
    """

    offsets: Int64Array
    event_id: Int32Array
    gap_s: Float32Array

    def __post_init__(self) -> None:
        check_column("event_id", self.event_id, np.int32)
        check_column("gap_s", self.gap_s, np.float32, len(self.event_id))
        check_offsets("offsets", self.offsets, len(self.event_id))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64Array:
        """Number of events of each session, (n_sessions,) int64."""
        return np.diff(self.offsets)

    def session(self, index: int) -> Int32Array:
        """Event ids of one session."""
        return self.event_id[self.offsets[index] : self.offsets[index + 1]]

    def take(self, sessions: Int64Array) -> SequenceTable:
        """The table of these sessions, in this order; neighbours in their order are a view, not a copy."""
        if _are_neighbours(sessions):
            begin, end = int(sessions[0]), int(sessions[-1]) + 1
            rows = slice(self.offsets[begin], self.offsets[end])
            own = self.offsets[begin : end + 1] - self.offsets[begin]
            return SequenceTable(own, self.event_id[rows], self.gap_s[rows])
        lengths = scratch.filled(
            len(sessions), np.int64, lambda block: self.offsets[sessions[block] + 1] - self.offsets[sessions[block]]
        )
        event_id, gap_s = scratch.Growing(np.int32), scratch.Growing(np.float32)
        for block in scratch.blocks(len(sessions), _SESSIONS_AT_ONCE):
            taken = ragged_rows(self.offsets[sessions[block]], lengths[block])
            event_id.append(self.event_id[taken])
            gap_s.append(self.gap_s[taken])
        return SequenceTable(scratch.offsets_of(lengths), event_id.column(), gap_s.column())


@dataclass(frozen=True)
class ScoreTable:
    """Scores of sessions, in input order; higher is more abnormal everywhere.

    `raw` and `p_values` have one column per component, named `<detector>:<view>`.
    """

    score: Float64Array  # calibrated, in [0, 1], monotone in the fused p-value
    p_value: Float64Array  # share of held-out normal sessions at least as extreme
    is_anomaly: BoolArray  # score >= threshold
    threshold: float  # on the scale of score
    raw: Mapping[str, Float64Array]
    p_values: Mapping[str, Float64Array]

    def __post_init__(self) -> None:
        n = len(self.score)
        check_column("score", self.score, np.float64, n)
        check_column("p_value", self.p_value, np.float64, n)
        check_column("is_anomaly", self.is_anomaly, np.bool_, n)
        if set(self.raw) != set(self.p_values):
            raise ValueError("raw and p_values must name the same components")
        for name in self.raw:
            check_column(name, self.raw[name], np.float64, n)
            check_column(name, self.p_values[name], np.float64, n)

    def __len__(self) -> int:
        return len(self.score)
