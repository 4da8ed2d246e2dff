"""From a log to an EventTable, with the real reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ai_detect.config import InputSettings
from ai_detect.errors import NotFittedError
from ai_detect.ingest.log_sources import find_sources
from ai_detect.ingest.messages import MessageReader
from ai_detect.parsing.events import learn_events, match_events
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.tables import NO_SESSION, NO_TIME, EventTable

KEYED = InputSettings(session_regex=r"req-\d+")


def write_log(folder: Path, name: str, lines: list[str]) -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def reader_of(path: Path, settings: InputSettings = KEYED) -> MessageReader:
    return MessageReader(find_sources(path), settings)


def service_log(n_requests: int = 40) -> list[str]:
    lines = []
    for i in range(n_requests):
        clock = f"2024-05-06 07:{i // 60:02d}:{i % 60:02d},000"
        lines += [
            f"{clock} INFO web: req-{i} open connection from 10.0.0.{i % 7}",
            f"{clock} INFO web: req-{i} read {i * 13} bytes in {i}ms",
            f"{clock} INFO web: req-{i} close connection after {i} s",
        ]
    lines.insert(4, "2024-05-06 07:00:01,000 WARN web: heartbeat late")
    return lines


def test_learned_events_are_matched_events(tmp_path: Path) -> None:
    path = write_log(tmp_path, "a.log", service_log())
    miner = TemplateMiner()
    learned = learn_events(reader_of(path), miner)
    assert learned.n_known == len(learned.templates) == len(miner.templates) == 4
    assert len(learned) == 121
    assert len(learned.session_keys) == 40
    assert np.sum(learned.session_id == NO_SESSION) == 1
    assert np.all(learned.timestamp != NO_TIME)
    assert learned.counters["n_lines"] == 121

    again = match_events(reader_of(path), TemplateMiner.from_json(miner.to_json()))
    assert_equal(again, learned)


def assert_equal(a: EventTable, b: EventTable) -> None:
    for column in ("offset", "line", "timestamp", "event_id", "session_id", "level"):
        np.testing.assert_array_equal(getattr(a, column), getattr(b, column))
    assert (a.templates, a.n_known, a.sources) == (b.templates, b.n_known, b.sources)
    assert tuple(a.session_keys) == tuple(b.session_keys)
    assert a.counters == b.counters


def test_an_unseen_text_is_an_event_of_its_own(tmp_path: Path) -> None:
    miner = TemplateMiner()
    learn_events(reader_of(write_log(tmp_path, "a.log", service_log())), miner)
    extra = [
        "2024-05-06 08:00:00,000 ERROR web: req-9 disk full on 10.0.0.1",
        "2024-05-06 08:00:01,000 ERROR web: req-8 disk  full on 10.0.0.2",
        "2024-05-06 08:00:02,000 ERROR web: req-7 cannot fork",
        "2024-05-06 08:00:03,000 INFO web: req-7 close connection after 1 s",
    ]
    events = match_events(reader_of(write_log(tmp_path, "b.log", [*extra, *service_log()])), miner)
    n_known = events.n_known
    assert events.event_id[:4].tolist()[:3] == [n_known, n_known, n_known + 1]
    assert events.templates[n_known:] == ("web: <SESSION> disk full on <IP>", "web: <SESSION> cannot fork")
    assert events.event_id[3] < n_known
    assert events.templates[:n_known] == miner.templates


def test_the_events_of_a_line_do_not_depend_on_the_other_lines(tmp_path: Path) -> None:
    miner = TemplateMiner()
    lines = service_log()
    whole = learn_events(reader_of(write_log(tmp_path, "a.log", lines)), miner)
    part = match_events(reader_of(write_log(tmp_path, "b.log", lines[60:])), miner)
    np.testing.assert_array_equal(part.event_id, whole.event_id[60:])


def test_files_know_where_their_events_begin(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    lines = service_log()
    write_log(folder, "a.log", lines[:50])
    write_log(folder, "b.log", [])
    write_log(folder, "c.log", lines[50:])
    events = learn_events(reader_of(folder), TemplateMiner())
    spans = {Path(source.path).name: (source.first_event, source.n_lines) for source in events.sources}
    assert spans["a.log"] == (0, 50)
    assert spans["c.log"] == (50, 71)
    assert events.source_of(50).path.endswith("c.log")
    assert events.last_line(120) == 71


def test_forgotten_templates_are_unseen_events(tmp_path: Path) -> None:
    lines = [f"{'word ' * n}".strip() for n in range(1, 30)]
    path = write_log(tmp_path, "a.log", lines)
    events = learn_events(reader_of(path, InputSettings(log_format="plain")), TemplateMiner(max_clusters=5))
    assert events.n_known == 5
    assert len(events.templates) == 29
    assert len(set(events.event_id.tolist())) == 29


def test_matching_needs_frozen_templates(tmp_path: Path) -> None:
    path = write_log(tmp_path, "a.log", service_log())
    with pytest.raises(NotFittedError):
        match_events(reader_of(path), TemplateMiner())
