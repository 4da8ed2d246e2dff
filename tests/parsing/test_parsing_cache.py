"""Parsed events come back as they were, and a broken entry is as good as none."""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ai_detect.config import InputSettings
from ai_detect.ingest.fingerprint import FileFingerprint
from ai_detect.parsing.cache import cache_key, load_events, store_events
from ai_detect.tables import NO_TIME, EventTable, SourceSpan, ValueTable

FINGERPRINT = FileFingerprint("a.log", 10, 3, "00", "11", "22")


def table() -> EventTable:
    return EventTable(
        offset=np.array([0, 10, 25], np.int64),
        line=np.array([1, 2, 4], np.int32),
        timestamp=np.array([5, NO_TIME, 7], np.int64),
        event_id=np.array([0, 1, 2], np.int32),
        session_id=np.array([0, -1, 1], np.int32),
        level=np.array([0, 3, 6], np.int8),
        templates=("a <*>", "b \udc80", "é"),
        n_known=2,
        session_keys=("x", "y\udcff"),
        sources=(SourceSpan("a.log", 0, 4, 30),),
        counters={"n_lines": 4},
        values=ValueTable(
            np.array([0, 2, 2, 3], np.int64), np.array([1.5, np.nan, 7], np.float32), np.array([-1, 2, 3], np.int32)
        ),
    )


def is_in_its_file(column: np.ndarray) -> bool:
    return isinstance(column.base, memoryview) and isinstance(column.base.obj, mmap.mmap)


def test_round_trip(tmp_path: Path) -> None:
    store_events(tmp_path / "cache", "key", table())
    store_events(tmp_path / "cache", "key", table())
    loaded = load_events(tmp_path / "cache", "key")
    assert loaded is not None
    for column in ("offset", "line", "timestamp", "event_id", "session_id", "level"):
        assert is_in_its_file(getattr(loaded, column))
        np.testing.assert_array_equal(getattr(loaded, column), getattr(table(), column))
    for column in ("offsets", "number", "key"):
        assert is_in_its_file(getattr(loaded.values, column))
        np.testing.assert_array_equal(getattr(loaded.values, column), getattr(table().values, column))
    for name in ("templates", "n_known", "sources", "counters"):
        assert getattr(loaded, name) == getattr(table(), name)
    assert tuple(loaded.session_keys) == table().session_keys
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key"]


def test_templates_are_kept_however_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai_detect.artifacts.MAX_JSON_BYTES", 1000)
    many = replace(table(), templates=("a <*>", "b \udc80", *(f"message {at} \udcff\u00e9" for at in range(500)), ""))
    store_events(tmp_path, "key", many)
    loaded = load_events(tmp_path, "key")
    assert loaded is not None
    assert loaded.templates == many.templates


def test_no_events_at_all(tmp_path: Path) -> None:
    empty = EventTable(
        *(np.zeros(0, dtype) for dtype in (np.int64, np.int32, np.int64, np.int32, np.int32, np.int8)),
        templates=(),
        n_known=0,
        session_keys=(),
        sources=(),
    )
    store_events(tmp_path, "key", empty)
    loaded = load_events(tmp_path, "key")
    assert loaded is not None
    assert len(loaded) == 0


def test_the_key_is_the_content_and_how_it_is_read() -> None:
    settings = InputSettings()
    key = cache_key([FINGERPRINT], settings, "miner")
    assert key == cache_key([FileFingerprint("a.log", 10, 3, "00", "11", "22")], InputSettings(window_size=7), "miner")
    others = [
        cache_key([FileFingerprint("a.log", 10, 3, "01", "11", "22")], settings, "miner"),
        cache_key([FileFingerprint("b.log", 10, 3, "00", "11", "22")], settings, "miner"),
        cache_key([FINGERPRINT, FINGERPRINT], settings, "miner"),
        cache_key([FINGERPRINT], InputSettings(session_regex="x"), "miner"),
        cache_key([FINGERPRINT], InputSettings(encoding="latin-1"), "miner"),
        cache_key([FINGERPRINT], settings, "other miner"),
    ]
    assert len({key, *others}) == 7


def test_an_entry_that_does_not_exist(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_events(tmp_path, "key") is None
    assert not caplog.records


def test_every_torn_file_makes_the_entry_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store_events(tmp_path, "key", table())
    for path in sorted((tmp_path / "key").iterdir()):
        content = path.read_bytes()
        for torn in (content[: len(content) // 2], b"", content[:-1]):
            path.write_bytes(torn)
            caplog.clear()
            assert load_events(tmp_path, "key") is None or (torn == content[:-1] and path.suffix == ".json")
            assert caplog.records or path.suffix == ".json"
        path.unlink()
        assert load_events(tmp_path, "key") is None
        path.write_bytes(content)
    assert load_events(tmp_path, "key") is not None


def test_a_foreign_entry_is_none(tmp_path: Path) -> None:
    store_events(tmp_path, "key", table())
    os.rename(tmp_path / "key", tmp_path / "other")
    assert load_events(tmp_path, "other") is None
    for content in ("[]", "{}", "null", '{"schema_version": 1, "key": "other"}', "\x00", "[" * 100_000):
        (tmp_path / "other" / "events.json").write_text(content)
        assert load_events(tmp_path, "other") is None
    np.save(tmp_path / "other" / "line.npy", np.array([{}], object), allow_pickle=True)
    assert load_events(tmp_path, "other") is None


def test_an_entry_of_another_schema_is_none(tmp_path: Path) -> None:
    store_events(tmp_path, "key", table())
    path = tmp_path / "key" / "events.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "schema_version": meta["schema_version"] - 1}))
    assert load_events(tmp_path, "key") is None


@pytest.mark.parametrize("counts", [[9, 0, 0], [0, 0, 0, 0], [], [1, 1, 1]])
def test_values_that_do_not_fit_the_events_make_the_entry_none(tmp_path: Path, counts: list[int]) -> None:
    store_events(tmp_path, "key", table())
    np.save(tmp_path / "key" / "value_offsets.npy", np.cumsum([0, *counts]).astype(np.int64))
    for name, dtype in (("value_number", np.float32), ("value_key", np.int32)):
        np.save(tmp_path / "key" / f"{name}.npy", np.zeros(sum(counts), dtype))
    assert (load_events(tmp_path, "key") is None) == (counts != [1, 1, 1])


def test_a_disk_that_takes_nothing_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    store_events(tmp_path / "file", "key", table())
    assert any("could not be cached" in message for message in caplog.messages)
