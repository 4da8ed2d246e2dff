"""One checkpoint on disk: written whole or not at all, read back only if every byte is the one that was written.

A checkpoint is a directory of six files. `manifest.json` is written last and holds the size and sha256 of the others
and of itself; nothing outside the directory takes part in its validity. Nothing in it can run code when it is read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from ai_detect.artifacts import (
    MAX_BYTES,
    MAX_JSON_BYTES,
    atomic_directory,
    fsync_directory,
    read_file,
    sha256_json,
)
from ai_detect.errors import CheckpointError
from ai_detect.training.epochs import Phase
from ai_detect.training.parts import (
    OptimizerState,
    decode_json,
    decode_model,
    decode_object,
    decode_optimizer,
    encode_json,
)
from ai_detect.training.state import Parent, TrainerState

logger = logging.getLogger(__name__)

FORMAT_VERSION: Literal[1] = 1
MANIFEST = "manifest.json"
OPTIMIZER = "optimizer.pt"
STATE = "trainer_state.json"
#: Every part, in the order in which it is written.
PARTS = ("config.json", "templates.json", "model.safetensors", OPTIMIZER, STATE)


class Part(BaseModel):
    """Name, size and sha256 of one file of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What is needed to choose a checkpoint and to trust it, without reading its parts."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    format_version: Literal[1]
    run_id: str
    segment: int
    parent: Parent | None
    phase: Phase
    step: int = Field(ge=0)
    epoch: int = Field(ge=0)
    samples_in_epoch: int = Field(ge=0)
    val_loss: float | None
    eval_id: str | None
    timestamp: str
    parts: list[Part]
    versions: dict[str, str]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that passed the quick check (manifest, names and sizes); `hash` is its manifest's."""

    path: Path
    manifest: Manifest
    hash: str

    @property
    def step(self) -> int:
        """Optimizer steps before it was saved, counted over all resumes."""
        return self.manifest.step

    @property
    def n_bytes(self) -> int:
        """Size of all parts."""
        return sum(part.size for part in self.manifest.parts)

    def part(self, name: str) -> Part:
        """Size and sha256 of one of its files."""
        return next(part for part in self.manifest.parts if part.name == name)


@dataclass(frozen=True)
class LoadedCheckpoint:
    """The content of a checkpoint that passed the full check; tensors are on the CPU."""

    checkpoint: Checkpoint
    config: dict[str, Any]
    templates: dict[str, Any]
    model_state: dict[str, Tensor]
    optimizer_state: OptimizerState
    trainer_state: TrainerState


def write_checkpoint(
    checkpoint_dir: Path, state: TrainerState, parts: Mapping[str, bytes], keep_old: Path | None
) -> Checkpoint:
    """Commit `checkpoint-<step>`; raises OSError with the old content untouched where the disk refuses.

    What has that name is replaced, or moved to `keep_old`, right before the commit, if that is given.
    """
    path = checkpoint_dir / f"checkpoint-{state.step}"
    contents = {**parts, "trainer_state.json": encode_json(state.to_json())}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        run_id=state.run_id,
        segment=state.segment.segment,
        parent=state.segment.parent,
        phase=state.phase,
        step=state.step,
        epoch=state.epoch,
        samples_in_epoch=state.samples_in_epoch,
        val_loss=state.val_loss,
        eval_id=state.eval_id,
        timestamp=state.timestamp,
        parts=[Part(name=n, size=len(contents[n]), sha256=hashlib.sha256(contents[n]).hexdigest()) for n in PARTS],
        versions=state.versions,
        provenance=state.provenance,
    )
    body = manifest.model_dump()
    own_hash = sha256_json(body)
    with atomic_directory(path, keep_old=keep_old, synced=True) as folder:
        for name in PARTS:
            _write_durable(folder / name, contents[name])
        _write_durable(folder / MANIFEST, encode_json({"sha256": own_hash, **body}))
        fsync_directory(folder)
    return Checkpoint(path, manifest, own_hash)


def _write_durable(path: Path, content: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        view = memoryview(content)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())


