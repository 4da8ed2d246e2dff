"""The parts of a checkpoint as bytes: made from a model and its optimizer, and read back without running code."""

from __future__ import annotations

import io
import json
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ai_detect.artifacts import parse_arrays, parse_json
from ai_detect.errors import CheckpointError, TrainingError

#: Parameter name -> name of the optimizer's tensor -> tensor.
OptimizerState = dict[str, dict[str, Tensor]]


def encode_json(value: Any) -> bytes:
    """JSON as the parts hold it; NaN and infinity raise ValueError."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights by name, copied to the CPU."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in model.state_dict().items()}


def encode_model(weights: Mapping[str, Tensor]) -> bytes:
    """The weights as safetensors in full precision; raises TrainingError where one is not finite."""
    if name := _not_finite(weights):
        raise TrainingError(f"weights are not finite any more ({name}); resume with a lower --learning_rate")
    return bytes(safetensors.torch.save(dict(weights)))


def encode_optimizer(state: OptimizerState) -> bytes:
    """The optimizer's state as torch.save writes it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def decode_json(path: Path, content: bytes) -> Any:
    """The JSON value; raises CheckpointError where it is none."""
    try:
        return parse_json(content)
    except ValueError as error:
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
        tensors = {name: torch.from_numpy(array) for name, array in parse_arrays(content).items()}
    except ValueError as error:
        raise CheckpointError(f"{path} is not a safetensors file of this program ({error})") from error
    if name := _not_finite(tensors):
        raise CheckpointError(f"{path}: {name} holds values that are not finite")
    return tensors


def decode_optimizer(path: Path, content: bytes) -> OptimizerState:
    """The optimizer's state; raises CheckpointError where it is anything but finite tensors by name."""
    try:
        state = _read_torch_archive(content)
    except Exception as error:  # a hostile file can make zipfile and pickle raise anything; all of it means: not usable
        reason = "".join(letter if letter.isprintable() else " " for letter in f"{error}"[:200]) or type(error).__name__
        raise CheckpointError(f"{path} is not a plain optimizer state and was not loaded ({reason})") from error
    if name := _not_finite({f"{n}.{k}": t for n, tensors in state.items() for k, t in tensors.items()}):
        raise CheckpointError(f"{path}: {name} holds values that are not finite")
    return state


#: All that torch.save needs for dictionaries of tensors: no opcode that sets attributes or makes room for what the
#: file does not hold.
_OPCODES = frozenset(
    [
        *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BINPERSID", "EMPTY_DICT", "SETITEM", "SETITEMS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINUNICODE", "NEWTRUE", "NEWFALSE"),
        *("BININT", "BININT1", "BININT2", "LONG1", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    ]
)
_GLOBALS = frozenset(
    ["collections OrderedDict", "torch._utils _rebuild_tensor_v2"]
    + [f"torch {kind}Storage" for kind in ("Float", "Double", "Long")]
)
_MAX_PICKLE_BYTES = 1 << 20


def _read_torch_archive(content: bytes) -> OptimizerState:
    """What torch.load with weights_only=True makes of it, which runs no code; before it, what the file claims is
    compared with what it holds, since byte arrays of any size would be made, and tensors that repeat one number for
    ever.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("its records claim more bytes than it has")
        pickled = [entry for entry in entries if entry.filename.endswith(".pkl")]
        if len(pickled) != 1:
            raise ValueError(f"it holds {len(pickled)} pickles")
        _check_pickle(archive.read(pickled[0]))
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    for tensors in _by_name(state).values():
        for tensor in _by_name(tensors).values():
            if type(tensor) is not Tensor or tensor.layout is not torch.strided or not tensor.is_contiguous():
                raise ValueError("tensors by parameter name expected")
            if tensor.untyped_storage().nbytes() != tensor.nbytes:
                raise ValueError("a tensor does not fill its record")
    return dict(state)


def _check_pickle(pickled: bytes) -> None:
    """Refuse what torch.save does not write; only names come twice, so that nothing can hold itself or grow."""
    if len(pickled) > _MAX_PICKLE_BYTES:
        raise ValueError(f"its pickle has {len(pickled)} bytes")
    before, names = "", set[object]()
    for opcode, argument, _ in pickletools.genops(pickled):
        kind = opcode.name
        known = kind in _OPCODES
        if kind.endswith("BINPUT"):
            known &= isinstance(argument, int) and argument <= len(pickled)  # the memo is an array
            (names.add if before in ("BINUNICODE", "GLOBAL") else names.discard)(argument)
        elif kind.endswith("BINGET"):
            known &= argument in names
        if kind == "GLOBAL" and argument not in _GLOBALS:
            raise ValueError(f"it asks for {argument!r:.100}")
        if not known:
            raise ValueError(f"its pickle holds {kind} where torch.save writes none")
        before = kind


def _by_name(value: Any) -> dict[str, Any]:
    if type(value) is not dict or not all(type(name) is str for name in value):
        raise ValueError("tensors by parameter name expected")
    return value


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], origin: str | Path) -> None:
    """Copy weights into a model of the same names, shapes and dtypes; raises CheckpointError naming what differs."""
    own = model.state_dict()
    if missing := sorted(own.keys() - weights.keys()):
        raise CheckpointError(f"{origin} lacks weights that this model has: {', '.join(missing[:5])}")
    if unknown := sorted(weights.keys() - own.keys()):
        raise CheckpointError(f"{origin} holds weights that this model lacks: {unknown[:5]!s:.200}")
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
            return repr(name)[1:101].rstrip("'")  # in one line
    return None
