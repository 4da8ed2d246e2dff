"""The events of all blocks as those of the whole log, ids and counts included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

import numpy as np

from ai_detect import scratch
from ai_detect.distributed.blocks import LogBlock
from ai_detect.ingest.messages import IngestCounters
from ai_detect.tables import NO_SESSION, NO_TIME, EventTable, Int32Array, SourceSpan, StringColumn, ValueTable

_COLUMNS = {
    "offset": np.int64,
    "line": np.int32,
    "timestamp": np.int64,
    "event_id": np.int32,
    "session_id": np.int32,
    "level": np.int8,
}
#: Of offsets, how many values each event has.
_VALUE_COLUMNS = {"offsets": np.int64, "number": np.float32, "key": np.int32}


def merge_events(
    blocks: Sequence[LogBlock], load: Callable[[int], EventTable | None], templates: Sequence[str]
) -> EventTable:
    """One table of the events that `load` gives of each block, by its number; of a block without any, only the lines
    are counted.

    Unseen events and session keys are numbered as they appear in the log, which is what a single reader does: in a
    block they are in that order already. `templates` are the known ones. Raises DataError where the lines of a block
    without events cannot be counted.
    """
    unseen: dict[str, int] = {}
    keys: dict[str, int] = {}
    columns = {name: scratch.Growing(dtype) for name, dtype in {**_COLUMNS, **_VALUE_COLUMNS}.items()}
    n_lines = [0] * (blocks[-1].file + 1)
    n_bytes, n_events = n_lines.copy(), n_lines.copy()
    counters = IngestCounters().as_dict()
    last_time: dict[int, int] = {}
    for number, block in enumerate(blocks):
        part = load(number)
        if part is None:
            n_lines[block.file] += block.count_lines()
            continue
        of_part = {name: getattr(part, name) for name in _COLUMNS}
        of_part |= {name: getattr(part.values, name) for name in _VALUE_COLUMNS}
        of_part["event_id"] = _renumbered(part.event_id, part.templates[part.n_known :], unseen, part.n_known)
        of_part["session_id"] = _renumbered(part.session_id, part.session_keys, keys, 0)
        of_part["line"] = part.line + np.int32(n_lines[block.file])
        of_part["offsets"] = np.diff(part.values.offsets)
        for name, column in of_part.items():
            columns[name].append(column)
        n_lines[block.file] += part.sources[0].n_lines
        n_bytes[block.file] += part.sources[0].n_bytes
        n_events[block.file] += len(part)
        for name, count in part.counters.items():
            counters[name] += count
        scratch.let_go()
        if len(times := part.timestamp[part.timestamp != NO_TIME]):
            counters["n_out_of_order"] += int(times[0] < last_time.get(block.file, NO_TIME))
            last_time[block.file] = int(times[-1])
    whole = {name: column.column() for name, column in columns.items()}
    paths = {block.file: block.source.path for block in blocks}
    return EventTable(
        **{name: whole[name] for name in _COLUMNS},
        templates=(*templates, *unseen),
        n_known=len(templates),
        session_keys=StringColumn.of(keys),
        sources=tuple(
            SourceSpan(path, first, n_lines[file], n_bytes[file])
            for (file, path), first in zip(paths.items(), accumulate(n_events, initial=0), strict=False)
        ),
        counters=counters,
        values=ValueTable(scratch.offsets_of(whole["offsets"]), whole["number"], whole["key"]),
    )


def _renumbered(ids: Int32Array, names: Iterable[str], numbers: dict[str, int], n_same: int) -> Int32Array:
    """The ids by which `numbers` knows these names, which grows; ids below `n_same`, and NO_SESSION, stay."""
    new = [numbers.setdefault(name, n_same + len(numbers)) for name in names]
    return np.array([*range(n_same), *new, NO_SESSION], np.int32)[ids]  # NO_SESSION is -1, the last
