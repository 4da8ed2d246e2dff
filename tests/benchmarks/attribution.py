"""Which line, and why: faults planted in normal sessions, and whether the findings name them.

    python tests/benchmarks/attribution.py --output docs/benchmarks-attribution.md
    python tests/benchmarks/attribution.py --only bgl --seed 1

A model is trained with default settings on the training half of each log, normal sessions alone and as the log is.
Then faults (`attribution_faults` says which) are planted in normal sessions that were held out, one in each, and the
findings of the product are read: is the session over the threshold, and is the planted line among the first three
reasons, with the right kind? Labels choose the sessions to plant in and nothing else. Beside it stand, on the same
sessions, what the plainest of detectors finds (`never_seen`), the three lines that surprise the encoder most and the
three rarest ones. The row "none" has the held-out normal sessions as they are: what is found there are false alarms.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from math import nan
from pathlib import Path

import numpy as np
from attribution_faults import FAULTS, UNSEEN, Host, Planted, Sample, Training, never_seen, plant
from detection_splits import ROOT
from detection_tables import replace_between
from pipeline import Case, cases

from ai_detect.encoder.embedding import encode_sessions
from ai_detect.encoder.vocabulary import word_matrix
from ai_detect.ingest.labels import read_label_file
from ai_detect.pipeline import LogAnomalyPipeline, Scored
from ai_detect.sequences.parsed_log import ParsedLog
from ai_detect.tables import BoolArray, EventTable, Int64Array, SequenceTable, SessionTable, ValueTable

#: Logs of sessions, and logs of windows, where little can be planted that anybody could tell.
SYSTEMS, WINDOWED = ("hdfs", "postgresql", "openstack"), ("bgl", "linux")
#: Reasons, or lines of a peer, that may hold the planted one.
N_NAMED = 3
#: Where fewer sessions than this can be damaged, their shares say nothing.
LEAST_PLANTED = 20


@dataclass(frozen=True)
class Figures:
    """Shares of the planted sessions, of which those from `place` on need a fault; ms is what one explanation takes."""

    n: int
    found: float
    in_one_view: float
    never_seen: float
    place: float = nan
    kind: float = nan
    both: float = nan
    first: float = nan
    both_of_found: float = nan
    surprise: float = nan
    rarest: float = nan
    ms: float = nan


def false_alarms(pipeline: LogAnomalyPipeline, log: ParsedLog, sessions: Int64Array, training: Training) -> Figures:
    """What is found in normal sessions with no fault in them."""
    scored = pipeline.score(log)
    reported = scored.scores.is_anomaly, _in_one_view(pipeline, scored), never_seen(training, log.sequences, log.values)
    return Figures(len(sessions), *(float(flags[sessions].mean()) for flags in reported))


def judge(pipeline: LogAnomalyPipeline, log: ParsedLog, planted: Sequence[Planted], training: Training) -> Figures:
    """Score and explain sessions with faults as the product does, and read what it names."""
    damaged = with_sessions(log, planted)
    scored = pipeline.score(damaged)
    begun = time.monotonic()
    explanations = dict(pipeline.explain(scored, np.arange(len(planted))))
    seconds = time.monotonic() - begun
    named = [explanations[at].reasons[:N_NAMED] for at in range(len(planted))]
    place = [any(map(fault.is_placed, reasons)) for fault, reasons in zip(planted, named, strict=True)]
    kind = [any(map(fault.is_kind, reasons)) for fault, reasons in zip(planted, named, strict=True)]
    hit = [
        [fault.is_placed(reason) and fault.is_kind(reason) for reason in reasons]
        for fault, reasons in zip(planted, named, strict=True)
    ]
    both = np.array([any(hits) for hits in hit])
    words = word_matrix(damaged.events.templates, pipeline.settings.n_word_buckets)
    surprise = encode_sessions(pipeline.encoder, damaged.sequences, words).surprise
    found = scored.scores.is_anomaly
    return Figures(
        len(planted),
        float(found.mean()),
        float(_in_one_view(pipeline, scored).mean()),
        float(never_seen(training, damaged.sequences, damaged.values).mean()),
        float(np.mean(place)),
        float(np.mean(kind)),
        float(both.mean()),
        float(np.mean([hits[:1] == [True] for hits in hit])),
        float(both[found].mean()) if found.any() else float("nan"),
        _peer(planted, lambda at: surprise[_events_of(scored, at)]),
        _peer(planted, lambda at: -_frequency(pipeline, scored.log.sequences.session(at))),
        1000 * seconds / len(planted),
    )


def _in_one_view(pipeline: LogAnomalyPipeline, scored: Scored) -> BoolArray:
    """Sessions that one of the detectors on one of the views would report by itself, at the false-alarm rate of all."""
    p_values = np.stack(list(scored.scores.p_values.values()))
    rate: float = pipeline.detection(scored)["false_alarm_rate"]
    return np.asarray(p_values.min(axis=0) * len(p_values) <= rate)


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


def with_sessions(log: ParsedLog, planted: Sequence[Planted]) -> ParsedLog:
    """The log with these sessions in place of its own; all lines but those of `UNSEEN` and with other values are of
    the log.
    """
    offsets = np.concatenate([[0], np.cumsum([len(fault.ids) for fault in planted])]).astype(np.int64)
    rows = np.array([row for fault in planted for row in fault.rows], np.int64)
    ids = np.array([event for fault in planted for event in fault.ids], np.int32)
    gaps = np.array([gap for fault in planted for gap in fault.gaps], np.float32)
    odd = [(int(begin), fault.odd) for begin, fault in zip(offsets, planted, strict=False) if fault.odd is not None]
    changed = np.array([begin + value.position for begin, value in odd], np.int64)
    events = _with_copies(log.events, rows[changed])
    rows[changed] = np.arange(len(log.events), len(events))
    at = events.values.offsets[rows[changed]] + np.array([value.slot for _, value in odd], np.int64)
    number, key = events.values.number.copy(), events.values.key.copy()
    for place, (_, value) in zip(at.tolist(), odd, strict=True):
        number[place] = number[place] if value.value.kind == "word" else value.value.number
        key[place] = value.value.key
    values = ValueTable(events.values.offsets, number, key)
    return replace(
        log,
        events=replace(events, templates=(*events.templates, *UNSEEN), values=values),
        sessions=SessionTable(tuple(f"planted-{at}" for at in range(len(planted))), offsets, rows),
        sequences=SequenceTable(offsets, ids, gaps),
    )


def _with_copies(events: EventTable, rows: Int64Array) -> EventTable:
    """The events with these once more at the end."""
    taken = np.concatenate([np.arange(len(events)), rows])
    columns = ("offset", "line", "timestamp", "event_id", "session_id", "level")
    copied = {name: getattr(events, name)[taken] for name in columns}
    return replace(events, **copied, values=events.values.take(taken))


def hosts_of(log: ParsedLog, sessions: Int64Array, training: Training) -> Iterator[Host]:
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
        yield Host(rows, ids, gaps, training, row_of, len(log.events.templates), next_row)


def measure(case: Case, pipeline: LogAnomalyPipeline, wanted: int, seed: int) -> Iterator[tuple[str, Sample, Figures]]:
    """The figures of each fault in one log."""
    label_of = read_label_file(case.labels) if case.labels else {}
    train, test = pipeline.parse(case.train), pipeline.parse(case.test)
    training = Training(train.sequences, train.values)
    sessions = _normal_sessions(test, label_of)
    yield "none", Sample(), false_alarms(pipeline, test, sessions, training)
    for fault in FAULTS:
        pick = random.Random(f"{fault.name} {seed}")
        order = np.array(pick.sample(sessions.tolist(), len(sessions)), np.int64)
        sample = plant(fault, hosts_of(test, order, training), wanted, pick)
        if len(sample.planted) >= LEAST_PLANTED:
            yield fault.name, sample, judge(pipeline, test, sample.planted, training)


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
    "| log | fault | planted | as in training | found | a view | never seen | line | kind | both | first "
    "| of found | surprise | rarest | ms |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def _row(case: Case, name: str, sample: Sample, figures: Figures) -> str:
    n, *shares, ms = astuple(figures)
    digits = 2 if sample.planted else 4  # false alarms are rare
    as_in_training = sample.as_in_training / (sample.as_in_training + n)
    values = ["-" if np.isnan(share) else f"{share:.{digits}f}" for share in shares]
    cells = [case.name, name, f"{n}", f"{as_in_training:.2f}", *values, "-" if np.isnan(ms) else f"{ms:.1f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file whose table is replaced; else it is printed only")
    parser.add_argument("--only", choices=(*SYSTEMS, *WINDOWED), help="this log alone")
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
            if system not in ([arguments.only] if arguments.only else SYSTEMS):
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
