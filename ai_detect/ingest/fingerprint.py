"""Whether a log is the one it was: hashes of its decompressed content.

As git does, a file that the file system says is unchanged is not read again: its fingerprint is remembered in the
cache folder, with its size, times and inode and hashes of its edges. Who writes through a memory map may change the
middle of a file without the file system's saying so; logs are appended to or replaced.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ai_detect.artifacts import read_json, sha256_json, write_json
from ai_detect.ingest.byte_stream import open_bytes
from ai_detect.ingest.log_sources import LogSource

logger = logging.getLogger(__name__)

_EDGE_BYTES = 1 << 20
_MEMORY = "fingerprints.json"
#: A file may change twice within one tick of its file system's clock, the second time unnoticed; none is coarser.
_TICK_NS = 2_000_000_000


@dataclass(frozen=True)
class FileFingerprint:
    """What tells whether a log is the one it was; all figures are of the decompressed content."""

    path: str
    n_bytes: int
    n_lines: int
    sha256: str
    head_sha256: str  # first MiB
    tail_sha256: str  # last MiB


def fingerprint_sources(sources: Sequence[LogSource], cache: Path | None = None) -> tuple[FileFingerprint, ...]:
    """Fingerprints of the sources, in order; each file is read once, and only its edges where `cache` remembers it."""
    known = _recall(cache / _MEMORY) if cache is not None else {}
    fingerprints, learned = [], dict[str, Any]()
    for source in sources:
        name, begun = os.path.abspath(source.file), time.time_ns()
        stamp = _stamp(source)
        fingerprint = _remembered(source, stamp, known.get(name))
        if fingerprint is None:
            fingerprint = _fingerprint(source)
            if stamp is not None and stamp[0] == fingerprint.n_bytes and stamp[2] + _TICK_NS < begun:
                learned[name] = {"stamp": stamp, "fingerprint": asdict(fingerprint)}
        fingerprints.append(fingerprint)
    if cache is not None and learned:
        _remember(cache / _MEMORY, {**known, **learned})
    return tuple(fingerprints)


def _stamp(source: LogSource) -> list[int] | None:
    """What the file system changes with the file; None for standard input, whose copy is a new file each time."""
    if source.spool is not None:
        return None
    try:
        found = os.stat(source.file)
    except OSError:  # reading it says what is wrong
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _remembered(source: LogSource, stamp: list[int] | None, entry: Any) -> FileFingerprint | None:
    """The fingerprint taken earlier, None unless the file is the same as then; its edges are read to make sure.

    A compressed file is never the same: its size and edges are not those of its content.
    """
    try:
        if stamp is None or entry["stamp"] != stamp:
            return None
        known = FileFingerprint(**entry["fingerprint"])
        with open(source.file, "rb") as file:
            head = file.read(_EDGE_BYTES)
            file.seek(max(0, stamp[0] - _EDGE_BYTES))
            tail = file.read(_EDGE_BYTES)
    except (OSError, TypeError, KeyError):
        return None
    edges = tuple(hashlib.sha256(edge).hexdigest() for edge in (head, tail))
    typed = type(known.n_lines) is int and isinstance(known.sha256, str)
    if not typed or (known.n_bytes, known.head_sha256, known.tail_sha256) != (stamp[0], *edges):
        return None
    return replace(known, path=source.path)


def _recall(memory: Path) -> dict[str, Any]:
    """Entries by file; none where the memory is not there or not as it was written."""
    try:
        stored = read_json(memory)
        return dict(stored["files"]) if stored["sha256"] == sha256_json(stored["files"]) else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _remember(memory: Path, files: dict[str, Any]) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, {"sha256": sha256_json(files), "files": files})
    except OSError as error:
        logger.warning("%s: the log's fingerprint could not be kept (%s)", memory, error)


def _fingerprint(source: LogSource) -> FileFingerprint:
    digest = hashlib.sha256()
    head, tail, n_bytes, n_newlines = b"", b"", 0, 0
    with open_bytes(source.file, source.path) as (content, _):
        while data := content.read(_EDGE_BYTES):
            digest.update(data)
            if len(head) < _EDGE_BYTES:
                head = (head + data)[:_EDGE_BYTES]
            tail = (tail + data)[-_EDGE_BYTES:]
            n_bytes += len(data)
            n_newlines += data.count(b"\n")
    n_lines = n_newlines + (n_bytes > 0 and not tail.endswith(b"\n"))
    edges = (hashlib.sha256(edge).hexdigest() for edge in (head, tail))
    return FileFingerprint(source.path, n_bytes, n_lines, digest.hexdigest(), *edges)


def prefix_sha256(source: LogSource, n_bytes: int) -> str:
    """Hex sha256 of the first `n_bytes` of the decompressed content: tells whether a log only grew."""
    digest = hashlib.sha256()
    with open_bytes(source.file, source.path) as (content, _):
        while n_bytes > 0 and (data := content.read(min(n_bytes, _EDGE_BYTES))):
            digest.update(data)
            n_bytes -= len(data)
    return digest.hexdigest()
