"""Columns read by compiled code are the messages that Python reads, for every line there is."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_detect.config import InputSettings
from ai_detect.errors import DataError
from ai_detect.ingest.byte_dictionary import ByteDictionary
from ai_detect.ingest.byte_regex import UnknownPattern
from ai_detect.ingest.header_columns import read_columns
from ai_detect.ingest.log_sources import LogSource, find_sources
from ai_detect.ingest.messages import MessageReader

Row = tuple[Any, ...]


def sources(path: Path) -> list[LogSource]:
    """A file's source without the question whether it looks like a log."""
    return find_sources(path) if path.is_dir() else [LogSource(str(path))]


def by_python(path: Path, values: dict[str, Any]) -> tuple[list[Row], MessageReader]:
    reader = MessageReader(sources(path), InputSettings(**values))
    rows = [
        row
        for batch in reader
        for row in zip(
            batch.offset, batch.line, batch.timestamp, batch.level, batch.session_key, batch.text, strict=True
        )
    ]
    return rows, reader


def by_columns(path: Path, values: dict[str, Any]) -> tuple[list[Row], MessageReader, list[str]]:
    reader = MessageReader(sources(path), InputSettings(**values))
    keys = ByteDictionary()
    rows: list[Row] = []
    for block in read_columns(reader, keys):
        names = list(keys.strings())
        for i in range(len(block)):
            text = block.data[block.begins[i] : block.ends[i]].tobytes().decode("utf-8", "surrogatepass")
            key = None if block.session[i] < 0 else names[block.session[i]]
            place = int(block.offset[i]), int(block.line[i]), int(block.timestamp[i]), int(block.level[i])
            rows.append((*place, key, text))
    return rows, reader, list(keys.strings())


def same(path: Path, **values: Any) -> list[Row]:
    expected, plain = by_python(path, values)
    rows, reader, keys = by_columns(path, values)
    assert rows == expected
    assert reader.counters == plain.counters
    assert reader.files == plain.files
    assert keys == list(dict.fromkeys(row[4] for row in expected if row[4] is not None))
    return rows


def write(folder: Path, content: str | bytes, name: str = "app.log") -> Path:
    path = folder / name
    path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
    return path


HADOOP = "2026-01-31 {clock},001 {level} [main] org.own.App: {text}"
TRACE = "java.lang.IllegalStateException: no stock blk_9\n\tat org.own.Stock.take(Stock.java:12)\nCaused by: disk 7"
PYTHON_TRACE = (
    '  File "a.py", line 3, in f\n    take(blk_4)\n    ^^^^\n  File "b.py", line 9\nValueError:  blk_-12\t no'
)
TEXTS = [
    "blk_1 opened",
    "order 7 of blk_-12 blk_-12x",
    "caf\u00e9",
    "bad \udcff byte",
    "a\x85b",
    "n\x00ul",
    "",
    "  ",
    "x" * 900,
]
LINES = st.one_of(
    st.builds(
        HADOOP.format,
        clock=st.sampled_from(["10:00:00", "10:00:01", "09:59:59", "24:00:00", "25:00:00", "1:00:00"]),
        level=st.sampled_from(["INFO", "WARN", "error", "TRACE"]),
        text=st.sampled_from(TEXTS),
    ),
    st.sampled_from(
        [
            TRACE,
            PYTHON_TRACE,
            "  at a.b",
            "\t  ",
            "<EMPTY>",
            "caf\u00e9 \tblk_3",
            "k" * 5000,
            "",
            "\t",
            "\x1c",
            "no header here",
            "2026-02-28 10:00:00,001 INFO a.b: next day",
        ]
    ),
)


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(LINES, min_size=1, max_size=60), ends=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
def test_random_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[str], ends: str, last: bool) -> None:
    head = HADOOP.format(clock="09:00:00", level="INFO", text="blk_0 begins")
    path = write(tmp_path_factory.mktemp("log"), ends.join([head, *lines]) + (ends if last else ""))
    same(path, log_format="hadoop")
    same(path, log_format="hadoop", session_regex=r"blk_-?\d+")
    same(path, log_format="plain", session_regex=r"order (\d+)|blk_(\d+)")
    same(path, log_format="hadoop", session_field="process", not_join_lines=True)


