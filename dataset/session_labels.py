"""From the server's log and the injectors' record to `labels.csv`: which session was faulty, and how."""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

NORMAL_KIND = "normal"
SERVER_KIND = "crash_recovery"

_LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) UTC \[(?P<pid>\d+)\] (?P<session>[0-9a-f]+\.[0-9a-f]+) "
    r"(?:(?P<who>\S+@\S+/.*?) )?(?P<severity>[A-Z]+[0-9]?):  (?P<message>.*)"
)
_PORT = re.compile(r"connection received: host=\S+ port=(\d+)")


class LogLine(NamedTuple):
    """One line of the log that begins an entry."""

    time: datetime
    pid: int
    session: str
    who: str | None
    severity: str
    message: str


@dataclass
class Session:
    """What the log tells of one server process."""

    id: str
    pid: int
    first: datetime
    last: datetime
    port: int | None = None
    authorized: bool = False
    disconnected: bool = False
    lines: int = 0

    @property
    def is_client(self) -> bool:
        """Whether a client sat at the other end; the server's own processes receive no connection."""
        return self.port is not None


class FaultyClient(NamedTuple):
    """An injector's word: the client at this port (and this backend, where it got one) was faulty."""

    kind: str
    port: int
    pid: int | None
    time: datetime


class FaultWindow(NamedTuple):
    """An injector's word: from `start` to `end` clients were refused; a crash also ended the open sessions."""

    kind: str
    start: datetime
    end: datetime
    crash: bool


def parse_line(line: str) -> LogLine | None:
    """The parts of a line, or None where it continues the entry above."""
    match = _LINE.match(line)
    if match is None:
        return None
    time = datetime.strptime(match["time"], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=timezone.utc)
    return LogLine(time, int(match["pid"]), match["session"], match["who"], match["severity"], match["message"])


def session_id(start: datetime, pid: int) -> str:
    """What the server prints for %c: the process's start and id, in hexadecimal."""
    return f"{int(start.timestamp()):x}.{pid:x}"


def received_port(message: str) -> int | None:
    """The client's port in a `connection received` message."""
    match = _PORT.match(message)
    return int(match[1]) if match else None


def read_sessions(lines: Iterable[str]) -> dict[str, Session]:
    """All sessions of a log, in the order of their first lines."""
    sessions: dict[str, Session] = {}
    for line in lines:
        entry = parse_line(line)
        if entry is None:
            continue
        session = sessions.setdefault(entry.session, Session(entry.session, entry.pid, entry.time, entry.time))
        session.last = max(session.last, entry.time)
        session.lines += 1
        session.port = session.port or received_port(entry.message)
        session.authorized |= entry.message.startswith("connection authorized: ")
        session.disconnected |= entry.message.startswith("disconnection: ")
    return sessions


def find_client(client: FaultyClient, sessions: Iterable[Session]) -> Session:
    """The session that the injector meant: the last one that had its port when it was written down.

    A port may come back soon after, or have been used before; at one moment it belongs to one connection.
    """
    before = [
        session
        for session in sessions
        if session.port == client.port
        and client.pid in (None, session.pid)
        and timedelta(0) <= client.time - session.first < timedelta(seconds=15)
    ]
    if not before:
        raise LookupError(f"no session of the log fits {client}")
    return max(before, key=lambda session: session.first)


def find_sufferers(window: FaultWindow, sessions: Iterable[Session], postmaster: int) -> dict[str, str]:
    """The sessions that a window hit, with their kinds.

    A client that the server refuses or loses in a crash never gets a `disconnection` line; all others do.
    A crash also marks the processes of the server that recover from it, and the postmaster above them.
    """
    found = {}
    for session in sessions:
        inside = window.start <= session.first <= window.end
        open_at_start = session.authorized and session.first <= window.start
        if session.is_client and not session.disconnected and session.lines > 1:
            if inside or (window.crash and open_at_start):
                found[session.id] = window.kind
        elif window.crash and not session.is_client and (inside or session.pid == postmaster):
            found[session.id] = SERVER_KIND
    return found


def label_sessions(
    sessions: dict[str, Session], clients: Iterable[FaultyClient], windows: Iterable[FaultWindow], postmaster: int
) -> dict[str, str]:
    """The kind of every session of one log; earlier windows outweigh later ones, named clients outweigh all."""
    kinds = dict.fromkeys(sessions, NORMAL_KIND)
    for window in sorted(windows, key=lambda window: window.start, reverse=True):
        kinds.update(find_sufferers(window, sessions.values(), postmaster))
    for client in clients:
        kinds[find_client(client, sessions.values()).id] = client.kind
    return kinds


def write_labels(path: Path, kinds: dict[str, str]) -> None:
    """Write `session,label,kind`, one row a session."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("session", "label", "kind"))
        for session, kind in kinds.items():
            rows.writerow((session, "Normal" if kind == NORMAL_KIND else "Anomaly", kind))


def read_labels(path: Path) -> dict[str, tuple[str, str]]:
    """The label and the kind of every session in `labels.csv`."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["session"]: (row["label"], row["kind"]) for row in csv.DictReader(file)}
