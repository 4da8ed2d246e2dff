"""The values of a whole training log in files, and their groups one after another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ai_detect import scratch
from ai_detect.detectors.value_slots import Observed
from ai_detect.tables import Int64Array

#: Values that are fitted at once, unless one group has more; only memory depends on it.
_TOGETHER = 1 << 16


class ObservedColumns:
    """What was observed in blocks of sessions, one block after another."""

    def __init__(self, of_words: bool) -> None:
        dtypes = (np.int64, np.int64, np.int64, np.int64, np.int64 if of_words else np.float64)
        self._columns = [scratch.Growing(dtype) for dtype in dtypes]
        self._n_rows = scratch.Growing(np.int64)

    def append(self, observed: Observed, first_event: int, first_session: int) -> None:
        """Add a block of sessions; its events and sessions are numbered from these on."""
        self._n_rows.append(np.array([len(observed.row)]))
        placed = observed._replace(row=observed.row + first_event, session=observed.session + first_session)
        for column, values in zip(self._columns, placed, strict=True):
            column.append(values)

    def whole(self) -> tuple[Observed, Int64Array]:
        """All that was appended, and where each block begins, (n_blocks + 1,)."""
        return Observed(*(column.column() for column in self._columns)), scratch.offsets_of(self._n_rows.column())


def in_groups(group: Int64Array, n_groups: int) -> Iterator[Int64Array]:
    """Rows of neighbouring groups, ascending; every group is in one piece. One piece at least."""
    offsets, rows = scratch.grouped(
        n_groups, len(group), lambda block: (np.arange(block.start, block.stop), group[block])
    )
    begin = 0
    while begin < max(n_groups, 1):
        end = int(np.searchsorted(offsets, offsets[begin] + _TOGETHER, side="right")) - 1
        end = min(max(end, begin + 1), len(offsets) - 1)
        yield rows[offsets[begin] : offsets[end]]
        scratch.let_go()
        begin = max(end, begin + 1)
