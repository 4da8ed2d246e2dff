"""A broken entry of the cache is passed over with a warning; what is taken from it fits together."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hostile import PLANTS, crafted_array, crafted_json, damaged, fuzz, limited, linked, replace
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_detect.artifacts import read_json
from ai_detect.parsing.cache import load_events, store_events
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.tables import LEVELS, EventTable, SourceSpan, ValueTable

pytestmark = pytest.mark.slow

KEY = "key"
COLUMNS = ("offset", "line", "timestamp", "event_id", "session_id", "level")
VALUE_COLUMNS = ("value_offsets", "value_number", "value_key")
TEXTS = ("templates", "template_offsets", "keys", "key_offsets")


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An entry of two files with four events; read only."""
    folder = tmp_path_factory.mktemp("cache")
    table = EventTable(
        offset=np.array([0, 10, 25, 0], np.int64),
        line=np.array([1, 2, 4, 1], np.int32),
        timestamp=np.array([5, 6, 7, 8], np.int64),
        event_id=np.array([0, 1, 2, 1], np.int32),
        session_id=np.array([0, -1, 1, 0], np.int32),
        level=np.array([0, 3, 6, 8], np.int8),
        templates=("a <*>", "b", "c"),
        n_known=2,
        session_keys=("x", "y\u00e9"),
        sources=(SourceSpan("a.log", 0, 4, 30), SourceSpan("b.log", 3, 1, 9)),
        counters={"n_lines": 5},
        values=ValueTable(
            np.array([0, 1, 1, 3, 3], np.int64), np.array([1.5, np.nan, 7], np.float32), np.array([-1, 2, 3], np.int32)
        ),
    )
    store_events(folder, KEY, table)
    return folder / KEY


def attempt(folder: Path) -> EventTable | None:
    """The events of the entry; what is taken can be used without a further check."""
    with limited():
        events = load_events(folder, KEY)
        if events is not None:
            for row in range(len(events)):
                assert events.source_of(row).path and events.last_line(row) >= 0
                assert LEVELS[events.level[row]] is not None and events.templates[events.event_id[row]] is not None
                assert events.session_id[row] < 0 or events.session_keys[events.session_id[row]] is not None
            assert len(events.timestamp.tolist()) == len(events) == len(events.offset)
            assert sum(events.counters.values()) >= 0
            taken = events.values.take(np.arange(len(events))[::-1])
            assert len(taken) == len(events) and len(taken.number) == len(taken.key) == len(events.values.slot)
    return events


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_sound_one_is_taken(entry: Path) -> None:
    assert attempt(entry.parent) is not None


@settings(fuzz, max_examples=300)
@given(data=st.data())
def test_random_damage_is_none_or_sound(entry: Path, tmp_path: Path, data: st.DataObject) -> None:
    name, content = data.draw(damaged(contents(entry)))
    replace(linked(entry, tmp_path / KEY) / name, content)
    attempt(tmp_path)


@settings(fuzz, max_examples=200)
@given(data=st.data())
def test_a_crafted_description_is_none_or_sound(entry: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = linked(entry, tmp_path / KEY)
    replace(folder / "events.json", data.draw(crafted_json((entry / "events.json").read_bytes())))
    attempt(tmp_path)


@settings(fuzz, max_examples=200)
@given(data=st.data(), name=st.sampled_from([*COLUMNS, *VALUE_COLUMNS, *TEXTS]))
def test_a_crafted_column_is_none_or_sound(entry: Path, tmp_path: Path, data: st.DataObject, name: str) -> None:
    folder = linked(entry, tmp_path / KEY)
    array = data.draw(crafted_array(np.load(entry / f"{name}.npy")))
    (folder / f"{name}.npy").unlink()
    np.save(folder / f"{name}.npy", array)
    attempt(tmp_path)


def npy(header: str, body: bytes = bytes(32)) -> bytes:
    padded = header.encode() + b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + body


HEADERS = {
    "a shape beyond the file": "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }",
    "a shape beyond all files": "{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999999999,), }",
    "two dimensions": "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 2), }",
    "a negative shape": "{'descr': '<i8', 'fortran_order': False, 'shape': (-4,), }",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (4,), }",
    "the other byte order": "{'descr': '>i8', 'fortran_order': False, 'shape': (4,), }",
    "a bracket that is never closed": "{'descr': '<i8', 'shape': (((((((((((((",
    "brackets without end": "(" * 100,
    "an indentation": "  {\n 'descr'\n   :",
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_column_with_another_header_is_none(
    entry: Path, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    replace(linked(entry, tmp_path / KEY) / "offset.npy", npy(HEADERS[what]))
    assert attempt(tmp_path) is None
    assert "a broken cache entry is ignored" in caplog.text


def test_an_archive_in_a_columns_place_is_none(entry: Path, tmp_path: Path) -> None:
    folder = linked(entry, tmp_path / KEY)
    (folder / "offset.npy").unlink()
    with open(folder / "offset.npy", "wb") as file:
        np.savez(file, np.zeros(4, np.int64))
    assert attempt(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"sources": []},
        {"sources": [{"path": "a", "first_event": 1, "n_lines": 1, "n_bytes": 1}]},
        {"sources": [{"path": "a", "first_event": 0, "n_lines": "1", "n_bytes": 1}]},
        {"counters": []},
        {"counters": {"n_lines": "many"}},
        {"n_events": 4.0},
        {"n_known": True},
        {"n_known": 4},
    ],
)
def test_a_description_that_cannot_be_is_none(entry: Path, tmp_path: Path, change: dict[str, object]) -> None:
    folder = linked(entry, tmp_path / KEY)
    meta = json.loads((entry / "events.json").read_bytes())
    replace(folder / "events.json", json.dumps({**meta, **change}).encode())
    assert attempt(tmp_path) is None


@pytest.mark.parametrize("value", [-1, len(LEVELS)])
def test_a_level_that_has_no_name_is_none(entry: Path, tmp_path: Path, value: int) -> None:
    folder = linked(entry, tmp_path / KEY)
    (folder / "level.npy").unlink()
    np.save(folder / "level.npy", np.full(4, value, np.int8))
    assert attempt(tmp_path) is None


def test_something_else_in_a_files_place_is_none(entry: Path, tmp_path: Path) -> None:
    for name in contents(entry):
        for plant in PLANTS.values():
            folder = linked(entry, tmp_path / KEY)
            (folder / name).unlink()
            plant(folder / name)
            assert attempt(tmp_path) is None
        folder = linked(entry, tmp_path / KEY)
        replace(folder / name, b"")
        os.truncate(folder / name, 1 << 42)
        assert attempt(tmp_path) is None


@settings(fuzz, max_examples=200)
@given(data=st.data())
def test_cached_templates_are_a_value_error_or_sound(tmp_path: Path, data: st.DataObject) -> None:
    miner = TemplateMiner()
    miner.learn(miner.mask(["user 7 logged in", "user 8 logged out", "disk 3 is full"])[0])
    miner.freeze()
    path = tmp_path / "templates.json"
    content = json.dumps(miner.to_json()).encode()
    path.write_bytes(data.draw(st.one_of(crafted_json(content), damaged({"x": content}).map(lambda pair: pair[1]))))
    with limited():
        try:
            again = TemplateMiner.from_json(read_json(path))
        except ValueError:
            return
        assert TemplateMiner.from_json(again.to_json()).to_json() == again.to_json()
        if again.is_frozen:
            assert again.match("disk <NUM> is full") < len(again.templates)
