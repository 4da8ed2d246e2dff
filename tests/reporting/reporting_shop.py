"""A small shop's log, made here: sessions of three kinds, damaged in known ways."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from ai_detect.reporting.explain import Explainer, Explanation
from ai_detect.reporting.findings import AnomalyTally, ModelIdentity, rank_anomalies
from ai_detect.reporting.reference import ExplainContext
from ai_detect.reporting.scored_log import ScoredLog, described_log
from ai_detect.reporting.spans import SessionSpans
from ai_detect.reporting.summary import summarise
from ai_detect.tables import NO_TIME, EventTable, Int64Array, ScoreTable, SequenceTable, SessionTable, SourceSpan

TEMPLATES = (
    "request <*> received from <*>",
    "user <*> authenticated",
    "query <*> started",
    "query <*> took <*> ms",
    "cache refreshed",
    "response <*> sent",
    "connection closed",
    "cart of <*> opened",
    "price of <*> looked up",
    "item <*> added to cart",
    "cart of <*> saved",
    "mail to <*> queued",
    "job <*> taken from queue",
    "job <*> unpacked",
    "image <*> scaled",
    "image <*> stamped",
    "image <*> indexed",
    "file <*> written",
    "job <*> reported done",
    "temporary files of <*> removed",
    "worker <*> idle",
    "worker <*> asks for work",
    "clock of <*> adjusted",  # rare
)
N_KNOWN = len(TEMPLATES)
UNSEEN = "disk <*> failed: I/O error"
Session = tuple[list[int], list[float]]


def normal_session(random_source: random.Random) -> Session:
    kind = random_source.randrange(3)
    if kind == 0:
        ids = [0, 1] + [2, 3] * random_source.randint(1, 3) + [4] * (random_source.random() < 0.3) + [5, 6]
    elif kind == 1:
        ids = [0, 1, 7, 8] + [9] * random_source.randint(2, 5) + [10, 11, 6]
    else:
        ids = [12, 13, *random_source.sample([14, 15, 16], 3)] + [17] * random_source.randint(1, 2) + [18, 19, 20, 21]
    if random_source.random() < 0.004:
        ids.insert(random_source.randrange(1, len(ids)), 22)
    return ids, [float("nan"), *(random_source.expovariate(2) for _ in ids[1:])]


def sequence_table(sessions: list[Session]) -> SequenceTable:
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids, _ in sessions])]).astype(np.int64)
    return SequenceTable(
        offsets,
        np.array([event for ids, _ in sessions for event in ids], np.int32),
        np.array([gap for _, gaps in sessions for gap in gaps], np.float32),
    )


def explain_sessions(
    context: ExplainContext,
    sequences: SequenceTable,
    sessions: list[int],
    *,
    templates: tuple[str, ...] = (),
    **how: Any,
) -> dict[int, Explanation]:
    """These sessions of a table, explained together."""
    explainer = Explainer(context, how.pop("expected", None), templates)
    return dict(zip(sessions, explainer.explain(sequences.take(np.array(sessions)), **how), strict=True))


def shop_log(
    context: ExplainContext, sessions: list[Session], n_anomalies: int, *, timed: bool = True, text: str = ""
) -> ScoredLog:
    """A log of these sessions one after another; the first `n_anomalies` are over the threshold."""
    templates = (*TEMPLATES, UNSEEN)
    sequences = sequence_table(sessions)
    n = len(sequences.event_id)
    times = 1_757_000_000_000_000_000 + np.cumsum(np.nan_to_num(sequences.gap_s, nan=5.0) * 1e9).astype(np.int64)
    lines = [
        f"{number:06d} {templates[event].replace('<*>', 'x' + str(number))}{text}"
        for number, event in enumerate(sequences.event_id)
    ]
    ends = np.cumsum([len(line.encode("utf-8", "surrogateescape")) + 1 for line in lines]) if lines else np.zeros(0)
    events = EventTable(
        offset=np.concatenate([[0], ends[:-1]]).astype(np.int64)[:n],
        line=np.arange(1, n + 1, dtype=np.int32),
        timestamp=times if timed else np.full(n, NO_TIME),
        event_id=sequences.event_id,
        session_id=np.repeat(np.arange(len(sessions), dtype=np.int32), sequences.lengths),
        level=np.zeros(n, np.int8),
        templates=templates,
        n_known=N_KNOWN,
        session_keys=tuple(f"request-{index}" for index in range(len(sessions))),
        sources=(SourceSpan("shop.log", 0, n, int(ends[-1]) if n else 0),),
        counters={"n_lines": n, "n_undecodable": 2},
    )
    table = SessionTable(events.session_keys, sequences.offsets, np.arange(n, dtype=np.int64))
    score = np.where(np.arange(len(sessions)) < n_anomalies, 0.9, 0.2) + np.linspace(0.05, 0, len(sessions))
    p_value = 10.0 ** (-8 * score)
    raw = {"knn:extremes": score * 3, "iforest:embedding": score / 2}
    p_values = {"knn:extremes": p_value, "iforest:embedding": np.sqrt(p_value)}
    scores = ScoreTable(score, p_value, score >= 0.8, 0.8, raw, p_values)
    model = ModelIdentity("run-1", 300, "0123456789abcdef" * 2)
    ranked = rank_anomalies(scores)

    def explain(sessions: Int64Array, expecting: bool) -> Iterator[tuple[int, Explanation]]:
        return zip(
            sessions.tolist(), Explainer(context, templates=templates).explain(sequences.take(sessions)), strict=True
        )

    def summary(spans: SessionSpans, tally: AnomalyTally) -> dict[str, object]:
        return summarise(
            events,
            table,
            spans,
            scores,
            tally,
            model=model,
            detection={
                "method": "ensemble",
                "rule": "false_alarm_rate",
                "asked": 0.002,
                "false_alarm_rate": 0.002,
                "n_calibration_sessions": 999,
                "smallest_supported_rate": 0.001,
                "training_suspects": None,
            },
            timings_s={"score": 1.25},
            versions={"ai_detect": "0.1.0"},
        )

    def read_lines(rows: Int64Array) -> dict[int, list[str]]:
        return {row: [lines[row]] for row in rows.tolist()}

    return described_log(events, table, scores, ranked, explain, read_lines, model, 50, summary)