#: Numbers, most of them one another's shape: keys and texts that hold each other, or nearly.
NUMBERS = st.sampled_from(["1", "7", "12", "17", "71", "77", "100", "107"])
DIGITS = st.sampled_from("0127")
FIRST = "2026-01-31 10:00:00,001 INFO [main 1] org.own.App: blk_1 begins 7"
SHAPED = [
    "2026-01-31 10:00:0{0},1{1}2 INFO [main {2}] org.own.App: blk_{3} {4} blk_{5}",
    "2026-01-31 1{0}:00:00,{1}23 WARN [b{3} x] org.own.blk_{3}.A:  blk_{5}x blk_{5} ",
    "2026-01-31 1{0}:00:00,001 INFO org.own.A: blk_{5} ",
    "2026-01-31 1{0}:00:00,001 DEBUG org.own.A{3}: a {4} blk_{5}: {5}  ",
    "\tat a.b{3}(C.java:{2})",
    '  File "a{4}.py", line {2}',
    "    blk_{3} {4}",
    "Caused by: blk_{3} {4} of blk_{5}",
]


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from(SHAPED), DIGITS, DIGITS, *[NUMBERS] * 4), min_size=1, max_size=40))
def test_lines_of_few_shapes(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]) -> None:
    lines = [FIRST, *(shape.format(*numbers) for shape, *numbers in rows)]
    path = write(tmp_path_factory.mktemp("log"), "\n".join(lines))
    for regex in (r"blk_-?\d+", r"\d+(?= |$)", r"(?:A|x): *(\d+)|blk_(\d+)", r"\S+$", "[1-5]+"):
        for layout in ("plain", "hadoop"):
            same(path, log_format=layout, session_regex=regex)
    same(path, log_format="hadoop", session_field="process")
    same(path, log_format="hadoop", session_by_file=True)


def test_levels_that_differ_in_a_digit(tmp_path: Path) -> None:
    header = "- 1117838570 2005.06.03 R0 2005-06-03-15.42.50.675872 R0 RAS KERNEL {} said {}"
    lines = [header.format(level, i) for i in range(9) for level in (f"DEBUG{i}", "INFO", f"DEBUG{9 - i}")]
    rows = same(write(tmp_path, "\n".join(lines)), log_format="bgl")
    assert len({row[3] for row in rows}) == 3


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=400))
def test_arbitrary_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = write(tmp_path_factory.mktemp("log"), b"x blk_1\n" + content)
    same(path, log_format="plain", session_regex=r"^\S+")


@pytest.mark.parametrize(
    ("layout", "times"),
    [
        ("log4j", ["23:59:58.123", "23:59:59.5", "00:00:01.123", "13:00:00.000", "05:00:00.000", "16:00:00.001"]),
        ("log4j", ["20:00:00.000", "14:00:00.000", "10:00:00.000", "06:00:00.000", "23:00:00.000", "01:00:00.000"]),
        ("syslog", ["Dec 31 23:59:59", "Jan  1 00:00:00", "Dec 31 23:59:58", "Feb 29 01:02:03", "Mar  1 25:00:00"]),
        ("hdfs", ["081109 203518", "081109 203519", "081110 000000", "081110 995959", "081332 000000"]),
        ("healthapp", ["20171223-22:15:29:606", "20171223-22:15:29:7", "20171223-2:5:9:60", "20171224-0:0:0:000"]),
        ("iso", ["2024-01-01T00:00:00.1234567Z", "2024-01-01T00:00:01+02:00", "2024-01-01 00:00:02,1 UTC"]),
        ("dmesg", ["    1.234567", "   12.345678", "    1.234567"]),
        ("thunderbird", ["1131566461", "1131566462", "113156646"]),
        ("bgl", ["2005-06-03-15.42.50.675872", "2005-06-03-15.42.53.276129", "2005-06-04-00.24.32.432192"]),
    ],
)
def test_times_are_those_of_the_parser(tmp_path: Path, layout: str, times: list[str]) -> None:
    header = {
        "log4j": "{} [main] INFO a.b - said {}",
        "syslog": "<{1}>{0} host app[1]: said {1}",
        "hdfs": "{} 12 INFO a.b: said {}",
        "healthapp": "{}|Step|30|said {}",
        "iso": "[{}] ERROR: said {}",
        "dmesg": "[{}] said {}",
        "thunderbird": "- {} 2005.11.09 node Nov 9 12:01:01 place app[1]: said {}",
        "bgl": "- 1117838570 2005.06.03 R0 {} R0 RAS KERNEL FATAL said {}",
    }[layout]
    order = [*range(len(times)), *range(len(times)), *reversed(range(len(times)))]
    lines = [header.format(times[i], n) for n, i in enumerate(i for i in order for _ in range(3))]
    rows = same(write(tmp_path, "\n".join(lines)), log_format=layout)
    assert len({row[2] for row in rows}) > 1


