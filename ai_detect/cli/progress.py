"""Progress bars of long work, on standard error, off where it is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from tqdm import tqdm

if TYPE_CHECKING:
    from ai_detect.config import TrainingSettings
    from ai_detect.training.signals import SignalFlag
    from ai_detect.training.state import TrainerState


class TerminalProgress:
    """The `pipeline.Progress` of the command line; every advance also looks whether a signal asked to stop."""

    def __init__(self, quiet: bool, signals: SignalFlag | None = None) -> None:
        self._disabled = quiet or not sys.stderr.isatty()
        self._signals = signals

    @contextmanager
    def stage(self, title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        """A bar for one stage; yields the function that advances it."""
        with self._bar(title, total, unit) as bar:

            def advance(n: int) -> None:
                bar.update(n)
                if self._signals is not None:
                    self._signals.check(title)

            yield advance

    @contextmanager
    def training(
        self, state: TrainerState, settings: TrainingSettings
    ) -> Iterator[Callable[[TrainerState, Mapping[str, float]], None]]:
        """A bar over the samples of all planned epochs; yields the trainer's `on_step`."""
        total = state.planned_epochs * state.n_samples
        with self._bar("training", total, "samples", initial=state.samples) as bar:

            def on_step(state: TrainerState, values: Mapping[str, float]) -> None:
                bar.update(state.samples - bar.n)
                bar.set_postfix_str(
                    f"step {state.step}, epoch {values['epoch']:.1f}, loss {values['loss']:.4f}", refresh=False
                )

            yield on_step

    def _bar(self, title: str, total: int | None, unit: str, initial: int = 0) -> tqdm[NoReturn]:
        return tqdm(
            desc=title,
            total=total,
            unit=f" {unit}",
            initial=initial,
            disable=self._disabled,
            leave=False,
            file=sys.stderr,
            unit_scale=True,
        )
