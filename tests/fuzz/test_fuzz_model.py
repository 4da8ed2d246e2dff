"""Whatever a model folder holds, it is refused with a CheckpointError or scores a log as a model does."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hostile import (
    ODD,
    PLANTS,
    Payload,
    crafted_array,
    crafted_json,
    crafted_tensors,
    damaged,
    fuzz,
    limited,
    linked,
    replace,
    reseal_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Shop, shop_log

from ai_detect.errors import CheckpointError
from ai_detect.model_file import MODEL_CARD, MODEL_PARTS
from ai_detect.pipeline import LogAnomalyPipeline
from ai_detect.sequences.parsed_log import ParsedLog

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def log(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> ParsedLog:
    """A short log with a session that training did not know; everything that scoring imports is there afterwards."""
    path = tmp_path_factory.mktemp("log") / "short.log"
    path.write_text(shop_log(12, seed=5, faulty=(3,)))
    pipeline = LogAnomalyPipeline.load(shop.model)
    parsed = pipeline.parse(str(path))
    use(pipeline, parsed)
    return parsed


def use(pipeline: LogAnomalyPipeline, log: ParsedLog) -> None:
    """Score and explain; what comes out is well-formed."""
    scored = pipeline.score(log)
    scores = scored.scores
    assert np.isfinite(scores.score).all() and (scores.score >= 0).all() and (scores.score <= 1).all()
    assert (scores.p_value >= 0).all() and (scores.p_value <= 1).all()
    assert len(list(pipeline.explain(scored, np.arange(len(scores))))) == len(scores)
    pipeline.detection(scored)
    assert pipeline.identity.step >= 0 and isinstance(pipeline.card["history"]["rows"], list)


def attempt(folder: Path, log: ParsedLog | None = None) -> str | None:
    """Load it, and use it on a log if given; the error's text, None where it was taken."""
    try:
        with limited():
            pipeline = LogAnomalyPipeline.load(folder)
    except CheckpointError as error:
        assert str(folder) in str(error)
        assert str(error).isprintable()
        return str(error)
    try:
        with limited():
            if log is not None:
                use(pipeline, log)
    except CheckpointError as error:  # finite weights whose product is not
        return str(error)
    return None


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def forged(shop: Shop, tmp_path: Path, name: str, content: bytes) -> Path:
    folder = linked(shop.model, tmp_path / "model")
    replace(folder / name, content)
    if name != MODEL_CARD:
        reseal_model(folder)
    return folder


def test_the_sound_one_is_taken(shop: Shop, log: ParsedLog) -> None:
    assert attempt(shop.model, log) is None


@settings(fuzz, max_examples=100)
@given(data=st.data())
def test_random_damage_is_an_error(shop: Shop, tmp_path: Path, data: st.DataObject) -> None:
    name, content = data.draw(
        damaged({name: part for name, part in contents(shop.model).items() if name != MODEL_CARD})
    )
    folder = linked(shop.model, tmp_path / "model")
    if (folder / name).read_bytes() == content:
        return
    replace(folder / name, content)
    assert name in (attempt(folder) or "")


@settings(fuzz, max_examples=60)
@given(data=st.data())
def test_a_damaged_model_json_is_an_error_or_sound(shop: Shop, tmp_path: Path, data: st.DataObject) -> None:
    _, content = data.draw(damaged({MODEL_CARD: (shop.model / MODEL_CARD).read_bytes()}))
    attempt(forged(shop, tmp_path, MODEL_CARD, content))


@settings(fuzz, max_examples=150)
@given(data=st.data(), name=st.sampled_from([*MODEL_PARTS, MODEL_CARD]))
def test_a_crafted_part_is_an_error_or_sound(
    shop: Shop, log: ParsedLog, tmp_path: Path, data: st.DataObject, name: str
) -> None:
    how = crafted_json if name.endswith(".json") else crafted_tensors
    attempt(forged(shop, tmp_path, name, data.draw(how((shop.model / name).read_bytes()))), log)


