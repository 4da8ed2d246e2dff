"""Where the encoder computes."""

from __future__ import annotations

import os

import torch

from ai_detect.errors import ConfigError


def choose_device(setting: str, *, deterministic: bool = False) -> torch.device:
    """The device that `--device` names; `auto` is a GPU, of several processes on a machine each its own, else the CPU.

    With `deterministic`, operations whose result differs from run to run are replaced by slower ones. Raises
    ConfigError where there is no such device.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        torch.use_deterministic_algorithms(True)
    if setting == "auto":
        setting = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(setting)
    except RuntimeError as error:
        raise ConfigError(f"--device {setting}: unknown; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {setting}: not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and device.index is None:  # of several processes each its own
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {setting}: {torch.cuda.device_count()} CUDA devices here; use auto or cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
