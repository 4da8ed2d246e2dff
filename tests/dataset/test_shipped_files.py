"""What README.md promises of the shipped logs and labels."""

import re
from datetime import timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from session_labels import LogLine, Session, parse_line, read_labels, read_sessions
from summary import PARTS, read_log, summarise

FOLDER = Path(__file__).resolve().parents[2] / "dataset"
MEGABYTE = 1_000_000


@cache
def labels() -> dict[str, tuple[str, str]]:
    return read_labels(FOLDER / "labels.csv")


@cache
def entries(part: str) -> list[LogLine]:
    return [entry for entry in map(parse_line, read_log(FOLDER, part)) if entry is not None]


@cache
def sessions(part: str) -> dict[str, Session]:
    return read_sessions(read_log(FOLDER, part))


@cache
def kinds(part: str) -> set[str]:
    return {labels()[session][1] for session in sessions(part)} - {"normal"}


def identities(label: str) -> set[str]:
    return {entry.who for part in PARTS for entry in entries(part) if entry.who and labels()[entry.session][0] == label}


def test_readme_tells_the_counts() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for table in summarise(FOLDER).split("\n\n"):
        assert table in readme


def test_sizes() -> None:
    shipped = [FOLDER / "labels.csv", *(FOLDER / f"{part}.log.gz" for part in PARTS)]
    assert sum(path.stat().st_size for path in shipped) < 2.2 * MEGABYTE
    assert 80_000 < sum(len(read_log(FOLDER, part)) for part in PARTS) < 130_000


def test_every_session_has_one_label_and_lies_in_one_part() -> None:
    listed = [session for part in PARTS for session in sessions(part)]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(labels())


def test_labels_and_kinds_agree() -> None:
    assert {label for label, _ in labels().values()} == {"Normal", "Anomaly"}
    assert all((label == "Normal") == (kind == "normal") for label, kind in labels().values())


def test_the_parts_follow_one_another() -> None:
    spans = [[entry.time for entry in entries(part)] for part in PARTS]
    assert all(max(before) < min(after) for before, after in pairwise(spans))


@pytest.mark.parametrize("part", PARTS)
def test_lines_are_in_time_order_but_for_moments(part: str) -> None:
    times = [entry.time for entry in entries(part)]
    assert all(after - before > timedelta(seconds=-0.5) for before, after in pairwise(times))


@pytest.mark.parametrize("part", PARTS)
def test_every_line_belongs_to_a_session(part: str) -> None:
    assert all(parse_line(line) is not None or line.startswith("\t") for line in read_log(FOLDER, part))


@pytest.mark.parametrize("part", PARTS)
def test_whoever_did_not_say_goodbye_is_explained(part: str) -> None:
    """Only the lost and the refused leave no farewell: faulty sessions, mistyped passwords, bare knocks."""
    for session in sessions(part).values():
        if session.is_client and not session.disconnected and labels()[session.id][0] == "Normal":
            assert not session.authorized
            assert session.lines <= 3


@pytest.mark.parametrize(("part", "low", "high"), [("train", 0.01, 0.05), ("eval", 0.01, 0.05), ("test", 0.03, 0.08)])
def test_faults_are_few(part: str, low: float, high: float) -> None:
    faulty = sum(labels()[session][0] == "Anomaly" for session in sessions(part))
    assert low < faulty / len(sessions(part)) < high


def test_kinds_are_many_and_some_are_new_in_test() -> None:
    assert len(kinds("train")) >= 8
    assert len(kinds("eval")) >= 6
    assert len(kinds("train") | kinds("eval") | kinds("test")) >= 10
    assert len(kinds("test") - kinds("train") - kinds("eval")) >= 3


def test_identities_give_nothing_away() -> None:
    assert identities("Anomaly") <= identities("Normal")


def test_no_statement_mentions_a_label() -> None:
    words = re.compile(r"\banomal|\bfault|\binject|\bdestruction\b|\bbackdoor\b|\bstarved", re.IGNORECASE)
    assert not [entry.message for part in PARTS for entry in entries(part) if words.search(entry.message)]


def test_only_the_servers_own_paths_appear() -> None:
    paths = {
        found
        for part in PARTS
        for entry in entries(part)
        for found in re.findall(r"(?<![\w.)])/\w+/\w+", entry.message)
    }
    assert paths <= {"/tmp/pg_capture"}


@pytest.mark.parametrize("label", ["Normal", "Anomaly"])
def test_statements_over_several_lines_occur_on_both_sides(label: str) -> None:
    found, session = set(), ""
    for part in PARTS:
        for line in read_log(FOLDER, part):
            entry = parse_line(line)
            session = entry.session if entry else session
            if entry is None:
                found.add(labels()[session][0])
    assert label in found


@pytest.mark.parametrize("part", PARTS)
def test_alarming_words_do_not_decide(part: str) -> None:
    alarmed = {entry.session for entry in entries(part) if entry.severity in {"ERROR", "FATAL"}}
    faulty = {session for session in sessions(part) if labels()[session][0] == "Anomaly"}
    assert len(alarmed - faulty) >= 5
    assert len(faulty - alarmed) >= 5
