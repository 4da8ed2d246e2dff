"""AdamW on a model's named parameters: the method of torch.optim.AdamW in one page, with a state that can be checked.

Building torch.optim's imports torch's compiler, which takes as long as torch itself; a run would start a second later.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from ai_detect.errors import CheckpointError
from ai_detect.training.parts import OptimizerState, check_alike
from ai_detect.training.state import MAX_COUNT

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class AdamW:
    """Adam with decoupled weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019).

    Matrices decay; gains, biases and other vectors are left alone. The learning rate is given at each step.
    """

    def __init__(self, model: nn.Module, weight_decay: float) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._weight_decay = weight_decay
        self._state: OptimizerState = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            state = self._state.get(name)
            if state is None:
                state = self._state[name] = {
                    "step": torch.zeros((), dtype=torch.int64),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
            state["step"] += 1
            step = int(state["step"])
            if parameter.ndim >= 2:
                parameter.mul_(1 - learning_rate * self._weight_decay)
            state["exp_avg"].lerp_(gradient, 1 - BETA1)
            state["exp_avg_sq"].mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
            scale = (state["exp_avg_sq"].sqrt() / math.sqrt(1 - BETA2**step)).add_(EPSILON)
            parameter.addcdiv_(state["exp_avg"], scale, value=-learning_rate / (1 - BETA1**step))

    def state(self) -> OptimizerState:
        """A copy of the state on the CPU; a parameter that never had a gradient has none."""
        return {
            name: {key: tensor.to("cpu", copy=True) for key, tensor in tensors.items()}
            for name, tensors in self._state.items()
        }

    def load(self, state: OptimizerState, origin: str | Path) -> None:
        """Go on from a saved state; raises CheckpointError where it does not fit the model or is none of AdamW's."""
        if unknown := sorted(state.keys() - self._parameters.keys()):
            raise CheckpointError(f"{origin} holds optimizer state of unknown parameters: {', '.join(unknown[:5])}")
        for name, tensors in state.items():
            if tensors.keys() != {"step", "exp_avg", "exp_avg_sq"}:
                raise CheckpointError(
                    f"{origin}: optimizer state of {name} is not AdamW's ({', '.join(sorted(tensors))})"
                )
            check_alike(f"step of {name}", tensors["step"], torch.zeros((), dtype=torch.int64), origin)
            for key in ("exp_avg", "exp_avg_sq"):
                check_alike(f"{key} of {name}", tensors[key], self._parameters[name], origin)
            step = int(tensors["step"])
            if not 1 <= step <= MAX_COUNT:
                raise CheckpointError(f"{origin}: optimizer state of {name} has step {step}, not 1 to {MAX_COUNT}")
            if bool((tensors["exp_avg_sq"] < 0).any()):
                raise CheckpointError(
                    f"{origin}: optimizer state of {name} has a negative exp_avg_sq, a mean of squares"
                )
        self._state = {
            name: {
                key: tensor.to("cpu" if key == "step" else self._parameters[name].device, copy=True)
                for key, tensor in tensors.items()
            }
            for name, tensors in state.items()
        }
