"""Messages as columns, on the way from the lines of a log to its events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ai_detect.ingest.byte_shapes import LONGEST_SHAPE
from ai_detect.ingest.byte_texts import GROWTH
from ai_detect.ingest.line_shapes import LineShapes, put_known_text
from ai_detect.tables import Int8Array, Int32Array, Int64Array


@dataclass(frozen=True)
class MessageBlock:
    """Neighbouring messages, of one file or of several; text i is `data[begins[i]:ends[i]]`, UTF-8 with surrogates
    passed, and `byte_words.SLACK` bytes follow the last. All is there until the next block is asked for.

    A text is left out (it is never empty) where `LineShapes.of_text` says that its line is enough, which begins at
    `lines[begins[i]]`.
    """

    offset: Int64Array  # bytes, in the decompressed file
    line: Int32Array  # first line, from 1
    timestamp: Int64Array  # ns since the epoch, UTC; NO_TIME where absent
    level: Int8Array  # index into tables.LEVELS
    session: Int32Array  # number of the key; NO_SESSION where there is none
    data: np.ndarray  # uint8
    begins: Int64Array
    ends: Int64Array
    lines: np.ndarray  # uint8
    shape: Int32Array  # of the line, which says how the text is cut from it; NO_SHAPE where it does not
    shapes: LineShapes

    def __len__(self) -> int:
        return len(self.offset)

    def text(self, row: int) -> str:
        """One text."""
        data, begin, end = self.data, int(self.begins[row]), int(self.ends[row])
        if begin == end:
            found = self.shapes.found[self.shape[row]]
            data, begin = np.empty(GROWTH * LONGEST_SHAPE, np.uint8), 0
            end = put_known_text(self.lines, int(self.begins[row]), found, data, 0)
        return data[begin:end].tobytes().decode("utf-8", "surrogatepass")
