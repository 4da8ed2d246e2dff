"""The parts of a checkpoint as bytes: made from a model and its optimizer, and read back without running code."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ai_detect.errors import CheckpointError, TrainingError

#: Parameter name -> name of the optimizer's tensor -> tensor.
OptimizerState = dict[str, dict[str, Tensor]]


def encode_json(value: Any) -> bytes:
    """JSON as the parts hold it; NaN and infinity raise ValueError."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def encode_model(model: nn.Module) -> bytes:
    """The weights as safetensors in full precision; raises TrainingError where one is not finite."""
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in model.state_dict().items()}
    if name := _not_finite(tensors):
        raise TrainingError(f"weights are not finite any more ({name}); resume with a lower --learning_rate")
    return bytes(safetensors.torch.save(tensors))


def encode_optimizer(state: OptimizerState) -> bytes:
    """The optimizer's state as torch.save writes it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def decode_json(path: Path, content: bytes) -> Any:
    """The JSON value; raises CheckpointError where it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error})") from error


def decode_object(path: Path, content: bytes) -> dict[str, Any]:
    """The JSON object; raises CheckpointError where it is none."""
    value = decode_json(path, content)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value


def decode_model(path: Path, content: bytes) -> dict[str, Tensor]:
    """Weights by name; raises CheckpointError where they are not safetensors or not finite."""
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error})") from error
    if name := _not_finite(tensors):
        raise CheckpointError(f"{path}: {name} holds values that are not finite")
    return tensors


def decode_optimizer(path: Path, content: bytes) -> OptimizerState:
    """The optimizer's state; raises CheckpointError where it is anything but finite tensors by name."""
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file can make torch's reader raise anything; all of it means: not usable
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} is not a plain optimizer state and was not loaded ({reason})") from error
    plain = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(tensors, dict) and all(isinstance(t, Tensor) for t in tensors.values())
        for name, tensors in state.items()
    )
    if not plain:
        raise CheckpointError(f"{path} is not an optimizer state (tensors by parameter name expected)")
    if name := _not_finite({f"{n}.{k}": t for n, tensors in state.items() for k, t in tensors.items()}):
        raise CheckpointError(f"{path}: {name} holds values that are not finite")
    return dict(state)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], origin: str | Path) -> None:
    """Copy weights into a model of the same names, shapes and dtypes; raises CheckpointError naming what differs."""
    own = model.state_dict()
    if missing := sorted(own.keys() - weights.keys()):
        raise CheckpointError(f"{origin} lacks weights that this model has: {', '.join(missing[:5])}")
    if unknown := sorted(weights.keys() - own.keys()):
        raise CheckpointError(f"{origin} holds weights that this model lacks: {', '.join(unknown[:5])}")
    for name, tensor in own.items():
        check_alike(name, weights[name], tensor, origin)
    model.load_state_dict(dict(weights), strict=True)


def check_alike(name: str, found: Tensor, expected: Tensor, origin: str | Path) -> None:
    """Raise CheckpointError where shape or dtype differ, naming the tensor and both."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise CheckpointError(
            f"{origin} was made for another model: {name} has shape {tuple(found.shape)} {found.dtype}, "
            f"expected {tuple(expected.shape)} {expected.dtype}"
        )


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None
