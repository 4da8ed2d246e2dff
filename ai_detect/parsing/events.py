"""From messages to the columns of an EventTable, in one pass over the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.parsing.values import MaskedValues
from ai_detect.tables import NO_SESSION, EventTable, Int32Array, SourceSpan

if TYPE_CHECKING:
    from ai_detect.ingest.messages import MessageReader


def learn_events(reader: MessageReader, miner: TemplateMiner) -> EventTable:
    """Mine templates from the log line by line, freeze them, and give every message the event that `match` finds.

    Training and scoring so use one function. Ids from `n_known` on occur only where `max_clusters` made Drain forget
    templates.
    """
    return _read_events(reader, miner, miner.learn)


def match_events(reader: MessageReader, miner: TemplateMiner) -> EventTable:
    """Give every message the event of its frozen template; each distinct text that none matches is an event of its own.

    Raises NotFittedError where the miner's templates are not frozen.
    """
    return _read_events(reader, miner, None)


def _read_events(
    reader: MessageReader, miner: TemplateMiner, learn: Callable[[Sequence[str]], list[int]] | None
) -> EventTable:
    texts: dict[str, int] = {}  # distinct masked texts, numbered in order of appearance; session keys likewise
    session_keys: dict[str, int] = {}
    batches: list[tuple[NDArray[Any], ...]] = []
    values: list[MaskedValues] = []
    for batch in reader:
        masked, masked_values = miner.mask(batch.text)
        values.append(masked_values)
        if learn is not None:
            learn(masked)
        batches.append(
            (
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
            )
        )
    if learn is not None:
        miner.freeze()
    event_of_text, templates = _events_of_texts(texts, miner)
    offset, line, timestamp, text_id, session_id, level = _join(batches)
    first_events = np.cumsum([0] + [source.n_messages for source in reader.files]).tolist()
    return EventTable(
        offset=offset,
        line=line,
        timestamp=timestamp,
        event_id=event_of_text[text_id],
        session_id=session_id,
        level=level,
        templates=templates,
        n_known=len(miner.templates),
        session_keys=tuple(session_keys),
        sources=tuple(
            SourceSpan(source.path, first_event, source.n_lines, source.n_bytes)
            for source, first_event in zip(reader.files, first_events[:-1], strict=True)
        ),
        counters=reader.counters.as_dict(),
        values=miner.slot_plan(tuple(texts), event_of_text).fill(text_id, MaskedValues.join(values)),
    )


def _events_of_texts(texts: Iterable[str], miner: TemplateMiner) -> tuple[Int32Array, tuple[str, ...]]:
    """Event ids of distinct masked texts, and the text of every event; unseen texts that differ in blanks are one."""
    known = miner.templates
    unseen: dict[str, int] = {}
    events = []
    for text in texts:
        event = miner.match(text)
        if event < 0:
            event = unseen.setdefault(" ".join(text.split()), len(known) + len(unseen))
        events.append(event)
    return np.array(events, np.int32), known + tuple(unseen)


def _join(batches: list[tuple[NDArray[Any], ...]]) -> Iterable[NDArray[Any]]:
    empty = tuple(np.zeros(0, dtype) for dtype in (np.int64, np.int32, np.int64, np.int32, np.int32, np.int8))
    return (np.concatenate(column) for column in zip(empty, *batches, strict=True))
