import csv
import gzip
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_detect.config import InputSettings
from ai_detect.errors import ConfigError, DataError
from ai_detect.ingest.log_format import LAYOUTS
from ai_detect.ingest.log_reader import fetch_lines
from ai_detect.ingest.log_sources import find_sources, stored_bytes
from ai_detect.ingest.messages import EMPTY_TEXT, MAX_TEXT_CHARS, MessageBatch, MessageReader, natural_session_field
from ai_detect.ingest.session_keys import without_key
from ai_detect.tables import LEVELS, NO_TIME

DATA = Path(os.environ.get("AI_DETECT_DATA", Path(__file__).parents[2].parent / "shared" / "data"))

TRACE = """\
2026-01-31 10:00:00,001 ERROR [main] org.own.App: order 7 failed
java.lang.IllegalStateException: no stock
\tat org.own.Stock.take(Stock.java:12)
\tat org.own.Shop.buy(Shop.java:99)
Caused by: java.io.IOException: disk
\t... 12 more

2026-01-31 10:00:01,500 INFO [main] org.own.App: Traceback follows
Traceback (most recent call last):
  File "shop.py", line 3, in buy
    take(stock)
    ^^^^^^^^^^^
ValueError: no stock
2026-01-31 10:00:02,000 WARN [main] org.own.App: \n"""


def reader_of(folder: Path, content: str | bytes, **values: Any) -> MessageReader:
    path = folder / "app.log"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return MessageReader(find_sources(path), InputSettings(**values))


def column(reader: MessageReader, name: str) -> list[Any]:
    return [value for batch in reader for value in getattr(batch, name)]


def test_continuation_lines_are_joined_without_stack_frames(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, TRACE)
    assert reader.format.name == "hadoop"
    assert column(reader, "text") == [
        "order 7 failed java.lang.IllegalStateException: no stock Caused by: java.io.IOException: disk",
        "Traceback follows Traceback (most recent call last): ValueError: no stock",
        EMPTY_TEXT,
    ]
    assert column(reader, "line") == [1, 8, 14]
    assert [LEVELS[level] for level in column(reader, "level")] == ["error", "info", "warning"]
    times = column(reader, "timestamp")
    assert (times[1] - times[0], times[2] - times[1]) == (1_499_000_000, 500_000_000)
    counters = reader.counters
    assert (counters.n_lines, counters.n_messages, counters.n_blank, counters.n_continuation) == (14, 3, 1, 10)
    [stats] = reader.files
    assert (stats.n_lines, stats.n_bytes, stats.n_messages) == (14, len(TRACE), 3)
    offset = column(reader, "offset")[1]
    assert fetch_lines(reader.sources[0], [(offset, 2)])[0][1] == "Traceback (most recent call last):"


def test_joining_can_be_switched_off_and_never_happens_without_headers(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, TRACE, not_join_lines=True)
    assert len(column(reader, "text")) == 13 and reader.counters.n_no_header == 10
    reader = reader_of(tmp_path, "one thing\n  indented\nother thing\n")
    assert column(reader, "text") == ["one thing", "indented", "other thing"]


def test_lines_before_the_first_header_stand_alone(tmp_path: Path) -> None:
    header = "2026-01-31 10:00:00,001 INFO [main] org.own.App: hello"
    reader = reader_of(tmp_path, "\tat a.b(c:1)\nrest of a trace\n" + f"{header}\n" * 5)
    assert column(reader, "text")[:3] == ["at a.b(c:1)", "rest of a trace", "hello"]
    assert column(reader, "timestamp")[0] == NO_TIME


@given(
    st.lists(
        st.binary(max_size=30) | st.sampled_from([b"\n", b"\n2026-01-31 10:00:00 INFO x\n", b"\n{}\n", b"k1 ", b"\r\n"])
    )
)
@settings(max_examples=150)
def test_any_bytes_are_messages_or_a_data_error(parts: list[bytes]) -> None:
    content = b"".join([b"# ", *parts])
    for values in ({}, {"session_regex": r"k\d"}, {"session_by_file": True}, {"log_format": "plain"}):
        with tempfile.TemporaryDirectory() as folder:
            try:
                reader = reader_of(Path(folder), content, **values)
                batches = list(reader)
            except DataError as error:
                assert "\n" not in str(error)
                continue
            c = reader.counters
            assert c.n_lines == c.n_messages + c.n_blank + c.n_continuation
            assert c.n_lines == content.count(b"\n") + (not content.endswith(b"\n"))
            texts = [text for batch in batches for text in batch.text]
            assert len(texts) == c.n_messages
            assert all(text and "\n" not in text and len(text) <= MAX_TEXT_CHARS for text in texts)
            for text in texts:
                text.encode("utf-8", "surrogateescape")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
