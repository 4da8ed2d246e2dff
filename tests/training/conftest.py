"""Lets the tests of this room import `training_toy`, which also runs as a program of its own."""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from ai_detect.training import checkpoint_writer, trainer

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="module")
def no_fsync() -> Iterator[None]:
    """No test can see what a power failure would; waiting for the disk is most of the time of a small save."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(trainer, "FINAL_WAITS_S", (0.0, 0.0))
        yield


class _AtOnce:
    """An executor that has done its work when it is given it."""

    def __init__(self, **options: Any) -> None:
        pass

    def submit(self, call: Callable[..., Any], *given: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(call(*given))
        except Exception as error:
            done.set_exception(error)
        return done

    def shutdown(self, wait: bool) -> None:
        pass


@pytest.fixture
def saving_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save in the training thread: for tests that count steps or calls of the disk."""
    monkeypatch.setattr(checkpoint_writer, "ThreadPoolExecutor", _AtOnce)
