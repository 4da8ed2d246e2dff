from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from reporting_shop import N_KNOWN, Session, normal_session, shop_log

import ai_detect.reporting
from ai_detect.reporting import plots
from ai_detect.reporting.evaluation_report import evaluation_html, evaluation_json, evaluation_markdown
from ai_detect.reporting.excerpt import MAX_LINES, make_excerpt
from ai_detect.reporting.findings import Findings
from ai_detect.reporting.reasons import Reason
from ai_detect.reporting.reference import ExplainContext
from ai_detect.reporting.report import detection_report
from ai_detect.reporting.scored_log import ScoredLog
from ai_detect.tables import NO_TIME

VOID = {"meta", "input", "br", "link", "img"}
HISTORY = [
    {
        "step": step,
        "epoch": step / 10,
        "train_loss": 1 / step,
        "val_loss": 1.2 / step if step % 2 == 0 else None,
        "learning_rate": 0.001,
    }
    for step in range(1, 30)
]


class Page(HTMLParser):
    """Checks that elements are closed in order and collects what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags[tag] += 1
        self.elements.append((tag, found))
        if "svg" not in self.open and found.get("id"):
            self.ids.append(str(found["id"]))
        self.links += [str(value) for name, value in attributes if name in ("href", "src", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def damaged(count: int) -> list[Session]:
    pick = random.Random(11)
    sessions = []
    for index in range(count):
        ids, gaps = normal_session(pick)
        at = pick.randrange(1, len(ids))
        if index % 3 == 0:
            ids.insert(at, N_KNOWN)
            gaps.insert(at, 0.1)
        elif index % 3 == 1:
            del ids[at], gaps[at]
        else:
            gaps[at] = 500.0
        sessions.append((ids, gaps))
    return sessions


def make_log(context: ExplainContext, count: int = 12, **options: object) -> ScoredLog:
    pick = random.Random(4)
    return shop_log(context, [*damaged(count), *(normal_session(pick) for _ in range(120))], count, **options)


@pytest.fixture(scope="module")
def log(context: ExplainContext) -> ScoredLog:
    return make_log(context)


@pytest.fixture(scope="module")
def page_text(log: ScoredLog) -> str:
    return detection_report(log, history=HISTORY, resume_steps=[10, 20])


def test_the_page_is_whole_offline_and_accessible(page_text: str) -> None:
    page = Page(page_text)
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#anomaly-")} <= set(page.ids)
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"|http-equiv', "", page_text)
    assert page.tags["main"] == page.tags["h1"] == page.tags["header"] == page.tags["nav"] == 1
    assert ("html", {"lang": "en"}) in page.elements
    images = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(images) == 6
    assert all(image["role"] == "img" and image["aria-label"] for image in images)
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(headings))


def test_only_our_own_script_may_run(page_text: str) -> None:
    script = re.search(r"<script>(.*?)</script>", page_text, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page_text
    assert page_text.count("<script") == 1
    assert not re.search(r"\son\w+=", page_text)


def test_each_kind_of_anomaly_has_a_card_with_its_line_and_reason(log: ScoredLog, page_text: str) -> None:
    text = Page(page_text).text
    groups = log.groups
    assert page_text.count("<article") == len(groups) < len(log.findings)
    assert sorted(place for group in groups for place in group) == list(range(12))
    assert "12 of 132 sessions need a look" in text
    assert "disk x" in text
    assert "is in none of 800 training sessions" in text
    assert "after the line before it, in training within" in text
    assert "for 0.2 % false alarms; 999 calibration sessions can show 0.1 % false alarms and more" in text
    assert "2 lines hold bytes that are not in the log's encoding" in text
    for group in groups:
        assert f"shop.log:{log.findings[group[0]]['source']['line_start']}-" in text


def test_the_page_is_a_function_of_what_it_tells(log: ScoredLog, page_text: str) -> None:
    assert detection_report(log, history=HISTORY, resume_steps=[10, 20]) == page_text


HOSTILE = (
    " <script>alert(1)</script><img src=x onerror=alert(2)> \x1b[2J\x00\udcff\u202e\u2028 {{ 7*7 }} ]]> & \"' 日志"
)


def test_text_of_the_log_is_shown_and_never_obeyed(context: ExplainContext) -> None:
    log = make_log(context, text=HOSTILE)
    events = log.events
    templates = tuple(template + HOSTILE for template in events.templates)
    source = replace(events.sources[0], path="<b>shop</b>\x1b.log")
    sessions = replace(log.sessions, keys=tuple(key + HOSTILE for key in log.sessions.keys))
    hostile = replace(log, events=replace(events, templates=templates, sources=(source,)), sessions=sessions)
    summary = {**log.summary, "files": [{"file": source.path, "n_lines": 1, "n_bytes": 1}]}
    findings = Findings.of(
        {**finding, "session": finding["session"] + HOSTILE, "summary": "New: `x" + HOSTILE + "`"}
        for finding in log.findings
    )
    for text in (
        detection_report(replace(hostile, summary=summary, findings=findings)),
        evaluation_html({}, replace(hostile, summary=summary, findings=findings)),
    ):
        text.encode()
        page = Page(text)
        assert page.tags["script"] == 1 and page.tags["img"] == 0 and page.tags["b"] < 100
        assert not set("\x1b\x00\u202e\u2028") & set(text)
        assert r"\x1b[2J\x00\xff\u202e\u2028 {{ 7*7 }}" in page.text
        assert "日志" in page.text
        assert page_is_still_safe(page)
    markdown = evaluation_markdown({}, replace(hostile, findings=findings))
    rows = [line for line in markdown.splitlines() if line.startswith("| request-")]
    assert len(rows) == 12
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)
    assert "<script" not in re.sub(r"`[^`]*`", "", markdown).replace(r"\<script", "")


def page_is_still_safe(page: Page) -> bool:
    return not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_fifty_cards_stay_under_a_megabyte(context: ExplainContext) -> None:
    log = make_log(context, 60, text=" detail" * 20)
    one = next(iter(log.explanations.values()))
    unlike = {
        session: replace(one, reasons=(Reason(("order", "gap", "count")[place // 23], place % 23, (0,), 5.0),))
        for place, session in enumerate(log.ranked.tolist())
    }
    alone = [(place,) for place in range(len(log.ranked))]
    findings = Findings.of(
        {**finding, "reasons": finding["reasons"] or log.findings[0]["reasons"]} for finding in log.findings
    )
    unlike_log = replace(log, explanations=unlike, groups=alone, findings=findings)
    text = detection_report(unlike_log, top_k=50, history=HISTORY)
    assert text.count("<article") == 50
    assert len(text.encode()) < 1_000_000


def test_long_sessions_are_folded_around_the_guilty_lines(context: ExplainContext) -> None:
    body = [2, 3] * 300
    session = ([0, 1, *body[:400], N_KNOWN, *body[400:], 5, 6], [float("nan")] + [0.2] * 604)
    log = shop_log(context, [session], 1)
    rows = make_excerpt(log.events, log.sessions.rows_of(0), log.explanations[0], log.raw_lines)
    lines = [row for row in rows if row.mark == "line"]
    assert len(lines) <= MAX_LINES
    guilty = next(row for row in lines if row.first_line == 403)
    assert guilty.share > 0.05 and guilty.notes
    assert {lines[0].first_line, lines[-1].first_line} == {1, 605}
    assert all("could not be read" not in row.text[0] for row in lines)
    assert sum(row.n for row in rows if row.mark == "fold") + len(lines) == 605
    assert "more lines" in Page(detection_report(log)).text


def test_messages_of_many_and_long_lines_are_cut(context: ExplainContext) -> None:
    log = make_log(context, 1)
    row = int(log.sessions.rows_of(0)[0])
    long = replace(log, raw_lines={**log.raw_lines, row: ["x" * 5000] + ["at frame"] * 100})
    rows = make_excerpt(log.events, log.sessions.rows_of(0), log.explanations[0], long.raw_lines)
    assert len(rows[0].text) == 13 and len(rows[0].text[0]) < 600
    assert "4,500 more characters" in rows[0].text[0] and "89 more lines" in rows[0].text[-1]


@pytest.mark.parametrize("count", [0, 3])
def test_pages_of_logs_without_times(context: ExplainContext, count: int) -> None:
    log = make_log(context, count, timed=False)
    text = Page(detection_report(log)).text
    assert "session, in the order of the log" in text
    if not count:
        assert "Nothing unusual in 120 sessions" in text


def test_a_page_of_nothing(context: ExplainContext) -> None:
    Page(detection_report(shop_log(context, [], 0), history=[{"step": 1, "train_loss": 0.5}]))
    Page(evaluation_html({}, shop_log(context, [], 0)))


def evaluation(log: ScoredLog) -> dict[str, object]:
    figures = {"auroc": 0.99, "auprc": 0.95, "precision": 0.9, "recall": 0.8, "f1": 0.85, "fpr": 0.001, "best_f1": 0.91}
    return {
        "n_sessions": len(log.sessions),
        "n_labelled": 132,
        "n_anomalies": 12,
        "prevalence": 12 / 132,
        "method": "ensemble",
        "methods": {
            "ensemble": {**figures, "distinct": figures},
            "knn": {**figures, "auprc": float("nan"), "best_f1": np.float64(0.5)},
        },
        "baselines": {"all positive": {"f1": 0.17, "precision": 0.09, "recall": 1.0}},
        "curves": {"ensemble": {"precision": np.array([0.1, 0.9, 1.0]), "recall": np.array([1.0, 0.8, 0.0])}},
        "drift": {"unseen_share": 0.25, "stable": True, "not_a_number": float("inf")},
        "notes": ["labels <of> two operators"],
    }


def test_the_evaluation_page_tells_figures_baselines_and_the_oracle(log: ScoredLog) -> None:
    labels = np.where(np.arange(132) < 10, 1, np.where(np.arange(132) < 100, 0, -1)).astype(np.int8)
    embedding = np.random.default_rng(0).normal(size=(132, 8)).astype(np.float32)
    page = Page(evaluation_html(evaluation(log), log, labels=labels, embedding=embedding.__getitem__))
    for text in (
        "Precision 90 %, recall 80 %",
        "all positive",
        "best possible F1 (oracle)",
        "Distinct sessions only",
        "unseen share",
        "Map of the sessions",
        "labelled normal",
        "labelled anomaly",
        "labels <of> two operators",
    ):
        assert text in page.text
    assert "nan" not in page.text and "inf" not in page.text.replace("information", "")


def test_the_evaluation_for_programs_is_strict_json(log: ScoredLog) -> None:
    written = json.loads(json.dumps(evaluation_json(evaluation(log)), allow_nan=False))
    assert next(iter(written)) == "schema_version"
    assert written["methods"]["knn"]["auprc"] is None
    assert written["curves"]["ensemble"]["recall"] == [1.0, 0.8, 0.0]


def test_the_evaluation_in_markdown(log: ScoredLog) -> None:
    text = evaluation_markdown(evaluation(log), log, top_k=3)
    assert "| **ensemble** | 0.9900 | 0.9500 | 0.9000 | 0.8000 | 0.8500 | 0.0010 | 0.9100 |" in text
    assert "| knn | 0.9900 | - |" in text
    assert "| (all positive) | - | - | 0.0900 | 1.0000 | 0.1700 |" in text
    assert text.count("\n| request-") == 3
    assert "## The 3 most abnormal sessions" in text


def test_an_evaluation_without_labels_says_so(log: ScoredLog) -> None:
    page = Page(evaluation_html({"method": "ensemble", "drift": {"alarm_rate": 0.09}}, log))
    assert "no labels were given" in page.text and "12 alarms in 132 sessions" in page.text


@pytest.mark.parametrize("width", [plots.WIDE, plots.NARROW])
def test_figures_of_strange_values(width: float) -> None:
    one, none = np.array([0.5]), np.zeros(0)
    flags = np.array([True])
    when = np.array([NO_TIME], np.int64)
    for threshold in (0.0, 0.5, 1.0):
        plots.score_distribution(one, threshold, width)
        plots.score_distribution(none, threshold, width)
        plots.score_timeline(one, flags, when, threshold, {0: 1}, width)
    plots.score_timeline(none, none.astype(bool), none.astype(np.int64), 0.5, {}, width)
    some = np.array([NO_TIME, 10**18, 10**18 + 10**9, NO_TIME], np.int64)
    plots.score_timeline(np.full(4, 0.2), np.zeros(4, bool), some, 0.5, {}, width)
    plots.alarm_trend(np.zeros(4, bool), some, np.full(4, -1, np.int8), width)
    plots.training_curves([], [5], width)
    plots.embedding_map(np.ones((3, 1), np.float32).__getitem__, np.zeros(3, bool), width)
    plots.precision_recall([], 0.0, width)
    plots.methods_comparison({"a": {"f1": None}}, "f1", "F1", "a", width)


def test_figures_take_their_colours_from_the_page() -> None:
    svg = plots.score_distribution(np.linspace(0, 1, 50), 0.8)
    assert "var(--accent)" in svg and "var(--alarm)" in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert "threshold 0.8" in svg


def luminance(colour: str) -> float:
    digits = colour if len(colour) == 6 else "".join(digit * 2 for digit in colour)
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [channel / 12.92 if channel <= 0.03928 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("block", [0, 1, 2])
def test_contrast_of_text_is_at_least_4_5(block: int) -> None:
    style = (Path(ai_detect.reporting.__file__).parent / "templates" / "page.css").read_text()
    themes = re.findall(r"color-scheme:(?:light|dark);([^}]*)}", style)
    colours = dict(re.findall(r"--([\w-]+):#([0-9a-f]{3,6})", themes[block]))
    pairs = [
        (text, ground)
        for text in ("ink", "muted", "accent", "alarm", "critical", "high", "medium", "low")
        for ground in ("panel", "page")
    ]
    pairs += [
        ("ink", "guilty"),
        ("alarm", "guilty"),
        ("muted", "guilty"),
        ("ink", "hole"),
        ("hole-ink", "hole"),
        ("muted", "hole"),
        ("ink", "extra"),
        ("absent-ink", "absent"),
        ("ink", "code"),
        ("muted", "code"),
    ]
    for text, ground in pairs:
        light, dark = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)
