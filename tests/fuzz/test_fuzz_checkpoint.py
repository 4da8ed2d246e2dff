"""Whatever a checkpoint holds, loading it and going on from it is a CheckpointError or works; it runs nothing."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import (
    PLANTS,
    Payload,
    crafted_archive,
    crafted_json,
    crafted_tensors,
    damaged,
    fuzz,
    limited,
    linked,
    replace,
    reseal_checkpoint,
    rezipped,
    write_manifest,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_detect.errors import CheckpointError
from ai_detect.model_file import model_card, settings_of_checkpoint
from ai_detect.run_encoder import encoder_of_checkpoint
from ai_detect.training.checkpoint import MANIFEST, PARTS, load_checkpoint, read_checkpoint
from ai_detect.training.optimizer import AdamW

pytestmark = pytest.mark.slow


def attempt(folder: Path) -> str | None:
    """Load, step, evaluate and describe the model as a resume does; the error's text, None where all went well."""
    try:
        with limited():
            loaded = load_checkpoint(read_checkpoint(folder))
            run = settings_of_checkpoint(loaded)
            miner, encoder = encoder_of_checkpoint(loaded)
            optimizer = AdamW(encoder, run.weight_decay)
            optimizer.load(loaded.optimizer_state, folder)
            assert len(miner.templates) == encoder.n_events
            state = loaded.trainer_state
            assert math.isfinite(state.schedule.factor(state.samples)) and state.position
            for parameter in encoder.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step(1e-3)
            assert all(bool(torch.isfinite(parameter).all()) for parameter in encoder.parameters())
            assert not state.evaluation_due or math.isfinite(state.interval_loss / state.interval_samples)
            assert model_card(state, loaded)["step"] == state.step
    except CheckpointError as error:
        assert str(folder) in str(error) or "config.json" in str(error)
        return str(error)
    return None


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_sound_one_is_taken(checkpoint: Path) -> None:
    assert attempt(checkpoint) is None


@settings(fuzz, max_examples=150)
@given(data=st.data())
def test_random_damage_is_an_error(checkpoint: Path, tmp_path: Path, data: st.DataObject) -> None:
    name, content = data.draw(damaged(contents(checkpoint)))
    folder = linked(checkpoint, tmp_path / checkpoint.name)
    if (folder / name).read_bytes() == content:
        return
    replace(folder / name, content)
    assert attempt(folder) is not None


@settings(fuzz, max_examples=200)
@given(data=st.data(), name=st.sampled_from([*PARTS, MANIFEST]))
def test_a_crafted_part_is_an_error_or_sound(checkpoint: Path, tmp_path: Path, data: st.DataObject, name: str) -> None:
    folder = linked(checkpoint, tmp_path / checkpoint.name)
    content = (folder / name).read_bytes()
    how = crafted_json if name.endswith(".json") else crafted_archive if name.endswith(".pt") else crafted_tensors
    crafted = data.draw(how(content))
    if name == MANIFEST:
        manifest = json.loads(crafted)
        if not isinstance(manifest, dict):
            return
        write_manifest(folder, manifest)
    else:
        replace(folder / name, crafted)
        reseal_checkpoint(folder)
    attempt(folder)


def test_the_error_is_one_line_whatever_the_file_says(checkpoint: Path, tmp_path: Path) -> None:
    reason = attempt(changed_json(checkpoint, tmp_path, "trainer_state.json", **{"a\nb\x1b[2J" + "x" * 10_000: 1}))
    assert reason is not None and reason.isprintable() and len(reason) < 1000


def forged(checkpoint: Path, tmp_path: Path, name: str, content: bytes) -> Path:
    folder = linked(checkpoint, tmp_path / checkpoint.name)
    replace(folder / name, content)
    reseal_checkpoint(folder)
    return folder


def changed_json(checkpoint: Path, tmp_path: Path, name: str, **changes: Any) -> Path:
    value = {**json.loads((checkpoint / name).read_bytes()), **changes}
    return forged(checkpoint, tmp_path, name, json.dumps(value).encode())


