"""A program whose forks do the same work, each killed with SIGKILL at another call that changes the disk.

    killed_everywhere.py save WORK BASE   the toy goes on from BASE; copies killed in WORK/<number of the call>
    killed_everywhere.py parse WORK LOG   a log is parsed into the cache WORK/<number of the call>
    killed_everywhere.py timed WORK LOG   the same, killed by the clock

It prints, as JSON, which call each was killed at. A fork costs milliseconds where a new process would import torch.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from disk_calls import disk_calls
from support import ROOT, SHOP_SESSION
from training_toy import ToyTask, go_on, settings

from ai_detect.config import InputSettings
from ai_detect.sequences.parsed_log import learn_log
from ai_detect.training import checkpoint_writer

READING = InputSettings(session_regex=SHOP_SESSION)
#: Calls tried of a save; more than two saves make, with the prune after each.
N_SAVE_CALLS = 110
#: Keeps one checkpoint, so that each save is followed by a prune.
OPTIONS = settings(save_strategy="steps", save_steps=5, save_total_limit=1)


class Waited(ThreadPoolExecutor):
    """Training waits for each save, so that the calls come in the same order in every fork."""

    def submit(self, *given: Any, **options: Any) -> Any:
        job = super().submit(*given, **options)
        wait([job])
        return job


def forked(work: Callable[[], object], kill_at: int | None, note: Path) -> int:
    """Do the work in a fork that kills itself at the `kill_at`-th call; returns its process id."""
    if pid := os.fork():
        return pid
    calls, plain_open = 0, open

    def called(name: str) -> None:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            with plain_open(note, "w") as file:
                file.write(name)
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        with nullcontext() if kill_at is None else disk_calls(called):
            work()
        os._exit(0)
    finally:
        os._exit(1)


def at_every_call(folder: Path, work_in: Callable[[Path], object], base: Path | None, most: int) -> dict[str, str]:
    """The name of each call that was killed, by its number, until the work is done before it comes or `most`."""
    killed = {}
    for number in range(1, most + 1):
        place, note = folder / str(number), folder / f"{number}.txt"
        if base is not None:
            shutil.copytree(base, place)
        pid = forked(lambda place=place: work_in(place), number, note)  # type: ignore[misc]
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 0:
            break
        assert code == -signal.SIGKILL, code
        killed[str(number)] = note.read_text()
    return killed


def by_the_clock(folder: Path, work_in: Callable[[Path], object], n: int) -> dict[str, str]:
    """Kill at `n` instants spread over the time that the work takes."""
    begun = time.monotonic()
    assert os.waitpid(forked(lambda: work_in(folder / "whole"), None, folder), 0)[1] == 0
    takes = time.monotonic() - begun
    killed = {}
    for number in range(n):
        pid = forked(lambda number=number: work_in(folder / str(number)), None, folder)  # type: ignore[misc]
        time.sleep(takes * (number + 0.5) / n)
        os.kill(pid, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
            killed[str(number)] = f"after {takes * (number + 0.5) / n:.3f} s"
    return killed


def killed_forks(kind: str, work: Path, given: Path) -> dict[str, str]:
    """Run this program; gives what it prints."""
    work.mkdir()
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests/training", Path(__file__).parent)))
    ended = subprocess.run(
        [sys.executable, __file__, kind, work, given],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    killed: dict[str, str] = json.loads(ended.stdout)
    return killed


def main() -> None:
    kind, folder, given = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    if kind == "save":
        checkpoint_writer.ThreadPoolExecutor = Waited  # type: ignore[misc]
        killed = at_every_call(folder, lambda place: go_on(ToyTask(), place, OPTIONS), given, N_SAVE_CALLS)
    elif kind == "parse":
        killed = at_every_call(folder, lambda place: learn_log(str(given), READING, place), None, 400)
    else:
        killed = by_the_clock(folder, lambda place: learn_log(str(given), READING, place), 8)
    print(json.dumps(killed))


if __name__ == "__main__":
    main()
