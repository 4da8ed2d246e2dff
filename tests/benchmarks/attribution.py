"""Which line, and why: faults planted in normal sessions, and whether the findings name them.

    python tests/benchmarks/attribution.py --output docs/benchmarks-attribution.md [--only hdfs] [--seed 0]

A model is trained with default settings on the training half of each log, normal sessions alone and as the log is.
Then faults are planted in normal sessions that were held out, one in each, and the findings of the product are read:
is the session over the threshold, and is the planted line among the first three reasons, with the right kind? Labels
choose the sessions to plant in and nothing else. Beside it stand, on the same sessions, the three lines that surprise
the encoder most and the three rarest ones.

What is planted; where order and number of messages matter (known, removed, swapped, repeated), in sessions that are
themselves within the normal variation (see `Normal`), so that the fault is what is wrong with them:

foreign, unseen     a message whose template training does not have, anywhere but first
foreign, known      a message that training has, but never together with the set of messages that the session has
removed             any line
swapped             two neighbours whose order training reverses in at most 1 % of the places where they are neighbours
repeated            three lines in a row, two or three times more, right behind themselves
delayed             a line ten times later than training ever shows before this message or after the one before it, and
                    a minute at least; only where training shows how long these take

A session that is equal to a training session afterwards, or (removed, repeated) still within the normal variation, is
no fault that anybody could tell: such sessions are counted and left out.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from detection_splits import ROOT
from detection_tables import replace_between
from pipeline import Case, cases

from ai_detect.ingest.labels import read_label_file
from ai_detect.pipeline import LogAnomalyPipeline, Scored
from ai_detect.reporting.reasons import Reason
from ai_detect.sequences.parsed_log import ParsedLog
from ai_detect.tables import Int64Array, SequenceTable, SessionTable

SYSTEMS = ("hdfs", "postgresql", "openstack", "bgl", "linux")
#: Reasons, or lines of a peer, that may hold the planted one.
N_NAMED = 3
#: Where fewer sessions than this can be damaged, their shares say nothing.
LEAST_PLANTED = 20
#: Messages that none of the logs has; two of each in the words of an ordinary message, the others of a failure.
UNSEEN = (
    "Out of memory: killed process <NUM> (worker)",
    "checksum mismatch on device <*>, sector <NUM>",
    "certificate of <IP> has expired",
    "segmentation fault at <HEX>",
    "configuration reloaded from <PATH>",
    "license check failed, falling back to trial mode",
    "clock moved backwards by <NUM> ms",
    "nightly maintenance finished in <NUM> s",
)


class Normal:
    """What the normal sessions of training hold.

    A session is within the normal variation where training has its set of messages, none of them more or less often
    than in the training sessions of this set, and each of its transitions, begin and end included.
    """

    def __init__(self, sequences: SequenceTable) -> None:
        self.sequences: set[tuple[int, ...]] = set()
        self.transitions: Counter[tuple[int, int]] = Counter()
        self.usual: dict[frozenset[int], dict[int, tuple[int, int]]] = {}
        self.events: set[int] = set()
        lengths = np.unique(sequences.lengths)
        #: Events of a window, where sessions are windows of so many lines (the last one of a log may be shorter).
        self.window = int(lengths[-1]) if len(lengths) <= 2 and len(sequences) > 2 else None
        self.longest_before: dict[int, float] = {}
        self.longest_after: dict[int, float] = {}
        for session in range(len(sequences)):
            ids = sequences.session(session).tolist()
            self.sequences.add(tuple(ids))
            self.transitions.update(pairwise([-1, *ids, -1]))
            counts = Counter(ids)
            self.events |= counts.keys()
            usual = self.usual.setdefault(frozenset(counts), {})
            for event, n in counts.items():
                low, high = usual.get(event, (n, n))
                usual[event] = min(low, n), max(high, n)
            gaps = sequences.gap_s[sequences.offsets[session] : sequences.offsets[session + 1]].tolist()
            for (before, event), gap in zip(pairwise(ids), gaps[1:], strict=True):
                if gap == gap:
                    self.longest_before[event] = max(gap, self.longest_before.get(event, 0.0))
                    self.longest_after[before] = max(gap, self.longest_after.get(before, 0.0))

    def varies_as_usual(self, ids: Sequence[int]) -> bool:
        """Whether a session is within the normal variation."""
        counts = Counter(ids)
        usual = self.usual.get(frozenset(counts))
        return (
            usual is not None
            and all(usual[event][0] <= n <= usual[event][1] for event, n in counts.items())
            and all(self.transitions[pair] for pair in pairwise([-1, *ids, -1]))
        )


@dataclass(frozen=True)
class Planted:
    """A session with a fault: where its events come from, what they are now, and what a finding should name."""

    rows: list[int]  # event rows of the log
    ids: list[int]
    gaps: list[float]
    kinds: frozenset[str]
    lines: frozenset[int]  # positions that are at fault, or stand beside the hole
    slots: frozenset[int] = frozenset()  # places of the hole, in events before it
    missing: frozenset[int] = frozenset()  # what may be missing: the removed message, and what else may stand there

    def is_placed(self, reason: Reason) -> bool:
        """Whether the line that a reason names first is one at fault, or its hole the one made."""
        return reason.positions[0] in self.lines if reason.positions else reason.slot in self.slots

    def is_kind(self, reason: Reason) -> bool:
        """Whether a reason has the kind of this fault; where a message is missing, also the message."""
        told = {reason.event, *(event for event, _ in reason.expected)}
        return reason.kind in self.kinds and (not self.missing or not self.missing.isdisjoint(told))


@dataclass(frozen=True)
class Host:
    """A held-out normal session, and the log it is from."""

    rows: list[int]
    ids: list[int]
    gaps: list[float]
    normal: Normal
    row_of: dict[int, list[int]]  # rows of the log by event
    first_new_event: int  # ids from here on are the templates of `UNSEEN`
    next_row: tuple[int, int, float] | None  # the event after the session's last, where there is one

    def windowed(self, fault: Planted) -> Planted:
        """A fault as a window of so many lines shows it: what is too much falls out, and the next line comes in."""
        size = self.normal.window
        if size is None or len(self.ids) != size:
            return fault
        rows, ids, gaps = fault.rows[:size], fault.ids[:size], fault.gaps[:size]
        if len(ids) < size and self.next_row is not None:
            row, event, gap = self.next_row
            rows, ids, gaps = [*rows, row], [*ids, event], [*gaps, gap]
        return replace(fault, rows=rows, ids=ids, gaps=gaps)

    def insert(self, at: int, row: int, event: int, kinds: set[str]) -> Planted:
        """With one more line, half way in time between its neighbours."""
        gap = self.gaps[at] / 2 if at < len(self.gaps) else self.gaps[-1]
        after = [gap, *self.gaps[at + 1 :]] if at < len(self.gaps) else []
        return Planted(
            [*self.rows[:at], row, *self.rows[at:]],
            [*self.ids[:at], event, *self.ids[at:]],
            [*self.gaps[:at], gap, *after],
            frozenset(kinds),
            frozenset({at}),
        )


_Item = TypeVar("_Item")
Plant = Callable[[Host, random.Random], Planted | None]


def _foreign_unseen(host: Host, pick: random.Random) -> Planted | None:
    at = pick.randint(1, len(host.ids))
    event = host.first_new_event + pick.randrange(len(UNSEEN))
    return host.insert(at, host.rows[at - 1], event, {"unseen_event"})


def _foreign_known(host: Host, pick: random.Random) -> Planted | None:
    here = frozenset(host.ids)
    strangers = [
        event
        for event in sorted(host.normal.events - here)
        if event in host.row_of and not any(here | {event} <= usual for usual in host.normal.usual)
    ]
    if not strangers:
        return None
    event = pick.choice(strangers)
    return host.insert(
        pick.randint(1, len(host.ids)), pick.choice(host.row_of[event]), event, {"rare_event", "count", "order"}
    )


def _removed(host: Host, pick: random.Random) -> Planted | None:
    if len(host.ids) < 3:
        return None
    at = pick.randrange(len(host.ids))
    event, ids, gaps = host.ids[at], _without(host.ids, at), _without(host.gaps, at)
    if at == 0:
        gaps[0] = float("nan")
    elif at < len(gaps):
        gaps[at] += host.gaps[at]
    # where the line can be put back so that training knows the result, nobody can tell the one place from the other
    slots = {slot for slot in range(len(ids) + 1) if (*ids[:slot], event, *ids[slot:]) in host.normal.sequences} | {
        at - 1,
        at,
        at + 1,
    }
    lines = {slot + side for slot in slots for side in (-1, 0)}
    # nor can anybody tell it from another message that training has between the two lines
    before, after = [-1, *ids, -1][at : at + 2]
    seen = host.normal.transitions
    events = {other for other in host.normal.events if seen[before, other] and seen[other, after]} | {event}
    return Planted(
        _without(host.rows, at),
        ids,
        gaps,
        frozenset({"missing"}),
        frozenset(lines),
        frozenset(slots),
        frozenset(events),
    )


def _without(values: list[_Item], at: int) -> list[_Item]:
    return [*values[:at], *values[at + 1 :]]


def _swapped(host: Host, pick: random.Random) -> Planted | None:
    seen = host.normal.transitions
    places = [
        at
        for at, (left, right) in enumerate(pairwise(host.ids))
        if left != right and seen[right, left] <= 0.01 * (seen[left, right] + seen[right, left])
    ]
    if not places:
        return None
    at = pick.choice(places)
    rows, ids = list(host.rows), list(host.ids)
    for values in (rows, ids):
        values[at], values[at + 1] = values[at + 1], values[at]
    return Planted(rows, ids, list(host.gaps), frozenset({"order"}), frozenset({at, at + 1}))


def _repeated(host: Host, pick: random.Random) -> Planted | None:
    if len(host.ids) < 4:
        return None
    at, times = pick.randrange(1, len(host.ids) - 2), pick.randint(2, 3)

    def repeated(values: list[_Item]) -> list[_Item]:
        return [*values[: at + 3], *(values[at : at + 3] * times), *values[at + 3 :]]

    lines = frozenset(range(at, at + 3 * (times + 1)))
    return Planted(repeated(host.rows), repeated(host.ids), repeated(host.gaps), frozenset({"count"}), lines)


def _delayed(host: Host, pick: random.Random) -> Planted | None:
    before, after = host.normal.longest_before, host.normal.longest_after
    places = [at for at in range(1, len(host.ids)) if host.ids[at] in before and host.ids[at - 1] in after]
    if not places:
        return None
    at = pick.choice(places)
    gaps = list(host.gaps)
    gaps[at] = max(10 * before[host.ids[at]], 10 * after[host.ids[at - 1]], 60.0)
    return Planted(list(host.rows), list(host.ids), gaps, frozenset({"gap"}), frozenset({at}))


@dataclass(frozen=True)
class Fault:
    """A way to damage a session: any, or one within the normal variation; may be, so that it stays within it."""

    name: str
    plant: Plant
    needs_usual: bool = True
    may_be_usual: bool = False


FAULTS = (
    Fault("foreign, unseen", _foreign_unseen, needs_usual=False),
    Fault("foreign, known", _foreign_known),
    Fault("removed", _removed, may_be_usual=True),
    Fault("swapped", _swapped),
    Fault("repeated", _repeated, may_be_usual=True),
    Fault("delayed", _delayed, needs_usual=False),
)


@dataclass
class Sample:
    """What was planted of one fault in one log, and how many trials gave nothing that could be told."""

    planted: list[Planted] = field(default_factory=list)
    equal: int = 0
    usual: int = 0


def plant(fault: Fault, hosts: Iterator[Host], wanted: int, pick: random.Random) -> Sample:
    """Plant a fault in one session after another until there are enough."""
    sample = Sample()
    for host in hosts:
        if len(sample.planted) == wanted:
            break
        if fault.needs_usual and not host.normal.varies_as_usual(host.ids):
            continue
        damaged = fault.plant(host, pick)
        if damaged is None:
            continue
        planted = host.windowed(damaged)
        if min(planted.lines) >= len(planted.ids):
            continue
        if fault.needs_usual and tuple(planted.ids) in host.normal.sequences:
            sample.equal += 1
        elif fault.may_be_usual and host.normal.varies_as_usual(planted.ids):
            sample.usual += 1
        else:
            sample.planted.append(planted)
    return sample


@dataclass(frozen=True)
class Figures:
    """Shares of the planted sessions; ms is what one explanation takes."""

    n: int
    found: float
    place: float
    kind: float
    both: float
    first: float
    both_of_found: float
    surprise: float
    rarest: float
    ms: float


def judge(pipeline: LogAnomalyPipeline, log: ParsedLog, normal: Normal, planted: Sequence[Planted]) -> Figures:
    """Score and explain sessions with faults as the product does, and read what it names."""
    scored = pipeline.score(_with_sessions(log, planted))
    begun = time.monotonic()
    explanations = pipeline.explain(scored, np.arange(len(planted)))
    seconds = time.monotonic() - begun
    named = [explanations[at].reasons[:N_NAMED] for at in range(len(planted))]
    place = [any(map(fault.is_placed, reasons)) for fault, reasons in zip(planted, named, strict=True)]
    kind = [any(map(fault.is_kind, reasons)) for fault, reasons in zip(planted, named, strict=True)]
    hit = [
        [fault.is_placed(reason) and fault.is_kind(reason) for reason in reasons]
        for fault, reasons in zip(planted, named, strict=True)
    ]
    both = np.array([any(hits) for hits in hit])
    found = scored.scores.is_anomaly
    return Figures(
        len(planted),
        float(found.mean()),
        float(np.mean(place)),
        float(np.mean(kind)),
        float(both.mean()),
        float(np.mean([hits[:1] == [True] for hits in hit])),
        float(both[found].mean()) if found.any() else float("nan"),
        _peer(planted, lambda at: scored.evidence.surprise[_events_of(scored, at)]),
        _peer(planted, lambda at: -_frequency(pipeline, scored.log.sequences.session(at))),
        1000 * seconds / len(planted),
    )


def _events_of(scored: Scored, session: int) -> slice:
    offsets = scored.log.sequences.offsets
    return slice(int(offsets[session]), int(offsets[session + 1]))


def _frequency(pipeline: LogAnomalyPipeline, ids: np.ndarray) -> np.ndarray:
    """Training sessions that hold each event, 0 for unseen ones."""
    known = pipeline.normal.document_frequency
    return np.where(ids < len(known), known[np.minimum(ids, len(known) - 1)], 0).astype(np.float64)


def _peer(planted: Sequence[Planted], weight: Callable[[int], np.ndarray]) -> float:
    """Share of sessions whose planted line is among the three heaviest, equal ones in their order."""
    return float(
        np.mean(
            [
                not fault.lines.isdisjoint(np.argsort(-weight(at), kind="stable")[:N_NAMED].tolist())
                for at, fault in enumerate(planted)
            ]
        )
    )


def _with_sessions(log: ParsedLog, planted: Sequence[Planted]) -> ParsedLog:
    """The log with these sessions in place of its own; all lines but those of `UNSEEN` are lines of the log."""
    offsets = np.concatenate([[0], np.cumsum([len(fault.ids) for fault in planted])]).astype(np.int64)
    rows = np.array([row for fault in planted for row in fault.rows], np.int64)
    ids = np.array([event for fault in planted for event in fault.ids], np.int32)
    gaps = np.array([gap for fault in planted for gap in fault.gaps], np.float32)
    return replace(
        log,
        events=replace(log.events, templates=(*log.events.templates, *UNSEEN)),
        sessions=SessionTable(tuple(f"planted-{at}" for at in range(len(planted))), offsets, rows),
        sequences=SequenceTable(offsets, ids, gaps),
    )


def hosts_of(log: ParsedLog, sessions: Int64Array, normal: Normal) -> Iterator[Host]:
    """Sessions to plant in."""
    row_of: dict[int, list[int]] = {}
    for row, event in enumerate(log.events.event_id.tolist()):
        row_of.setdefault(event, []).append(row)
    for session in sessions.tolist():
        at = slice(int(log.sequences.offsets[session]), int(log.sequences.offsets[session + 1]))
        gaps, ids = log.sequences.gap_s[at].tolist(), log.sequences.event_id[at].tolist()
        rows = log.sessions.rows_of(session).tolist()
        after = rows[-1] + 1
        next_row = (after, int(log.events.event_id[after]), 0.0) if after < len(log.events) else None
        yield Host(rows, ids, gaps, normal, row_of, len(log.events.templates), next_row)


def measure(case: Case, pipeline: LogAnomalyPipeline, wanted: int, seed: int) -> Iterator[tuple[str, Sample, Figures]]:
    """The figures of each fault in one log."""
    label_of = read_label_file(case.labels) if case.labels else {}
    train, test = pipeline.parse(case.train), pipeline.parse(case.test)
    normal = Normal(train.sequences.take(_normal_sessions(train, label_of)))
    sessions = _normal_sessions(test, label_of)
    for fault in FAULTS:
        pick = random.Random(f"{fault.name} {seed}")
        order = np.array(pick.sample(sessions.tolist(), len(sessions)), np.int64)
        sample = plant(fault, hosts_of(test, order, normal), wanted, pick)
        if len(sample.planted) >= LEAST_PLANTED:
            yield fault.name, sample, judge(pipeline, test, normal, sample.planted)


def _normal_sessions(log: ParsedLog, label_of: dict[str, int]) -> Int64Array:
    if not label_of:
        return np.arange(len(log.sessions))
    return np.flatnonzero([label_of.get(key) == 0 for key in log.sessions.keys]).astype(np.int64)


def _train(case: Case, folder: Path, seed: int) -> Path:
    run = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, str(ROOT / "ai_detect" / "train.py"), "--train_file", case.train, *case.flags]
    command += ["--checkpoint_dir", str(run), "--output_dir", str(run / "output"), "--seed", str(seed), "--quiet"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return run / "model"


HEAD = (
    "| log | fault | planted | equal, usual | found | line | kind | both | first "
    "| of found | surprise | rarest | ms |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def _row(case: Case, name: str, sample: Sample, figures: Figures) -> str:
    shares = (
        figures.found,
        figures.place,
        figures.kind,
        figures.both,
        figures.first,
        figures.both_of_found,
        figures.surprise,
        figures.rarest,
    )
    cells = [case.name, name, str(figures.n), f"{sample.equal}, {sample.usual}"]
    values = ["-" if np.isnan(share) else f"{share:.2f}" for share in shares]
    return f"| {' | '.join([*cells, *values, f'{figures.ms:.1f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file whose table is replaced; else it is printed only")
    parser.add_argument("--only", choices=SYSTEMS, help="this log alone")
    parser.add_argument("--model_dir", type=Path, help="a finished model of the clean split instead of training one")
    parser.add_argument("--n", type=int, default=150, help="faults of each kind in each log")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.model_dir and not arguments.only:
        parser.error("--model_dir is of one log: give --only, too")
    rows = [HEAD]
    print(HEAD)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for system, make in cases(folder, arguments.seed):
            if system not in SYSTEMS or arguments.only not in (None, system):
                continue
            for case in make():
                model = arguments.model_dir or _train(case, folder, arguments.seed)
                pipeline = LogAnomalyPipeline.load(model)
                for name, sample, figures in measure(case, pipeline, arguments.n, arguments.seed):
                    rows.append(_row(case, name, sample, figures))
                    print(rows[-1], flush=True)
                if arguments.model_dir:
                    break
    if arguments.output:
        text = replace_between(arguments.output.read_text("utf-8"), "attribution", "\n".join([*rows, ""]))
        arguments.output.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
