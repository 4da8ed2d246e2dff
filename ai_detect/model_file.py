"""What is stored of a model in JSON, and checked before anything is made of it.

model.json   of a finished model: its card (where it comes from, how its training log looked), its settings, the hashes
             of its parts
provenance   of a checkpoint: what it was trained on
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ai_detect import artifacts
from ai_detect.config import RunSettings, build
from ai_detect.detectors.suspicion import trusted
from ai_detect.errors import CheckpointError, ConfigError
from ai_detect.reporting.wording import decodable
from ai_detect.tables import BoolArray, Float64Array

if TYPE_CHECKING:  # imports torch, which takes longer than scoring a log
    from ai_detect.training.checkpoint import LoadedCheckpoint
    from ai_detect.training.state import TrainerState

MODEL_CARD = "model.json"
MODEL_PARTS = (
    "templates.json",
    "model.safetensors",
    "detectors.json",
    "detectors.safetensors",
    "normal.json",
    "normal.safetensors",
    "values.safetensors",
)
_FORMAT = 6
#: Suspects that every report names.
_SUSPECTS_NAMED = 3


class _OlderFormatError(CheckpointError):
    """A model of a format that this version no longer reads."""


class _HistoryRow(BaseModel):
    """The training run at one evaluation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    step: int = Field(ge=0, le=1 << 53)
    train_loss: float | None
    val_loss: float | None
    learning_rate: float | None


class _History(BaseModel):
    """The training run for the report's curves."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rows: list[_HistoryRow]
    resume_steps: list[Annotated[int, Field(ge=0, le=1 << 53)]]


class _Suspects(BaseModel):
    """Training sessions that look abnormal, where they are more than chance would have it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    n_sessions: int = Field(ge=1, le=1 << 53)
    n_suspected: int = Field(ge=1, le=1 << 53)
    n_learned_from: int = Field(ge=0, le=1 << 53)
    most_suspicious: list[str]


class ModelCard(BaseModel):
    """Where a model comes from: what this program looks at, and what else `model_card` noted."""

    model_config = ConfigDict(extra="allow", strict=True)

    run_id: str
    step: int = Field(ge=0, le=1 << 53)
    hash: str
    history: _History
    training_suspects: _Suspects | None


