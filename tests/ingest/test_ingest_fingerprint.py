"""A log's fingerprint is remembered while its file is the same, and never longer."""

from __future__ import annotations

import gzip
import io
import json
import os
import time
from pathlib import Path

import pytest

from ai_detect.artifacts import sha256_json
from ai_detect.ingest import fingerprint
from ai_detect.ingest.fingerprint import fingerprint_sources
from ai_detect.ingest.log_sources import LogSource, find_sources

CONTENT = b"".join(b"line %d of a log that is longer than its two edges\n" % number for number in range(60_000))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "app.log"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as written long ago."""
    monkeypatch.setattr(fingerprint, "_TICK_NS", -(10**18))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose whole content was read."""
    found: list[str] = []
    read = fingerprint._fingerprint

    def counted(source: LogSource) -> fingerprint.FileFingerprint:
        found.append(source.path)
        return read(source)

    monkeypatch.setattr(fingerprint, "_fingerprint", counted)
    return found


def change_in_the_middle(path: Path) -> None:
    """Another byte at the same size and modification time; the clock of the file system moves on before."""
    before = os.stat(path)
    while os.stat(path).st_ctime_ns == before.st_ctime_ns:
        time.sleep(0.002)
        with open(path, "r+b") as file:
            file.seek(len(CONTENT) // 2)
            file.write(b"#")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat(path)
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_read_once(
    log: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [first] = fingerprint_sources([LogSource(str(log))], tmp_path / "cache")
    assert fingerprint_sources([LogSource(str(log))], tmp_path / "cache") == (first,)
    assert len(reads) == 1
    monkeypatch.chdir(tmp_path)
    [by_other_name] = fingerprint_sources([LogSource("app.log")], tmp_path / "cache")
    assert by_other_name.path == "app.log"
    assert (by_other_name.sha256, by_other_name.n_lines) == (first.sha256, 60_000)
    assert len(reads) == 1
    assert fingerprint_sources([LogSource(str(log))]) == (first,)
    assert len(reads) == 2


@pytest.mark.usefixtures("settled")
def test_a_change_that_hides_its_time_is_noticed(log: Path, tmp_path: Path) -> None:
    source = LogSource(str(log))
    [before] = fingerprint_sources([source], tmp_path / "cache")
    change_in_the_middle(log)
    [after] = fingerprint_sources([source], tmp_path / "cache")
    assert after != before
    assert (after,) == fingerprint_sources([source])
    assert fingerprint_sources([source], tmp_path / "cache") == (after,)


@pytest.mark.usefixtures("settled")
def test_edges_are_read_even_where_the_file_system_saw_no_change(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = LogSource(str(log))
    stamp = fingerprint._stamp(source)
    monkeypatch.setattr(fingerprint, "_stamp", lambda source: stamp)
    for changed in (b"#" + CONTENT[1:], CONTENT[:-2] + b"#\n"):
        log.write_bytes(CONTENT)
        [before] = fingerprint_sources([source], tmp_path / "cache")
        log.write_bytes(changed)
        [after] = fingerprint_sources([source], tmp_path / "cache")
        assert after.sha256 != before.sha256


def test_a_file_that_was_just_written_is_not_remembered(log: Path, tmp_path: Path) -> None:
    fingerprint_sources([LogSource(str(log))], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("settled")
def test_compressed_files_and_standard_input_are_read_each_time(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.log.gz").write_bytes(gzip.compress(CONTENT))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(CONTENT)))
    sources = [LogSource(str(tmp_path / "app.log.gz")), *find_sources("-")]
    a, b = fingerprint_sources(sources, tmp_path / "cache")
    assert fingerprint_sources(sources, tmp_path / "cache") == (a, b)
    assert a.sha256 == b.sha256
    assert len(reads) == 4


@pytest.mark.usefixtures("settled")
def test_files_are_remembered_side_by_side(log: Path, tmp_path: Path, reads: list[str]) -> None:
    other = tmp_path / "other.log"
    other.write_bytes(b"one line\n")
    for path in (log, other, log, other):
        [found] = fingerprint_sources([LogSource(str(path))], tmp_path / "cache")
        assert found.n_bytes == path.stat().st_size
    assert reads == [str(log), str(other)]


@pytest.mark.usefixtures("settled")
def test_a_memory_that_is_not_as_it_was_written_is_none(log: Path, tmp_path: Path) -> None:
    source, memory = LogSource(str(log)), tmp_path / "cache" / "fingerprints.json"
    [right] = fingerprint_sources([source], tmp_path / "cache")
    written = json.loads(memory.read_text())
    other = json.loads(memory.read_text().replace(right.sha256, "0" * 64))
    files = written["files"]
    for key, value in (("n_lines", "many"), ("sha256", 7), ("n_bytes", None)):
        entry = {**files[str(log)], "fingerprint": {**files[str(log)]["fingerprint"], key: value}}
        forged = {str(log): entry}
        memory.write_text(json.dumps({"files": forged, "sha256": sha256_json(forged)}))
        assert fingerprint_sources([source], tmp_path / "cache") == (right,)
    for content in (
        json.dumps(other),
        memory.read_text()[:-9],
        "",
        "[]",
        "null",
        '{"files": 1}',
        "[" * 100_000,
        "\x00",
    ):
        memory.write_text(content)
        assert fingerprint_sources([source], tmp_path / "cache") == (right,)
        assert json.loads(memory.read_text()) == written


@pytest.mark.usefixtures("settled")
def test_a_disk_that_takes_nothing_is_no_error(log: Path, caplog: pytest.LogCaptureFixture) -> None:
    [found] = fingerprint_sources([LogSource(str(log))], log)
    assert found.n_bytes == len(CONTENT)
    assert any("could not be kept" in message for message in caplog.messages)
