"""The protocols: which labelled log is split how into what is trained on and what is scored.

A split is a function of the log, the mode and the seed: nothing is drawn from the clock or kept in a file. Labels are
used for one thing here, to drop anomalous sessions from a training part that is to be clean or of a given dirtiness.
"""

from __future__ import annotations

import gzip
import os
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ai_detect.ingest.labels import read_label_file

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("AI_DETECT_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Case:
    """A log split in two files, and the flags that say what a session is in them."""

    train: Path
    test: Path
    flags: tuple[str, str]
    labels: Path


@dataclass(frozen=True)
class Protocol:
    """A labelled log and its split: `train_share` of the sessions, at random or the first ones, or a test log apart."""

    name: str
    title: str
    log: Path
    labels: Path
    flags: tuple[str, str]
    key: str  # the session of a line, a group of this; a line without belongs to the one before
    train_share: float = 0.5
    in_time_order: bool = False
    test_log: Path | None = None

    @property
    def missing(self) -> Path | None:
        """A file that this needs and that is not there."""
        needed = (self.log, self.labels, *([self.test_log] if self.test_log else []))
        return next((path for path in needed if not path.exists()), None)

    def split(self, folder: Path, seed: int, contamination: float | None = None) -> Case:
        """Write the two parts into `folder`. The test part is the same whatever the contamination.

        `contamination` is the share of anomalous sessions in the training part: 0 drops them all, None leaves them as
        they are; for another share some are drawn, and where there are too few of them, fewer normal ones too.
        """
        sessions = sessions_of(self.log, self.key)
        order = list(sessions)
        if self.test_log is None:
            if not self.in_time_order:
                random.Random(seed).shuffle(order)
            n_train = round(len(order) * self.train_share)
            order, held_out = order[:n_train], order[n_train:]
            tests = {key: sessions[key] for key in held_out}
        else:
            tests = sessions_of(self.test_log, self.key)
        if contamination is not None:
            order = with_contamination(order, read_label_file(self.labels), contamination, seed)
        folder.mkdir(parents=True, exist_ok=True)
        train, test = folder / "train.log", folder / "test.log"
        _write(train, (sessions[key] for key in order))
        _write(test, tests.values())
        return Case(train, test, self.flags, self.labels)


def with_contamination(keys: list[str], labels: Mapping[str, int], share: float, seed: int) -> list[str]:
    """As many of the sessions as can be had with this share of anomalous ones, in their order; larger shares hold the
    anomalous ones of smaller shares. Sessions without a label are left out.
    """
    normal = [key for key in keys if labels.get(key) == 0]
    anomalous = [key for key in keys if labels.get(key) == 1]
    for drawn in (normal, anomalous):
        random.Random(seed).shuffle(drawn)
    n_anomalous = min(len(anomalous), round(share / (1 - share) * len(normal)))
    n_normal = min(len(normal), round((1 - share) / share * n_anomalous)) if n_anomalous else len(normal)
    kept = {*normal[:n_normal], *anomalous[:n_anomalous]}
    return [key for key in keys if key in kept]


def sessions_of(log: Path, key: str) -> dict[str, list[tuple[int, bytes]]]:
    """Session -> its lines with their numbers, sessions in the order of their first lines."""
    pattern = re.compile(key.encode())
    sessions: dict[str, list[tuple[int, bytes]]] = {}
    current = ""
    with gzip.open(log, "rb") as file:
        for number, line in enumerate(file):
            if match := pattern.search(line):
                current = match[1].decode()
            sessions.setdefault(current, []).append((number, line))
    return sessions


def _write(path: Path, sessions: Iterable[list[tuple[int, bytes]]]) -> None:
    """The lines of these sessions in the order of the log."""
    path.write_bytes(b"".join(line for _, line in sorted(line for lines in sessions for line in lines)))


_HDFS, _BGL, _OPENSTACK = DATA / "hdfs_2pct", DATA / "bgl_windows", DATA / "openstack_kalaki"
_BUNDLED = ROOT / "dataset"
_BLOCK, _FIRST_WORD = r"(blk_-?\d+)", r"^(\S+)"
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "hdfs",
            "HDFS 2 %, random halves",
            _HDFS / "HDFS.log.gz",
            _HDFS / "anomaly_label.csv",
            ("--session_regex", _BLOCK),
            _BLOCK,
        ),
        Protocol(
            "hdfs_time",
            "HDFS 2 %, first half / second half in time",
            _HDFS / "HDFS.log.gz",
            _HDFS / "anomaly_label.csv",
            ("--session_regex", _BLOCK),
            _BLOCK,
            in_time_order=True,
        ),
        Protocol(
            "bgl",
            "BGL windows, chronological 80/20",
            _BGL / "bgl.log.gz",
            _BGL / "label.csv",
            ("--session_regex", _FIRST_WORD),
            _FIRST_WORD,
            train_share=0.8,
            in_time_order=True,
        ),
        Protocol(
            "openstack",
            "OpenStack (Kalaki), random halves",
            _OPENSTACK / "openstack.log.gz",
            _OPENSTACK / "label.csv",
            ("--session_regex", _FIRST_WORD),
            _FIRST_WORD,
        ),
        Protocol(
            "postgresql",
            "PostgreSQL (bundled), train / test",
            _BUNDLED / "train.log.gz",
            _BUNDLED / "labels.csv",
            ("--session_field", "session"),
            r"^\S+ \S+ \S+ \[\d+\] ([0-9a-f]+\.[0-9a-f]+) ",
            test_log=_BUNDLED / "test.log.gz",
        ),
    )
}
