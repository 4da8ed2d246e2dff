"""Lines become messages: header split off, continuation lines joined, session key found.

The text of a message is what is mined. It is never empty, holds no line break, and is at most `MAX_TEXT_CHARS` long.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice

from ai_detect.config import InputSettings
from ai_detect.errors import ConfigError, DataError
from ai_detect.ingest.log_format import Attributes, LogFormat, Scanner, resolve_format
from ai_detect.ingest.log_reader import LineBlock, read_blocks
from ai_detect.ingest.log_sources import LogSource, log_series
from ai_detect.ingest.session_keys import KeyFinder, file_keys, find_by_field, find_by_regex, without_key
from ai_detect.ingest.timestamps import ClockState, TimeParser
from ai_detect.tables import NO_TIME

logger = logging.getLogger(__name__)

MAX_TEXT_CHARS = 8192
EMPTY_TEXT = "<EMPTY>"
_BATCH_MESSAGES = 4096
_SAMPLE_LINES = 1000
_SAMPLE_FILES = 20

#: Stack frames of Java, .NET, JavaScript, Python, Go, PHP and gdb: which ones there are says little and varies much.
STACK_FRAME = re.compile(
    r'\s+at \S|\s*\.\.\. \d+ (?:more|common|frames)|\s+File ".*", line \d|\s+\S+\.go:\d|\s*#\d+\s+(?:0x|/)'
    r"|\s*[~^]+\s*$"
)
PYTHON_FRAME = re.compile(r'\s+File ".*", line \d')
_NATURAL_FIELDS = {"postgresql": "session", "openstack": "request", "nginx_error": "connection"}


@dataclass
class MessageBatch:
    """Neighbouring messages of one file; parallel lists, one entry a message."""

    source: int  # index into the reader's sources
    offset: list[int] = field(default_factory=list)  # bytes, in the decompressed file
    line: list[int] = field(default_factory=list)  # first line, from 1
    timestamp: list[int] = field(default_factory=list)  # ns since the epoch, UTC; NO_TIME where absent
    level: list[int] = field(default_factory=list)  # index into tables.LEVELS
    session_key: list[str | None] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.text)


@dataclass
class IngestCounters:
    """What reading met; every line is a blank one, the first of a message, or a continuation."""

    n_lines: int = 0
    n_bytes: int = 0  # decompressed
    n_messages: int = 0
    n_blank: int = 0
    n_continuation: int = 0
    n_no_header: int = 0  # messages
    n_no_session: int = 0  # messages without a key, where one was asked for
    n_undecodable: int = 0  # lines
    n_truncated: int = 0  # lines longer than whole_lines.MAX_LINE_BYTES
    n_shortened: int = 0  # messages whose text was cut to MAX_TEXT_CHARS
    n_out_of_order: int = 0  # messages with a time before that of the message before them in their file

    def as_dict(self) -> dict[str, int]:
        """The counters by name."""
        return asdict(self)


@dataclass(frozen=True)
class SourceStats:
    """What one file held."""

    path: str
    n_lines: int
    n_bytes: int
    n_messages: int


@dataclass(frozen=True)
class PartOfLog:
    """What the reader of a part of a log is told by who knows the whole."""

    layout: LogFormat
    file_key: str  # of the part's file
    clock: ClockState  # as the lines before left it


class MessageReader:
    """Reads all messages of all sources when iterated; `counters` and `files` are those of the last time."""

    def __init__(
        self,
        sources: Sequence[LogSource],
        settings: InputSettings,
        *,
        part: PartOfLog | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Resolve the layout on the first lines; `on_progress` is told how many more stored bytes were read.

        Of a `part`, the only source, nothing is asked: it may hold no message. Raises ConfigError for a layout or field
        that does not fit these lines, DataError where there are none.
        """
        if not sources:
            raise DataError("no log to read")
        self.sources = tuple(sources)
        self.settings = settings
        self.counters = IngestCounters()
        self.files: list[SourceStats] = []
        self.has_keys = settings.session_regex is not None or settings.session_field is not None
        self._on_progress = on_progress
        self._part = part
        self.clock = TimeParser()  # of the files that are read
        if part is not None:
            self._file_keys, self.format = {self.sources[0].path: part.file_key}, part.layout
            return
        self._file_keys = file_keys(self.sources)
        sample = _sample(self.sources, settings.encoding)
        self._first_line = next((line for line in sample if line.strip()), None)
        self.format = resolve_format(settings.log_format, sample, settings.message_field)
        if settings.session_field is not None and settings.session_field not in self.format.fields:
            there_are = f"there are: {', '.join(self.format.fields)}" if self.format.fields else "it has no fields"
            name = settings.session_field
            raise ConfigError(f"--session_field {name}: the layout '{self.format.name}' lacks it; {there_are}")

    def __iter__(self) -> Iterator[MessageBatch]:
        """Batches of about 4,096 messages, in order; a batch never crosses a file.

        Raises DataError at the end where no line held a message or a session key.
        """
        self.begin()
        series: str | None = None
        scan = self.new_scanner()
        for index, source in enumerate(self.sources):
            if log_series(source.path) != series:  # the year of a date without one goes on through rotated files
                series, scan = log_series(source.path), self.new_scanner()
            with self.reading(source.path):
                yield from self._batches(index, scan)
        self.check_result()

    def begin(self) -> IngestCounters:
        """Forget what was read before; returns the new counters."""
        self.counters = IngestCounters()
        self.files = []
        return self.counters

    def new_scanner(self) -> Scanner:
        """A scanner whose clock begins anew, or in a part goes on from the lines before."""
        self.clock = TimeParser() if self._part is None else TimeParser(self._part.clock)
        return self.format.new_scanner(self.clock)

    @contextmanager
    def reading(self, path: str) -> Iterator[None]:
        """Count what is read of one file, and list it when it was read to its end."""
        counters = self.counters
        n_lines, n_bytes, n_messages = counters.n_lines, counters.n_bytes, counters.n_messages
        yield
        self.files.append(
            SourceStats(path, counters.n_lines - n_lines, counters.n_bytes - n_bytes, counters.n_messages - n_messages)
        )

    def _batches(self, index: int, scan: Scanner) -> Iterator[MessageBatch]:
        source = self.sources[index]
        taker = self.line_taker(index, scan)
        take = taker.take
        for block in self._blocks(source):
            number = block.first_line - 1
            for offset, line in zip(block.offsets, block.lines, strict=True):
                number += 1
                if len(taker.batch.text) > _BATCH_MESSAGES:
                    yield self._counted(taker.split())
                take(offset, number, line)
        taker.close()
        if taker.batch.text:
            yield self._counted(taker.batch)

    def line_taker(self, index: int, scan: Scanner) -> LineTaker:
        """What makes messages of the lines of one source."""
        return LineTaker(index, self.settings, self.format, self.counters, self._key_finder(self.sources[index]), scan)

    def _counted(self, batch: MessageBatch) -> MessageBatch:
        self.counters.n_no_session += batch.session_key.count(None) if self.has_keys else 0
        return batch

    def _blocks(self, source: LogSource) -> Iterator[LineBlock]:
        """The blocks of one file, counted."""
        counters, stored = self.counters, 0
        for block in read_blocks(source, self.settings.encoding):
            counters.n_lines += len(block.lines)
            counters.n_bytes += block.end_offset - block.offsets[0]
            counters.n_undecodable += block.n_undecodable
            counters.n_truncated += block.n_truncated
            self.note_progress(block.stored_bytes - stored)
            stored = block.stored_bytes
            yield block

    def note_progress(self, n_bytes: int) -> None:
        """Tell who wants to know that so many more stored bytes were read."""
        if self._on_progress is not None:
            self._on_progress(n_bytes)

    def file_key(self, source: LogSource) -> str:
        """The session key that the file's name is."""
        return self._file_keys[source.path]

    def _key_finder(self, source: LogSource) -> KeyFinder | None:
        settings = self.settings
        if settings.session_regex is not None:
            return find_by_regex(settings.session_regex)
        if settings.session_field is not None:
            return find_by_field(settings.session_field)
        if settings.session_by_file:
            name = self._file_keys[source.path]
            return lambda line, attributes, text: (name, text)
        return None

    def check_result(self) -> None:
        """Raise DataError where no line held a message or a session key; a part need not."""
        if self._part is None:
            self.check_counted(self.counters)

    def check_counted(self, counters: IngestCounters) -> None:
        """Raise DataError where no line that was counted held a message or a session key."""
        names = ", ".join(source.path for source in self.sources[:3]) + (", ..." if len(self.sources) > 3 else "")
        if counters.n_messages == 0:
            raise DataError(f"{names}: holds no message, only {counters.n_lines} blank lines")
        if self.has_keys and counters.n_no_session == counters.n_messages:
            asked = (
                f"--session_regex {self.settings.session_regex} matches no line"
                if self.settings.session_regex is not None
                else f"--session_field {self.settings.session_field} is empty on every line"
            )
            raise DataError(f"{names}: {asked}; the first line is {self._first_line!r:.200}")
        if counters.n_no_session:
            logger.warning("%d of %d messages have no session key", counters.n_no_session, counters.n_messages)


