"""evaluation_report.png: how well every method finds what is labelled, on one picture that can go on a slide.

Each method has a panel of its own, where its curve stands before those of the others and of the best baselines: curves
that coincide, as those of good methods do, stay readable, and each is named by its panel. The colours are told apart
with the common kinds of colour blindness (Okabe and Ito, 2008).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from ai_detect.reporting.methods import MethodRow, method_rows

#: Inches and dots of a slide of 16:9.
_SIZE, _DOTS_PER_INCH = (40 / 3, 7.5), 144
_INK, _MUTED, _PALE, _FAINT = "#1b1f24", "#5b6470", "#b4bbc4", "#d5dae0"
_OWN, _OTHER, _ALARM = "#0072b2", "#56b4e9", "#d55e00"
_BAR_COLOURS = {"in use": _OWN, "method": _OTHER, "baseline": _PALE}
_FLOOR: dict[str, Any] = {"color": _INK, "linewidth": 1, "linestyle": (0, (1, 2))}
_BASELINES: tuple[dict[str, Any], ...] = (
    {"color": _MUTED, "linewidth": 1.5, "linestyle": (0, (5, 2))},
    {"color": _MUTED, "linewidth": 1.5, "linestyle": (0, (5, 2, 1, 2))},
)
_TICKS = (0, 0.5, 1), ("0", ".5", "1")
#: Panels beside each other, by how many there are.
_COLUMNS = {1: 1, 2: 2, 4: 2}


def methods_png(evaluation: Mapping[str, Any]) -> bytes:
    """The picture of an evaluation, as in `evaluation_json`, as a PNG file."""
    buffer = io.BytesIO()
    methods_figure(evaluation).savefig(buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def methods_figure(evaluation: Mapping[str, Any]) -> Figure:
    """Precision-recall curves in panels and bars of AUPRC and F1; one line of text where labels tell nothing."""
    rows = method_rows(evaluation)
    if not any(row.curve for row in rows):
        figure = Figure(figsize=(_SIZE[0], 2))
        figure.text(0.5, 0.5, _why_empty(evaluation), ha="center", va="center", fontsize=17, color=_INK)
        return figure
    figure = Figure(figsize=_SIZE, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 9), width_ratios=(1.85, 1))
    head, left, right = (figure.add_subfigure(place) for place in (grid[0, :], grid[1, 0], grid[1, 1]))
    key = _draw_curves(left, rows, evaluation["prevalence"])
    _draw_bars(right, rows)
    n_anomalies, n_labelled = evaluation["n_anomalies"], evaluation["n_labelled"]
    title = f"How well each method finds the anomalies: {n_anomalies:,} of {n_labelled:,} labelled sessions"
    head.text(0.01, 0.72, title, fontsize=19, color=_INK, va="center")
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (0.002, 0.14), "ncols": len(key)}
    head.legend(key.values(), key.keys(), frameon=False, fontsize=12, labelcolor=_MUTED, handlelength=2, **place)
    return figure


def _why_empty(evaluation: Mapping[str, Any]) -> str:
    n_labelled, n_anomalies = evaluation.get("n_labelled", 0), evaluation.get("n_anomalies", 0)
    if not n_labelled:
        return "No session is labelled: there is nothing to compare the methods by."
    found = "are all anomalies" if n_anomalies else "hold no anomaly"
    return f"The labelled sessions ({n_labelled:,}) {found}: there is no curve to draw."


def _draw_curves(figure: SubFigure, rows: Sequence[MethodRow], prevalence: float) -> dict[str, Line2D]:
    """A panel a method, the one in use first, the others from good to bad; returns what the lines are called."""
    methods = sorted((row for row in rows if row.role != "baseline"), key=lambda row: row.role != "in use")
    baselines = [row for row in rows if row.role == "baseline" and row.curve]
    n_columns = _COLUMNS.get(len(methods), 3)
    grid = figure.subplots(-(-len(methods) // n_columns), n_columns, sharex=True, sharey=True, squeeze=False)
    panels: list[Axes] = grid.ravel().tolist()
    for at, (row, ax) in enumerate(zip(methods, panels, strict=False)):
        for other in methods:
            _step(ax, other, color=_FAINT, linewidth=1.1)
        for baseline, style in zip(baselines, _BASELINES, strict=False):
            _step(ax, baseline, **style)
        ax.axhline(prevalence, **_FLOOR)
        _step(ax, row, color=_OWN, linewidth=2.6)
        if row.at_threshold is not None:
            ax.plot(
                *row.at_threshold, "o", color=_ALARM, markersize=9, markeredgecolor="white", clip_on=False, zorder=5
            )
        _dress_panel(ax, row)
        ax.tick_params(labelbottom=at + n_columns >= len(methods))
    for ax in panels[len(methods) :]:
        ax.remove()
    figure.supxlabel("recall: share of the anomalies with an alarm", fontsize=12, color=_MUTED)
    figure.supylabel("precision: share of the alarms that are right", fontsize=12, color=_MUTED)
    key = {
        "alarm threshold, set without labels": Line2D([], [], marker="o", color=_ALARM, linestyle="", markersize=8),
        "the other methods": Line2D([], [], color=_FAINT, linewidth=1.8),
        **{f"baseline {row.name}": Line2D([], [], **style) for row, style in zip(baselines, _BASELINES, strict=False)},
        f"flag everything ({prevalence:.2g})": Line2D([], [], **_FLOOR),
    }
    if len(methods) == 1:
        del key["the other methods"]
    return key


def _dress_panel(ax: Axes, row: MethodRow) -> None:
    """Name and figures over a panel, and axes that stay behind the curves."""
    role = " (in use)" if row.role == "in use" else ""
    ax.set_title(f"{row.name}{role}", loc="left", pad=20, fontsize=13, color=_INK, fontweight="bold")
    told = "no alarm" if row.at_threshold is None else "precision {1:.2f}, recall {0:.2f}".format(*row.at_threshold)
    ax.annotate(told, (0, 1), (0, 4), "axes fraction", "offset points", fontsize=11, color=_ALARM)
    ax.set(xlim=(0, 1), ylim=(0, 1.03))
    ax.set_xticks(*_TICKS)
    ax.set_yticks(*_TICKS)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_PALE)
    ax.tick_params(colors=_MUTED, length=0, labelsize=11, pad=6)


def _step(ax: Axes, row: MethodRow, **style: Any) -> None:
    if row.curve:
        recall, precision = zip(*row.curve, strict=True)
        ax.step((0.0, *recall), (precision[0], *precision), where="pre", **style)


def _draw_bars(figure: SubFigure, rows: Sequence[MethodRow]) -> None:
    """AUPRC and F1 beside each other, the best AUPRC on top."""
    figures = {"AUPRC": [row.auprc for row in rows], "F1 at threshold": [row.f1 for row in rows]}
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (name, values) in zip(axes, figures.items(), strict=True):
        ax.barh(
            range(len(rows)),
            [value or 0 for value in values],
            height=0.68,
            color=[_BAR_COLOURS[row.role] for row in rows],
        )
        for at, value in enumerate(values):
            text = "-" if value is None else f"{value:.3f}"
            ax.annotate(
                text, (value or 0, at), (4, 0), textcoords="offset points", va="center", fontsize=10, color=_INK
            )
        ax.set_title(name, loc="left", fontsize=13, color=_INK, fontweight="bold")
        ax.set(xlim=(0, 1.4), xticks=())
        ax.spines[["top", "right", "bottom", "left"]].set_visible(False)
        ax.tick_params(length=0)
    axes[0].set_yticks(range(len(rows)), [row.name for row in rows], fontsize=11)
    axes[0].set_ylim(max(len(rows), 6) - 0.4, -0.6)
    for label, row in zip(axes[0].get_yticklabels(), rows, strict=True):
        label.set(
            color=_MUTED if row.role == "baseline" else _INK, fontweight="bold" if row.role == "in use" else "normal"
        )
    figure.supxlabel("in parentheses: baselines on event counts", fontsize=11, color=_MUTED)
