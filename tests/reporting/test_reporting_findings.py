from __future__ import annotations

import csv
import io
import json
import random
from dataclasses import replace

import numpy as np
import pytest
from reporting_shop import N_KNOWN, Session, normal_session, shop_log

from ai_detect import artifacts
from ai_detect.reporting.explain import Explanation
from ai_detect.reporting.findings import AnomalyTally, FirstReason, rank_anomalies, severity, with_texts
from ai_detect.reporting.notes import data_quality_notes, drift_notes
from ai_detect.reporting.reasons import Reason
from ai_detect.reporting.reference import ExplainContext
from ai_detect.reporting.scored_log import AlikeAnomalies, ScoredLog
from ai_detect.reporting.session_tables import scores_csv
from ai_detect.reporting.spans import session_spans
from ai_detect.tables import NO_TIME, EventTable, ScoreTable, SessionTable, SourceSpan

KEYS = [
    "schema_version",
    "session",
    "source",
    "start_time",
    "end_time",
    "n_events",
    "score",
    "p_value",
    "threshold",
    "severity",
    "summary",
    "reasons",
    "nearest_normal",
    "detectors",
    "suppressed_by",
    "model",
]
COLUMNS = [
    "session",
    "first_line",
    "last_line",
    "start_time",
    "end_time",
    "n_events",
    "score",
    "p_value",
    "is_anomaly",
]
BROKEN: Session = ([0, 1, 7, 8, N_KNOWN, 9, 9, 11, 6], [float("nan")] + [0.25] * 8)


@pytest.fixture(scope="module")
def log(context: ExplainContext) -> ScoredLog:
    pick = random.Random(2)
    return shop_log(context, [BROKEN, ([12, 13], [float("nan"), 0.5]), *(normal_session(pick) for _ in range(20))], 2)


def test_a_finding_has_the_keys_of_the_schema_in_its_order(log: ScoredLog) -> None:
    finding = json.loads("".join(log.findings.jsonl()).splitlines()[0])
    assert list(finding) == [
        "schema_version",
        "session",
        "source",
        "start_time",
        "end_time",
        "n_events",
        "score",
        "p_value",
        "threshold",
        "severity",
        "summary",
        "reasons",
        "nearest_normal",
        "detectors",
        "suppressed_by",
        "model",
    ]
    assert list(finding["source"]) == ["file", "line_start", "line_end", "byte_offset"]
    assert list(finding["reasons"][0])[:6] == ["kind", "line", "text", "template", "expected", "contribution"]
    assert list(finding["detectors"]["knn:extremes"]) == ["raw", "calibrated", "p_value"]
    assert list(finding["model"]) == ["run_id", "step", "hash"]


def test_a_finding_names_the_line(log: ScoredLog) -> None:
    finding = log.findings[0]
    assert finding["session"] == "request-0"
    assert (finding["source"]["file"], finding["source"]["line_start"], finding["source"]["line_end"]) == (
        "shop.log",
        1,
        9,
    )
    new = finding["reasons"][0]
    assert (new["kind"], new["line"], new["lines"]) == ("unseen_event", 5, [5])
    assert new["text"] == "000004 disk x4 failed: I/O error"
    assert new["template"] == "disk <*> failed: I/O error"
    assert new["nearest_template"] == "user <*> authenticated"  # it shares but the wildcard
    assert new["facts"]["distance"] > 0.5
    missing = next(reason for reason in finding["reasons"] if reason["kind"] == "missing")
    assert (missing["template"], missing["text"]) == ("cart of <*> saved", None)
    assert missing["expected"][0]["template"] == "cart of <*> saved"
    assert {entry["template"] for entry in finding["nearest_normal"]["missing"]} == {"cart of <*> saved"}
    assert sum(reason["contribution"] for reason in finding["reasons"]) == pytest.approx(1, abs=1e-3)