class LineTaker:
    """Makes messages of lines that are given one by one; of the last message in `batch` more lines may come."""

    def __init__(
        self,
        source: int,
        settings: InputSettings,
        layout: LogFormat,
        counters: IngestCounters,
        find_key: KeyFinder | None,
        scan: Scanner,
    ) -> None:
        self.batch = MessageBatch(source)
        self.has_header = False  # the last message
        self.last_time = NO_TIME
        self._tail: _Tail | None = None  # continuation lines of the last message
        self._scan = scan
        self._find_key = find_key
        self._counters = counters
        self._join = settings.join_lines and layout.has_headers
        self._is_by_file = settings.session_by_file

    @property
    def is_joining(self) -> bool:
        """Whether the last message has continuation lines that are not yet in its text."""
        return self._tail is not None

    def split(self) -> MessageBatch:
        """The batch but for its last message, which stays."""
        last, batch = MessageBatch(self.batch.source), self.batch
        for name in ("offset", "line", "timestamp", "level", "session_key", "text"):
            getattr(last, name).append(getattr(batch, name).pop())
        self.batch = last
        return batch

    def take(self, offset: int, number: int, line: str) -> Attributes:
        """Take the next line; returns the fields of its header."""
        counters, batch, find_key = self._counters, self.batch, self._find_key
        if not line or line.isspace():
            counters.n_blank += 1
            return None
        scanned = self._scan(line)
        if scanned is None and self._join and self.has_header:
            counters.n_continuation += 1
            if self._tail is None:
                self._tail = _Tail()
            self._tail.add(line)
            if find_key is not None and batch.session_key[-1] is None:
                batch.session_key[-1] = find_key(line, None, line)[0]
            return None
        self.close()
        if scanned is None:
            counters.n_no_header += 1
            timestamp, level, text, attributes = NO_TIME, 0, line, None
            self.has_header = False
        else:
            timestamp, level, text, attributes = scanned
            self.has_header = True
            if timestamp != NO_TIME:
                counters.n_out_of_order += timestamp < self.last_time
                self.last_time = timestamp
        if "\n" in text:  # only JSON can say so
            text, *rest = text.split("\n")
            self._tail = _Tail()
            for part in rest:
                self._tail.add(part)
        key = None
        if find_key is not None:
            key, text = find_key(line, attributes, text)
        if len(text) > MAX_TEXT_CHARS:
            counters.n_shortened += 1
            text = text[:MAX_TEXT_CHARS]
        batch.offset.append(offset)
        batch.line.append(number)
        batch.timestamp.append(timestamp)
        batch.level.append(level)
        batch.session_key.append(key)
        batch.text.append(text.strip() or EMPTY_TEXT)
        counters.n_messages += 1
        return attributes

    def close(self) -> None:
        """Put the continuation lines into the text of the batch's last message."""
        if self._tail is None:
            return
        tail, batch, self._tail = self._tail, self.batch, None
        first = [] if batch.text[-1] == EMPTY_TEXT else [batch.text[-1]]
        text = " ".join(" ".join(first + tail.kept).split()) or EMPTY_TEXT
        key = batch.session_key[-1]
        if key is not None and not self._is_by_file:
            text = without_key(text, key, False) or EMPTY_TEXT
        if tail.is_full or len(text) > MAX_TEXT_CHARS:
            self._counters.n_shortened += 1
        batch.text[-1] = text[:MAX_TEXT_CHARS]


