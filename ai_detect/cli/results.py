"""From a scored log to the files of detect, written whole or not at all."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ai_detect import artifacts
from ai_detect.detectors.suspicion import trusted
from ai_detect.errors import DataError
from ai_detect.ingest.log_reader import fetch_lines
from ai_detect.pipeline import LogAnomalyPipeline, Scored
from ai_detect.reporting.findings import (
    anomalies_jsonl,
    build_findings,
    rank_anomalies,
    scores_csv,
    summarise,
    suspects_csv,
)
from ai_detect.reporting.notes import SUSPECTS_FILE, calibration_limit, threshold_origin
from ai_detect.reporting.report import ScoredLog, alike_anomalies, detection_report, rows_to_read
from ai_detect.reporting.wording import visible
from ai_detect.sequences.parsed_log import ParsedLog
from ai_detect.tables import EventTable, Int64Array
from ai_detect.training.state import versions

logger = logging.getLogger(__name__)


def describe(
    pipeline: LogAnomalyPipeline,
    scored: Scored,
    *,
    top_k: int,
    timings_s: Mapping[str, float],
    check: Callable[[], None] = lambda: None,
) -> ScoredLog:
    """Explain every anomaly and reread the lines that findings and pages quote."""
    begun = time.monotonic()
    log = scored.log
    explanations = pipeline.explain(scored, rank_anomalies(scored.scores), check=check)
    raw_lines = _raw_lines(
        scored, rows_to_read(log.events, log.sessions, explanations, top_k), pipeline.settings.encoding
    )
    findings = build_findings(
        log.events, log.sessions, scored.scores, explanations, raw_lines=raw_lines, model=pipeline.identity
    )
    summary = summarise(
        log.events,
        log.sessions,
        scored.scores,
        findings,
        model=pipeline.identity,
        detection=pipeline.detection(scored),
        timings_s={**timings_s, "explain": time.monotonic() - begun},
        versions=versions(),
    )
    return ScoredLog(log.events, log.sessions, scored.scores, explanations, findings, raw_lines, summary)


def _raw_lines(scored: Scored, rows: Int64Array, encoding: str) -> dict[int, list[str]]:
    """The physical lines of these events, each file read once."""
    events, found = scored.log.events, dict[int, list[str]]()
    by_path = {source.path: source for source in scored.log.sources}
    by_file: dict[str, list[int]] = {}
    for row in rows.tolist():
        by_file.setdefault(events.source_of(row).path, []).append(row)
    for path, chosen in by_file.items():
        spans = [(int(events.offset[row]), _n_lines(events, row)) for row in chosen]
        try:
            found.update(zip(chosen, fetch_lines(by_path[path], spans, encoding), strict=True))
        except DataError as error:
            logger.warning("the findings quote no lines of %s: %s", path, error)
    return found


def _n_lines(events: EventTable, row: int) -> int:
    return events.last_line(row) - int(events.line[row]) + 1


def write_results(
    described: ScoredLog, folder: Path, *, top_k: int, history: Mapping[str, Any], wanted: str = "all"
) -> None:
    """Write the files that `wanted` names ("all", "csv", "jsonl" or "html") and summary.json."""
    files = {}
    if wanted in ("all", "csv"):
        files["scores.csv"] = scores_csv(described.events, described.sessions, described.scores)
    if wanted in ("all", "jsonl"):
        files["anomalies.jsonl"] = anomalies_jsonl(described.findings)
    if wanted in ("all", "html"):
        files["report.html"] = detection_report(
            described, top_k=top_k, history=history["rows"], resume_steps=history["resume_steps"]
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # the summary of an earlier log must not stand beside files of this one, nor the other way round
        for name in ("summary.json", "scores.csv", "anomalies.jsonl", "report.html"):
            if name not in files:
                (folder / name).unlink(missing_ok=True)
        for name, text in files.items():
            artifacts.write_text(folder / name, text)
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
        artifacts.write_text(
            path, suspects_csv(log.events, log.sessions, bank.suspected, bank.suspicion, trusted(bank.suspected))
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); give another --output_dir") from error


def print_summary(described: ScoredLog, folder: Path, shown: int = 5) -> None:
    """What was found, in a few lines on standard output: one for each kind of anomaly."""
    summary = described.summary
    print(
        f"{summary['n_anomalies']:,} of {summary['n_sessions']:,} sessions are anomalies "
        f"({summary['n_lines']:,} lines, threshold {summary['threshold']:.4f})"
    )
    print(f"threshold: {threshold_origin(summary['detection'])}; {calibration_limit(summary['detection'])}")
    groups = alike_anomalies(described.explanations)
    finding_of = dict(zip(described.explanations, described.findings, strict=True))
    for group in groups[:shown]:
        finding = finding_of[group[0]]
        source = finding["source"]
        reasons = finding["reasons"]
        line = (reasons[0]["line"] if reasons else None) or source["line_start"]
        place = f"{visible(source['file'])}:{line}"
        like_it = f"  [{len(group) - 1:,} more like this]" if len(group) > 1 else ""
        print(f"  {finding['score']:.4f}  {visible(finding['session'])}  {place}  {finding['summary']}{like_it}")
    if n_left := sum(map(len, groups[shown:])):
        kinds = "one other kind" if len(groups) == shown + 1 else f"{len(groups) - shown:,} other kinds"
        print(f"  ... and {n_left:,} more of {kinds}")
    print_notes(described)
    print(f"results in {folder}")


def print_notes(described: ScoredLog) -> None:
    """What a reader of the results should know about the input, on standard error."""
    for note in described.summary["notes"]:
        print(f"note: {note}", file=sys.stderr)
