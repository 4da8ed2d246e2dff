"""Labels of sessions, from a CSV file or from the lines themselves; read by evaluation only, never by training."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ai_detect.errors import ConfigError, DataError
from ai_detect.ingest.log_reader import read_blocks
from ai_detect.ingest.log_sources import LogSource, find_sources
from ai_detect.tables import EventTable, Int8Array, SessionTable

logger = logging.getLogger(__name__)

#: A session of which nothing is known.
UNLABELLED = -1
_VALUES = {
    **dict.fromkeys(("normal", "0", "0.0", "false", "no", "-", "benign", "success"), 0),
    **dict.fromkeys(("anomaly", "anomalous", "abnormal", "1", "1.0", "true", "yes", "fail", "failure"), 1),
}
_KEY_COLUMNS = ("session", "blockid", "session_id", "block_id", "sessionid", "key", "id")
_LABEL_COLUMNS = ("label", "is_anomaly", "anomaly", "class")


def read_label_file(path: str | Path) -> dict[str, int]:
    """Session key -> 1 anomaly, 0 normal, from CSV `session,label` (also `BlockId,Label`; also without a heading).

    Raises DataError naming the line of anything that is not a label, and of a session with two labels.
    """
    if Path(path).is_dir():
        raise DataError(f"{path}: is a folder; name the CSV file with the labels")
    lines = [line for source in find_sources(path) for block in read_blocks(source) for line in block.lines]
    rows = csv.reader(lines)
    labels: dict[str, int] = {}
    key_column, label_column = 0, 1
    try:
        for row in rows:
            if not row or not "".join(row).strip():
                continue
            if not labels and rows.line_num == 1 and row[-1].strip().lower() not in _VALUES:
                key_column, label_column = _columns(row, path)
                continue
            if len(row) <= max(key_column, label_column):
                raise DataError(
                    f"{path}:{rows.line_num}: expected a session and its label, found {','.join(row)[:100]!r}"
                )
            key, text = row[key_column].strip(), row[label_column].strip()
            label = _VALUES.get(text.lower())
            if label is None:
                raise DataError(f"{path}:{rows.line_num}: {text[:100]!r} is no label; use Normal or Anomaly, 0 or 1")
            if labels.setdefault(key, label) != label:
                raise DataError(f"{path}:{rows.line_num}: session {key[:100]!r} is labelled both normal and anomalous")
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: not CSV ({error})") from error
    if not labels:
        raise DataError(f"{path}: holds no labels; expected lines like 'session,label' and 'blk_1,Anomaly'")
    return labels


def labels_for(keys: Sequence[str], labels: Mapping[str, int], path: str | Path) -> Int8Array:
    """The label of each session, (n_sessions,) int8; UNLABELLED where the file has none.

    Raises DataError where no session has a label.
    """
    found = np.fromiter((labels.get(key, UNLABELLED) for key in keys), np.int8, len(keys))
    n_missing = int(np.count_nonzero(found == UNLABELLED))
    if n_missing == len(keys):
        example = f"the log has {keys[0]!r:.100}" if keys else "the log has no session"
        raise DataError(
            f"{path}: labels none of the {len(keys)} sessions ({example}, the file {next(iter(labels), '')!r:.100}); "
            "check --session_regex and the first column"
        )
    if n_missing:
        logger.warning(
            "%s: %d of %d sessions (%.1f %%) have no label", path, n_missing, len(keys), 100 * n_missing / len(keys)
        )
    return found


def labels_by_regex(
    regex: str, sources: Sequence[LogSource], events: EventTable, sessions: SessionTable, encoding: str = "utf-8"
) -> Int8Array:
    """Labels from lines that carry their own, (n_sessions,) int8: 1 where a line of the session matches.

    `sources` are those that `events` was made from. Raises ConfigError for a bad
    pattern, DataError where no line matches.
    """
    try:
        search = re.compile(regex).search
    except re.error as error:
        raise ConfigError(f"--label_regex {regex}: not a regular expression ({error})") from error
    if [source.path for source in sources] != [span.path for span in events.sources]:
        raise ValueError("the events were read from other sources")
    is_marked = np.zeros(len(events), np.bool_)
    first_line = ""
    for index, source in enumerate(sources):
        begin = events.sources[index].first_event
        end = events.sources[index + 1].first_event if index + 1 < len(sources) else len(events)
        marked = []
        for block in read_blocks(source, encoding):
            first_line = first_line or block.lines[0]
            marked += [number for number, line in enumerate(block.lines, block.first_line) if search(line)]
        rows = np.searchsorted(events.line[begin:end], np.asarray(marked, np.int32), side="right") - 1
        is_marked[begin + rows[rows >= 0]] = True
    if not is_marked.any():
        raise DataError(f"--label_regex {regex}: matches no line; the first line is {first_line!r:.200}")
    # reduceat needs no empty rows: a count of marked rows up to each border has no such case
    marked_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_marked[sessions.rows])])
    return (marked_before[sessions.offsets[1:]] > marked_before[sessions.offsets[:-1]]).astype(np.int8)


def _columns(heading: Sequence[str], path: str | Path) -> tuple[int, int]:
    names = [name.strip().lower() for name in heading]
    key = next((names.index(name) for name in _KEY_COLUMNS if name in names), None)
    label = next((names.index(name) for name in _LABEL_COLUMNS if name in names), None)
    if key is not None and label is not None:
        return key, label
    raise DataError(
        f"{path}:1: the heading {','.join(heading)[:100]!r} needs the columns session and label (or BlockId and Label)"
    )
