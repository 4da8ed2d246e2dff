"""A toy task for the trainer, and a small program that trains it and kills itself where it is told to."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ai_detect.config import TrainingSettings
from ai_detect.errors import AiDetectError, CheckpointError
from ai_detect.process_group import ALONE
from ai_detect.training.checkpoint import LoadedCheckpoint
from ai_detect.training.checkpoint_store import latest_checkpoint, next_segment, sweep_stale
from ai_detect.training.epochs import EpochPlan, plan_epochs, plan_fresh
from ai_detect.training.schedule import seed_step
from ai_detect.training.signals import SignalFlag
from ai_detect.training.state import TrainerState, new_state, resumed_state
from ai_detect.training.trainer import train

CONFIG = {"learning_rate": 0.01}
TEMPLATES = {"templates": ["a <*>", "b\udc80"]}
PROVENANCE = {"training_data": {"sha256": "0" * 64}}


class ToyTask:
    """A dropout MLP that reconstructs vectors; it notes which samples it was given."""

    def __init__(self, n_samples: int = 50, width: int = 8, *, validation: bool = True) -> None:
        seed_step(7, 0)
        self.model = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, width))
        generator = np.random.default_rng(0)
        self.vectors = torch.from_numpy(generator.normal(size=(n_samples, width)).astype(np.float32))
        self.held_out = torch.from_numpy(generator.normal(size=(20, width)).astype(np.float32))
        self.n_samples = n_samples
        self.group = ALONE
        self.validation = validation
        self.seen: list[tuple[int, int]] = []  # (epoch, sample)

    def training_loss(self, indices: np.ndarray, epoch: int) -> tuple[Tensor, dict[str, float]]:
        self.seen += [(epoch, int(index)) for index in indices]
        vectors = self.vectors[torch.from_numpy(indices)]
        loss = ((self.model(vectors) - vectors) ** 2).mean()
        return loss, {"mse": float(loss.detach())}

    def prepare(self, indices: np.ndarray, epoch: int) -> None:
        pass

    def validation_loss(self) -> float | None:
        if not self.validation:
            return None
        return float(((self.model(self.held_out) - self.held_out) ** 2).mean())


def settings(**values: Any) -> TrainingSettings:
    return TrainingSettings(
        **{"batch_size": 8, "learning_rate": 0.01, "warmup_steps": 4, "save_total_limit": 100, "patience": 50, **values}
    )


def start(task: ToyTask, folder: Path, options: TrainingSettings, epochs: int = 3, **more: Any) -> TrainerState:
    """Train anew; `more` goes to `train`."""
    plan = plan_fresh(epochs)
    state = new_state(options, plan, task.n_samples, eval_id="e", provenance=PROVENANCE)
    return train(task, state, options, checkpoint_dir=folder, config=CONFIG, templates=TEMPLATES, **more)


def go_on(
    task: ToyTask,
    folder: Path,
    options: TrainingSettings,
    loaded: LoadedCheckpoint | None = None,
    *,
    flags: dict[str, int] | None = None,
    changes: dict[str, Any] | None = None,
    **more: Any,
) -> TrainerState:
    """Resume from `loaded` (default: the latest); `flags` go to `plan_epochs`, `changes` to `resumed_state`."""
    sweep_stale(folder)
    loaded = loaded or latest_checkpoint(folder)
    state = continued(loaded, folder, options, flags=flags, **(changes or {}))
    return train(
        task, state, options, checkpoint_dir=folder, config=CONFIG, templates=TEMPLATES, resumed=loaded, **more
    )


def continued(
    loaded: LoadedCheckpoint,
    folder: Path,
    options: TrainingSettings,
    *,
    flags: dict[str, int] | None = None,
    **changes: Any,
) -> TrainerState:
    old = loaded.trainer_state
    plan: EpochPlan = plan_epochs(old.epoch, old.planned_epochs, old.phase, **(flags or {}))
    values = {
        "n_samples": old.n_samples,
        "segment": next_segment(folder, loaded),
        "eval_id": old.eval_id,
        "provenance": old.provenance,
        "overrides": {},
        **changes,
    }
    return resumed_state(old, loaded.checkpoint.hash, options, plan, **values)


def arm(task: ToyTask, point: str, number: int) -> None:
    """Make `task` send itself the signal at a point: step:K, validation:K or save:K (the K-th of this process)."""
    kind, _, count = point.partition(":")
    calls = 0

    def fire() -> None:
        nonlocal calls
        calls += 1
        if calls == int(count):
            os.kill(os.getpid(), number)

    if kind == "save":
        fsync = os.fsync
        os.fsync = lambda descriptor: (fsync(descriptor), fire())[0]
        return
    name = {"step": "training_loss", "validation": "validation_loss"}[kind]
    inner = getattr(task, name)
    setattr(task, name, lambda *given: (fire(), inner(*given))[1])


def main() -> None:
    """toy.py FOLDER POINT SIGNAL: train or resume in FOLDER; kill at POINT unless it is 'never'."""
    folder, point, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    task, options = ToyTask(), settings(save_strategy="steps", save_steps=5)
    if point != "never":
        arm(task, point, number)
    with SignalFlag() as flag:
        polls: dict[str, Any] = {"should_stop": flag.should_stop, "take_save_request": flag.take_save_request}
        try:
            sweep_stale(folder)
            try:
                loaded: LoadedCheckpoint | None = latest_checkpoint(folder)
            except CheckpointError:
                loaded = None
            state = start(task, folder, options, **polls) if loaded is None else go_on(task, folder, options, **polls)
            flag.check("what comes after training")
        except AiDetectError as error:
            print(error, file=sys.stderr)
            raise SystemExit(error.exit_code) from error
    print(json.dumps({"step": state.step, "compiler_imported": "torch._dynamo" in sys.modules}))


if __name__ == "__main__":
    main()
