"""What evaluate writes: evaluation_report.json for programs, .md and .html for people; the .png is `method_picture`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ai_detect.reporting import plots
from ai_detect.reporting.methods import method_rows, named_figures
from ai_detect.reporting.notes import calibration_limit, threshold_origin
from ai_detect.reporting.page import WIDE, FigurePair, both, render
from ai_detect.reporting.report import log_parts
from ai_detect.reporting.scored_log import ScoredLog
from ai_detect.tables import Float32Array, Int8Array, Int64Array


def evaluation_html(
    evaluation: Mapping[str, Any],
    log: ScoredLog,
    *,
    top_k: int = 20,
    labels: Int8Array | None = None,
    embedding: Callable[[Int64Array], Float32Array] | None = None,
) -> str:
    """The page of evaluate; `evaluation` as in `evaluation_json`, `labels` 1, 0 or -1 for unknown by session.

    `embedding` gives the vectors of some sessions, (n, dim).
    """
    evaluation = _plain(evaluation)
    return render(
        "evaluation.html.j2",
        **log_parts(log, top_k, labels),
        evaluation=evaluation,
        metrics=METRICS,
        tables=metric_tables(evaluation),
        groups=figure_groups(evaluation),
        figures=list(_figures(evaluation, log, labels, embedding)),
    )


def _figures(
    evaluation: Mapping[str, Any],
    log: ScoredLog,
    labels: Int8Array | None,
    embedding: Callable[[Int64Array], Float32Array] | None,
) -> Iterator[tuple[str, FigurePair]]:
    """Titles and drawings of what there is to draw."""
    half = WIDE / 2
    compared, own = named_figures(evaluation), str(evaluation.get("method", ""))
    rows = method_rows(evaluation)
    if any(row.curve for row in rows):
        yield "Precision and recall", both(partial(plots.precision_recall, rows, evaluation["prevalence"]), half)
    for key, name in (("auprc", "AUPRC"), ("f1", "F1 at the label-free threshold")):
        if any(row.get(key) is not None for row in compared.values()):
            yield name, both(partial(plots.methods_comparison, compared, key, name, own), half)
    when = log.spans.start_time
    if len(when):
        yield "Alarms along the log", both(partial(plots.alarm_trend, log.scores.is_anomaly, when, labels), half)
    if embedding is not None and len(when) > 2:
        yield "Map of the sessions", both(partial(plots.embedding_map, embedding, log.scores.is_anomaly), half)


#: Figures of a method in the order of a table, and their names; the oracle is named as such.
METRICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "fpr": "false-positive rate",
    "best_f1": "best possible F1 (oracle)",
}


class MetricTable(NamedTuple):
    """Figures of all methods on the same sessions."""

    title: str
    columns: list[str]
    rows: list[tuple[str, bool, list[str]]]  # name, whether it is the method in use, cells


def metric_tables(evaluation: Mapping[str, Any]) -> list[MetricTable]:
    """A table of all sessions, and one of the distinct ones where there are figures of them."""
    methods = named_figures(evaluation)
    distinct = {name: row["distinct"] for name, row in methods.items() if row.get("distinct")}
    tables = []
    for title, figures in (("All sessions", methods), ("Distinct sessions only", distinct)):
        keys = [key for key in METRICS if any(row.get(key) is not None for row in figures.values())]
        rows = [
            (name, name == evaluation.get("method"), [_figure(row.get(key)) for key in keys])
            for name, row in figures.items()
        ]
        if keys:
            tables.append(MetricTable(title, [METRICS[key] for key in keys], rows))
    return tables


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


#: Keys of an evaluation that the pages show in places of their own.
_PLACED = {"methods", "baselines", "curves", "baseline_curves"}


def figure_groups(evaluation: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The other groups of figures, (title, rows of (name, value)); groups within groups are left to the JSON."""
    return [
        (
            str(title).replace("_", " "),
            [
                (str(name).replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
                for name, value in group.items()
                if not isinstance(value, (Mapping, list, tuple)) and value is not None
            ],
        )
        for title, group in evaluation.items()
        if title not in _PLACED and isinstance(group, Mapping)
    ]


def evaluation_markdown(evaluation: Mapping[str, Any], log: ScoredLog, *, top_k: int = 20) -> str:
    """evaluation_report.md: the tables of the page and one line for each of the most abnormal sessions."""
    evaluation = _plain(evaluation)
    return render(
        "evaluation.md.j2",
        evaluation=evaluation,
        metrics=METRICS,
        summary=log.summary,
        threshold_origin=threshold_origin(log.summary["detection"]),
        calibration_limit=calibration_limit(log.summary["detection"]),
        tables=metric_tables(evaluation),
        groups=figure_groups(evaluation),
        notes=[*(evaluation.get("notes") or ()), *log.summary["notes"]],
        findings=log.findings[:top_k],
    )


def evaluation_json(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The object of evaluation_report.json: `schema_version`, then `evaluation` with null for what is not a number.

    Known keys, all optional: n_sessions, n_labelled, n_anomalies, prevalence, threshold, method (the one in use);
    methods and baselines {name: {auroc, auprc, precision, recall, f1, fpr, best_f1, distinct {the same}}};
    curves {name: {precision, recall}} of methods, and baseline_curves, the same of the best baselines; notes [text];
    and any other groups of figures {name: {name: value}}, which the pages show as tables of two columns.
    """
    return {"schema_version": 1, **{key: _plain(value) for key, value in evaluation.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
