"""evaluate: measure a model on a log, with labels or without."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ai_detect import artifacts
from ai_detect.cli.command_settings import EvaluateCommand
from ai_detect.cli.detect_command import reading_settings
from ai_detect.cli.model_folder import load_model
from ai_detect.cli.progress import TerminalProgress
from ai_detect.cli.results import describe, print_notes
from ai_detect.errors import ConfigError, DataError
from ai_detect.evaluation.baselines import QUANTILE, run_baselines
from ai_detect.evaluation.metrics import curve, distinct_sessions, measure_twice, recall_by_kind, unlabelled
from ai_detect.ingest.labels import labels_by_regex, labels_for, read_label_file
from ai_detect.pipeline import LogAnomalyPipeline, Scored
from ai_detect.reporting.evaluation_report import evaluation_html, evaluation_json, evaluation_markdown
from ai_detect.reporting.method_picture import methods_png
from ai_detect.tables import Int8Array, ScoreTable, SequenceTable
from ai_detect.training.signals import SignalFlag

_LABEL_FILES = ("labels.csv", "label.csv", "anomaly_label.csv")
#: Training sessions that the baselines are fitted on, at most.
_MAX_BASELINE_SESSIONS = 20_000
#: Baselines that are drawn beside the methods: the best by AUPRC, with hindsight.
_DRAWN_BASELINES = 2


def run(command: EvaluateCommand, typed: Mapping[str, Any]) -> int:
    """Score the log, compare with the labels if there are any, write evaluation_report.{json,md,html,png}."""
    with SignalFlag() as signals:
        progress = TerminalProgress(command.quiet, signals)
        begun = time.monotonic()
        label_file = _label_file(command)
        label_of = read_label_file(label_file) if label_file else None
        pipeline = load_model(command.model_dir, command.train_file, progress)
        log = pipeline.parse(command.test_file, reading_settings(command, typed, pipeline.settings), progress=progress)
        labels = None
        if label_of is not None and label_file is not None:
            labels = labels_for(log.sessions.keys, label_of, label_file)
        elif command.label_regex is not None:
            labels = labels_by_regex(command.label_regex, log.sources, log.events, log.sessions, command.encoding)
        method: str = command.detection_method or pipeline.bank.default_method
        scored = pipeline.score(log, method=method, alarm=command, progress=progress)
        by_method = {method: scored.scores}
        if command.eval_all_methods:
            by_method |= pipeline.score_by_method(log, alarm=command, progress=progress)
        evaluation = _evaluate(pipeline, scored, method, by_method, labels)
        described = describe(
            pipeline,
            scored,
            top_k=command.top_k,
            timings_s={"total": time.monotonic() - begun},
            check=lambda: signals.check("explaining"),
        )
    folder = Path(command.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(folder / "evaluation_report.json", evaluation_json(evaluation))
        artifacts.write_text(
            folder / "evaluation_report.md", evaluation_markdown(evaluation, described, top_k=command.top_k)
        )
        page = evaluation_html(
            evaluation,
            described,
            top_k=command.top_k,
            labels=labels,
            embedding=lambda sessions: pipeline.vectors(log, sessions),
        )
        artifacts.write_text(folder / "evaluation_report.html", page)
        artifacts.write_bytes(folder / "evaluation_report.png", methods_png(evaluation))
    except OSError as error:
        raise DataError(
            f"{folder}: the report cannot be written ({error.strerror}); give another --output_dir"
        ) from error
    _print(evaluation, folder)
    print_notes(described)
    return 0


def _label_file(command: EvaluateCommand) -> Path | None:
    """The label file that was given, or with --with_labels the one beside the log."""
    if command.label_file is not None or not command.with_labels or command.label_regex is not None:
        return command.label_file
    beside = Path(command.test_file).parent
    for name in _LABEL_FILES:
        if (beside / name).is_file():
            return beside / name
    raise ConfigError(
        f"--with_labels: none of {', '.join(_LABEL_FILES)} in {beside}; give --label_file or --label_regex"
    )


def _evaluate(
    pipeline: LogAnomalyPipeline,
    scored: Scored,
    method: str,
    by_method: Mapping[str, ScoreTable],
    labels: Int8Array | None,
) -> dict[str, Any]:
    scores, log = scored.scores, scored.log
    evaluation: dict[str, Any] = {
        "method": method,
        "n_sessions": len(scores),
        "threshold": scores.threshold,
        "detection": {key: value for key, value in pipeline.detection(scored).items() if not isinstance(value, dict)},
        "unlabelled": dict(unlabelled(scores)),
    }
    if labels is None:
        evaluation["notes"] = [
            "There are no labels: quality is not measured, only alarm rate and drift against training."
        ]
        return evaluation
    known = labels >= 0
    distinct = distinct_sessions(log.sequences, labels)
    train = _training_sessions(pipeline)
    baselines = run_baselines(train, log.sequences)
    shortest = int(train.lengths.min())
    ranks = {name: _ranks(table) for name, table in by_method.items()}
    measured = {
        name: measure_twice(labels, baseline.scores, baseline.is_anomaly, distinct)
        for name, baseline in baselines.items()
    }
    best = sorted(measured, key=lambda name: -(measured[name]["auprc"] or 0))[:_DRAWN_BASELINES]
    return evaluation | {
        "n_labelled": int(known.sum()),
        "n_anomalies": int((labels == 1).sum()),
        "prevalence": float((labels[known] == 1).mean()),
        "methods": {
            name: measure_twice(labels, ranks[name], table.is_anomaly, distinct) for name, table in by_method.items()
        },
        "baselines": measured,
        "curves": {name: found for name in by_method if (found := curve(labels, ranks[name])) is not None},
        "baseline_curves": {
            name: found for name in best if (found := curve(labels, baselines[name].scores)) is not None
        },
        "recall_by_kind": recall_by_kind(labels, scores.is_anomaly, log.sequences, log.events.n_known, shortest),
        "notes": [
            f"F1, precision, recall and false-positive rate are at thresholds chosen without labels: the "
            f"{'one asked for' if scored.asked is not None else 'default'}, and for "
            f"baselines the {QUANTILE:.0%} quantile of held-out training scores. The best possible F1 is an oracle's.",
            "Baselines are fitted on the model's reference sessions: those of training that do not look "
            "abnormal themselves.",
        ],
    }


def _ranks(table: ScoreTable) -> Any:
    """What sessions are ordered by: the score, and where that has reached its end, the p-value."""
    return np.where(table.p_value > 0, -np.log(np.maximum(table.p_value, 1e-300)), np.inf).clip(max=1e6)


def _training_sessions(pipeline: LogAnomalyPipeline) -> SequenceTable:
    """The model's reference sessions, each as often as training held it, thinned evenly where they are too many."""
    normal = pipeline.normal
    sessions = np.repeat(np.arange(len(normal.references)), normal.reference_counts)
    if len(sessions) > _MAX_BASELINE_SESSIONS:
        sessions = sessions[np.linspace(0, len(sessions) - 1, _MAX_BASELINE_SESSIONS).astype(np.int64)]
    return normal.references.take(sessions)


def _print(evaluation: Mapping[str, Any], folder: Path) -> None:
    if "methods" not in evaluation:
        found = evaluation["unlabelled"]
        print(
            f"{found['n_alarms']:,} alarms in {found['n_sessions']:,} sessions ({found['alarm_rate']:.2%}); no labels"
        )
    else:
        print(f"{evaluation['n_anomalies']:,} anomalies in {evaluation['n_labelled']:,} labelled sessions")
        columns = ("auroc", "auprc", "precision", "recall", "f1", "fpr")
        print(f"  {'':<16}" + "".join(f"{name:>11}" for name in columns))
        rows = {**evaluation["methods"], **{f"({name})": row for name, row in evaluation["baselines"].items()}}
        for name, row in rows.items():
            cells = "".join(f"{'-' if row[key] is None else format(row[key], '.4f'):>11}" for key in columns)
            print(f"  {name:<16}{cells}")
    print(f"results in {folder}")
