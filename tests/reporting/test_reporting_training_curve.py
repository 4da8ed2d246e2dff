"""The picture of training shows the whole run: every evaluation, the best, and where it was resumed."""

from __future__ import annotations

import random
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ai_detect.reporting.plots import NARROW, WIDE, training_curves, training_figure


def history(n: int, best: int) -> list[dict[str, Any]]:
    """Evaluations every 10 steps; every fourth has no validation loss."""
    return [
        {
            "step": 10 * (at + 1),
            "train_loss": 5.0 - at / n,
            "val_loss": None if at % 4 == 1 else abs(at - best) / n + 1,
            "learning_rate": 0.001 * (n - at) / n,
        }
        for at in range(n)
    ]


def curve(ax: Axes, name: str) -> list[tuple[float, float]]:
    (line,) = [line for line in ax.get_lines() if line.get_label() == name]
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))


def resumed(ax: Axes) -> list[float]:
    return [line.get_xdata()[0] for line in ax.get_lines() if line.get_gid() == "resumed"]


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_every_evaluation_of_all_segments_is_a_point(width: float) -> None:
    rows = history(300, best=200)
    losses, rate = training_figure(rows, [], width).axes
    assert curve(losses, "training loss") == [(row["step"], row["train_loss"]) for row in rows]
    measured = [(row["step"], row["val_loss"]) for row in rows if row["val_loss"] is not None]
    assert curve(losses, "validation loss") == measured
    assert curve(rate, "learning rate") == [(row["step"], row["learning_rate"]) for row in rows]
    assert curve(losses, "best, step 2,010") == [(2010, 1.0)]


def test_of_equally_good_ones_the_earlier_is_best() -> None:
    rows = [{"step": step, "train_loss": 1.0, "val_loss": 0.5, "learning_rate": 0.1} for step in (5, 10)]
    assert curve(training_figure(rows, [], WIDE).axes[0], "best, step 5") == [(5, 0.5)]


def test_each_resume_has_a_line_in_both_panels() -> None:
    figure = training_figure(history(40, 20), [300, 15, 300], WIDE)
    assert [resumed(ax) for ax in figure.axes] == [[15, 300], [15, 300]]
    assert labels(figure) == ["resumed", "resumed 2 times"]
    assert "Resumed 3 times." in training_curves(history(40, 20), [300, 15, 300])


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("n", [1, 2, 5, 12, 60])
def test_words_over_the_lines_never_overlap(width: float, n: int) -> None:
    steps = random.Random(n).choices(range(401), k=n)
    figure = training_figure(history(40, 20), steps, width)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for number, a in enumerate(boxes) for b in boxes[number + 1 :])
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    counted = [int(text.split()[1]) if text != "resumed" else 1 for text in labels(figure)]
    assert sum(counted) == n