@settings(fuzz, max_examples=150)
@given(data=st.data(), name=st.sampled_from(["detectors.safetensors", "normal.safetensors"]))
def test_a_crafted_array_is_an_error_or_sound(
    shop: Shop, log: ParsedLog, tmp_path: Path, data: st.DataObject, name: str
) -> None:
    arrays = safetensors.numpy.load((shop.model / name).read_bytes())
    # the many arrays of the detectors' parts are drawn as seldom as the few others
    kinds = sorted({key.rpartition("/")[0] for key in arrays})
    kind = data.draw(st.sampled_from(kinds))
    key = data.draw(st.sampled_from(sorted(key for key in arrays if key.rpartition("/")[0] == kind)))
    arrays[key] = data.draw(crafted_array(arrays[key]))
    content = safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in arrays.items()})
    attempt(forged(shop, tmp_path, name, content), log)


@settings(fuzz, max_examples=80)
@given(data=st.data())
def test_crafted_values_of_the_detectors_are_refused_or_sound(
    shop: Shop, log: ParsedLog, tmp_path: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["detectors.json", "normal.json"]))
    values = json.loads((shop.model / name).read_bytes())
    key = data.draw(st.sampled_from(sorted(values)))
    values[key] = data.draw(ODD)
    attempt(forged(shop, tmp_path, name, json.dumps(values).encode()), log)


def changed(shop: Shop, tmp_path: Path, name: str, change: Callable[[Any], None]) -> Path:
    value = json.loads((shop.model / name).read_bytes())
    change(value)
    return forged(shop, tmp_path, name, json.dumps(value).encode())


def test_an_encoder_larger_than_its_weights_is_never_built(shop: Shop, tmp_path: Path) -> None:
    largest = {"dim": 1024, "n_layers": 24, "n_word_buckets": 1 << 20, "max_events": 4096}
    reason = attempt(changed(shop, tmp_path, MODEL_CARD, lambda model: model["settings"].update(largest)))
    assert reason is not None and "ask for" in reason


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.update(card=[]),
        lambda model: model.update(card=[], format_version=3),
        lambda model: model.update(format_version=True),
        lambda model: model.update(parts={}),
        lambda model: model["parts"].update({"../x": "0" * 64}),
        lambda model: model["parts"].update({"templates.json": None}),
        lambda model: model["card"].update(history={}),
        lambda model: model["card"]["history"].update(rows=[{"step": "<script>"}]),
        lambda model: model["card"].update(step="1"),
        lambda model: model["card"].update(run_id=7),
        lambda model: model["settings"].update({"dim\n\x1b[2J": 1}),
        lambda model: model["settings"].update(detection_method="x"),
    ],
)
def test_a_model_json_of_another_shape_is_refused(shop: Shop, tmp_path: Path, change: Callable[[Any], None]) -> None:
    reason = attempt(changed(shop, tmp_path, MODEL_CARD, change))
    assert reason is not None and "model.json" in reason


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("templates.json", lambda value: value.update(frozen=False)),
        ("detectors.json", lambda value: value.update(n_judged=-1)),
        ("detectors.json", lambda value: value.update(n_judged=1 << 60)),
        ("detectors.json", lambda value: value.update(seed=-1)),
        ("detectors.json", lambda value: value.update(detection_method="knn")),
        ("detectors.json", lambda value: value.update(components=value["components"] * 2)),
        ("detectors.json", lambda value: value["methods"]["knn"].update(weights={})),
        ("detectors.json", lambda value: value["methods"]["knn"]["threshold"].update(rule="x")),
        ("detectors.json", lambda value: value["methods"]["knn"]["threshold"].update(surprisal=-1.0)),
        ("normal.json", lambda value: value.update(n_known=1 << 29)),
        ("normal.json", lambda value: value.update(n_known=0)),
        ("normal.json", lambda value: value.update(n_sessions=0)),
        ("normal.json", lambda value: value.update(gap_unit_s=-1)),
        ("normal.json", lambda value: value.update(reference_keys=[1])),
    ],
)
def test_values_that_cannot_be_are_refused(
    shop: Shop, tmp_path: Path, name: str, change: Callable[[Any], None]
) -> None:
    assert name in (attempt(changed(shop, tmp_path, name, change)) or "")