def test_what_no_compiled_code_reads(tmp_path: Path) -> None:
    """Lines of megabytes, a byte order mark, no newline at all, and a trace over the end of a block."""
    head = HADOOP.format(clock="10:00:00", level="INFO", text="{}")
    texts = ["a" * 9_000, "b" * (1 << 17), "c " * (1 << 20), "short", "<" + "d" * 8_190, " " * 8_200 + "x"]
    long_trace = TRACE + "\n\tat x.y" * 40_000 + "\nlast words"
    content = "\ufeff" + "\n".join([*(head.format(text) for text in texts), long_trace, head.format("end")])
    same(write(tmp_path, content), log_format="hadoop", session_regex="[a-d]+")
    same(write(tmp_path, "one line"), log_format="plain")
    same(write(tmp_path, "\n\none line\n\n\n"), log_format="plain")


def test_several_files_and_wide_encodings(tmp_path: Path) -> None:
    lines = [f"Dec {30 + i // 50} 10:00:{i % 60:02d} host app[{i % 3}]: req-{i} said {i}" for i in range(100)]
    (tmp_path / "logs").mkdir()
    for number in range(3):
        write(tmp_path / "logs", "\n".join(lines[number * 30 :]), f"app.log.{number}")
    write(tmp_path / "logs", "\n".join(lines).encode("utf-16"), "other.log")
    same(tmp_path / "logs", session_by_file=True)
    same(tmp_path / "logs", session_field="pid")
    same(tmp_path / "logs", session_regex=r"req-(\d+)")


