from __future__ import annotations

import unicodedata
from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_detect.detectors.components import COMPONENTS
from ai_detect.reporting.reasons import Reason
from ai_detect.reporting.wording import (
    VIEWS,
    as_a_whole,
    decodable,
    duration,
    percent,
    quoted,
    rfc3339,
    sentence,
    visible,
)
from ai_detect.tables import NO_TIME

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(ANY_TEXT)
def test_visible_text_hides_nothing_and_encodes(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert all(unicodedata.category(character) != "Cc" or character == "\t" for character in shown)
    assert not set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u200b") & set(shown)
    assert visible(shown) == shown


@given(st.binary())
def test_any_bytes_of_a_log_can_be_written_as_utf8(raw: bytes) -> None:
    decodable(raw.decode("utf-8", "surrogateescape")).encode()


def test_what_cannot_be_seen_is_written_out() -> None:
    assert visible("a\x1b[31m\udcff\u202eb\tc 日志") == r"a\x1b[31m\xff\u202eb" + "\tc 日志"
    assert decodable("a\x1b\udcff\ud800") == "a\x1b\\xff\\ud800"


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=5))
def test_times_are_rfc3339_and_lose_nothing(times: list[int]) -> None:
    for time, text in zip(times, rfc3339(np.array(times, np.int64)), strict=True):
        assert text is not None and text.endswith("Z")
        seconds, _, decimals = text[:-1].partition(".")
        moment = datetime.fromisoformat(seconds).replace(tzinfo=timezone.utc)
        back = round((moment - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds()) * 10**9
        assert back + int(decimals.ljust(9, "0")) == time


def test_times_that_are_not_there() -> None:
    assert rfc3339(np.array([NO_TIME, 1_500_000_000])) == [None, "1970-01-01T00:00:01.500Z"]
    assert rfc3339(np.array([NO_TIME])) == [None]
    assert rfc3339(np.zeros(0, np.int64)) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0003, "0.3 ms"), (0.45, "450 ms"), (1.234, "1.23 s"), (312, "5 min 12 s"), (3600, "1 h"), (176_500, "2 d 1 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.5, "50 %"), (0.9951, "99.5 %"), (0.9999, "99.99 %"), (0.003, "0.3 %")],
)
def test_shares_are_never_rounded_to_none_or_all(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_template_cannot_leave_its_quotes() -> None:
    assert quoted("a `b`\n c\x1b") == r"`a 'b' c\x1b`".replace(r"c\x1b", "c\\x1b")
    assert len(quoted("x" * 1000)) < 120


TEMPLATES = ["open <*>", "close <*>", "login of bob from <IP>", "login of eve from <IP>"]


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (
            Reason("unseen_event", 0, (1,), 5, facts={"seen_in": 0, "of": 1500}),
            "New message: `open <*>` is in none of 1,500 training sessions",
        ),
        (
            Reason("rare_event", 0, (1, 2), 5, facts={"seen_in": 2, "of": 900, "seen_in_normal": 1}),
            "Rare message: `open <*>` is in only 2 of 900 training sessions; here 2 times",
        ),
        (
            Reason("rare_event", 0, (1,), 5, facts={"seen_in": 2, "of": 900, "seen_in_normal": 0}),
            "Rare message: `open <*>` is in only 2 of 900 training sessions, which look abnormal themselves",
        ),
        (
            Reason("unseen_event", 3, (1,), 5, facts={"seen_in": 0, "of": 90, "nearest": 2, "distance": 0.5}),
            "New message: `login of eve from <IP>` is in none of 90 training sessions; but for `eve` it is a known one",
        ),
        (
            Reason("unseen_event", 0, (1,), 5, facts={"seen_in": 0, "of": 900, "nearest": 1, "distance": 0.9}),
            "New message: `open <*>` is in none of 900 training sessions",
        ),
        (
            Reason("count", 0, (3, 4, 5, 6, 7, 8), 5, facts={"n_lines": 3, "n_times": 3}),
            "Repeated: 3 lines, from `open <*>` on, come 3 times in a row",
        ),
        (
            Reason("order", 0, (1, 2), 5, expected=((1, 1.0),), facts={"n_so": 0, "n_reversed": 12}),
            "Wrong order: `open <*>` comes before `close <*>`; the other order 12 times in training, this order never",
        ),
        (
            Reason(
                "missing",
                1,
                (),
                5,
                slot=2,
                expected=((1, 0.6), (2, 0.38), (0, 0.02)),
                facts={"share": 0.1, "count": 0, "share_here": 0.6},
            ),
            "Missing: `close <*>` (or `login of bob from <IP>`), which training has between the lines beside it",
        ),
        (
            Reason(
                "missing",
                1,
                (),
                5,
                slot=2,
                expected=((1, 0.9), (0, 0.1)),
                facts={"share": 0.98, "count": 0, "share_here": 0.9},
            ),
            "Missing: `close <*>`, which 98 % of similar normal sessions have",
        ),
        (
            Reason("count", 0, (3,), 5, facts={"count": 5, "usual_low": 1, "usual_high": 2}),
            "Too many: `open <*>` comes 5 times, similar normal sessions have 1 to 2",
        ),
        (
            Reason("count", 0, (3,), 5, facts={"count": 1, "usual_low": 0, "usual_high": 0}),
            "Too many: `open <*>` comes once, similar normal sessions have none",
        ),
        (
            Reason("missing", 1, (), 5, slot=2, expected=((1, 0.98),), facts={"share": 0.98, "count": 0}),
            "Missing: `close <*>`, which 98 % of similar normal sessions have",
        ),
        (
            Reason("order", 0, (1,), 5, expected=((1, 0.8),)),
            "Out of place: `open <*>` where `close <*>` was expected (80 %)",
        ),
        (Reason("order", 0, (1,), 5), "Out of place: `open <*>` does not come here in training"),
        (
            Reason("gap", 1, (4,), 5, facts={"gap_s": 312.0, "usual_s": 1.5}),
            "Late: `close <*>` comes 5 min 12 s after the line before it, in training within 1.5 s",
        ),
        (
            Reason("value", 1, (4,), 5, facts={"value": 2, "share": 0.0004}),
            "Odd value: value 2 of `close <*>`; 0.04 % of the training sessions have one as odd",
        ),
        (
            Reason("value", 1, (4,), 5, facts={"value": 2, "share": 0.0}),
            "Odd value: value 2 of `close <*>`; no training session has one as odd",
        ),
        (
            Reason("length", 1, (), 5, slot=2, facts={"length": 2, "usual_low": 13, "usual_high": 36}),
            "Too short: 2 messages, where 99 % of the training sessions have 13 to 36",
        ),
    ],
)
def test_sentences(reason: Reason, text: str) -> None:
    assert sentence(reason, TEMPLATES) == text


def test_every_view_that_speaks_has_words() -> None:
    assert {component.view for component in COMPONENTS} <= VIEWS.keys()


def test_what_no_line_explains_is_told_by_what_the_components_saw() -> None:
    p_values = {
        "lof:order": 0.5,
        "knn:relations": 1e-5,
        "lof:relations": 1e-3,
        "iforest:timing": 0.002,
        "ecod:rarity": 0.03,
    }
    assert as_a_whole(p_values) == (
        "Unusual as a whole: how often its messages come beside others (knn, p = 1e-05) and its length, duration and "
        "gaps (iforest, p = 0.002); no single line stands out"
    )
    assert "whatever (p = 0.01)" in as_a_whole({"whatever": 0.01})
    assert (
        as_a_whole({"knn:relations": 0.2, "lof:order": float("nan")}) == "Unusual as a whole; no single line stands out"
    )
