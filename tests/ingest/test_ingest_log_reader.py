import builtins
import bz2
import gzip
import hashlib
import io
import logging
import lzma
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ai_detect.errors import DataError
from ai_detect.ingest.fingerprint import fingerprint_sources
from ai_detect.ingest.log_reader import fetch_lines, read_blocks
from ai_detect.ingest.log_sources import LogSource, find_sources, log_series, stored_bytes
from ai_detect.ingest.whole_lines import MAX_LINE_BYTES

COMPRESSORS = {
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def write(folder: Path, name: str, content: bytes) -> LogSource:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return LogSource(str(path))


def lines_of(source: LogSource, encoding: str = "utf-8") -> list[str]:
    return [line for block in read_blocks(source, encoding) for line in block.lines]


def split_naively(content: bytes) -> list[bytes]:
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return [line.removesuffix(b"\r") for line in lines]


@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", b"\r\n", b"\x85", b"\xe2\x80\xa8", b"\x00", b"\xff\n"]))
)
@example([b"one line"])
@example([b"\n"])
@example([b"a\r\r\nb\r"])
def test_any_bytes_come_back_as_their_lines(parts: list[bytes]) -> None:
    content = b"".join([b"#", *parts])  # the mark keeps byte order marks away
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder), "any.log", content)
        blocks = list(read_blocks(source))
        lines = [line for block in blocks for line in block.lines]
        offsets = [offset for block in blocks for offset in block.offsets]
        expected = split_naively(content)
        assert [line.encode("utf-8", "surrogateescape") for line in lines] == expected
        assert [content[offset : offset + len(raw)] for offset, raw in zip(offsets, expected, strict=True)] == expected
        assert fetch_lines(source, [(offset, 1) for offset in offsets]) == [[line] for line in lines]
        assert fetch_lines(source, [(offsets[0], len(lines) + 5)]) == [lines]
        assert sum(block.n_undecodable for block in blocks) == sum(
            any("\udc80" <= char <= "\udcff" for char in line) for line in lines
        )


@given(st.lists(st.integers(0, 400), min_size=1, max_size=30), st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_fetching_in_any_order_with_overlaps(lengths: list[int], random) -> None:  # type: ignore[no-untyped-def]
    lines = [f"{index}".ljust(length, "x") for index, length in enumerate(lengths)]
    content = "\n".join(lines).encode()
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder), "any.log.gz", gzip.compress(content))
        offsets = [offset for block in read_blocks(source) for offset in block.offsets]
        wanted = [(index, random.randint(1, 4)) for index in random.choices(range(len(lines)), k=20)]
        found = fetch_lines(source, [(offsets[index], n) for index, n in wanted])
        assert found == [lines[index : index + n] for index, n in wanted]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_files_are_recognised_by_content_and_by_missing_name(tmp_path: Path, suffix: str) -> None:
    content = b"".join(b"line %d with some text\n" % number for number in range(30_000))
    source = write(tmp_path, "app.log" + suffix, COMPRESSORS[suffix](content))
    assert find_sources(tmp_path / "app.log") == [source]
    plain = write(tmp_path, "plain.log", content)
    assert lines_of(source) == lines_of(plain) == [f"line {number} with some text" for number in range(30_000)]
    a, b = fingerprint_sources([source, plain])
    assert (a.n_bytes, a.n_lines, a.sha256) == (b.n_bytes, b.n_lines, b.sha256)
    assert (a.n_lines, a.sha256) == (30_000, hashlib.sha256(content).hexdigest())
    assert fetch_lines(source, [(content.index(b"line 29999"), 3)]) == [["line 29999 with some text"]]
    assert [block.stored_bytes for block in read_blocks(source)][-1] == stored_bytes([source])
    disguised = write(tmp_path, "disguised.txt", COMPRESSORS[suffix](content))
    assert lines_of(disguised)[-1] == "line 29999 with some text"


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_files_of_several_parts_and_ones_cut_short(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESSORS[suffix]
    noise = os.urandom(200_000).hex().encode()
    whole = write(tmp_path, "a.log" + suffix, compress(b"first\n") + compress(b"second " + noise))
    assert lines_of(whole) == ["first", "second " + noise.decode()]
    cut = write(tmp_path, "b.log" + suffix, Path(whole.path).read_bytes()[:-50])
    with pytest.raises(DataError, match=r"b\.log.*broken or cut short"):
        lines_of(cut)


def test_fingerprint_tells_edges_apart(tmp_path: Path) -> None:
    content = b"a" * (3 << 20) + b"\nlast line without an end"
    [mark] = fingerprint_sources([write(tmp_path, "a.log", content)])
    assert (mark.n_bytes, mark.n_lines) == (len(content), 2)
    assert mark.head_sha256 == hashlib.sha256(content[: 1 << 20]).hexdigest()
    assert mark.tail_sha256 == hashlib.sha256(content[-(1 << 20) :]).hexdigest()


def test_endless_lines_are_cut_and_counted(tmp_path: Path) -> None:
    content = b"before\n" + b"x" * (5 * MAX_LINE_BYTES) + b"\nafter\n" + b"y" * (MAX_LINE_BYTES + 1) + b"\nend"
    source = write(tmp_path, "long.log", content)
    blocks = list(read_blocks(source))
    lines = [line for block in blocks for line in block.lines]
    offsets = [offset for block in blocks for offset in block.offsets]
    assert [line[:6] for line in lines] == ["before", "xxxxxx", "after", "yyyyyy", "end"]
    assert [len(line) for line in lines] == [6, MAX_LINE_BYTES, 5, MAX_LINE_BYTES, 3]
    assert [content[offset : offset + 3] for offset in offsets] == [b"bef", b"xxx", b"aft", b"yyy", b"end"]
    assert sum(block.n_truncated for block in blocks) == 2
    assert blocks[-1].end_offset >= len(content)
    assert fetch_lines(source, [(offsets[3], 1)]) == [[lines[3]]]


def test_wide_encodings_and_byte_order_marks(tmp_path: Path) -> None:
    text = "erste Zeile\r\nzweite Zeile ਊ\nletzte"
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        assert lines_of(write(tmp_path, f"{encoding}.log", text.encode(encoding))) == [
            "erste Zeile",
            "zweite Zeile ਊ",
            "letzte",
        ]
    for encoding in ("utf-16-le", "utf-32-be"):
        source = write(tmp_path, f"{encoding}.log", text.encode(encoding))
        assert lines_of(source, encoding) == ["erste Zeile", "zweite Zeile ਊ", "letzte"]
    odd = write(tmp_path, "odd.log", b"\xff\xfea\x00\n\x00b")
    assert lines_of(odd)[0] == "a"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "gbk", "shift_jis", "utf-7", "cp1252", "utf-16"])
