from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training_toy import ToyTask, settings, start

from ai_detect.errors import Interrupted
from ai_detect.training.checkpoint_store import scan_checkpoints
from ai_detect.training.signals import SignalFlag


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted(number: int) -> None:
    before = signal.getsignal(number)
    with SignalFlag() as flag:
        assert flag.should_stop() is None
        flag.check("nothing")
        os.kill(os.getpid(), number)
        assert flag.should_stop() == number
        with pytest.raises(Interrupted, match="during parsing") as error:
            flag.check("parsing")
        assert error.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_usr1_asks_for_one_save_and_training_goes_on(tmp_path: Path) -> None:
    with SignalFlag() as flag:
        state = start(
            ToyTask(),
            tmp_path,
            settings(),
            should_stop=flag.should_stop,
            take_save_request=flag.take_save_request,
            on_step=lambda state, values: os.kill(os.getpid(), signal.SIGUSR1) if state.step == 3 else None,
        )
    assert state.step == 21
    assert [checkpoint.step for checkpoint in scan_checkpoints(tmp_path)[0]] == [3, 7, 14, 21]


def test_the_second_signal_leaves_at_once() -> None:
    program = """
import os, signal
from ai_detect.training.signals import SignalFlag
with SignalFlag():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        print("noted", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        print("still here", flush=True)
    finally:
        print("cleaned up", flush=True)
"""
    root = str(Path(__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (143, "noted\n")
