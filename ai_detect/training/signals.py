"""Signals that ask a run to stop: the first is noted and polled between steps, the second leaves at once."""

from __future__ import annotations

import logging
import os
import signal
from types import FrameType, TracebackType
from typing import Any

from ai_detect.errors import Interrupted

logger = logging.getLogger(__name__)

STOPPING = (signal.SIGINT, signal.SIGTERM)


class SignalFlag:
    """Context manager that notes SIGINT, SIGTERM (stop) and SIGUSR1 (save and go on) instead of acting on them.

    Entered in the main thread only, as Python's signal handlers demand; the handlers found are put back on leaving.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._save_requested = False
        self._found: dict[int, Any] = {}

    def __enter__(self) -> SignalFlag:
        for number in STOPPING:
            self._found[number] = signal.signal(number, self._on_stop)
        self._found[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._on_save)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._found.items():
            signal.signal(number, handler)
        self._found.clear()

    def should_stop(self) -> int | None:
        """The signal that asked to stop, None while there was none."""
        return self._number

    def take_save_request(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        requested, self._save_requested = self._save_requested, False
        return requested

    def check(self, activity: str) -> None:
        """Raise Interrupted where a signal asked to stop; for loops that have no state of their own to save."""
        if self._number is not None:
            raise Interrupted(f"stopped by {signal.Signals(self._number).name} during {activity}", self._number)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if self._number is not None:
            os._exit(128 + number)  # asked twice: no clean-up, the last checkpoint on disk stays as it is
        self._number = number

    def _on_save(self, number: int, frame: FrameType | None) -> None:
        self._save_requested = True
