"""A log is grouped once for the same windows, and what comes back from the cache is what was grouped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import SHOP_SESSION, shop_log

from ai_detect.config import InputSettings
from ai_detect.sequences import parsed_log
from ai_detect.sequences.parsed_log import ParsedLog, learn_log, match_log

KEYED = {"session_regex": SHOP_SESSION}
WINDOWS: list[dict[str, Any]] = [
    KEYED,
    {"window_size": 7},
    {"window_size": 8},
    {"window_type": "sliding", "window_size": 7, "stride": 3},
    {"window_type": "sliding", "window_size": 7, "stride": 9},
    {"window_type": "time", "window_seconds": 60.0},
    {"window_type": "time", "window_seconds": 0.25},
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "shop.log"
    path.write_text("2026-03-01 00:00:00,000 INFO [shop] a line of no request\n" + shop_log(60, seed=1), "utf-8")
    return path


def assert_same(a: ParsedLog, b: ParsedLog) -> None:
    assert tuple(a.sessions.keys) == tuple(b.sessions.keys)
    for x, y in (
        (a.sessions.offsets, b.sessions.offsets),
        (a.sessions.rows, b.sessions.rows),
        (a.sequences.offsets, b.sequences.offsets),
        (a.sequences.event_id, b.sequences.event_id),
        (a.sequences.gap_s, b.sequences.gap_s),
        (a.values.offsets, b.values.offsets),
        (a.values.number, b.values.number),
        (a.values.key, b.values.key),
    ):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.fixture
def groupings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that sessions were made."""
    made: list[int] = []
    make = parsed_log.make_sessions

    def counted(*arguments: Any) -> Any:
        made.append(1)
        return make(*arguments)

    monkeypatch.setattr(parsed_log, "make_sessions", counted)
    return made


@pytest.mark.parametrize("windows", WINDOWS)
def test_groups_come_back_as_they_were(
    log: Path, tmp_path: Path, windows: dict[str, Any], groupings: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    settings = InputSettings(**windows)
    learned, miner = learn_log(str(log), settings, tmp_path / "cache")
    said = [message for message in caplog.messages if "left out" in message]
    caplog.clear()
    cached = match_log(str(log), settings, miner, tmp_path / "cache")
    assert len(groupings) == 1
    assert_same(learned, cached)
    assert_same(learned, match_log(str(log), settings, miner))
    assert [message for message in caplog.messages if "left out" in message] == 2 * said
    assert bool(said) == (windows in (KEYED, WINDOWS[4]))


def test_other_windows_are_grouped_anew(log: Path, tmp_path: Path, groupings: list[int]) -> None:
    cache = tmp_path / "cache"
    _, miner = learn_log(str(log), InputSettings(**WINDOWS[1]), cache)
    for windows in WINDOWS[2:]:
        settings = InputSettings(**windows)
        assert_same(match_log(str(log), settings, miner, cache), match_log(str(log), settings, miner))
    assert len(groupings) == 1 + 2 * len(WINDOWS[2:])


@pytest.mark.parametrize("windows", WINDOWS[:2])
def test_a_damaged_entry_is_grouped_anew(
    log: Path, tmp_path: Path, windows: dict[str, Any], groupings: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    settings = InputSettings(**windows)
    learned, miner = learn_log(str(log), settings, tmp_path / "cache")
    [entry] = [path.parent for path in (tmp_path / "cache").glob("*/sessions.json")]
    n_events, n_templates = len(learned.events), len(learned.events.templates)
    damages = {
        "rows.npy": [-1, n_events],
        "event_id.npy": [-1, n_templates],
        "offsets.npy": [1],
        "key_offsets.npy": [1],
    }
    expected = 1
    for name in (*damages, "gap_s.npy", "keys.npy", "sessions.json"):
        content = (entry / name).read_bytes()
        torn = [content[:-1], b"", b"\x00" * len(content)]
        for value in damages.get(name, []):
            column = np.load(entry / name)
            column[0] = value
            np.save(entry / name, column)
            torn.append((entry / name).read_bytes())
        for damaged in torn[name == "sessions.json" :]:
            (entry / name).write_bytes(damaged)
            caplog.clear()
            assert_same(match_log(str(log), settings, miner, tmp_path / "cache"), learned)
            expected += 1
            assert len(groupings) == expected
            assert "a broken cache entry is ignored" in caplog.text
    assert_same(match_log(str(log), settings, miner, tmp_path / "cache"), learned)
    assert len(groupings) == expected


@pytest.mark.parametrize("windows", WINDOWS)
def test_values_stand_beside_the_events_of_the_sequences(log: Path, tmp_path: Path, windows: dict[str, Any]) -> None:
    parsed, _ = learn_log(str(log), InputSettings(**windows), tmp_path / "cache")
    numbers = parsed.values
    assert len(numbers) == len(parsed.sequences.event_id)
    lines = log.read_text("utf-8").splitlines()
    order = next(event for event, text in enumerate(parsed.events.templates) if "order <NUM> created" in text)
    places = np.flatnonzero(parsed.sequences.event_id == order)
    assert len(places)
    for place in places:
        number = float(lines[parsed.events.line[parsed.sessions.rows[place]] - 1].split("order ")[1].split()[0])
        assert number in numbers.number[numbers.offsets[place] : numbers.offsets[place + 1]]
