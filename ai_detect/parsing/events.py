"""From messages to the columns of an EventTable, in one pass over the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ai_detect import scratch
from ai_detect.ingest.log_sources import likely_bytes
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.parsing.values import GrowingValues, MaskedValues
from ai_detect.tables import (
    NO_SESSION,
    EventTable,
    Int8Array,
    Int32Array,
    Int64Array,
    SourceSpan,
    StringColumn,
    ValueTable,
)

if TYPE_CHECKING:
    from ai_detect.ingest.messages import MessageReader
    from ai_detect.parsing.text_words import TextWords

logger = logging.getLogger(__name__)

#: Bytes of a log from which on machine code that is kept is loaded (0.3 s), and is made where none is kept (twenty s).
_WORTH_LOADING = 6 << 20
_WORTH_COMPILING = 64 << 20


@dataclass(frozen=True)
class Messages:
    """The messages of a log before they have events; session keys and masked texts are numbered as they appear."""

    offset: Int64Array
    line: Int32Array
    timestamp: Int64Array
    text: Int32Array  # index into texts
    session: Int32Array  # index into session_keys; NO_SESSION where there is none
    level: Int8Array
    values: MaskedValues
    texts: Sequence[str]  # distinct
    session_keys: Sequence[str]
    words: TextWords | None = None  # of the texts, where compiled code has read the messages


class MessageColumns:
    """The messages of a log as they are read, one batch after another."""

    def __init__(self) -> None:
        dtypes = (np.int64, np.int32, np.int64, np.int32, np.int32, np.int8)
        self._columns = tuple(scratch.Growing(dtype) for dtype in dtypes)
        self._values = GrowingValues()
        self._n_held = 0

    def append(
        self,
        offset: Int64Array,
        line: Int32Array,
        timestamp: Int64Array,
        text: Int32Array,
        session: Int32Array,
        level: Int8Array,
        values: MaskedValues,
    ) -> None:
        """Add a batch."""
        batch: tuple[np.ndarray, ...] = (offset, line, timestamp, text, session, level)
        for column, rows in zip(self._columns, batch, strict=True):
            column.append(rows)
        self._values.append(values)
        self._n_held += len(offset)
        if self._n_held > scratch.BLOCK_ROWS:  # the keys that were met so far are in a file, too
            self._n_held = 0
            scratch.let_go()

    def messages(self, texts: Sequence[str], session_keys: Sequence[str], words: TextWords | None = None) -> Messages:
        """All of them; `texts`, their words and `session_keys` by number."""
        offset, line, timestamp, text, session, level = (column.column() for column in self._columns)
        values = self._values.values()
        return Messages(offset, line, timestamp, text, session, level, values, texts, session_keys, words)


def learn_events(reader: MessageReader, miner: TemplateMiner) -> EventTable:
    """Mine templates from the log line by line, freeze them, and give every message the event that `match` finds.

    Training and scoring so use one function. Ids from `n_known` on occur only where `max_clusters` made Drain forget
    templates.
    """
    messages = _read_messages(reader, miner, learns=True)
    miner.freeze()
    return event_table(messages, reader, miner)


def match_events(reader: MessageReader, miner: TemplateMiner) -> EventTable:
    """Give every message the event of its frozen template; each distinct text that none matches is an event of its own.

    Raises NotFittedError where the miner's templates are not frozen.
    """
    return event_table(_read_messages(reader, miner, learns=False), reader, miner)


def _read_messages(reader: MessageReader, miner: TemplateMiner, learns: bool) -> Messages:
    """The messages by compiled code where the log is long enough to be worth its start; the result is the same."""
    n_bytes = likely_bytes(reader.sources)
    if n_bytes >= _WORTH_LOADING:
        from ai_detect.parsing import compiled_columns

        is_ready = compiled_columns.is_ready()
        if is_ready or (n_bytes >= _WORTH_COMPILING and compiled_columns.CAN_COMPILE):
            if not is_ready:
                logger.info("compiling the parser for this machine, once; it takes some twenty seconds")
            return compiled_columns.read_messages(reader, miner, learns)
    return read_plainly(reader, miner, learns)


def read_plainly(reader: MessageReader, miner: TemplateMiner, learns: bool) -> Messages:
    """The messages of a log, shown to the miner one by one where it `learns`, by Python alone."""
    texts: dict[str, int] = {}
    session_keys: dict[str, int] = {}
    columns = MessageColumns()
    for batch in reader:
        masked, values = miner.mask(batch.text)
        if learns:
            miner.learn(masked)
        columns.append(
            np.array(batch.offset, np.int64),
            np.array(batch.line, np.int32),
            np.array(batch.timestamp, np.int64),
            np.array([texts.setdefault(text, len(texts)) for text in masked], np.int32),
            np.array(
                [
                    NO_SESSION if key is None else session_keys.setdefault(key, len(session_keys))
                    for key in batch.session_key
                ],
                np.int32,
            ),
            np.array(batch.level, np.int8),
            values,
        )
    return columns.messages(tuple(texts), StringColumn.of(session_keys))


def event_table(messages: Messages, reader: MessageReader, miner: TemplateMiner) -> EventTable:
    """The events of messages that `reader` read; the miner's templates are frozen."""
    event_of_text, templates = _events_of_texts(messages, miner)
    first_events = np.cumsum([0] + [source.n_messages for source in reader.files]).tolist()
    return EventTable(
        offset=messages.offset,
        line=messages.line,
        timestamp=messages.timestamp,
        event_id=scratch.filled(len(messages.text), np.int32, lambda block: event_of_text[messages.text[block]]),
        session_id=messages.session,
        level=messages.level,
        templates=templates,
        n_known=len(miner.templates),
        session_keys=messages.session_keys,
        sources=tuple(
            SourceSpan(source.path, first_event, source.n_lines, source.n_bytes)
            for source, first_event in zip(reader.files, first_events[:-1], strict=True)
        ),
        counters=reader.counters.as_dict(),
        values=_filled(messages, event_of_text, miner),
    )


def _filled(messages: Messages, event_of_text: Int32Array, miner: TemplateMiner) -> ValueTable:
    if messages.words is None:
        return miner.slot_plan(messages.texts, event_of_text).fill(messages.text, messages.values)
    from ai_detect.parsing.slot_filling import filled

    return filled(miner.slot_plan_of(messages.words, event_of_text), messages.text, messages.values)


def _events_of_texts(messages: Messages, miner: TemplateMiner) -> tuple[Int32Array, tuple[str, ...]]:
    """Event ids of distinct masked texts, and the text of every event; unseen texts that differ in blanks are one."""
    known, texts = miner.templates, messages.texts
    if messages.words is None:
        events = np.fromiter(map(miner.match, texts), np.int32, len(texts))
    else:
        events = miner.events_of(messages.words)
    unseen: dict[str, int] = {}
    for text in np.flatnonzero(events < 0).tolist():
        events[text] = unseen.setdefault(" ".join(texts[text].split()), len(known) + len(unseen))
    return events, known + tuple(unseen)
