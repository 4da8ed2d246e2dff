import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_detect.errors import ConfigError, DataError
from ai_detect.ingest.labels import UNLABELLED, labels_by_regex, labels_for, read_label_file
from ai_detect.ingest.log_sources import LogSource
from ai_detect.tables import EventTable, SessionTable, SourceSpan


@pytest.mark.parametrize(
    "text",
    [
        "session,label\na,0\nb,1\n",
        "BlockId,Label\r\na,Normal\r\nb,Anomaly\r\n",
        "a,normal\nb,abnormal",
        'id,name,is_anomaly\n"a",x,False\n\nb,"y,z",True\n',
        "\ufeffsession,label\na , 0 \nb,1\na,0\n",
    ],
)
def test_label_files_of_every_habit(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode())
    assert read_label_file(path) == {"a": 0, "b": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"session,label\na,maybe\n", "labels.csv:2: 'maybe' is no label"),
        (b"session,label\na,0\nb\n", "labels.csv:3: expected a session and its label, found 'b'"),
        (b"session,label\na,0\na,1\n", "labels.csv:3: session 'a' is labelled both"),
        (b"name,colour\na,0\n", "labels.csv:1: the heading 'name,colour' needs the columns"),
        (b"session,label\n", "holds no labels"),
        (b"", "is empty"),
        (b"\x7fELF" + bytes(50), "looks binary"),
        (b"a,0\n" + b'"' + b"x" * 200_000 + b'",0\n', "not CSV"),
    ],
)
def test_label_files_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_label_file(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_label_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(b"a,0\n" + content)
    try:
        assert read_label_file(path)["a"] == 0
    except DataError as error:
        assert "\n" not in str(error)


def test_a_folder_is_no_label_file(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("a,0\n")
    with pytest.raises(DataError, match="name the CSV file"):
        read_label_file(tmp_path)


def test_labels_for_sessions(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = labels_for(["b", "c", "a"], {"a": 0, "b": 1}, "labels.csv")
    assert found.dtype == np.int8 and found.tolist() == [1, UNLABELLED, 0]
    assert "1 of 3 sessions (33.3 %) have no label" in caplog.text
    with pytest.raises(DataError, match=r"labels none of the 1 sessions .*'x'.*'a'.*--session_regex"):
        labels_for(["x"], {"a": 0}, "labels.csv")


def make_events(paths: list[str], lines: list[list[int]]) -> EventTable:
    flat = [line for numbers in lines for line in numbers]
    n = len(flat)
    starts = np.cumsum([0, *map(len, lines)])
    return EventTable(
        np.zeros(n, np.int64),
        np.array(flat, np.int32),
        np.zeros(n, np.int64),
        np.zeros(n, np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.int8),
        ("x",),
        1,
        ("k",),
        tuple(SourceSpan(path, int(start), 9, 9) for path, start in zip(paths, starts, strict=False)),
    )


def test_lines_that_carry_their_own_label(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.log", "b.log")]
    Path(paths[0]).write_text("ALERT before any message\n- ok\n- ok\n  ALERT in a continuation\n- ok\n")
    Path(paths[1]).write_text("- ok\nALERT here\n")
    events = make_events(paths, [[2, 3, 5], [1, 2]])
    rows = np.array([0, 1, 2, 1, 3, 4], np.int64)
    sessions = SessionTable(("p", "q", "empty", "r", "s"), np.array([0, 1, 3, 3, 5, 6], np.int64), rows)
    sources = [LogSource(path) for path in paths]
    found = labels_by_regex("ALERT", sources, events, sessions)
    assert found.dtype == np.int8 and found.tolist() == [0, 1, 0, 1, 1]
    with pytest.raises(DataError, match="--label_regex nothing: matches no line"):
        labels_by_regex("nothing", sources, events, sessions)
    with pytest.raises(ConfigError, match="not a regular expression"):
        labels_by_regex("(", sources, events, sessions)
