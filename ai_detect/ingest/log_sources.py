"""Which logs a name stands for: a file, a glob, a folder, standard input, or the same in another store."""

from __future__ import annotations

import atexit
import glob
import logging
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import numpy as np

from ai_detect.errors import DataError, Interrupted
from ai_detect.ingest import stores
from ai_detect.ingest.byte_stream import byte_order_encoding, is_plain, open_bytes
from ai_detect.ingest.whole_lines import BLOCK_BYTES

logger = logging.getLogger(__name__)

_COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
_BINARY_MAGIC = (
    b"\x7fELF",
    b"\x89PNG\r\n",
    b"\xff\xd8\xff",
    b"GIF8",
    b"PK\x03\x04",
    b"%PDF-",
    b"SQLite format 3",
    b"MZ\x90\x00",
)
#: What of a file is looked at.
_HEAD_BYTES = 1 << 16
_ODD_CONTROL = bytes(sorted(set(range(1, 32)) - set(b"\t\n\r\f\v\b\a\x1b")))


@dataclass(frozen=True)
class LogSource:
    """One log that can be read again and again, or a part of one; `path` is its name for people ('-': standard input).

    A part begins and ends at the beginning of a line of an uncompressed file; its lines are counted from 1.
    """

    path: str
    spool: str | None = None  # where a stream was written so that it can be read twice
    begin: int = 0  # bytes
    end: int | None = None  # bytes; None for the end of the file

    @property
    def file(self) -> str:
        """The file that is opened."""
        return self.spool or self.path

    @property
    def stored_bytes(self) -> int:
        """Size on disk."""
        return (stores.size(self.file) if self.end is None else self.end) - self.begin


def find_sources(spec: str | Path) -> list[LogSource]:
    """The logs that a file name, a glob, a folder or '-' stands for, in reading order (rotated files oldest first).

    Files, globs and folders may lie in other stores than the disk, as `stores` has them.

    A missing FILE falls back to FILE.gz, FILE.zst, FILE.bz2 or FILE.xz. A folder is walked; hidden files and tables
    (.csv) in it are passed over. Empty, binary and unreadable files are an error where they are named, and left out
    with a log message where a glob or folder found them. Standard input and pipes are read to their end here, into a
    temporary file.

    Raises DataError where nothing can be read.
    """
    name = os.fspath(spec)
    if name == "-":
        return [spool_stdin()]
    if not name or "\x00" in name:
        raise DataError(f"{name!r} is not a file name")
    if stores.is_address(name):
        return _stored_elsewhere(name)
    if os.path.isdir(name):
        return _readable(name, _walk(name), "folder")
    path = next((name + suffix for suffix in ("", *_COMPRESSED_SUFFIXES) if os.path.exists(name + suffix)), None)
    if path is None:
        if not glob.has_magic(name):
            raise DataError(f"{name}: no such file; check the path ({os.getcwd()} is the current folder)")
        return _readable(name, [path for path in glob.glob(name, recursive=True) if os.path.isfile(path)], "glob")
    if stat.S_ISFIFO(os.stat(path).st_mode):
        with _signals_raise(path), open(path, "rb") as pipe:
            return [_spool(pipe, path)]
    source = LogSource(path)
    if problem := _problem(source):
        raise DataError(f"{path}: {problem}")
    return [source]


def _stored_elsewhere(name: str) -> list[LogSource]:
    kind, paths = stores.find(name)
    if kind != "file":
        if kind == "glob" and not glob.has_magic(name):
            raise DataError(f"{name}: no such file; check the address")
        paths = [path for path in paths if _may_be_log(os.path.basename(path))] if kind == "folder" else paths
        return _readable(name, paths, kind)
    if problem := _problem(LogSource(name)):
        raise DataError(f"{name}: {problem}")
    return [LogSource(name)]


def spool_stdin() -> LogSource:
    """Read standard input to its end into a temporary file, which is removed when the program ends."""
    with _signals_raise("standard input"):
        return _spool(sys.stdin.buffer, "-")


def log_series(path: str) -> str:
    """The name that rotated files of one log share: `log/app.log` for `log/app.log.2.gz` and `log/app.log-20260131`."""
    return _series(path)[0]


def stored_bytes(sources: Sequence[LogSource]) -> int:
    """Size on disk of all sources together: the total of a progress bar."""
    return sum(source.stored_bytes for source in sources)