@settings(max_examples=30)
def test_session_keys_are_found_and_leave_the_text(numbers: list[int]) -> None:
    lines = [f"2026-01-31 10:00:00 INFO req-{n}a did step for req-{n}a, not req-{n}ab" for n in numbers]
    with tempfile.TemporaryDirectory() as folder:
        reader = reader_of(Path(folder), "\n".join(lines), session_regex=r"req-\w+")
        assert column(reader, "session_key") == [f"req-{n}a" for n in numbers]
        assert column(reader, "text") == [f"did step for <SESSION>, not req-{n}ab" for n in numbers]


@pytest.mark.parametrize(
    ("text", "key", "begins_text", "expected"),
    [
        ("w1 opened w1 again", "w1", True, "opened <SESSION> again"),
        ("w12 opened", "w1", True, "w12 opened"),
        ("/data/blk_-7/blk_-77 of blk_-7.", "blk_-7", False, "/data/<SESSION>/blk_-77 of <SESSION>."),
        ("12 rows of 12", "12", False, "12 rows of 12"),
        ("12 rows of 12", "12", True, "rows of 12"),
        ("[a] [a]", "[a]", True, "<SESSION>"),
        ("a", "a", True, ""),
        ("nothing", "a-b", False, "nothing"),
    ],
)
def test_without_key(text: str, key: str, begins_text: bool, expected: str) -> None:
    assert without_key(text, key, begins_text) == expected


def test_group_one_is_the_key_and_a_continuation_line_may_hold_it(tmp_path: Path) -> None:
    log = (
        "2026-01-31 10:00:00 INFO start [id=x7] now\n2026-01-31 10:00:01 INFO two lines\n[id=x8] below\n"
        "2026-01-31 10:00:02 INFO none\n2026-01-31 10:00:03 INFO none\n"
    )
    reader = reader_of(tmp_path, log, session_regex=r"\[id=(\w+)\]")
    assert column(reader, "session_key") == ["x7", "x8", None, None]
    assert column(reader, "text")[:2] == ["start [id=<SESSION>] now", "two lines [id=<SESSION>] below"]
    assert reader.counters.n_no_session == 2


@pytest.mark.parametrize(
    ("regex", "expected"),
    [
        (r"(blk_x)|(blk_\d+)", ["blk_x", "blk_7", None]),
        (r"blk_x|blk_\d+", ["blk_x", "blk_7", None]),
        (r"(?:a )?(blk_x)|b (blk)_(\d+)", ["blk_x", "blk", None]),
        (r"read(?: (\w+))?|wrote", ["blk_x", None, None]),
    ],
)
def test_the_key_is_the_first_group_that_takes_part(tmp_path: Path, regex: str, expected: list[str | None]) -> None:
    log = "read blk_x from disk\nb blk_7 wrote\nnothing of the kind\n"
    assert column(reader_of(tmp_path, log, session_regex=regex), "session_key") == expected


def test_session_field_of_postgresql_and_of_json(tmp_path: Path) -> None:
    log = (
        "2026-01-31 10:00:00.123 UTC [77] 65f0.4d shop@store/psql LOG:  statement: select 1,\n\t2\n"
        "2026-01-31 10:00:00.124 UTC [78] 65f0.4e LOG:  checkpoint\n"
    )
    reader = reader_of(tmp_path, log, session_field="session")
    assert natural_session_field(reader.format) == "session"
    assert column(reader, "session_key") == ["65f0.4d", "65f0.4e"]
    assert column(reader, "text") == ["statement: select 1, 2", "checkpoint"]

    records = [{"msg": f"step of trace t{n}", "trace": {"id": f"t{n}"}, "n": n} for n in (1, 2, 1)] + [{"msg": "none"}]
    log = "\n".join(json.dumps(record) for record in records)
    reader = reader_of(tmp_path, log, session_field="trace.id")
    assert column(reader, "session_key") == ["t1", "t2", "t1", None]
    assert column(reader, "text")[0] == "step of trace <SESSION>"
    assert column(reader_of(tmp_path, log, session_field="n"), "session_key") == ["1", "2", "1", None]
    with pytest.raises(ConfigError, match=r"there are: msg, trace, trace\.id, n"):
        reader_of(tmp_path, log, session_field="nope")
    with pytest.raises(ConfigError, match="it has no fields"):
        reader_of(tmp_path, "plain text\n", session_field="nope")


def test_a_message_inside_json_may_have_several_lines(tmp_path: Path) -> None:
    records = [{"message": "boom\n\tat a.b(c:1)\nCaused by: x"}, {"log": "docker writes a newline\n"}, {"message": ""}]
    reader = reader_of(tmp_path, "\n".join(json.dumps(record) for record in records))
    assert column(reader, "text") == ["boom Caused by: x", "docker writes a newline", EMPTY_TEXT]