def read_checkpoint(path: Path, *, allow_missing: bool = False) -> Checkpoint:
    """The quick check: manifest, version, names and sizes; raises CheckpointError with the reason.

    With `allow_missing`, a checkpoint whose optimizer.pt is gone has the parts that are left.
    """
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise CheckpointError(f"{path} is not a directory")
        if not (path / MANIFEST).exists():
            raise CheckpointError(f"{path} has no {MANIFEST}: it was never completed, or is no checkpoint")
        content = _read_file(path / MANIFEST, None)
        body = decode_json(path / MANIFEST, content)
        if not isinstance(body, dict):
            raise CheckpointError(f"{path / MANIFEST} is not a JSON object")
        if body.get("format_version") != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format version {body.get('format_version')!r}; this program reads {FORMAT_VERSION}"
            )
        intact = encode_json(body) == content
        own_hash = body.pop("sha256", None)
        manifest = Manifest.model_validate(body)
        if not intact or sha256_json(body) != own_hash:
            raise CheckpointError(f"{path / MANIFEST} was changed after it was written (its own sha256 differs)")
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(f"{path / MANIFEST}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:  # NaN or infinity, which are no JSON
        raise CheckpointError(f"{path / MANIFEST}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and int(match[1]) != manifest.step:
        raise CheckpointError(f"{path} holds step {manifest.step}, not what its name says")
    if tuple(part.name for part in manifest.parts) != PARTS:
        raise CheckpointError(f"{path / MANIFEST} does not list exactly {', '.join(PARTS)}")
    if allow_missing and not os.path.lexists(path / OPTIMIZER):
        logger.warning("%s is missing: the optimizer's averages start from nothing", path / OPTIMIZER)
        manifest = manifest.model_copy(update={"parts": [part for part in manifest.parts if part.name != OPTIMIZER]})
    for part in manifest.parts:
        _check_size(path / part.name, part.size)
    return Checkpoint(path, manifest, str(own_hash))


def load_checkpoint(checkpoint: Checkpoint) -> LoadedCheckpoint:
    """The full check and the content; raises CheckpointError naming the part that is wrong."""
    path = checkpoint.path
    names = [part.name for part in checkpoint.manifest.parts if part.name != STATE]
    contents = {name: read_part(checkpoint, name) for name in names}
    state = read_state(checkpoint)
    strays = sorted(entry.name for entry in path.iterdir() if entry.name not in (*PARTS, MANIFEST))
    if strays:
        logger.warning("%s holds files that belong to no checkpoint and are not read: %s", path, ", ".join(strays))
    return LoadedCheckpoint(
        checkpoint,
        config=decode_object(path / "config.json", contents["config.json"]),
        templates=decode_object(path / "templates.json", contents["templates.json"]),
        model_state=decode_model(path / "model.safetensors", contents["model.safetensors"]),
        optimizer_state=decode_optimizer(path / OPTIMIZER, contents[OPTIMIZER]) if OPTIMIZER in contents else {},
        trainer_state=state,
    )


def read_part(checkpoint: Checkpoint, name: str) -> bytes:
    """The content of one part; raises CheckpointError unless it is the one that was written."""
    part = checkpoint.part(name)
    path = checkpoint.path / name
    content = _read_file(path, part.size)
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise CheckpointError(f"{path} is damaged (its sha256 is not the one in {MANIFEST})")
    return content


def read_state(checkpoint: Checkpoint) -> TrainerState:
    """The position and history alone; raises CheckpointError where that part is wrong or another checkpoint's."""
    path = checkpoint.path / STATE
    try:
        state = TrainerState.from_json(decode_json(path, read_part(checkpoint, STATE)))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if (state.run_id, state.step) != (checkpoint.manifest.run_id, checkpoint.manifest.step):
        raise CheckpointError(f"{path} belongs to another checkpoint (step {state.step})")
    return state


def _check_size(path: Path, size: int) -> None:
    try:
        found = path.lstat()
    except OSError as error:
        hint = "; --checkpoint_path and --allow_missing go on without it" if path.name == OPTIMIZER else ""
        raise CheckpointError(f"{path} is missing{hint}") from error
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path} is not a plain file")
    if found.st_size != size:
        raise CheckpointError(f"{path} has {found.st_size} bytes, {MANIFEST} says {size}")


def _read_file(path: Path, size: int | None) -> bytes:
    """Read a plain file of a known size (None: a manifest's)."""
    try:
        content = read_file(path, MAX_JSON_BYTES if path.suffix == ".json" else MAX_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    if size is not None and len(content) != size:
        raise CheckpointError(f"{path} has {len(content)} bytes, {MANIFEST} says {size}")
    return content
