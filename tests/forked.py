"""Python programs in processes of their own, forked from a server that has imported what they need.

A new interpreter takes longer to import torch and the detectors than a small run takes. A fork is a process like any
other: it is killed, gets signals and leaves with an exit code. What is about how a process starts is no matter for it.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from multiprocessing import forkserver, get_context
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Protocol
from unittest import mock

from support import ROOT

_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(["forked", "warm_imports"])
_PATH = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
#: Of the server and so of all its forks. One thread: two of them wait for each other on a busy machine.
ENVIRONMENT = {"PYTHONPATH": _PATH, "OMP_NUM_THREADS": "1"}


def start_server() -> None:
    """The server that forks, where it does not run yet; it keeps a folder where temporary ones lie at that time."""
    with mock.patch.dict(os.environ, ENVIRONMENT):
        forkserver.ensure_running()


class Process(Protocol):
    """A process that may have ended."""

    def poll(self) -> int | None:
        """Its exit code, None before."""


class Forked:
    """A running program; as much of `subprocess.Popen` as the tests need."""

    def __init__(
        self, *command: str | Path, cwd: Path = ROOT, stdout: Path | None = None, stderr: Path | None = None
    ) -> None:
        self.args = [str(word) for word in command]
        start_server()
        self._process = _FORKS.Process(target=_run, args=(self.args, str(cwd), str(stdout or ""), str(stderr or "")))
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            self.kill()
            raise TimeoutExpired(self.args, timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], cwd: str, stdout: str, stderr: str) -> None:
    """In the fork: the script as the interpreter would run it."""
    os.chdir(cwd)
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644), number)
    sys.argv = arguments
    sys.path[:0] = [str(Path(arguments[0]).resolve().parent)]
    runpy.run_path(arguments[0], run_name="__main__")