@pytest.mark.parametrize(
    ("name", "key", "make"),
    [
        ("detectors", "comparison/views/column", lambda array: array + (1 << 30)),
        ("detectors", "comparison/views/column", lambda array: -1 - array),
        ("detectors", "comparison/views/document_frequency", lambda array: -array),
        ("detectors", "comparison/views/transitions/token_counts", lambda array: array + (1 << 62)),
        ("detectors", "comparison/views/transitions/codes", lambda array: array[:0]),
        ("detectors", "comparison/rows/presence", lambda array: np.zeros((0, array.shape[1]), np.float32)),
        ("detectors", "comparison/rows/embedding", lambda array: array[:, :3]),
        ("detectors", "comparison/weights/profile", lambda array: array * 0),
        ("detectors", "comparison/weights/profile", lambda array: array * np.nan),
        ("detectors", "comparison/forests/iforest:profile/right", lambda array: array * 0),
        ("detectors", "comparison/forests/iforest:profile/left", lambda array: array + (1 << 20)),
        ("detectors", "comparison/forests/iforest:profile/column", lambda array: array + 1000),
        ("detectors", "comparison/forests/iforest:profile/first", lambda array: array[:1]),
        ("detectors", "comparison/forests/iforest:profile/scale", lambda array: array * 0),
        ("detectors", "comparison/checks/knn:extremes", lambda array: array[:1]),
        ("detectors", "method/knn/tail", lambda array: array * 0),
        ("detectors", "component/iforest:profile/values", lambda array: array[::-1]),
        ("detectors", "suspicious", lambda array: array[:1]),
        ("normal", "event_counts", lambda array: array + (1 << 39)),
        ("normal", "event_counts", lambda array: -array),
        ("normal", "lengths", lambda array: array[:0]),
        ("normal", "pair_keys", lambda array: -array),
        ("normal", "reference_events", lambda array: array - 100),
        ("normal", "gaps_quantiles", lambda array: array[:, :2]),
        ("normal", "gaps_quantiles", lambda array: array * 0 + 1e38),
        ("normal", "gaps_keys", lambda array: array[:1]),
    ],
)
def test_arrays_that_cannot_be_are_refused(
    shop: Shop, tmp_path: Path, name: str, key: str, make: Callable[[np.ndarray], np.ndarray]
) -> None:
    arrays = safetensors.numpy.load((shop.model / f"{name}.safetensors").read_bytes())
    arrays[key] = np.ascontiguousarray(make(arrays[key])).astype(arrays[key].dtype)
    folder = forged(shop, tmp_path, f"{name}.safetensors", safetensors.numpy.save(arrays))
    assert name in (attempt(folder) or "")


@pytest.mark.parametrize(
    "name",
    ["event_vectors", "word_vectors.weight", "word_projection.weight", "blocks.0.feed_in.weight", "content.weight"],
)
def test_weights_whose_product_is_not_finite(shop: Shop, log: ParsedLog, tmp_path: Path, name: str) -> None:
    arrays = safetensors.numpy.load((shop.model / "model.safetensors").read_bytes())
    arrays = {key: array if key != name else np.full_like(array, 3e38) for key, array in arrays.items()}
    attempt(forged(shop, tmp_path, "model.safetensors", safetensors.numpy.save(arrays)), log)


@pytest.mark.parametrize("name", [*MODEL_PARTS, MODEL_CARD])
def test_something_else_in_a_files_place(shop: Shop, tmp_path: Path, name: str) -> None:
    for plant in PLANTS.values():
        folder = linked(shop.model, tmp_path / "model")
        (folder / name).unlink()
        plant(folder / name)
        assert name in (attempt(folder) or "")


@pytest.mark.parametrize("name", [*MODEL_PARTS, MODEL_CARD])
@pytest.mark.parametrize("size", [1 << 31, 1 << 42])
def test_a_file_of_holes_is_not_read(shop: Shop, tmp_path: Path, name: str, size: int) -> None:
    folder = linked(shop.model, tmp_path / "model")
    replace(folder / name, b"")
    os.truncate(folder / name, size)
    assert name in (attempt(folder) or "")


@pytest.mark.parametrize("name", [*MODEL_PARTS, MODEL_CARD])
def test_a_payload_never_runs(shop: Shop, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "pwned"
    payload = pickle.dumps(Payload(marker))
    assert name in (attempt(forged(shop, tmp_path, name, payload)) or "")
    assert not marker.exists()
    pickle.loads(payload)
    assert marker.exists()  # the payload would have worked