def likely_bytes(sources: Sequence[LogSource]) -> int:
    """About how many bytes there are to read, decompressed."""
    return sum(
        source.stored_bytes * (10 if source.path.lower().endswith(_COMPRESSED_SUFFIXES) else 1) for source in sources
    )


@contextmanager
def _signals_raise(name: str) -> Iterator[None]:
    """Let SIGINT and SIGTERM end a read that may block for ever, where a handler that only notes them could not."""
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name} while {name} was read", number)

    found = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)


def _spool(stream: BinaryIO, name: str) -> LogSource:
    with tempfile.NamedTemporaryFile(prefix="ai_detect-", suffix=".log", delete=False) as file:
        atexit.register(Path(file.name).unlink, missing_ok=True)
        shutil.copyfileobj(stream, file, BLOCK_BYTES)
    source = LogSource(name, file.name)
    if problem := _problem(source):
        raise DataError(f"{'standard input' if name == '-' else name}: {problem}")
    return source


def _walk(folder: str) -> list[str]:
    paths = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [os.path.join(parent, name) for name in names if _may_be_log(name)]
    return [path for path in paths if os.path.isfile(path)]


def _may_be_log(name: str) -> bool:
    # a table beside the logs holds labels more often than lines, and no layout here reads one
    return not name.startswith(".") and not name.lower().endswith(".csv")


def _series(path: str) -> tuple[str, str | None, str | None]:
    """The name that rotated files share, and the date and the number of this one."""
    name = next((path.removesuffix(suffix) for suffix in _COMPRESSED_SUFFIXES if path.endswith(suffix)), path)
    base, dot, number = name.rpartition(".")
    if dot and len(number) <= 3 and number.isdecimal():
        return base, None, number
    base, dash, date = name.rpartition("-")
    if dash and len(date) == 8 and date.isdecimal():
        return base, date, None
    return name, None, None


def _reading_order(path: str) -> tuple[str, int, str, int]:
    series, date, number = _series(path)
    if date:
        return series, 0, date, 0
    if number:
        return series, 1, "", -int(number)
    return series, 2, path, 0


def _readable(name: str, paths: list[str], kind: str) -> list[LogSource]:
    sources, left_out = [], []
    for path in sorted(paths, key=_reading_order):
        problem = _problem(LogSource(path))
        if problem is None:
            sources.append(LogSource(path))
        else:
            left_out.append(f"{path}: {problem}")
            logger.warning("left out %s: %s", path, problem)
    if not sources:
        reason = f"none of its {len(left_out)} files can be read ({left_out[0]})" if left_out else "no log file found"
        raise DataError(f"{name}: {reason}; name a file, a glob or a folder that holds logs (this is a {kind})")
    return sources


def _problem(source: LogSource) -> str | None:
    try:
        if not stores.is_address(source.file) and not stat.S_ISREG(os.stat(source.file).st_mode):
            return "not a regular file; name a file, a glob, a folder, or - for standard input"
        head = _head(source)
    except PermissionError:
        return "no permission to read it; change its mode or run as a user who may"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except DataError as error:
        return str(error).removeprefix(f"{source.path}: ")
    if not head:
        return "is empty"
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it and name the folder"
    return "looks binary, not like a log; name a text file" if _looks_binary(head) else None


def _head(source: LogSource) -> bytes:
    """The beginning of what the file holds."""
    if not stores.is_address(source.file):
        with suppress(OSError), open(source.file, "rb", buffering=0) as file:  # an error is explained below
            head = file.read(_HEAD_BYTES)
            if is_plain(head):
                return head
    with open_bytes(source.file, source.path) as (content, _):
        return content.read(_HEAD_BYTES)


def _looks_binary(head: bytes) -> bool:
    if byte_order_encoding(head):
        return False
    if head.startswith(_BINARY_MAGIC):
        return True
    content = np.frombuffer(head, np.uint8)
    n_control = np.count_nonzero(content < 32) - np.count_nonzero(content == 10)
    if n_control <= 0.05 * len(head):  # counted fast; those that a log may well hold are among them
        return False
    odd = len(head) - len(head.translate(None, _ODD_CONTROL))
    return head.count(0) > 0.2 * len(head) or odd > 0.05 * len(head)
