"""The parts of a job as tasks of Ray: a small layer, which knows nothing of logs.

A part that raises or loses its worker is done again, up to `ATTEMPTS` times in all. Ray hands functions and their small
arguments from process to process of the cluster as pickles; what parts read and write are files of ours.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import ai_detect
from ai_detect.errors import ConfigError
from ai_detect.sequences.parsed_log import Progress

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 3
#: Parts that wait in the cluster, for each of its processors.
_QUEUED = 4
#: Seconds after which a look is taken whether to stop.
_PATIENCE_S = 0.5
_LONGEST_REASON = 300
#: Only names of files and settings pass through the object store.
_STORE_BYTES = 100 << 20


class RayEngine:
    """Does parts of a job in the processes of a cluster that `cluster` has connected to."""

    def __init__(self, ray: Any, progress: Progress, check: Callable[[str], None]) -> None:
        """`check` is called now and then with the title of the work and may raise to stop."""
        self._ray = ray
        self._progress = progress
        self._check = check
        self._do = ray.remote(num_cpus=1, max_retries=0)(_do)

    def run(self, work: Callable[[T], None], items: Sequence[T], title: str) -> dict[int, str]:
        """Do the work on each item, in any order; returns those that failed again and again, by number, and why."""
        ray = self._ray
        waiting = deque((number, 1) for number in range(len(items)))
        room = _QUEUED * max(1, int(ray.cluster_resources().get("CPU", 1)))
        under_way: dict[Any, tuple[int, int]] = {}
        failed: dict[int, str] = {}
        with self._progress.stage(title, len(items), "parts") as advance:
            while waiting or under_way:
                while waiting and len(under_way) < room:
                    number, attempt = waiting.popleft()
                    under_way[self._do.remote(work, items[number])] = number, attempt
                self._check(title)
                for part in ray.wait(list(under_way), timeout=_PATIENCE_S)[0]:
                    number, attempt = under_way.pop(part)
                    try:
                        ray.get(part)
                    except ray.exceptions.RayError as error:
                        reason = _reason(error)
                        logger.warning("%s: part %d failed, attempt %d: %s", title, number, attempt, reason)
                        if attempt < ATTEMPTS:
                            waiting.append((number, attempt + 1))
                            continue
                        failed[number] = reason
                    advance(1)
        return failed


def _do(work: Callable[[T], None], item: T) -> None:
    work(item)


def _reason(error: Exception) -> str:
    """Why a part failed, in one line."""
    cause = getattr(error, "cause", None)
    if cause is None:
        return f"its process ended ({type(error).__name__}): killed, or out of memory"
    text = " ".join(str(cause).split())
    return f"{type(cause).__name__}: {text}"[:_LONGEST_REASON]


@contextmanager
def cluster(address: str | None, n_workers: int | None) -> Iterator[Any]:
    """Ray, connected to the cluster at `address`, or to one of `n_workers` processes here that ends with the block
    (default: as many as there are processors), which run the same code as this one.

    Raises ConfigError where Ray is not installed or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers that it is used
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("--engine ray: Ray is not installed; pip install 'ai-detect[ray]'") from error
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    here = {"address": "local", "num_cpus": n_workers, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    with redirect_stdout(sys.stderr):  # Ray tells of processes that died; standard output is for results
        try:
            where = here if address is None else {"address": address}
            with _this_code():
                ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"--engine ray: no cluster at {address or 'this machine'} ({error})") from error
        try:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _this_code() -> Iterator[None]:
    """Let processes that are started find this package first, installed or not."""
    before = os.environ.get("PYTHONPATH")
    root = str(Path(ai_detect.__file__).parents[1])
    os.environ["PYTHONPATH"] = root if before is None else root + os.pathsep + before
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