def natural_session_field(layout: LogFormat) -> str | None:
    """The field of this layout that makes good sessions, if it has one: a connection, a request."""
    return _NATURAL_FIELDS.get(layout.name)


class _Tail:
    """The lines of a message after its first that are mined: no stack frames, no more than the text can hold."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.is_full = False
        self._n_chars = 0
        self._after_python_frame = False

    def add(self, line: str) -> None:
        """Take the line if it says something."""
        if self._after_python_frame and line.startswith("    "):  # the source line that Python shows below a frame
            self._after_python_frame = False
            return
        self._after_python_frame = PYTHON_FRAME.match(line) is not None
        if STACK_FRAME.match(line):
            return
        if self._n_chars > MAX_TEXT_CHARS:
            self.is_full = True
            return
        self._n_chars += len(line)
        self.kept.append(line[: MAX_TEXT_CHARS + 1])


def _sample(sources: Sequence[LogSource], encoding: str) -> list[str]:
    """The first lines of up to 20 files spread over all."""
    chosen = sources[:: max(1, -(-len(sources) // _SAMPLE_FILES))]
    lines: list[str] = []
    for source in chosen:
        wanted = _SAMPLE_LINES // len(chosen)
        with closing(read_blocks(source, encoding)) as blocks:
            for block in blocks:
                lines += islice((line for line in block.lines if line.strip()), wanted)
                break
    return lines