def test_a_file_without_a_message_is_no_session(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for name, content in (("a", "\n \n"), ("b", "one\ntwo"), ("c", "\n"), ("d", "caf\u00e9\nthree"), ("e", "four")):
        write(tmp_path / "logs", content, f"{name}.log")
    rows = same(tmp_path / "logs", log_format="plain", session_by_file=True)
    assert [row[4] for row in rows] == ["b.log", "b.log", "d.log", "d.log", "e.log"]


def test_a_clock_without_a_date_goes_on_through_rotated_files(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    hours = [1, 5, 9, 15, 23, 8, 12, 20, 3, 14]
    lines = [f"{hour:02d}:00:0{i}.000 [main] INFO a.b - said {i}" for hour in hours for i in range(3)]
    for number in range(5):
        write(tmp_path / "logs", "\n".join(lines[24 - 6 * number : 30 - 6 * number]), f"app.log.{number}")
    rows = same(tmp_path / "logs", log_format="log4j")
    assert rows[-1][2] > 2 * 86_400 * 10**9


def test_every_log_begins_a_time_of_its_own(tmp_path: Path) -> None:
    """What was learned of a date holds in the next log where it names its year."""
    (tmp_path / "logs").mkdir()
    for name, days in (("a", ("Dec 31", "Jan  1")), ("b", ("Jan  1", "Jan  2")), ("c", ("Jan  2",))):
        lines = [f"{day} 10:00:0{i} host app[1]: said {i}" for day in days for i in range(4)]
        write(tmp_path / "logs", "\n".join(lines), f"{name}.log")
    rows = same(tmp_path / "logs", log_format="syslog")
    assert [row[2] // (365 * 86_400 * 10**9) for row in rows] == [0] * 4 + [1] * 4 + [0] * 12
    (tmp_path / "years").mkdir()
    for name in "abc":
        lines = [HADOOP.format(clock=f"1{i}:00:00", level="INFO", text=f"\u00e9 {name}"[i % 2 :]) for i in range(9)]
        write(tmp_path / "years", "\n".join([*lines, TRACE]), f"{name}.log")
    same(tmp_path / "years", log_format="hadoop", session_by_file=True)


@pytest.mark.parametrize("joins", [True, False])
def test_a_day_that_begins_before_a_line_without_header(tmp_path: Path, joins: bool) -> None:
    """The last header that Python read counts, although other lines that it read come after it."""
    header = "{} [main] INFO a.b - said {}"
    lines = [header.format("13:56:33.005", 1), header.format("14:00:00.000", 2)]
    lines += [header.format("22:47:23.423", "\u00e9"), header.format("00:29:09.214", "\u00e9"), "w " * 3000]
    lines += [header.format(clock, "it") for clock in ("23:15:43.995", "23:16:00.000", "23:17:00.000")]
    rows = same(write(tmp_path, "\n".join(lines)), log_format="log4j", not_join_lines=not joins)
    assert rows[-1][2] // (86_400 * 10**9) == 1


def test_many_traces(tmp_path: Path) -> None:
    """More than a block, so that a trace goes over its end, and more than the columns hold."""
    head = HADOOP.format(clock="10:00:00", level="INFO", text="order {} of blk_{}")
    lines = [f"{head.format(i, i % 77)}\n{TRACE if i % 3 else PYTHON_TRACE}" for i in range(9000)]
    same(write(tmp_path, "\n".join(lines)), log_format="hadoop", session_regex=r"blk_-?\d+")


@pytest.mark.parametrize("layout", ["hadoop", "plain"])
def test_small_files_that_share_blocks(tmp_path: Path, layout: str) -> None:
    """What a file ends with does not reach into the next: lines without newline, traces, blanks, times, compression."""
    (tmp_path / "logs").mkdir()
    head = HADOOP.format(clock="10:00:{:02d}", level="INFO", text="order {} of blk_{}")
    parts = ["\n", "\n\n \n", TRACE, "", "caf\u00e9\n", " at a.b(c)\n", head.format(59, 1, 1) + "\r\n"]
    for i in range(60):
        lines = "\n".join(head.format(59 - i + j % 7, j, i) for j in range(i % 9))
        content = parts[i % 3] + lines + parts[i % 7] + ("\n" if i % 2 else "")
        name = f"{'abc'[i % 3]}{i // 9}.log.{i}" if i % 5 else f"d{i}.log"
        raw = (content or "x").encode()
        write(tmp_path / "logs", gzip.compress(raw) if i % 11 == 10 else raw, name)
    lines = [head.format(i % 60, i, i % 7) for i in range(12_000)]
    write(tmp_path / "logs", "\n".join(lines), "b3.log.5")
    same(tmp_path / "logs", log_format=layout, session_by_file=True)
    same(tmp_path / "logs", log_format=layout, session_regex=r"blk_\d+")


def test_columns_grow_with_the_texts(tmp_path: Path) -> None:
    lines = [f"k{i} " + "k" * (i % 5000) + f" k{i}" for i in range(3000)]
    rows = same(write(tmp_path, "\n".join(lines)), log_format="plain", session_regex=r"^\S+")
    assert len({row[4] for row in rows}) == 3000


def test_what_only_python_can_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, '{"message": "a"}\n')
    for values in ({}, {"log_format": "plain", "encoding": "utf-7"}, {"log_format": "plain", "session_regex": r"(a)*"}):
        with pytest.raises(UnknownPattern):
            read_columns(MessageReader(find_sources(path), InputSettings(**values)), ByteDictionary())


def test_a_key_that_no_line_has_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, "a\nb\n")
    with pytest.raises(DataError, match="matches no line"):
        by_columns(path, {"log_format": "plain", "session_regex": "z"})
