"""Where the encoder computes."""

from __future__ import annotations

import torch

from ai_detect.errors import ConfigError


def choose_device(setting: str) -> torch.device:
    """The device that `--device` names; `auto` is the first GPU, else the CPU.

    Raises ConfigError where there is none such.
    """
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(setting)
    except RuntimeError as error:
        raise ConfigError(f"--device {setting}: unknown; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {setting}: not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {setting}: {torch.cuda.device_count()} CUDA devices here; use auto or cpu")
    return device