def test_findings_and_the_table_agree(log: ScoredLog) -> None:
    rows = list(csv.DictReader(io.StringIO("".join(scores_csv(log.sessions, log.spans, log.scores)))))
    assert list(rows[0]) == [
        "session",
        "first_line",
        "last_line",
        "start_time",
        "end_time",
        "n_events",
        "score",
        "p_value",
        "is_anomaly",
        "knn:extremes",
        "iforest:embedding",
    ]
    assert [row["session"] for row in rows] == list(log.sessions.keys)
    assert [int(row["is_anomaly"]) for row in rows] == log.scores.is_anomaly.tolist()
    by_session = {row["session"]: row for row in rows}
    for finding in log.findings:
        row = by_session[finding["session"]]
        assert float(row["score"]) == finding["score"]
        assert float(row["p_value"]) == finding["p_value"]
        assert (row["start_time"], row["end_time"]) == (finding["start_time"], finding["end_time"])
        assert (int(row["first_line"]), int(row["last_line"])) == (
            finding["source"]["line_start"],
            finding["source"]["line_end"],
        )
    summary = log.summary
    assert summary["n_sessions"] == len(rows)
    assert (
        summary["n_anomalies"]
        == len(log.findings)
        == sum(summary["severities"].values())
        == sum(summary["reasons"].values())
    )


def test_summary_is_plain_json(log: ScoredLog, tmp_path) -> None:
    artifacts.write_json(tmp_path / "summary.json", log.summary)
    assert artifacts.read_json(tmp_path / "summary.json") == log.summary
    assert log.summary["notes"] == ["2 lines hold bytes that are not in the log's encoding; the bytes were kept"]


def test_what_no_line_explains_names_the_components(context: ExplainContext) -> None:
    usual: Session = ([0, 1, 2, 3, 5, 6], [float("nan")] + [0.25] * 5)
    log = shop_log(context, [usual, usual], 1)
    assert log.findings[0]["reasons"] == []
    assert log.findings[0]["summary"].startswith(
        "Unusual as a whole: how far out it is in many ways at once (knn, p = "
    )


def test_names_that_no_mask_covers_are_told(log: ScoredLog) -> None:
    def notes(new: list[str]) -> list[str]:
        events = replace(log.events, templates=("login of root from <IP>", *log.events.templates[1:N_KNOWN], *new))
        return data_quality_notes(events, log.sessions)

    names = [f"login of user{chr(97 + at)} from <IP>" for at in range(25)]
    told = [note for note in notes(names) if "mask" in note]
    assert len(told) == 1
    assert told[0].startswith("25 of 25 new messages are known ones but for one word, such as `usera` and `userb`")
    assert not any("mask" in note for note in notes(names[:5]))
    assert not any("mask" in note for note in notes([f"{name} with {at} others" for at, name in enumerate(names)]))


def test_a_kind_of_anomaly_that_became_frequent_is_told() -> None:
    def finding(at: int, template: str) -> tuple[str, float, FirstReason]:
        return f"s{at}", 0.5, FirstReason("missing", template)

    def notes(findings: list[tuple[str, float, FirstReason]], n_sessions: int) -> list[str]:
        tally = AnomalyTally()
        for found in findings:
            tally.add(*found)
        return drift_notes(tally, n_sessions)

    others = [finding(at, f"other {at}") for at in range(30)]
    (told,) = notes([*others, *(finding(100 + at, "flushed") for at in range(60))], 1000)
    assert told.startswith("60 of 90 anomalies, 6 % of the sessions, are one kind, such as s100: if this is normal")
    assert notes([*others, *(finding(100 + at, "flushed") for at in range(60))], 2000) == []
    assert notes([finding(at, "flushed") for at in range(5)], 50) == []
    (told,) = notes([finding(at, f"other {at}") for at in range(30)], 100)
    assert told.startswith("30 % of the sessions are over the threshold")
    of_a_kind, as_a_whole = notes([finding(at, f"kind {at % 10}") for at in range(900)], 1000)
    assert of_a_kind.startswith("90 of 900 anomalies, 9 % of the sessions, are one kind")
    assert as_a_whole.startswith("90 % of the sessions are over the threshold")


def test_anomalies_are_ranked_by_score_then_order() -> None:
    score = np.array([0.9, 0.95, 0.1, 0.9])
    scores = ScoreTable(score, 1 - score, score > 0.5, 0.5, {}, {})
    assert rank_anomalies(scores).tolist() == [1, 0, 3]
    assert rank_anomalies(scores, 1).tolist() == [1]