@given(content=st.binary(min_size=1, max_size=80))
@settings(max_examples=30)
def test_no_encoding_crashes_or_loses_lines(encoding: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = lines_of(write(Path(folder), "a.log", b"#" + content), encoding)
        assert not any("\n" in line for line in lines)
        if encoding == "latin-1":
            assert [line.encode("latin-1") for line in lines] == split_naively(b"#" + content)


def test_rotated_files_are_read_oldest_first(tmp_path: Path) -> None:
    for name in (
        "app.log",
        "app.log.1",
        "app.log.2.gz",
        "app.log.10.gz",
        "sys.log",
        "sys.log-20260131",
        "sys.log-20251231.gz",
    ):
        content = b"x\n"
        write(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content)
    names = [os.path.basename(source.path) for source in find_sources(tmp_path)]
    assert names[:4] == ["app.log.10.gz", "app.log.2.gz", "app.log.1", "app.log"]
    assert names[4:] == ["sys.log-20251231.gz", "sys.log-20260131", "sys.log"]
    assert len({log_series(source.path) for source in find_sources(tmp_path)}) == 2


def test_folder_and_glob_leave_out_what_is_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = write(tmp_path, "deep/er/app.log", b"hello\n")
    write(tmp_path, "deep/.hidden.log", b"hello\n")
    write(tmp_path, ".git/app.log", b"hello\n")
    write(tmp_path, "deep/labels.csv", b"session,label\n")
    write(tmp_path, "deep/empty.log", b"")
    write(tmp_path, "deep/photo.png", b"\x89PNG\r\n\x1a\n" + bytes(100))
    with caplog.at_level(logging.WARNING):
        assert find_sources(tmp_path) == [good]
    assert "empty.log" in caplog.text and "photo.png" in caplog.text
    assert find_sources(f"{tmp_path}/**/*.log") == [good]
    literal = write(tmp_path, "odd[1].log", b"hello\n")
    assert find_sources(literal.path) == [literal]


def test_files_that_cannot_be_used_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nothing").mkdir()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as archive:
        archive.add(__file__, "a.py")
    cases = {
        "missing.log": (None, "no such file"),
        "empty.log": (b"", "is empty"),
        "empty.log.gz": (gzip.compress(b""), "is empty"),
        "elf": (b"\x7fELF\x02\x01\x01" + bytes(200), "looks binary"),
        "noise": (os.urandom(5000), "looks binary"),
        "photo": (b"\x89PNG\r\n\x1a\nabc", "looks binary"),
        "logs.tar.gz": (tar.getvalue(), "tar archive"),
        "bad.gz": (b"\x1f\x8b\x08\x00garbage", "broken or cut short"),
        "nothing": (None, "no log file found"),
        "*.nope": (None, "no log file found"),
        "nul\x00name": (None, "not a file name"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            find_sources(f"{tmp_path}/{name}")
        assert "\n" not in str(caught.value) and name.split("\x00")[0] in str(caught.value)
    with pytest.raises(DataError, match="not a regular file"):
        find_sources(os.devnull)
    with pytest.raises(DataError, match="not a file name"):
        find_sources("")

    secret = write(tmp_path, "secret.log", b"x\n")
    real_open = builtins.open

    def refuse(file, *args, **kwargs):  # type: ignore[no-untyped-def]
        if str(file).endswith("secret.log"):
            raise PermissionError(13, "Permission denied", file)
        return real_open(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(DataError, match="no permission"):
        find_sources(secret.path)
    with pytest.raises(DataError, match="no permission"):
        list(read_blocks(secret))


def test_a_file_that_vanishes_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_blocks(LogSource(str(tmp_path / "gone.log"))))


def test_a_text_log_with_a_few_nuls_is_a_log(tmp_path: Path) -> None:
    source = write(tmp_path, "a.log", b"some line of text\n" * 50 + bytes(80) + b"after a crash\n")
    assert find_sources(source.path) == [source]
    assert lines_of(source)[-1] == "\x00" * 80 + "after a crash"


def test_standard_input_can_be_read_twice() -> None:
    program = (
        "from ai_detect.ingest.fingerprint import *; from ai_detect.ingest.log_reader import *\n"
        "from ai_detect.ingest.log_sources import *\n"
        "[s] = find_sources('-')\n"
        "for _ in 'ab': print(s.path, [l for b in read_blocks(s) for l in b.lines])\n"
        "print(fingerprint_sources([s])[0].n_lines, s.file)"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program], input=gzip.compress(b"a\nb"), capture_output=True, check=True, cwd=root
    )
    *printed, last = done.stdout.decode().splitlines()
    assert printed == ["- ['a', 'b']"] * 2
    assert last.startswith("2 ") and not Path(last[2:]).exists()
    empty = subprocess.run([sys.executable, "-c", program], input=b"", capture_output=True, check=False, cwd=root)
    assert b"DataError: standard input: is empty" in empty.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_spooled(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"through\na pipe\n"))
    writer.start()
    [source] = find_sources(pipe)
    writer.join()
    assert lines_of(source) == lines_of(source) == ["through", "a pipe"]


@pytest.mark.slow
@pytest.mark.parametrize("noted", [True, False], ids=["in SignalFlag", "parse"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_ends_a_read_of_standard_input(
    tmp_path: Path, noted: bool, number: signal.Signals, code: int
) -> None:
    """`tail -f log | ai-detect ...`: the pipe stays open; handlers that only note a signal are found and put back."""
    program = f"""
import sys
from ai_detect.cli.main import main
from ai_detect.errors import Interrupted
from ai_detect.ingest.log_sources import find_sources
from ai_detect.training.signals import SignalFlag
if not {noted}:
    sys.exit(main(["parse", "--log_file", "-", "--output_dir", {str(tmp_path / "out")!r}]))
with SignalFlag() as signals:
    try:
        find_sources("-")
    except Interrupted as error:
        import signal
        assert signal.getsignal({int(number)}) == signals._on_stop
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    arguments = [sys.executable, "-c", program]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(b"a first line\n")
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("ai_detect-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(timeout=3) == code
        said = process.stderr.read().decode()
    assert f"stopped by {number.name} while standard input was read" in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_pipes_are_read_in_other_threads_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n")))
    found: list[LogSource] = []
    thread = threading.Thread(target=lambda: found.extend(find_sources("-")))
    thread.start()
    thread.join()
    assert [fetch_lines(source, [(0, 1)]) for source in found] == [[["a"]]]
