"""A scored log with all that is told of it: what its anomalies are, and the lines that pages quote."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ai_detect import scratch
from ai_detect.reporting.excerpt import rows_of_excerpts
from ai_detect.reporting.explain import Explanation
from ai_detect.reporting.findings import (
    AnomalyTally,
    Findings,
    ModelIdentity,
    RawLines,
    build_finding,
    first_reason,
    quoted_rows,
    with_texts,
)
from ai_detect.reporting.spans import SessionSpans, session_spans
from ai_detect.reporting.wording import decodable
from ai_detect.tables import EventTable, Int64Array, ScoreTable, SessionTable, StringColumn

#: Rows of the table of templates, and groups of alike anomalies that are told in a few lines.
MAX_TEMPLATES, N_HEADS = 200, 5
#: Findings that are made before what they are made of is let go.
_LOOKED_UP = 4

#: The explanations of sessions one after another, with or without what the model would have expected.
Explain = Callable[[Int64Array, bool], Iterator[tuple[int, Explanation]]]


@dataclass(frozen=True)
class ScoredLog:
    """All that is told of a scored log; `findings` are those of the sessions `ranked`, the most abnormal first.

    `heads` are those of the first of each of the first groups, which may lack their texts; `explanations` those of the
    sessions that have a card; `spans` are where all sessions begin and end.
    """

    events: EventTable
    sessions: SessionTable
    spans: SessionSpans
    scores: ScoreTable
    ranked: Int64Array
    groups: Sequence[Sequence[int]]  # as of `AlikeAnomalies`
    heads: Sequence[Mapping[str, Any]]
    explanations: Mapping[int, Explanation]
    findings: Findings
    raw_lines: RawLines  # at least of the rows that findings and cards quote
    summary: Mapping[str, Any]


class AlikeAnomalies:
    """Anomalies with the same first reason, by their place among all: a page has one card for each group.

    Those without any reason are like no other.
    """

    def __init__(self, n_cards: int) -> None:
        self._n_cards = n_cards
        self._groups: dict[object, array[int]] = {}
        self._n = 0
        self.explanations: dict[int, Explanation] = {}  # of the first of each of `n_cards` groups, by session

    def add(self, session: int, explanation: Explanation) -> None:
        """Take the next one; the most abnormal come first."""
        first = explanation.reasons[0] if explanation.reasons else None
        kind = ("session", session) if first is None else (first.kind, first.event)
        if kind not in self._groups and len(self._groups) < self._n_cards:
            self.explanations[session] = explanation
        self._groups.setdefault(kind, array("q")).append(self._n)
        self._n += 1

    @property
    def groups(self) -> list[Sequence[int]]:
        """The places of the anomalies of each group."""
        return list(self._groups.values())


def described_log(
    events: EventTable,
    sessions: SessionTable,
    scores: ScoreTable,
    ranked: Int64Array,
    explain: Explain,
    read_lines: Callable[[Int64Array], RawLines],
    model: ModelIdentity,
    top_k: int,
    summary: Callable[[SessionSpans, AnomalyTally], Mapping[str, Any]],
    *,
    each: bool = True,
) -> ScoredLog:
    """What is told of the sessions `ranked`; only with `each`, findings of all of them and what a page quotes.

    They come from disk to disk: only what has a card is held. `read_lines` rereads the raw lines of event rows that
    ascend; `summary` makes the object of summary.json.
    """
    spans = session_spans(events, sessions)
    alike, tally = AlikeAnomalies(top_k if each else 0), AnomalyTally()
    quoted, n_quoted = scratch.Growing(np.int64), scratch.Growing(np.int64)

    def counted(expecting: bool) -> Iterator[tuple[int, Explanation]]:
        for session, explanation in explain(ranked, expecting):
            alike.add(session, explanation)
            first = first_reason(explanation, events.templates)
            tally.add(decodable(sessions.keys[session]), float(scores.p_value[session]), first)
            yield session, explanation

    def finding(session: int, explanation: Explanation) -> dict[str, Any]:
        return build_finding(session, explanation, events, sessions, spans, scores, model)

    def without_texts() -> Iterator[dict[str, Any]]:
        for place, (session, explanation) in enumerate(counted(True)):
            if place % _LOOKED_UP == 0:
                scratch.let_go()  # each score of a session, and each of its lines, lies on pages of its own
            rows = quoted_rows(explanation, sessions.rows_of(session))
            quoted.append(np.array(rows, np.int64))
            n_quoted.append(np.array([len(rows)]))
            yield finding(session, explanation)

    def with_their_texts(drafts: Findings, rows: Int64Array, raw_lines: RawLines) -> Iterator[str]:
        begin = 0
        for draft, n in zip(drafts.lines, n_quoted.column().tolist(), strict=True):
            yield with_texts(draft, rows[begin : begin + n].tolist(), raw_lines)
            begin += n

    findings = Findings.of([])
    raw_lines: RawLines = {}
    if each:
        drafts = Findings.of(without_texts())
        rows = quoted.column()
        common = np.array([row for _, _, row in common_templates(events)], np.int64)
        shown = [rows[rows >= 0], rows_of_excerpts(sessions, alike.explanations), common]
        raw_lines = read_lines(np.unique(np.concatenate(shown)))
        findings = Findings(StringColumn.of(with_their_texts(drafts, rows, raw_lines)))
        heads = [findings[group[0]] for group in alike.groups[:N_HEADS]]
    else:
        for _ in counted(False):
            pass
        firsts = ranked[[group[0] for group in alike.groups[:N_HEADS]]]
        heads = [finding(session, explanation) for session, explanation in explain(firsts, True)]
    return ScoredLog(
        events,
        sessions,
        spans,
        scores,
        ranked,
        alike.groups,
        heads,
        alike.explanations,
        findings,
        raw_lines,
        summary(spans, tally),
    )


def common_templates(events: EventTable) -> list[tuple[int, int, int]]:
    """(event, lines, row of the first) of the commonest templates; a third of the places is for unseen ones."""
    found = np.flatnonzero(events.tally.counts)
    counts, first = (column[found] for column in events.tally)
    order = np.lexsort((found, -counts))
    new = order[found[order] >= events.n_known][: MAX_TEMPLATES // 3]
    known = order[found[order] < events.n_known][: MAX_TEMPLATES - len(new)]
    chosen = np.sort(np.concatenate([known, new]))
    chosen = chosen[np.argsort(-counts[chosen], kind="stable")]
    return [(int(found[at]), int(counts[at]), int(first[at])) for at in chosen]
