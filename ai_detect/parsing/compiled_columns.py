"""A log's messages as columns by compiled code, with the results of plain `MessageReader`, `Masks` and Drain.

Whatever only Python can do (a layout, a session key, masks of one's own) is done by Python here too; the rest stays
fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ai_detect.ingest.byte_dictionary import ByteDictionary
from ai_detect.ingest.byte_regex import UnknownPattern
from ai_detect.ingest.byte_shapes import NO_SHAPE
from ai_detect.ingest.byte_words import SLACK
from ai_detect.ingest.compiled import CAN_COMPILE, is_kept
from ai_detect.ingest.header_columns import read_columns
from ai_detect.ingest.line_scanner import scan_files
from ai_detect.ingest.line_shapes import TextPatterns, empty_line_shapes
from ai_detect.ingest.message_block import MessageBlock
from ai_detect.ingest.messages import MessageReader
from ai_detect.parsing.byte_masking import ByteMasker, mask_texts
from ai_detect.parsing.events import MessageColumns, Messages
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.parsing.values import MaskedValues
from ai_detect.tables import NO_SESSION, Int32Array

__all__ = ["CAN_COMPILE", "blocks_of", "is_ready", "masking_of", "read_messages"]


def is_ready() -> bool:
    """Whether the machine code is there, so that it starts within a second."""
    return is_kept(scan_files) and is_kept(mask_texts)


def read_messages(reader: MessageReader, miner: TemplateMiner, learns: bool) -> Messages:
    """The messages of a log, shown to the miner one by one where it `learns`."""
    texts, keys = ByteDictionary(), ByteDictionary()
    patterns, mask = masking_of(miner, texts)
    words = miner.words_of(texts)
    learner = miner.byte_learner(words) if learns else None
    columns = MessageColumns()
    for block in blocks_of(reader, keys, patterns):
        text, values = mask(block)
        if learner is not None:
            learner.add(text)
        columns.append(block.offset, block.line, block.timestamp, text, block.session, block.level, values)
    if learner is not None:
        learner.flush()
    return columns.messages(texts.strings(), keys.strings(), words)


def blocks_of(reader: MessageReader, keys: ByteDictionary, texts: TextPatterns) -> Iterator[MessageBlock]:
    """`read_columns`, by compiled code where it can read this layout."""
    try:
        return read_columns(reader, keys, texts)
    except UnknownPattern:
        return _blocks_of_batches(reader, keys)


def _blocks_of_batches(reader: MessageReader, keys: ByteDictionary) -> Iterator[MessageBlock]:
    shapes = empty_line_shapes((), TextPatterns())
    for batch in reader:
        texts = [text.encode("utf-8", "surrogatepass") for text in batch.text]
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        ends = np.cumsum(lengths)
        yield MessageBlock(
            np.array(batch.offset, np.int64),
            np.array(batch.line, np.int32),
            np.array(batch.timestamp, np.int64),
            np.array(batch.level, np.int8),
            keys.numbers_or(NO_SESSION, batch.session_key),
            np.frombuffer(bytearray(b"".join(texts) + bytes(SLACK)), np.uint8),
            ends - lengths,
            ends,
            np.zeros(0, np.uint8),
            np.full(len(texts), NO_SHAPE, np.int32),
            shapes,
        )


def masking_of(
    miner: TemplateMiner, texts: ByteDictionary
) -> tuple[TextPatterns, Callable[[MessageBlock], tuple[Int32Array, MaskedValues]]]:
    """What finds masks in texts, and what gives the masked texts of a block by number, and their values."""
    try:
        masker = ByteMasker(miner.masks, texts)
    except UnknownPattern:
        return TextPatterns(), lambda block: _masked_by_miner(block, miner, texts)
    return masker.patterns, masker.mask


def _masked_by_miner(
    block: MessageBlock, miner: TemplateMiner, texts: ByteDictionary
) -> tuple[Int32Array, MaskedValues]:
    masked, values = miner.mask([block.text(row) for row in range(len(block))])
    return texts.numbers([text.encode("utf-8", "surrogatepass") for text in masked]), values
