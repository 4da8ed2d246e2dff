"""A log as long as is wanted, made of a real one: copies of it one after another, each with variable parts of its own.

In every copy sessions have new ids and stay whole, times go on where the copy before ended, and each address and each
number that hardly recurs is another one of the log's, as long and after like words. What is constant in the log stays
constant, so that a model of the real log finds in a copy about what it finds in the real log.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detection_splits import DATA

from ai_detect.tables import Int64Array, ragged_rows

#: The real log; each of its lines holds one session id.
HDFS = DATA / "hdfs_2pct" / "HDFS.log.gz"
SESSION_REGEX = r"blk_-?\d+"
_ID = re.compile(rb"blk_-?(\d)(\d+)")
_ADDRESS = re.compile(rb"\d{1,3}(?:\.\d{1,3}){3}")
_NUMBER = re.compile(rb"(?<![\d.])\d{3,}(?![\d.])")
_TIME = re.compile(rb"^\d{6} \d{6}", re.MULTILINE)
_TIME_FORMAT = "%y%m%d %H%M%S"
#: Numbers that stand in no more than this share of the lines are drawn anew.
_RARE = 1e-3
#: Letters before a number that tell ports, sizes and the numbers of tasks apart.
_BEFORE = 6


class _Texts(NamedTuple):
    """Texts of one length after like words: where they begin, and the bytes of each as it stands in the log."""

    at: Int64Array  # (n,)
    letters: np.ndarray  # (n, length) uint8

    @classmethod
    def alike(cls, found: Iterable[re.Match[bytes]]) -> list[_Texts]:
        groups: dict[tuple[int, bytes], list[re.Match[bytes]]] = {}
        for match in found:
            before = match.string[max(match.start() - _BEFORE, 0) : match.start()].translate(None, b"0123456789")
            groups.setdefault((len(match[0]), before), []).append(match)
        return [
            cls(
                np.array([match.start() for match in group]),
                np.frombuffer(b"".join(match[0] for match in group), np.uint8).reshape(len(group), length),
            )
            for (length, _), group in groups.items()
        ]


class GrowingLog:
    """Copies of a log, each a function of its number."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._bytes = np.frombuffer(content, np.uint8)
        self._line_ends = np.flatnonzero(self._bytes == ord("\n")) + 1
        self.n_lines = len(self._line_ends)
        ids = list(_ID.finditer(content))
        numbers: dict[bytes, int] = {}
        session = np.array([numbers.setdefault(found[0], len(numbers)) for found in ids])
        lengths = np.array([len(found[2]) for found in ids])
        self._n_id_digits = len(numbers) * int(lengths.max())
        self._id_at = ragged_rows(np.array([found.start(2) for found in ids]), lengths)
        self._id_digit = ragged_rows(session * int(lengths.max()), lengths)
        line_of_id = np.searchsorted(self._line_ends, [found.start() for found in ids], side="right")
        self._session = np.zeros(self.n_lines, np.int64)
        self._session[line_of_id] = session
        self._times(content)
        addresses = list(_ADDRESS.finditer(content))
        self._texts = [*_Texts.alike(addresses), *_Texts.alike(self._rare_numbers(content, addresses))]

    def _times(self, content: bytes) -> None:
        from datetime import datetime, timezone

        found = [match for match in _TIME.finditer(content)]
        parsed: dict[bytes, float] = {}
        for match in found:
            if match[0] not in parsed:
                moment = datetime.strptime(match[0].decode(), _TIME_FORMAT).replace(tzinfo=timezone.utc)
                parsed[match[0]] = moment.timestamp()
        self._seconds = np.array([parsed[match[0]] for match in found]).astype(np.int64)
        self._time_at = np.array([match.start() for match in found])
        self._span_s = int(self._seconds.max() - self._seconds.min()) + 1

    def _rare_numbers(self, content: bytes, addresses: list[re.Match[bytes]]) -> list[re.Match[bytes]]:
        taken = np.zeros(len(content), np.bool_)
        for match in (*_ID.finditer(content), *addresses, *_TIME.finditer(content)):
            taken[match.start() : match.end()] = True
        found = [match for match in _NUMBER.finditer(content) if not taken[match.start()]]
        counts = Counter(match[0] for match in found)
        return [match for match in found if counts[match[0]] <= _RARE * self.n_lines]

    def copy(self, number: int) -> np.ndarray:
        """The bytes of the copy of this number, uint8; copy 0 differs from the real log as all others do."""
        random = np.random.default_rng(number)
        content = self._bytes.copy()
        zero = ord("0")
        content[self._id_at] = random.integers(zero, zero + 10, self._n_id_digits, np.uint8)[self._id_digit]
        for at, letters in self._texts:
            content[at[:, None] + np.arange(letters.shape[1])] = letters[random.integers(0, len(letters), len(at))]
        moved = np.datetime_as_string((self._seconds + number * self._span_s).astype("datetime64[s]"))
        text = np.frombuffer(moved.astype("S").tobytes(), np.uint8).reshape(len(moved), -1)  # 2008-11-09T20:35:30
        kept = text[:, [2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18]]
        content[self._time_at[:, None] + np.array([0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12])] = kept
        return content

    def parts(self, n_lines: int) -> Iterator[np.ndarray]:
        """About so many lines, copy after copy; of the last copy only the first sessions, whole."""
        n_copies, rest = divmod(n_lines, self.n_lines)
        for number in range(n_copies):
            yield self.copy(number)
        lines_of_first = np.cumsum(np.bincount(self._session))
        n_sessions = int(np.searchsorted(lines_of_first, rest, side="right"))
        if n_sessions:
            lengths = np.diff(self._line_ends, prepend=0)
            yield self.copy(n_copies)[np.repeat(self._session < n_sessions, lengths)]

    def write(self, path: Path, n_lines: int) -> None:
        """A log of about so many lines."""
        with open(path, "wb") as file:
            for part in self.parts(n_lines):
                file.write(part)


def real_log() -> GrowingLog:
    """The log that is repeated."""
    return GrowingLog(gzip.decompress(HDFS.read_bytes()))
