"""What an evaluation says of each method and baseline, as rows of one table: what tables and figures are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

#: Recall and precision, each from 0 to 1.
Point = tuple[float, float]


@dataclass(frozen=True)
class MethodRow:
    """One method or baseline; None where a figure is undefined, as with labels of one class only."""

    name: str  # that of a baseline in parentheses: both may have the same
    role: Literal["in use", "method", "baseline"]
    auprc: float | None
    f1: float | None  # at the threshold chosen without labels, as is
    at_threshold: Point | None
    curve: tuple[Point, ...]  # recall rises, and each precision holds from the recall before to this one


def named_figures(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The figures of the methods by name, then those of the baselines by name in parentheses."""
    baselines = {f"({name})": row for name, row in evaluation.get("baselines", {}).items()}
    return {**evaluation.get("methods", {}), **baselines}


def method_rows(evaluation: Mapping[str, Any]) -> list[MethodRow]:
    """The rows of an evaluation as in `evaluation_json`, by AUPRC and then F1 from high to low."""
    curves = {
        **evaluation.get("curves", {}),
        **{f"({name})": curve for name, curve in evaluation.get("baseline_curves", {}).items()},
    }
    n_methods = len(evaluation.get("methods", {}))
    rows = []
    for at, (name, figures) in enumerate(named_figures(evaluation).items()):
        recall, precision = figures.get("recall"), figures.get("precision")
        curve = curves.get(name, {"recall": (), "precision": ()})
        rows.append(
            MethodRow(
                name,
                "baseline" if at >= n_methods else "in use" if name == evaluation.get("method") else "method",
                figures.get("auprc"),
                figures.get("f1"),
                None if recall is None or precision is None else (recall, precision),
                tuple(point for point in zip(curve["recall"], curve["precision"], strict=True) if point[0] > 0),
            )
        )
    return sorted(rows, key=lambda row: (-(row.auprc or 0), -(row.f1 or 0)))