def test_sessions_by_file_and_batches_that_never_cross_files(tmp_path: Path) -> None:
    for name, n_lines in (("a/app.log", 5000), ("b/app.log", 3), ("b/zz.log", 1)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(f"line {n}\n" for n in range(n_lines)))
    progress: list[int] = []
    sources = find_sources(tmp_path)
    reader = MessageReader(sources, InputSettings(session_by_file=True), on_progress=progress.append)
    batches: list[MessageBatch] = list(reader)
    assert [(batch.source, len(batch)) for batch in batches] == [(0, 4096), (0, 904), (1, 3), (2, 1)]
    assert [set(batch.session_key) for batch in batches] == [{"a/app.log"}, {"a/app.log"}, {"b/app.log"}, {"b/zz.log"}]
    assert [stats.n_messages for stats in reader.files] == [5000, 3, 1]
    assert sum(progress) == stored_bytes(sources)
    again = list(reader)
    assert again == batches and reader.counters.n_messages == 5004


def test_what_cannot_be_sessions_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--session_regex req-\\d\+ matches no line; the first line is 'hello'"):
        list(reader_of(tmp_path, "\nhello\n", session_regex=r"req-\d+"))
    with pytest.raises(DataError, match="holds no message, only 3 blank lines"):
        list(reader_of(tmp_path, "\n \n\t\n"))


def test_long_messages_are_shortened_and_counted(tmp_path: Path) -> None:
    header = "2026-01-31 10:00:00,001 INFO [main] org.own.App: "
    log = header + "x" * 20_000 + f"\n{header}y" * 2500 + "\n" + header + "z\n" + "more words\n" * 2000
    reader = reader_of(tmp_path, log)
    assert [len(text) for text in column(reader, "text") if text != "y"] == [MAX_TEXT_CHARS, MAX_TEXT_CHARS]
    assert reader.counters.n_shortened == 2
    one_line = reader_of(tmp_path, "z" * 3_000_000)
    assert [len(text) for text in column(one_line, "text")] == [MAX_TEXT_CHARS]
    assert (one_line.counters.n_truncated, one_line.counters.n_shortened) == (1, 1)


def test_undecodable_and_out_of_order_lines_are_counted(tmp_path: Path) -> None:
    log = b"2026-01-31 10:00:01 caf\xe9\n2026-01-31 10:00:00 earlier\n2026-01-31 10:00:02 caf\xc3\xa9"
    reader = reader_of(tmp_path, log)
    assert column(reader, "text") == ["caf\udce9", "earlier", "café"]
    assert (reader.counters.n_undecodable, reader.counters.n_out_of_order) == (1, 1)


def test_years_go_on_through_rotated_files(tmp_path: Path) -> None:
    (tmp_path / "sys.log.1").write_text("Dec 31 23:59:59 box app: old\n")
    (tmp_path / "sys.log").write_text("Jan  1 00:00:01 box app: new\n")
    reader = MessageReader(find_sources(tmp_path), InputSettings())
    older, newer = column(reader, "timestamp")
    assert newer - older == 2_000_000_000


@pytest.mark.parametrize(
    ("path", "layout", "share"),
    [
        *(
            (f"loghub_2k/{name}/{name}_2k.log.gz", layout, 1.0)
            for name, layout in (
                ("HDFS", "hdfs"),
                ("BGL", "bgl"),
                ("Linux", "syslog"),
                ("Hadoop", "hadoop"),
                ("OpenSSH", "syslog"),
                ("Apache", "apache_error"),
                ("Zookeeper", "zookeeper"),
                ("HealthApp", "healthapp"),
            )
        ),
        ("linux/Linux.log.gz", "syslog", 1.0),
        ("lo2/lo2.log.gz", "log4j", 0.76),
        ("openstack_kalaki/openstack.log.gz", "plain", 1.0),
    ],
)
def test_real_logs_are_recognised(path: str, layout: str, share: float) -> None:
    if not (DATA / path).exists():
        pytest.skip(f"no shared data at {DATA}")
    reader = MessageReader(find_sources(DATA / path), InputSettings())
    assert reader.format is LAYOUTS[layout]
    n_messages = sum(len(batch) for batch in reader)
    counters = reader.counters
    assert (n_messages - counters.n_no_header) / (counters.n_lines - counters.n_blank) >= share


@pytest.mark.parametrize("name", ["HDFS", "BGL", "Linux", "Hadoop", "OpenSSH", "Zookeeper"])
def test_contents_are_those_of_the_ground_truth(name: str) -> None:
    log = DATA / f"loghub_2k/{name}/{name}_2k.log.gz"
    if not log.exists():
        pytest.skip(f"no shared data at {DATA}")
    table = str(log).replace(".log.gz", ".log_structured_corrected.csv.gz")
    with gzip.open(table, "rt", encoding="utf-8", newline="") as file:
        expected = [row["Content"].strip() for row in csv.DictReader(file)]
    assert column(MessageReader(find_sources(log), InputSettings()), "text") == expected
