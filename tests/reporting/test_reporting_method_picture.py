"""The picture of all methods shows the figures of the evaluation: every curve, threshold, bar, and the prevalence."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from ai_detect.reporting.evaluation_report import metric_tables
from ai_detect.reporting.method_picture import methods_figure, methods_png
from ai_detect.reporting.methods import method_rows

METHODS = ("knn", "ensemble", "lof", "cluster", "iforest")


def evaluation(n_methods: int = 5, n_anomalies: int = 3) -> dict[str, Any]:
    """Methods the better the later, each with a curve of three points; a baseline has the name of a method."""
    qualities = {name: 0.5 + 0.1 * at for at, name in enumerate(METHODS[:n_methods])}
    figures = {
        name: {"auprc": quality, "f1": quality / 2, "precision": quality, "recall": 0.5}
        for name, quality in qualities.items()
    }
    return {
        "method": METHODS[min(n_methods - 1, 1)],
        "n_labelled": 1200,
        "n_anomalies": n_anomalies,
        "prevalence": n_anomalies / 1200,
        "methods": figures,
        "baselines": {
            "iforest": {"auprc": 0.65, "f1": 0.1, "precision": 0.2, "recall": 0.1},
            "flag_all": {"auprc": 0.01, "f1": 0.02, "precision": 0.01, "recall": 1.0},
        },
        "curves": {
            name: {"recall": [0, 0.5, 1], "precision": [1, quality, 0.2]} for name, quality in qualities.items()
        },
        "baseline_curves": {"iforest": {"recall": [0, 1], "precision": [1, 0.65]}},
    }


def without_curves(n_labelled: int, n_anomalies: int) -> dict[str, Any]:
    undefined = {"auprc": None, "f1": None, "precision": None, "recall": None}
    return {
        "method": "knn",
        "n_labelled": n_labelled,
        "n_anomalies": n_anomalies,
        "methods": {"knn": undefined},
        "curves": {},
    }


def texts(figure: Figure) -> list[Text]:
    """What stands on the figure after drawing it, each text once."""
    FigureCanvasAgg(figure).draw()
    found = {id(text): text for text in figure.findobj(Text) if text.get_text() and text.get_visible()}
    return list(found.values())


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in texts(figure)]


def test_rows_are_sorted_and_a_baseline_is_told_from_the_method_of_its_name() -> None:
    rows = method_rows(evaluation())
    assert [row.name for row in rows] == ["iforest", "cluster", "lof", "(iforest)", "ensemble", "knn", "(flag_all)"]
    assert [row.role for row in rows] == ["method"] * 3 + ["baseline", "in use", "method", "baseline"]
    assert rows[0].curve == ((0.5, 0.9), (1, 0.2))
    assert rows[0].at_threshold == (0.5, 0.9)
    assert rows[3].curve == ((1, 0.65),)
    assert rows[-1].curve == ()
    figures = {name: cells[0] for name, _, cells in metric_tables(evaluation())[0].rows}
    assert (figures["iforest"], figures["(iforest)"]) == ("0.9000", "0.6500")


@pytest.mark.parametrize("n_methods", [1, 2, 3, 4, 5])
def test_each_method_has_a_panel_with_its_curve_threshold_and_floor(n_methods: int) -> None:
    given = evaluation(n_methods)
    panels = methods_figure(given).axes
    by_name = {ax.get_title(loc="left").removesuffix(" (in use)"): ax for ax in panels}
    assert len(panels) == n_methods + 2
    assert panels[0].get_title(loc="left") == f"{given['method']} (in use)"
    for name, figures in given["methods"].items():
        lines = [list(zip(*line.get_data(), strict=True)) for line in by_name[name].get_lines()]
        quality = figures["precision"]
        own = [(0, quality), (0.5, quality), (1, 0.2)]
        assert lines[-2:] == [own, [(0.5, quality)]]
        assert [(0, 0.65), (1, 0.65)] in lines
        assert [(0, 0.0025), (1, 0.0025)] in lines
        assert len(lines) == n_methods + 4
    bars = [bar.get_width() for bar in by_name["AUPRC"].patches]
    assert bars == sorted(bars, reverse=True)
    assert len(bars) == n_methods + 2


def test_names_and_figures_are_all_on_the_picture() -> None:
    found = words(methods_figure(evaluation()))
    for text in ("(iforest)", "(flag_all)", "baseline (iforest)", "0.650", "precision 0.90, recall 0.50", *METHODS):
        assert text in found
    assert "flag everything (0.0025)" in found
    assert any("3 of 1,200 labelled sessions" in text for text in found)


@pytest.mark.parametrize("n_methods", [1, 5])
def test_words_stay_inside_the_picture_and_apart(n_methods: int) -> None:
    figure = methods_figure(evaluation(n_methods))
    boxes = [text.get_window_extent() for text in texts(figure)]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
    assert not any(a.overlaps(b) for number, a in enumerate(boxes) for b in boxes[number + 1 :])


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (without_curves(1200, 0), "The labelled sessions (1,200) hold no anomaly: there is no curve to draw."),
        (without_curves(2, 2), "The labelled sessions (2) are all anomalies: there is no curve to draw."),
        ({"method": "knn"}, "No session is labelled: there is nothing to compare the methods by."),
    ],
)
def test_one_line_where_labels_tell_nothing(given: dict[str, Any], line: str) -> None:
    figure = methods_figure(given)
    assert not figure.axes
    assert words(figure) == [line]


def test_the_file_is_a_whole_picture_and_the_same_each_time() -> None:
    written = methods_png(evaluation())
    assert written == methods_png(evaluation())
    assert imread(io.BytesIO(written)).shape == (1080, 1920, 4)
    without_alarm = evaluation(1, n_anomalies=1)
    without_alarm["methods"]["knn"] |= {"precision": None, "recall": 0.0}
    assert "no alarm" in words(methods_figure(without_alarm))
    assert np.ptp(imread(io.BytesIO(methods_png({"method": "knn"})))) > 0