def test_severity_falls_with_the_p_value() -> None:
    assert [severity(p) for p in (0.0, 1e-6, 2e-6, 1e-3, 0.5)] == ["critical", "critical", "high", "medium", "low"]


def test_spans_over_files_and_joined_lines() -> None:
    times = np.array([NO_TIME, 5, 3, NO_TIME, NO_TIME], np.int64)
    events = EventTable(
        np.array([0, 10, 90, 0, 40], np.int64),
        np.array([1, 2, 7, 1, 2], np.int32),  # the second message has five lines
        times,
        np.zeros(5, np.int32),
        np.array([0, 0, 1, 0, 2], np.int32),
        np.zeros(5, np.int8),
        ("a",),
        1,
        ("x", "y", "z"),
        (SourceSpan("one.log", 0, 9, 120), SourceSpan("empty.log", 3, 0, 0), SourceSpan("two.log", 3, 4, 80)),
    )
    sessions = SessionTable(("x", "y", "z"), np.array([0, 3, 4, 5]), np.array([0, 1, 3, 2, 4]))
    spans = session_spans(events, sessions)
    assert spans.first_line.tolist() == [1, 7, 2]
    assert spans.last_line.tolist() == [1, 9, 4]
    assert spans.source.tolist() == [0, 0, 2]
    assert spans.start_time.tolist() == [5, 3, NO_TIME]
    assert spans.end_time.tolist() == [5, 3, NO_TIME]


def test_undecodable_bytes_and_absent_scores_still_make_valid_files(log: ScoredLog) -> None:
    keys = ('=1+1\udcff\n,"', *log.sessions.keys[1:])
    sessions = replace(log.sessions, keys=keys)
    absent = {name: np.full(len(log.scores), np.nan) for name in log.scores.raw}
    scores = replace(log.scores, raw=absent, p_values=absent)
    text = "".join(scores_csv(sessions, log.spans, scores))
    text.encode()
    first = next(csv.DictReader(io.StringIO(text)))
    assert first["session"] == '=1+1\\xff\n,"'
    assert first["knn:extremes"] == ""


def test_texts_stand_where_they_are_missing_and_nowhere_else() -> None:
    hostile = 'a "text": null \\"text": null \\'
    draft = {"session": hostile, "reasons": [{"text": None, "template": hostile}, {"text": None, "template": None}]}
    finding = json.loads(with_texts(json.dumps(draft), [7, -1], {7: [hostile, "second"]}))
    assert finding == {
        "session": hostile,
        "reasons": [{"text": f"{hostile}\nsecond", "template": hostile}, {"text": None, "template": None}],
    }


def test_equal_scores_are_told_apart_from_those_that_only_compare_equal(log: ScoredLog) -> None:
    column = np.resize([0.0, -0.0, 1 / 3, np.nan, 0.0], len(log.scores))
    scores = replace(log.scores, raw={"knn:extremes": column}, p_values={"knn:extremes": column})
    rows = csv.DictReader(io.StringIO("".join(scores_csv(log.sessions, log.spans, scores))))
    told = np.resize(np.array(["0", "-0", "0.333333333", "", "0"]), len(log.scores))
    assert [row["knn:extremes"] for row in rows] == told.tolist()


def test_no_session_at_all(context: ExplainContext) -> None:
    log = shop_log(context, [], 0)
    assert "".join(scores_csv(log.sessions, log.spans, log.scores)).count("\n") == 1
    assert len(log.findings) == 0
    assert log.summary["anomaly_rate"] == 0


def test_anomalies_without_a_reason_are_like_no_other() -> None:
    alike = AlikeAnomalies(5)
    late = Reason("gap", 3, (1,), 5.0, facts={"gap_s": 9.0, "usual_s": 1.0})
    for session, reasons in enumerate([(late,), (), (late,), ()]):
        alike.add(session, Explanation(reasons, np.zeros(2), None))
    assert [list(group) for group in alike.groups] == [[0, 2], [1], [3]]
    assert list(alike.explanations) == [0, 1, 3]