class ModelFile(BaseModel):
    """model.json."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format_version: int = Field(ge=_FORMAT, le=_FORMAT)
    card: ModelCard
    settings: dict[str, Any]
    parts: dict[str, str]


def model_card(state: TrainerState, chosen: LoadedCheckpoint) -> dict[str, Any]:
    """Where a model comes from: `chosen` gave the weights, `state` is where its run stood."""
    manifest = chosen.checkpoint.manifest
    names = ("step", "train_loss", "val_loss", "learning_rate")
    columns = (state.loss_steps, state.train_losses, state.val_losses, state.learning_rates)
    return {
        "history": {
            "rows": [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)],
            "resume_steps": [item.parent.step for item in state.lineage if item.parent is not None],
        },
        "run_id": state.run_id,
        "step": manifest.step,
        "last_step": state.step,
        "epoch": manifest.epoch,
        "val_loss": manifest.val_loss,
        "provenance": state.provenance,
        "versions": state.versions,
        "hash": chosen.checkpoint.hash[:16],
    }


def training_suspects(keys: Sequence[str], suspected: BoolArray, suspicion: Float64Array) -> dict[str, Any] | None:
    """What the card says of a training log that looks dirty, None of one that does not.

    `keys` and `suspected` (n_sessions,), `suspicion` (n_suspected,) the -ln p of the suspected ones.
    """
    learned_from = trusted(suspected)
    if learned_from.all():
        return None
    suspects = np.flatnonzero(suspected)
    worst = suspects[np.argsort(-suspicion, kind="stable")[:_SUSPECTS_NAMED]]
    return {
        "n_sessions": len(suspected),
        "n_suspected": len(suspects),
        "n_learned_from": int(learned_from[suspects].sum()),
        "most_suspicious": [decodable(keys[session]) for session in worst],
    }


def write_model_json(folder: Path, card: Mapping[str, Any], settings: RunSettings) -> dict[str, Any]:
    """Write model.json beside the parts, which are all there; returns the card, with the hash of the parts."""
    parts = {name: artifacts.sha256_file(folder / name) for name in MODEL_PARTS}
    sealed = {**card, "hash": artifacts.sha256_json(parts)[:16]}
    model = {"format_version": _FORMAT, "card": sealed, "settings": settings.model_dump(mode="json"), "parts": parts}
    artifacts.write_json(folder / MODEL_CARD, model)
    return sealed


def read_model(folder: Path) -> tuple[ModelFile, dict[str, bytes]]:
    """model.json, and the parts by name, as they were saved; raises CheckpointError where they are not."""
    model = _read_model_json(folder)
    return model, {name: _read_part(folder / name, model.parts[name]) for name in MODEL_PARTS}


def _read_model_json(folder: Path) -> ModelFile:
    path = folder / MODEL_CARD
    try:
        model = artifacts.read_json(path)
    except OSError as error:
        raise CheckpointError(
            f"{folder} holds no finished model ({path.name}: {error.strerror}); train first, or give --model_dir"
        ) from error
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    version = model.get("format_version") if isinstance(model, dict) else None
    if type(version) is int and version > _FORMAT:
        raise CheckpointError(
            f"{path} has format version {version}, this program reads up to {_FORMAT}: update ai-detect"
        )
    if type(version) is int and version < _FORMAT:
        raise _OlderFormatError(
            f"{path} has format version {version}, this program reads {_FORMAT}: resume_train.py makes the model anew "
            "from its checkpoints, without training"
        )
    try:
        checked = ModelFile.model_validate(model)
    except ValidationError as error:
        raise CheckpointError(
            f"{path} is not a model that this program wrote ({artifacts.first_problem(error)})"
        ) from error
    if set(checked.parts) != set(MODEL_PARTS):
        raise CheckpointError(f"{path} does not list the parts of a model")
    return checked


def is_older_format(folder: Path) -> bool:
    """Whether the folder holds a model of a format that this version no longer reads."""
    try:
        _read_model_json(folder)
    except _OlderFormatError:
        return True
    except CheckpointError:
        return False
    return False


def _read_part(path: Path, sha256: str) -> bytes:
    try:
        content = artifacts.read_file(path, artifacts.MAX_JSON_BYTES if path.suffix == ".json" else artifacts.MAX_BYTES)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; train again or restore the model folder") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(f"{path} is not the file that was saved (sha256 differs); restore it or train again")
    return content


class _TrainingLog(BaseModel):
    """A `FileFingerprint` in a checkpoint."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path: str
    n_bytes: int = Field(ge=0)
    n_lines: int = Field(ge=0)
    sha256: str
    head_sha256: str
    tail_sha256: str


class _Provenance(BaseModel):
    """What a resume looks up in a checkpoint's provenance."""

    model_config = ConfigDict(extra="allow", strict=True)

    train_file: str
    train_data: list[_TrainingLog]
    eval_file: str | None
    n_templates: int = Field(ge=0)


def settings_of_checkpoint(loaded: LoadedCheckpoint) -> RunSettings:
    """The settings that a checkpoint was trained with; raises CheckpointError where this version does not know them,
    or where it does not say what it was trained on.
    """
    try:
        _Provenance.model_validate(loaded.trainer_state.provenance)
    except ValidationError as error:
        path = loaded.checkpoint.path / "trainer_state.json"
        raise CheckpointError(f"{path}: provenance: {artifacts.first_problem(error)}") from error
    try:
        return build(RunSettings, loaded.config, str(loaded.checkpoint.path / "config.json"))
    except ConfigError as error:
        raise CheckpointError(f"{in_one_line(error)}: it was made by another version of ai-detect") from error


def in_one_line(error: Exception) -> str:
    """What the error says, whatever a file made it say."""
    text = f"{error} is missing" if isinstance(error, KeyError) else f"{error}"
    return "".join(letter if letter.isprintable() else " " for letter in text[:300])
