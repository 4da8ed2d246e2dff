"""The tables of README.md, counted from the shipped files: `python dataset/summary.py dataset`."""

import gzip
import sys
from collections import Counter
from pathlib import Path

from session_labels import parse_line, read_labels

PARTS = ("train", "eval", "test")
ALARMING = frozenset({"WARNING", "ERROR", "FATAL", "PANIC"})


def read_log(folder: Path, part: str) -> list[str]:
    """The lines of one shipped log."""
    with gzip.open(folder / f"{part}.log.gz", "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; all columns but the first hold numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def summarise(folder: Path) -> str:
    """Three tables: the parts, the kinds of faults in each, and how far a rule of keywords gets."""
    labels = read_labels(folder / "labels.csv")
    parts, rules = [], []
    kinds: dict[str, Counter[str]] = {}
    for part in PARTS:
        lines = read_log(folder, part)
        entries = [entry for entry in map(parse_line, lines) if entry is not None]
        sessions = {entry.session for entry in entries}
        faulty = {session for session in sessions if labels[session][0] == "Anomaly"}
        alarmed = {entry.session for entry in entries if entry.severity in ALARMING}
        found = len(faulty & alarmed)
        kinds[part] = Counter(labels[session][1] for session in faulty)
        parts.append(
            [part, f"{len(lines):,}", f"{len(sessions):,}", str(len(faulty)), f"{len(faulty) / len(sessions):.1%}"]
        )
        rules.append([part, str(len(alarmed)), str(found), f"{found / len(alarmed):.2f}", f"{found / len(faulty):.2f}"])
    names = sorted(set().union(*kinds.values()))
    return "\n\n".join(
        (
            table(["part", "lines", "sessions", "faulty sessions", "share"], parts),
            table(["kind", *PARTS], [[f"`{name}`", *(str(kinds[part][name]) for part in PARTS)] for name in names]),
            table(["part", "sessions with an alarming line", "of them faulty", "precision", "recall"], rules),
        )
    )


if __name__ == "__main__":
    print(summarise(Path(sys.argv[1])))