def test_numbers_that_ask_for_much_are_sound_or_refused(checkpoint: Path, tmp_path: Path) -> None:
    for changes in (
        {"n_samples": 10**18},
        {"n_samples": 10**18, "samples_in_epoch": 10**17},
        {"planned_epochs": 10**15},
    ):
        attempt(changed_json(checkpoint, tmp_path, "trainer_state.json", **changes))
    for changes in ({"step": 10**400}, {"epoch": 10**25}, {"interval_loss": 10**400}):
        assert "too large" in (attempt(changed_json(checkpoint, tmp_path, "trainer_state.json", **changes)) or "")
    for name in ("step", "epoch", "n_samples", "planned_epochs"):
        reason = attempt(changed_json(checkpoint, tmp_path, "trainer_state.json", **{name: 1 << 62}))
        assert f"trainer_state.json: {name}: Input should be less than or equal to" in (reason or "")


def test_an_evaluation_without_a_step_since_the_last_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    due = {"evaluation_due": True, "interval_samples": 0}
    assert "interval_samples is 0" in (attempt(changed_json(checkpoint, tmp_path, "trainer_state.json", **due)) or "")
    assert attempt(changed_json(checkpoint, tmp_path, "trainer_state.json", **{**due, "interval_samples": 1})) is None


@pytest.mark.parametrize("name", ["loss_steps", "train_losses", "val_losses", "learning_rates"])
def test_a_history_of_unequal_columns_is_refused(checkpoint: Path, tmp_path: Path, name: str) -> None:
    column = json.loads((checkpoint / "trainer_state.json").read_bytes())[name]
    for changed in ([], column[:-1], [*column, column[-1]]):
        reason = attempt(changed_json(checkpoint, tmp_path, "trainer_state.json", **{name: changed}))
        assert reason is not None and "trainer_state.json" in reason and name in reason


@pytest.mark.parametrize("step", [-1, 0, (1 << 53) + 1, (1 << 63) - 1, -(1 << 63)])
def test_an_optimizer_of_impossible_steps_is_refused(checkpoint: Path, tmp_path: Path, step: int) -> None:
    assert f"has step {step}" in (attempt(changed_optimizer(checkpoint, tmp_path, step=torch.tensor(step))) or "")


def test_an_optimizer_that_took_very_many_steps_is_sound(checkpoint: Path, tmp_path: Path) -> None:
    assert attempt(changed_optimizer(checkpoint, tmp_path, step=torch.tensor(1 << 53))) is None


def test_a_negative_mean_of_squares_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    squares = next(iter(state.values()))["exp_avg_sq"].clone()
    squares.view(-1)[-1] = -1e-30
    assert "negative exp_avg_sq" in (attempt(changed_optimizer(checkpoint, tmp_path, exp_avg_sq=squares)) or "")


def changed_optimizer(checkpoint: Path, tmp_path: Path, **changes: torch.Tensor) -> Path:
    """The state of one parameter is changed."""
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    next(iter(state.values())).update(changes)
    return forged(checkpoint, tmp_path, "optimizer.pt", saved(state))


@pytest.mark.parametrize(
    "provenance",
    [
        {},
        {"train_file": 1},
        {"train_data": {}},
        {"train_data": [{}]},
        {"train_data": [{"sha256": []}]},
        {"eval_file": []},
    ],
)
def test_where_it_comes_from_must_be_said(checkpoint: Path, tmp_path: Path, provenance: dict[str, Any]) -> None:
    stored = json.loads((checkpoint / "trainer_state.json").read_bytes())["provenance"]
    changed = {**stored, **provenance} if provenance else {}
    reason = attempt(changed_json(checkpoint, tmp_path, "trainer_state.json", provenance=changed))
    assert reason is not None and "trainer_state.json: provenance" in reason


def test_an_encoder_larger_than_its_weights_is_never_built(checkpoint: Path, tmp_path: Path) -> None:
    largest = {"dim": 1024, "n_layers": 24, "n_word_buckets": 1 << 20, "max_events": 4096}
    for changes in (largest, {"dim": 1024}, {"n_layers": 24, "dim": 512}, {"n_word_buckets": 1 << 20}):
        reason = attempt(changed_json(checkpoint, tmp_path, "config.json", **changes))
        assert reason is not None and "ask for" in reason


