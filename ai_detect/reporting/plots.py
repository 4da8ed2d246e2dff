"""Figures as inline SVG: drawn by matplotlib without its global state, coloured by the page to follow its theme."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ai_detect import scratch
from ai_detect.reporting.methods import MethodRow
from ai_detect.reporting.page import NARROW, WIDE
from ai_detect.tables import NO_TIME, BoolArray, Float32Array, Float64Array, Int8Array, Int64Array

#: Colours that the drawing uses and the page's variables that take their place.
INK, MUTED, GRID, ACCENT, ALARM, SOFT = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
SERIES = ("#040404", "#050505", "#070707", "#080808", "#090909", "#0a0a0a", "#0b0b0b")
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--rule",
    ACCENT: "--accent",
    ALARM: "--alarm",
    SOFT: "--soft",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES[2:], start=3)},
}
MAX_MARKS = 200
#: Room for the words over a line.
LABEL_INCHES = 1.25


def _figure(width: float, height: float, n_rows: int = 1, **grid: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = np.ravel(figure.subplots(n_rows, 1, **grid)).tolist()
    for ax in axes:
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.spines["bottom"].set_color(GRID)
        ax.tick_params(colors=MUTED, length=0, labelsize=9)
        ax.grid(axis="y", color=GRID, linewidth=0.7)
        ax.set_axisbelow(True)
        ax.patch.set_visible(False)
    figure.patch.set_visible(False)
    return figure, axes


def _label(ax: Axes, x: str = "", y: str = "") -> None:
    ax.set_xlabel(x, color=MUTED, fontsize=9)
    ax.set_ylabel(y, color=MUTED, fontsize=9)


def _svg(figure: Figure, name: str, description: str) -> str:
    """The figure as `<svg>`: no fixed size, short numbers, the page's fonts and colours, a text for screen readers."""
    buffer = io.StringIO()
    plain = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        # Figure.savefig would draw all twice, the first time for the layout alone, which the only draw finds, too.
        FigureCanvasSVG(figure).print_svg(buffer, metadata=plain)  # type: ignore[no-untyped-call]
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style type=.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*\n\s*", "\n", text)
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d)\d+", r"\1", tag.group()), text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r'<a xlink:href="([^"]*)"', r'<a href="\1" tabindex="-1"', text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert view_box is not None, "matplotlib writes a viewBox"
    label = escape(description)
    return (
        f'<svg {view_box.group()} role="img" aria-label="{label}"><title>{label}</title>' + text[text.index(">") + 1 :]
    )


def _time_axis(ax: Axes, when: Int64Array) -> tuple[np.ndarray, str]:
    """x values and the axis name: times where most sessions have one, else the order in the log."""
    times = (when[block][when[block] != NO_TIME] for block in scratch.blocks(len(when)))
    found = [(len(part), part[0], part.min(), part.max()) for part in times if len(part)]
    n_known = sum(n for n, *_ in found)
    first, low, high = (
        (found[0][1], min(part[2] for part in found), max(part[3] for part in found)) if found else (0, 0, 0)
    )
    if n_known < 0.5 * len(when) or low == high:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return np.arange(1, len(when) + 1, dtype=np.float64), "session, in the order of the log"
    x, last = scratch.zeros(len(when), np.float64), first / 86_400e9
    for block in scratch.blocks(len(when)):
        known = when[block] != NO_TIME
        last_known = np.maximum.accumulate(np.where(known, np.arange(1, len(known) + 1), 0))
        x[block] = np.append(last, when[block] / 86_400e9)[last_known]  # matplotlib counts days
        last = x[block.stop - 1]
    locator = dates.AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]  # matplotlib's
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    ax.xaxis.get_offset_text().set(color=MUTED, fontsize=9)
    return x, "time (UTC)"


def score_timeline(
    score: Float64Array,
    is_anomaly: BoolArray,
    when: Int64Array,
    threshold: float,
    cards: Mapping[int, int],
    width: float = WIDE,
) -> str:
    """Scores over time: middle and largest of the normal ones, each anomaly a mark; `cards` number those to link to."""
    figure, (ax,) = _figure(width, 2.6)
    x, x_name = _time_axis(ax, when)
    n_normal = len(score) - int(np.count_nonzero(is_anomaly))
    if n_normal:
        parts = (x[block][~is_anomaly[block]] for block in scratch.blocks(len(x)))
        ends = [(part.min(), part.max()) for part in parts if len(part)]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        edges = np.linspace(low, high, min(n_normal, int(width * 14)) + 1)

        def bins(block: slice) -> tuple[Int64Array, Int64Array]:
            normal = np.flatnonzero(~is_anomaly[block]) + block.start
            return normal, np.clip(np.searchsorted(edges, x[normal], side="right") - 1, 0, len(edges) - 2)

        offsets, sessions = scratch.grouped(len(edges) - 1, len(x), bins)
        filled = np.flatnonzero(np.diff(offsets))
        ranked = (np.sort(score[sessions[offsets[at] : offsets[at + 1]]]) for at in filled)
        middle, largest = np.array([(scores[len(scores) // 2], scores[-1]) for scores in ranked]).T
        centres = (edges[filled] + edges[filled + 1]) / 2
        bin_width = (edges[1] - edges[0]) or 1.0
        ax.bar(centres, largest, bin_width * 0.9, color=SOFT, linewidth=0)
        ax.hlines(middle, centres - bin_width * 0.45, centres + bin_width * 0.45, color=ACCENT, linewidth=1.8)
    anomalies = np.flatnonzero(is_anomaly)
    anomalies = anomalies[np.argsort(-score[anomalies], kind="stable")]
    unlinked = np.array([index for index in anomalies[:MAX_MARKS].tolist() if index not in cards], np.int64)
    if len(unlinked):
        ax.plot(x[unlinked], score[unlinked], "o", color=ALARM, markersize=3, markeredgewidth=0, alpha=0.6)
    linked = np.array([index for index in anomalies.tolist() if index in cards], np.int64)
    if len(linked):
        marks = ax.scatter(x[linked], score[linked], s=34, color=ALARM, edgecolors=INK, linewidths=0.6, zorder=3)
        marks.set_urls([f"#anomaly-{cards[int(index)]}" for index in linked])
    ax.axhline(threshold, color=ALARM, linewidth=1, linestyle=(0, (4, 3)))
    ax.set_ylim(0, 1.06)
    ax.margins(x=0.01)
    _label(ax, x_name, "score")
    return _svg(
        figure,
        f"timeline-{width}",
        f"Scores of {len(score):,} sessions over time; {len(anomalies):,} reach the threshold {threshold:.3g}.",
    )


def score_distribution(score: Float64Array, threshold: float, width: float = WIDE / 2) -> str:
    """Histogram of all scores on a logarithmic count, those over the threshold in the colour of alarm."""
    figure, (ax,) = _figure(width, 2.6)
    step = 1 / (48 if width > NARROW else 32)
    edges = np.unique(
        np.concatenate([np.arange(threshold, -step, -step).clip(0), np.arange(threshold, 1 + step, step).clip(max=1)])
    )
    counts, _ = np.histogram(score, np.append(edges[:-1], np.nextafter(1, 2)))
    ax.set_ylim(0.7, max(float(counts.max(initial=1)), 10) * 2)
    ax.set_yscale("log")
    alarm = edges[:-1] >= threshold
    for mask, colour in ((~alarm, ACCENT), (alarm, ALARM)):
        ax.bar(edges[:-1][mask], counts[mask], np.diff(edges)[mask] * 0.86, align="edge", color=colour, linewidth=0)
    ax.axvline(threshold, color=ALARM, linewidth=1, linestyle=(0, (4, 3)))
    ax.annotate(
        f"threshold {threshold:.3g}",
        (threshold, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if threshold > 0.5 else 4, 2),
        textcoords="offset points",
        ha="right" if threshold > 0.5 else "left",
        color=ALARM,
        fontsize=9,
    )
    ax.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    ax.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlim(0, 1)
    _label(ax, "score", "sessions")
    n_over = int((score >= threshold).sum())
    return _svg(
        figure,
        f"distribution-{width}",
        f"Distribution of {len(score):,} scores; {n_over:,} are at or above the threshold of {threshold:.3g}.",
    )


def alarm_trend(
    is_anomaly: BoolArray, when: Int64Array, labels: Int8Array | None = None, width: float = WIDE / 2
) -> str:
    """Share of sessions over the threshold along the log, beside the labelled share where there are labels."""
    figure, (ax,) = _figure(width, 2.6)
    x, x_name = _time_axis(ax, when)
    edges = np.linspace(x.min(), x.max(), min(len(x), int(width * 5)) + 1) if len(x) else np.zeros(2)
    bins = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    total = np.bincount(bins, minlength=len(edges) - 1)
    alarms = np.bincount(bins, weights=is_anomaly, minlength=len(edges) - 1)
    share = np.divide(alarms, total, out=np.zeros(len(total)), where=total > 0)
    ax.bar(edges[:-1], share, np.diff(edges) * 0.86, align="edge", color=ACCENT, linewidth=0, label="alarms")
    if labels is not None:
        labelled = np.bincount(bins, weights=labels >= 0, minlength=len(edges) - 1)
        truth = np.bincount(bins, weights=labels == 1, minlength=len(edges) - 1)
        known = labelled > 0
        ax.hlines(
            truth[known] / labelled[known],
            edges[:-1][known],
            edges[1:][known],
            color=ALARM,
            linewidth=2,
            label="labelled anomalies",
        )
        _legend(ax)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    ax.set_ylim(bottom=0)
    _label(ax, x_name, "share of sessions")
    return _svg(
        figure,
        f"trend-{width}",
        f"Share of sessions that raised an alarm along the log, {share.max(initial=0):.1%} at most.",
    )


def _legend(ax: Axes, **place: Any) -> None:
    ax.legend(frameon=False, fontsize=9, labelcolor=MUTED, **place)


def training_curves(history: Sequence[Mapping[str, Any]], resume_steps: Sequence[int] = (), width: float = WIDE) -> str:
    """Losses and learning rate by step from rows {step, train_loss, val_loss, learning_rate}; resumes are marked."""
    best = _best(history)
    last = "" if best is None else f" The lowest validation loss is {best['val_loss']:.4g} at step {best['step']}."
    resumed = f" Resumed {len(resume_steps)} times." if len(resume_steps) > 1 else " Resumed once." * len(resume_steps)
    return _svg(
        training_figure(history, resume_steps, width),
        f"training-{width}",
        f"Training and validation loss over {len(history)} records.{last}{resumed}",
    )


def training_figure(history: Sequence[Mapping[str, Any]], resume_steps: Sequence[int], width: float) -> Figure:
    """The drawing of `training_curves`: a panel of losses over one of the learning rate."""
    figure, (ax, rate) = _figure(width, 3.6, 2, sharex=True, height_ratios=(3, 1))
    for panel, key, name, colour, style in (
        (ax, "train_loss", "training loss", ACCENT, "o-"),
        (ax, "val_loss", "validation loss", ALARM, "o-"),
        (rate, "learning_rate", "learning rate", MUTED, "-"),
    ):
        points = [(row["step"], row[key]) for row in history if row.get(key) is not None]
        if points:
            size = 3.0 if len(points) <= MAX_MARKS // 2 else 0
            panel.plot(*zip(*points, strict=True), style, color=colour, linewidth=1.4, markersize=size, label=name)
    best = _best(history)
    if best is not None:
        ax.plot(
            best["step"],
            best["val_loss"],
            "o",
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=ALARM,
            label=f"best, step {best['step']:,}",
        )
    _mark_resumes((ax, rate), sorted(resume_steps), width)
    rate.ticklabel_format(axis="y", style="plain", useOffset=False)
    rate.yaxis.set_major_locator(MaxNLocator(2))
    rate.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if ax.get_legend_handles_labels()[0]:
        _legend(ax, loc="upper right")
    _label(ax, "", "loss")
    _label(rate, "step", "learning rate")
    return figure


def _best(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of the lowest validation loss, the earlier of equals."""
    measured = (row for row in history if row.get("val_loss") is not None)
    return min(measured, key=lambda row: (float(row["val_loss"]), int(row["step"])), default=None)


def _mark_resumes(panels: tuple[Axes, Axes], steps: Sequence[int], width: float) -> None:
    """A thin line at each step, "resumed" above those lines that have room for it, with their number if it is many."""
    for step in dict.fromkeys(steps):
        for panel in panels:
            panel.axvline(step, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), gid="resumed")
    low, high = panels[0].get_xlim()
    room = (high - low) * LABEL_INCHES / (width * 0.8)  # the axes take about that share of the figure
    groups: list[list[int]] = []
    for step in steps:
        if groups and step - groups[-1][0] < room:
            groups[-1].append(step)
        else:
            groups.append([step])
    for group in groups:
        panels[0].annotate(
            "resumed" if len(group) == 1 else f"resumed {len(group)} times",
            (group[0], 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            color=MUTED,
            fontsize=8,
        )


def precision_recall(rows: Sequence[MethodRow], prevalence: float, width: float = WIDE / 2) -> str:
    """Precision by recall of each method, its threshold marked; baselines are dashed, the prevalence dotted."""
    figure, (ax,) = _figure(width, 4)
    drawn = [row for row in rows if row.curve]
    methods = sorted((row for row in drawn if row.role != "baseline"), key=lambda row: row.role != "in use")
    baselines = [row for row in drawn if row.role == "baseline"]
    styles = [*((row, colour, "-") for row, colour in zip(methods, SERIES, strict=False))]
    styles += [(row, MUTED, line) for row, line in zip(baselines, ("--", "-."), strict=False)]
    ax.axhline(prevalence, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    for row, colour, line in styles:
        recall, precision = zip(*row.curve, strict=True)
        steps = (0.0, *recall), (precision[0], *precision)
        ax.step(*steps, where="pre", color=colour, linestyle=line, linewidth=1.5, label=row.name)
        if row.at_threshold is not None and row.role != "baseline":
            ax.plot(*row.at_threshold, "o", color=colour, markersize=5, clip_on=False)
    ax.set_xlim(0, 1.01)
    ax.set_ylim(0, 1.03)
    if drawn:
        place: dict[str, Any] = {"loc": "outside upper left", "ncols": 3 if width > NARROW else 2}
        figure.legend(frameon=False, fontsize=9, labelcolor=MUTED, **place)
    _label(ax, "recall (dots: thresholds set without labels)", "precision")
    named = ", ".join(row.name for row in drawn)
    return _svg(figure, f"pr-{width}", f"Precision-recall curves of {named}.")


def methods_comparison(
    figures: Mapping[str, Mapping[str, Any]], key: str, name: str, own: str, width: float = WIDE / 2
) -> str:
    """One bar a method for `key` of {method: {key: value}}, the best on top, the `own` one in another colour."""
    values = sorted(((float(row[key]), method) for method, row in figures.items() if row.get(key) is not None))
    figure, (ax,) = _figure(width, 0.6 + 0.26 * max(len(values), 3))
    ax.grid(visible=False)
    ax.barh(
        [method for _, method in values],
        [value for value, _ in values],
        height=0.66,
        color=[ACCENT if method == own else SOFT for _, method in values],
    )
    for place, (value, _) in enumerate(values):
        ax.annotate(
            f"{value:.3f}",
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=MUTED,
        )
    ax.set_xlim(0, 1.12)
    ax.set_xticks([0, 0.5, 1])
    ax.tick_params(axis="y", colors=INK)
    _label(ax, name)
    listed = ", ".join(f"{method} {value:.3f}" for value, method in reversed(values))
    return _svg(figure, f"methods-{key}-{width}", f"{name} by method: {listed}.")


def embedding_map(
    embedding: Callable[[Int64Array], Float32Array],
    is_anomaly: BoolArray,
    width: float = WIDE / 2,
    max_points: int = 900,
) -> str:
    """Session vectors on their two principal axes; at most `max_points`, taken evenly, anomalies over normal ones.

    `embedding` gives the vectors of some sessions, (n, dim).
    """
    figure, (ax,) = _figure(width, 3.4)
    ax.grid(visible=False)
    groups = [np.flatnonzero(~is_anomaly), np.flatnonzero(is_anomaly)]
    chosen = [
        group[np.unique(np.linspace(0, len(group) - 1, min(len(group), limit)).astype(np.int64))]
        for group, limit in zip(groups, (max_points * 2 // 3, max_points // 3), strict=True)
    ]
    shown = np.concatenate(chosen)
    vectors = embedding(shown)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(axes).argmax(axis=1)
    axes = (axes * np.sign(axes[np.arange(len(axes)), largest])[:, None])[:2]  # LAPACK's signs are arbitrary
    points = centred @ axes.T
    if points.shape[1] < 2:
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    n_normal = len(chosen[0])
    for part, colour, size, name in (
        (slice(0, n_normal), ACCENT, 2.6, "normal"),
        (slice(n_normal, None), ALARM, 4.2, "anomaly"),
    ):
        ax.plot(
            points[part, 0],
            points[part, 1],
            "o",
            color=colour,
            markersize=size,
            markeredgewidth=0,
            alpha=0.55,
            label=name,
        )
    ax.set_xticks([])
    ax.set_yticks([])
    _legend(ax, loc="best")
    explained = float((spread[:2] ** 2).sum() / max(float((spread**2).sum()), 1e-12))
    _label(ax, f"two principal axes, {explained:.0%} of the variance")
    return _svg(
        figure, f"map-{width}", f"Map of {len(shown):,} session vectors; {len(chosen[1]):,} of them are anomalies."
    )
