"""From a scored log to the files of detect, written whole or not at all."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ai_detect import artifacts, scratch
from ai_detect.detectors.suspicion import trusted
from ai_detect.errors import DataError
from ai_detect.ingest.log_reader import lines_at
from ai_detect.pipeline import LogAnomalyPipeline, Scored
from ai_detect.reporting.findings import AnomalyTally, rank_anomalies
from ai_detect.reporting.notes import SUSPECTS_FILE, calibration_limit, threshold_origin
from ai_detect.reporting.scored_log import ScoredLog, described_log
from ai_detect.reporting.session_tables import scores_csv, suspects_csv
from ai_detect.reporting.spans import SessionSpans, session_spans
from ai_detect.reporting.summary import summarise
from ai_detect.reporting.wording import visible
from ai_detect.sequences.parsed_log import ParsedLog
from ai_detect.tables import EventTable, Int64Array, StringColumn
from ai_detect.training.state import versions

logger = logging.getLogger(__name__)

#: Messages that are looked up before the columns that tell of them are let go.
_LOOKED_UP = 1 << 8


def describe(
    pipeline: LogAnomalyPipeline,
    scored: Scored,
    *,
    top_k: int,
    timings_s: Mapping[str, float],
    check: Callable[[], None] = lambda: None,
    each: bool = True,
) -> ScoredLog:
    """Explain every anomaly; only with `each`, make findings of all and reread the lines that they and pages quote."""
    begun = time.monotonic()
    log, ranked = scored.log, rank_anomalies(scored.scores)

    def summary(spans: SessionSpans, tally: AnomalyTally) -> dict[str, Any]:
        return summarise(
            log.events,
            log.sessions,
            spans,
            scored.scores,
            tally,
            model=pipeline.identity,
            detection=pipeline.detection(scored),
            timings_s={**timings_s, "explain": time.monotonic() - begun},
            versions=versions(),
        )

    return described_log(
        log.events,
        log.sessions,
        scored.scores,
        ranked,
        lambda sessions, expecting: pipeline.explain(scored, sessions, check=check, expecting=expecting),
        lambda rows: _raw_lines(log, rows, pipeline.settings.encoding),
        pipeline.identity,
        top_k,
        summary,
        each=each,
    )


class _RawLines(Mapping[int, Sequence[str]]):
    """The physical lines of some messages by their row, read back from the disk when they are asked for."""

    def __init__(self, rows: Int64Array, lines: StringColumn) -> None:
        self._rows = rows  # ascending
        self._lines = lines  # each with a newline behind every line

    def __getitem__(self, row: int) -> list[str]:
        at = int(np.searchsorted(self._rows, row))
        if at == len(self._rows) or self._rows[at] != row:
            raise KeyError(row)
        return self._lines[at].split("\n")[:-1]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows.tolist())


def _raw_lines(log: ParsedLog, rows: Int64Array, encoding: str) -> _RawLines:
    """The physical lines of these events, ascending; each file is read once."""
    events, found = log.events, scratch.Growing(np.int64)
    by_path = {source.path: source for source in log.sources}

    def texts() -> Iterator[str]:
        bounds = np.searchsorted(rows, [*(source.first_event for source in events.sources), len(events)])
        for span, begin, end in zip(events.sources, bounds[:-1], bounds[1:], strict=True):
            chosen = rows[begin:end].tolist()
            spans = (
                (int(events.offset[row]), _n_lines(events, row))
                for block in scratch.blocks(len(chosen), _LOOKED_UP)
                for row in chosen[block]
            )
            try:
                for row, lines in zip(chosen, lines_at(by_path[span.path], spans, encoding), strict=True):
                    found.append(np.array([row]))
                    yield "".join(f"{line}\n" for line in lines)
            except DataError as error:
                logger.warning("the findings quote no lines of %s: %s", span.path, error)

    lines = StringColumn.of(texts())
    return _RawLines(found.column(), lines)


def _n_lines(events: EventTable, row: int) -> int:
    return events.last_line(row) - int(events.line[row]) + 1


def write_results(
    described: ScoredLog, folder: Path, *, top_k: int, history: Mapping[str, Any], wanted: str = "all"
) -> None:
    """Write the files that `wanted` names ("all", "csv", "jsonl" or "html") and summary.json."""
    files: dict[str, Iterable[str]] = {}
    if wanted in ("all", "csv"):
        files["scores.csv"] = scores_csv(described.sessions, described.spans, described.scores)
    if wanted in ("all", "jsonl"):
        files["anomalies.jsonl"] = described.findings.jsonl()
    if wanted in ("all", "html"):
        from ai_detect.reporting.report import detection_report  # with jinja2, which only pages need

        page = detection_report(described, top_k=top_k, history=history["rows"], resume_steps=history["resume_steps"])
        files["report.html"] = [page]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # the summary of an earlier log must not stand beside files of this one, nor the other way round
        for name in ("summary.json", "scores.csv", "anomalies.jsonl", "report.html"):
            if name not in files:
                (folder / name).unlink(missing_ok=True)
        for name, parts in files.items():
            artifacts.write_parts(folder / name, parts)
        artifacts.write_json(folder / "summary.json", described.summary)
    except OSError as error:
        raise DataError(f"{folder}: results cannot be written ({error.strerror}); give another --output_dir") from error


def write_suspects(pipeline: LogAnomalyPipeline, log: ParsedLog, folder: Path) -> None:
    """training_suspects.csv beside the results of a training whose log looks dirty; none stays of an earlier one."""
    path = folder / SUSPECTS_FILE
    try:
        if pipeline.card["training_suspects"] is None:
            path.unlink(missing_ok=True)
            return
        bank = pipeline.bank
        folder.mkdir(parents=True, exist_ok=True)
        spans = session_spans(log.events, log.sessions)
        learned_from = trusted(bank.suspected)
        artifacts.write_text(
            path, suspects_csv(log.events, log.sessions, spans, bank.suspected, bank.suspicion, learned_from)
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); give another --output_dir") from error


def print_summary(described: ScoredLog, folder: Path) -> None:
    """What was found, in a few lines on standard output: one for each kind of anomaly."""
    summary = described.summary
    print(
        f"{summary['n_anomalies']:,} of {summary['n_sessions']:,} sessions are anomalies "
        f"({summary['n_lines']:,} lines, threshold {summary['threshold']:.4f})"
    )
    print(f"threshold: {threshold_origin(summary['detection'])}; {calibration_limit(summary['detection'])}")
    groups, heads = described.groups, described.heads
    for group, finding in zip(groups, heads, strict=False):
        source = finding["source"]
        reasons = finding["reasons"]
        line = (reasons[0]["line"] if reasons else None) or source["line_start"]
        place = f"{visible(source['file'])}:{line}"
        like_it = f"  [{len(group) - 1:,} more like this]" if len(group) > 1 else ""
        print(f"  {finding['score']:.4f}  {visible(finding['session'])}  {place}  {finding['summary']}{like_it}")
    if n_left := sum(map(len, groups[len(heads) :])):
        n_kinds = len(groups) - len(heads)
        print(f"  ... and {n_left:,} more of {'one other kind' if n_kinds == 1 else f'{n_kinds:,} other kinds'}")
    print_notes(described)
    print(f"results in {folder}")


def print_notes(described: ScoredLog) -> None:
    """What a reader of the results should know about the input, on standard error."""
    for note in described.summary["notes"]:
        print(f"note: {note}", file=sys.stderr)
