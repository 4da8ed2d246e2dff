"""The lines of a session that a report shows: the guilty ones with their surroundings, the stretches between folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ai_detect.reporting.explain import Explanation
from ai_detect.reporting.findings import RawLines
from ai_detect.reporting.wording import visible
from ai_detect.tables import EventTable, Int64Array, SessionTable

#: Sessions up to this long are shown whole; of longer ones so many lines at most.
WHOLE_LINES = 24
MAX_LINES = 40
#: Lines shown on both sides of a guilty one.
CONTEXT_LINES = 3
#: A message is shown up to so many physical lines of so many characters.
MAX_PHYSICAL_LINES = 12
MAX_CHARACTERS = 500


@dataclass(frozen=True)
class ExcerptRow:
    """One row of an excerpt: a message, a fold of `n` messages, missing ones, a remark, or the file that follows."""

    mark: Literal["line", "fold", "missing", "remark", "file"]
    first_line: int = 0
    last_line: int = 0
    text: tuple[str, ...] = ()  # made visible, still to be escaped
    n: int = 0
    share: float = 0.0  # of the reasons
    notes: tuple[int, ...] = ()  # reasons, by their index, that are told at this row


def shown_positions(explanation: Explanation, n_events: int) -> list[int]:
    """Events of a session that an excerpt shows, ascending: the strongest reasons first, as far as there is room."""
    if n_events <= WHOLE_LINES:
        return list(range(n_events))
    shown = {0, n_events - 1}
    for reason in explanation.reasons:
        for place in reason.positions or (reason.slot or 0,):
            around = set(range(max(place - CONTEXT_LINES, 0), min(place + CONTEXT_LINES + 1, n_events)))
            if len(shown | around) > MAX_LINES:
                break
            shown |= around
    return sorted(shown)


def rows_of_excerpts(sessions: SessionTable, explanations: Mapping[int, Explanation]) -> Int64Array:
    """Event rows whose raw text the excerpts of these sessions need, ascending."""
    rows = [
        sessions.rows_of(session)[shown_positions(explanation, len(sessions.rows_of(session)))]
        for session, explanation in explanations.items()
    ]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *rows]))


def make_excerpt(
    events: EventTable, rows: Int64Array, explanation: Explanation, raw_lines: RawLines
) -> tuple[ExcerptRow, ...]:
    """The excerpt of one session whose events are `rows`."""
    told: dict[int, list[int]] = {}
    holes: dict[int, list[int]] = {}
    for index, reason in enumerate(explanation.reasons):
        if reason.positions:
            told.setdefault(reason.positions[0], []).append(index)
        else:
            holes.setdefault(min(reason.slot or 0, len(rows)), []).append(index)
    excerpt: list[ExcerptRow] = []
    several_files = events.source_of(int(rows[0])) is not events.source_of(int(rows[-1]))
    next_position, path = 0, None
    for position in [*shown_positions(explanation, len(rows)), len(rows)]:
        if position > next_position:
            excerpt.append(
                ExcerptRow(
                    "fold",
                    int(events.line[rows[next_position]]),
                    events.last_line(int(rows[position - 1])),
                    n=position - next_position,
                )
            )
        for index in holes.get(position, ()):
            kind = explanation.reasons[index].kind
            excerpt.append(ExcerptRow("missing" if kind == "missing" else "remark", notes=(index,)))
        next_position = position + 1
        if position == len(rows):
            break
        row = int(rows[position])
        if several_files and events.source_of(row).path != path:
            path = events.source_of(row).path
            excerpt.append(ExcerptRow("file", text=(visible(path),)))
        excerpt.append(
            ExcerptRow(
                "line",
                int(events.line[row]),
                events.last_line(row),
                _shortened(raw_lines.get(row, ())),
                share=float(explanation.event_share[position]),
                notes=tuple(told.get(position, ())),
            )
        )
    return tuple(excerpt)


def _shortened(lines: Sequence[str]) -> tuple[str, ...]:
    if not lines:
        return ("(this line could not be read again)",)
    shown = []
    for line in lines[:MAX_PHYSICAL_LINES]:
        more = len(line) - MAX_CHARACTERS
        shown.append(visible(line) if more <= 0 else f"{visible(line[:MAX_CHARACTERS])} … {more:,} more characters")
    if len(lines) > MAX_PHYSICAL_LINES:
        shown.append(f"… {len(lines) - MAX_PHYSICAL_LINES:,} more lines of this message")
    return tuple(shown)
