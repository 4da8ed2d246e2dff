"""How sessions are read from the log and how the injectors' record becomes labels."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_labels import (
    FaultWindow,
    FaultyClient,
    Session,
    find_client,
    find_sufferers,
    label_sessions,
    parse_line,
    read_labels,
    read_sessions,
    received_port,
    session_id,
    write_labels,
)

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=timezone.utc)
POSTMASTER = 7


def second(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def written(time: datetime, pid: int, message: str, who: str = "shop@shop/web ", severity: str = "LOG") -> str:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return f"{stamp} UTC [{pid}] {session_id(time, pid)} {who}{severity}:  {message}"


def client(pid: int, first: float, last: float, *, bye: bool = True, port: int = 0, **rest: bool) -> Session:
    authorized = rest.get("authorized", True)
    port = port or 40_000 + pid
    return Session(session_id(second(first), pid), pid, second(first), second(last), port, authorized, bye, lines=9)


def process(pid: int, first: float, last: float) -> Session:
    return Session(session_id(second(first), pid), pid, second(first), second(last), lines=3)


def test_a_clients_line_is_taken_apart() -> None:
    entry = parse_line(
        "2026-11-21 09:03:21.472 UTC [8204] 6b015e59.200c shop@shop/web LOG:  statement: SELECT 'a  LOG:  b'"
    )
    assert entry is not None
    assert (entry.pid, entry.session, entry.who) == (8204, "6b015e59.200c", "shop@shop/web")
    assert (entry.severity, entry.message) == ("LOG", "statement: SELECT 'a  LOG:  b'")
    assert entry.time == datetime(2026, 11, 21, 9, 3, 21, 472_000, tzinfo=timezone.utc)


def test_a_line_of_the_servers_own_process_has_nobody() -> None:
    entry = parse_line("2026-11-21 09:03:21.260 UTC [8196] 6b015e59.2004 LOG:  checkpoint starting: time")
    assert entry is not None
    assert entry.who is None
    assert entry.message == "checkpoint starting: time"


@pytest.mark.parametrize("line", ["", "\t  FROM orders", "2026-11-21 09:03:21 LOG:  no session", "garbage"])
def test_continuations_and_strangers_are_no_entries(line: str) -> None:
    assert parse_line(line) is None


@given(
    time=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),
    pid=st.integers(1, 4_194_304),
    who=st.sampled_from(["", "shop@shop/web ", "[unknown]@[unknown]/[unknown] ", "a@b/my app "]),
    severity=st.sampled_from(["LOG", "ERROR", "FATAL", "STATEMENT", "DETAIL", "DEBUG5"]),
    message=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp"))),
)
def test_what_the_server_writes_is_read_back(time: datetime, pid: int, who: str, severity: str, message: str) -> None:
    time = time.replace(microsecond=time.microsecond // 1000 * 1000, tzinfo=timezone.utc)
    entry = parse_line(written(time, pid, message, who, severity))
    assert entry is not None
    assert (entry.time, entry.pid, entry.session) == (time, pid, session_id(time, pid))
    assert (entry.who or "", entry.severity, entry.message) == (who.strip(), severity, message)


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    parse_line(text)
    received_port(text)


def test_session_id_is_the_servers() -> None:
    assert session_id(datetime(2026, 11, 21, 9, 3, 21, 254_000, tzinfo=timezone.utc), 8196) == "6b015e59.2004"


@given(st.integers(1, 65_535))
def test_the_port_is_found_in_the_first_message_only(port: int) -> None:
    assert received_port(f"connection received: host=127.0.0.1 port={port}") == port
    assert received_port(f"disconnection: user=shop host=127.0.0.1 port={port}") is None
    assert received_port(f"statement: SELECT 'connection received: host=a port={port}'") is None


def test_sessions_are_read_from_interleaved_lines() -> None:
    sessions = read_sessions(
        [
            "2026-11-21 12:00:00.000 UTC [1] a.1 [unknown]@[unknown]/[unknown] LOG:  "
            "connection received: host=127.0.0.1 port=50001",
            "2026-11-21 12:00:00.100 UTC [7] a.7 LOG:  checkpoint starting: time",
            "2026-11-21 12:00:00.200 UTC [1] a.1 shop@shop/[unknown] LOG:  connection authorized: user=shop",
            "2026-11-21 12:00:00.300 UTC [1] a.1 shop@shop/web LOG:  statement: SELECT 1",
            "\t  FROM orders",
            "2026-11-21 12:00:00.400 UTC [1] a.1 shop@shop/web LOG:  disconnection: session time: 0:00:00.4",
        ]
    )
    assert sessions == {
        "a.1": Session("a.1", 1, NOON, second(0.4), 50_001, authorized=True, disconnected=True, lines=4),
        "a.7": Session("a.7", 7, second(0.1), second(0.1), lines=1),
    }
    assert [session.is_client for session in sessions.values()] == [True, False]


def test_a_statement_that_quotes_a_farewell_is_none() -> None:
    session = read_sessions([written(NOON, 1, "statement: SELECT 'disconnection: session time'")])
    assert not next(iter(session.values())).disconnected


def test_a_faulty_client_is_found_by_port_and_backend() -> None:
    mine, other = client(1, 0, 5, port=50_000), client(2, 1, 5, port=50_000)
    assert find_client(FaultyClient("deadlock", 50_000, 1, second(1)), [mine, other]) is mine


def test_a_port_that_comes_back_is_told_by_its_moment() -> None:
    earlier, mine, later = (client(pid, start, start + 1, port=50_000) for pid, start in ((1, 0), (2, 4), (3, 9)))
    assert find_client(FaultyClient("password_guessing", 50_000, None, second(6)), [later, mine, earlier]) is mine


@pytest.mark.parametrize(
    "sessions",
    [
        [],
        [client(1, 0, 5, port=50_001)],
        [client(1, 2, 5, port=50_000)],
        [client(1, -60, 5, port=50_000)],
    ],
    ids=["none", "other port", "later", "long before"],
)
def test_no_session_is_labelled_by_guessing(sessions: list[Session]) -> None:
    with pytest.raises(LookupError):
        find_client(FaultyClient("port_scan", 50_000, None, second(1)), sessions)


def test_a_crash_strikes_the_open_the_refused_and_the_servers_processes() -> None:
    sessions = [
        process(POSTMASTER, -100, 100),
        process(8, -100, 9),
        client(1, 5, 9, bye=False),
        client(2, 5, 9),
        client(3, 10.5, 10.5, bye=False, authorized=False),
        client(4, 10.6, 15),
        client(5, 2, 2, bye=False, authorized=False),
        process(9, 10.4, 11),
        process(10, 30, 40),
    ]
    window = FaultWindow("crash_bystander", second(10), second(11), crash=True)
    found = find_sufferers(window, sessions, POSTMASTER)
    assert {int(session.split(".")[1], 16): kind for session, kind in found.items()} == {
        POSTMASTER: "crash_recovery",
        1: "crash_bystander",
        3: "crash_bystander",
        9: "crash_recovery",
    }


def test_refusals_strike_only_who_came_in_the_window() -> None:
    sessions = [
        process(POSTMASTER, -100, 100),
        client(1, 5, 20, bye=False),
        client(2, 10.5, 10.5, bye=False, authorized=False),
        client(3, 10.5, 12),
        process(9, 10.4, 11),
    ]
    window = FaultWindow("connections_exhausted", second(10), second(11), crash=False)
    assert find_sufferers(window, sessions, POSTMASTER) == {sessions[2].id: "connections_exhausted"}


def test_a_bare_knock_is_no_sufferer() -> None:
    knock = Session("a.1", 1, second(10.5), second(10.5), 50_000, lines=1)
    window = FaultWindow("connections_exhausted", second(10), second(11), crash=False)
    assert find_sufferers(window, [knock], POSTMASTER) == {}


def test_earlier_windows_and_named_clients_outweigh() -> None:
    refused, killed, open_then, calm = (
        client(1, 10.5, 10.5, bye=False),
        client(2, 49, 50, bye=False),
        client(3, 49, 50, bye=False),
        client(4, 49, 60),
    )
    sessions = {session.id: session for session in (refused, killed, open_then, calm)}
    windows = [
        FaultWindow("crash_bystander", second(50), second(51), crash=True),
        FaultWindow("connections_exhausted", second(10), second(11), crash=False),
    ]
    clients = [FaultyClient("backend_killed", 40_002, 2, second(49))]
    assert label_sessions(sessions, clients, windows, POSTMASTER) == {
        refused.id: "connections_exhausted",
        killed.id: "backend_killed",
        open_then.id: "crash_bystander",
        calm.id: "normal",
    }


@given(
    st.dictionaries(
        st.from_regex(r"[0-9a-f]{8}\.[0-9a-f]{1,6}", fullmatch=True),
        st.sampled_from(["normal", "deadlock", "port_scan"]),
    )
)
def test_labels_survive_the_file(tmp_path_factory: pytest.TempPathFactory, kinds: dict[str, str]) -> None:
    path: Path = tmp_path_factory.mktemp("labels") / "labels.csv"
    write_labels(path, kinds)
    assert path.read_text(encoding="utf-8").startswith("session,label,kind\n")
    assert read_labels(path) == {
        session: ("Normal" if kind == "normal" else "Anomaly", kind) for session, kind in kinds.items()
    }
