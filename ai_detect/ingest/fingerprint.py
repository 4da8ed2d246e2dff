"""Whether a log is the one it was: hashes of its decompressed content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ai_detect.ingest.byte_stream import open_bytes
from ai_detect.ingest.log_reader import LogSource

_EDGE_BYTES = 1 << 20


@dataclass(frozen=True)
class FileFingerprint:
    """What tells whether a log is the one it was; all figures are of the decompressed content."""

    path: str
    n_bytes: int
    n_lines: int
    sha256: str
    head_sha256: str  # first MiB
    tail_sha256: str  # last MiB


def fingerprint_sources(sources: Sequence[LogSource]) -> tuple[FileFingerprint, ...]:
    """Fingerprints of the sources, in order; each file is read once."""
    return tuple(_fingerprint(source) for source in sources)


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