@pytest.mark.parametrize(
    "changes",
    [
        {"frozen": False},
        {"clusters": [[1, 1, "a"], [1, 1, "b"]]},
        {"clusters": [[10**18, 1, "a"]]},
        {"n_created": -1},
        {"tree": [{"1": [{}, [1, 1]]}, []]},
        {"tree": [{}, []]},
        {"masks": {"in_turn": False, "patterns": [["A", "(" * 5000 + ")" * 5000]]}},
        {"masks": {"in_turn": False, "patterns": [["A", "(?P<mask_0>x)"]]}},
    ],
)
def test_templates_that_contradict_themselves(checkpoint: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    reason = attempt(changed_json(checkpoint, tmp_path, "templates.json", **changes))
    assert reason is not None and "templates.json" in reason


def archive_with(checkpoint: Path, pickled: bytes) -> bytes:
    """An optimizer.pt whose pickle is this one."""
    content = (checkpoint / "optimizer.pt").read_bytes()
    return rezipped(content, lambda name, record: pickled if name == "data.pkl" else record)


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def laughs() -> bytes:
    """A tuple of two of the tuple before, forty times, as a key: to hash it takes days."""
    tuples = b"".join(b"h" + bytes([at]) + b"h" + bytes([at]) + b"\x86q" + bytes([at + 1]) for at in range(1, 41))
    return b"\x80\x02}q\x00)q\x01" + b"0" + tuples + b"}s."


STORAGE = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
HOOKS = b"\x89ccollections\nOrderedDict\n)RtR"


def tensor_of(n: int, shape: int, stride: int) -> bytes:
    """A pickle of {"w": {"exp_avg": a tensor over record 0}} that claims these numbers."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)

    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + STORAGE
        + number(n)
        + b"tQK\x00"
        + number(shape)
        + b"\x85"
        + number(stride)
        + b"\x85"
        + HOOKS
    )
    return b"\x80\x02}X\x01\x00\x00\x00w}X\x07\x00\x00\x00exp_avg" + tensor + b"ss."


HOSTILE_PICKLES: dict[str, bytes] = {
    "bytes of any size": b"\x80\x02c__builtin__\nbytearray\n\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85R.",
    "a memo of any size": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a key that takes days to hash": laughs(),
    "a record that is longer than it is": tensor_of(1 << 40, 1 << 40, 1),
    "a tensor beyond its record": tensor_of(64, 1 << 40, 1),
    "one number for ever": tensor_of(64, 1 << 40, 0),
    "a negative shape": tensor_of(64, -64, 1),
    "a string of any size": b"\x80\x02T\xff\xff\xff\x7fabc.",
    "itself": b"\x80\x02}q\x00X\x01\x00\x00\x00wh\x00s.",
    "an attribute set": b"\x80\x02}X\x01\x00\x00\x00wcollections\nOrderedDict\n)R}bs.",
}


@pytest.mark.parametrize("what", HOSTILE_PICKLES)
def test_a_pickle_that_asks_for_much_is_refused(checkpoint: Path, tmp_path: Path, what: str) -> None:
    reason = attempt(forged(checkpoint, tmp_path, "optimizer.pt", archive_with(checkpoint, HOSTILE_PICKLES[what])))
    assert reason is not None and "optimizer.pt" in reason


def test_other_kinds_of_archive_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    content = (checkpoint / "optimizer.pt").read_bytes()
    state = torch.load(io.BytesIO(content), weights_only=True)
    huge = bytearray(content)
    at = content.rindex(b"PK\x01\x02")
    huge[at + 20 : at + 28] = b"\xff\xff\xff\x7f" * 2
    bomb = rezipped(content, lambda name, record: bytes(1 << 30) if name == "data/0" else record, zipfile.ZIP_DEFLATED)
    others = [
        saved(state, _use_new_zipfile_serialization=False),
        saved({"w": {"exp_avg": torch.zeros(3, device="meta")}}),
        saved({"w": {"exp_avg": torch.zeros(3).to_sparse()}}),
        saved({"w": {"exp_avg": torch.nn.Parameter(torch.zeros(3))}}),
        saved({"w": {"exp_avg": torch.zeros(3, dtype=torch.float8_e4m3fn)}}),
        saved({"w": {"exp_avg": torch.zeros(1).expand(1 << 30)}}),
        saved({"w": {"exp_avg": 1}}),
        saved({"w": [torch.zeros(1)]}),
        saved([state]),
        saved({0: state}),
        rezipped(content, lambda name, record: record, zipfile.ZIP_DEFLATED),
        rezipped(content, lambda name, record: b"big" if name == "byteorder" else record),
        bytes(huge),
        bomb,
        b"PK\x05\x06" + bytes(18),
    ]
    for other in others:
        reason = attempt(forged(checkpoint, tmp_path, "optimizer.pt", other))
        assert reason is not None and "optimizer.pt" in reason
    assert attempt(forged(checkpoint, tmp_path, "optimizer.pt", saved(state))) is None


def header_of(arrays: dict[str, Any], body: bytes) -> bytes:
    header = json.dumps(arrays).encode()
    return len(header).to_bytes(8, "little") + header + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        (1 << 40).to_bytes(8, "little") + b"{}",
        (1 << 63).to_bytes(8, "little") + b"{}" + bytes(100),
        header_of({}, b"x"),
        header_of({"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)),
        header_of({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        header_of({"w": {"dtype": "F32", "shape": [0, 1 << 62], "data_offsets": [0, 0]}}, b""),
        header_of({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}, bytes(8)),
        header_of({"w": {"dtype": "F32", "shape": [1 << 32, 1 << 32], "data_offsets": [0, 0]}}, b""),
        header_of({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}, b""),
        header_of({"w": {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}}, bytes(4)),
        header_of({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, bytes(4)),
        header_of({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
        header_of({"w\n\x1b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\x00\x00\xc0\x7f"),
    ],
)
def test_weights_that_claim_what_is_not_there(checkpoint: Path, tmp_path: Path, content: bytes) -> None:
    reason = attempt(forged(checkpoint, tmp_path, "model.safetensors", content))
    assert reason is not None and "model.safetensors" in reason and "\n" not in reason and "\x1b" not in reason


@pytest.mark.parametrize("name", [*PARTS, MANIFEST])
def test_something_else_in_a_files_place(checkpoint: Path, tmp_path: Path, name: str) -> None:
    for plant in PLANTS.values():
        folder = linked(checkpoint, tmp_path / checkpoint.name)
        (folder / name).unlink()
        plant(folder / name)
        reason = attempt(folder)
        assert reason is not None and (name in reason or name == MANIFEST)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("size", [1 << 31, 1 << 42])
def test_a_part_of_holes_is_not_read(checkpoint: Path, tmp_path: Path, name: str, size: int) -> None:
    """A sparse file costs its author nothing; its manifest may well say so."""
    folder = linked(checkpoint, tmp_path / checkpoint.name)
    replace(folder / name, b"")
    os.truncate(folder / name, size)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    next(part for part in manifest["parts"] if part["name"] == name)["size"] = size
    write_manifest(folder, manifest)
    reason = attempt(folder)
    assert reason is not None and name in reason


@pytest.mark.parametrize("name", [*PARTS, MANIFEST])
@pytest.mark.parametrize("kind", ["pickle", "torch", "in the archive"])
def test_a_payload_never_runs(checkpoint: Path, tmp_path: Path, name: str, kind: str) -> None:
    marker = tmp_path / "pwned"
    payload = {"w": {"exp_avg": Payload(marker)}}
    content = {
        "pickle": lambda: pickle.dumps(payload),
        "torch": lambda: saved(payload),
        "in the archive": lambda: archive_with(checkpoint, pickle.dumps(payload, 2)),
    }[kind]()
    folder = linked(checkpoint, tmp_path / checkpoint.name)
    replace(folder / name, content)
    if name != MANIFEST:
        reseal_checkpoint(folder)
    reason = attempt(folder)
    assert reason is not None and name in reason
    assert not marker.exists()
    pickle.loads(pickle.dumps(payload))
    assert marker.exists()  # the payload would have worked
