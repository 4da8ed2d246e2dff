"""A cluster of Ray on this machine: processes of it are killed, and parts that cannot be done are set aside."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support import ROOT, SHOP_SESSION, Run, Shop, shop_log

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra [ray])"),
]

_PATIENCE_S = 180


def waited_for(condition: Callable[[], bool]) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + _PATIENCE_S
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.005)
    return found


def processes_of(driver: int) -> dict[int, str]:
    """The processes that a driver's cluster has, with their names."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:  # it has ended
            continue

    def is_of_driver(process: int) -> bool:
        while process and process != driver:
            process = parents.get(process, 0)
        return process == driver

    return {process: name for process, name in names.items() if process != driver and is_of_driver(process)}


def kill_busy_worker(driver: int) -> bool:
    """Whether there was a process that works on a part, which is killed."""
    busy = [process for process, name in processes_of(driver).items() if name.startswith("ray::_do")]
    for process in busy[:1]:
        os.kill(process, signal.SIGKILL)
    return bool(busy)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked for in /proc")
def test_killed_driver_killed_worker_and_a_broken_file(run: Run, shop: Shop, tmp_path: Path) -> None:
    """The driver is killed in the middle of parsing; the same command goes on, loses a worker, sets a file aside that
    cannot be read, and writes for all others what one process writes.
    """
    logs, output = tmp_path / "logs", tmp_path / "parts"
    logs.mkdir()
    (logs / "a.log").write_text(shop_log(600, seed=5, faulty=(17, 333, 500)))
    with gzip.open(logs / "b.log.gz", "wt") as file:
        file.write(shop_log(1000, seed=6)[-9000:])
    flags = ["--log_file", logs, "--model_dir", shop.model, "--session_regex", SHOP_SESSION]
    assert run("detect", *flags, "--output_dir", tmp_path / "whole").code == 0
    (logs / "c.log.gz").write_bytes(gzip.compress(shop_log(1000, seed=7).encode())[:-300])

    parts = ["--output_dir", output, "--engine", "ray", "--ray_workers", "3", "--block_bytes", "2500"]
    command = [str(word) for word in (sys.executable, ROOT / "ai_detect" / "detect.py", *flags, *parts)]

    def blocks() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in output.glob("work-*/blocks/*.json")}

    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as driver:
        assert waited_for(lambda: len(blocks()) >= 5)
        others = processes_of(driver.pid)
        driver.kill()
    for process in others:  # all would end with the driver, Ray's own agents after a minute
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    done_before = blocks()

    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        assert waited_for(lambda: len(blocks()) >= len(done_before) + 5)
        assert waited_for(lambda: kill_busy_worker(driver.pid))
        out, err = driver.communicate(timeout=_PATIENCE_S)
    assert driver.returncode == 1
    told = re.search(r"(\d+) of (\d+) blocks were parsed before", err)
    assert told is not None
    assert len(done_before) <= int(told[1]) < int(told[2])
    assert "its process ended" in err
    assert "c.log.gz" in err and "left out" in err
    assert "sessions are anomalies" in out
    assert "raylet" not in out
    after = blocks()
    assert done_before.items() <= after.items(), "a block that was done was done again"
    for name in ("scores.csv", "anomalies.jsonl"):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    summary = json.loads((output / "summary.json").read_text())
    assert [file["n_lines"] > 0 for file in summary["files"]] == [True, True, False]
    aside = summary["set_aside"]
    assert [(part["stage"], "c.log.gz" in part["part"]) for part in aside] == [("parsing", True)]


_POISON = """
import json, os, signal, sys, time
from ai_detect.distributed.ray_engine import RayEngine, cluster
from ai_detect.sequences.parsed_log import Silent

def work(item):
    number, folder = item
    open(f"{folder}/{number}-{time.monotonic_ns()}", "w").close()
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 5:
        raise ValueError("five\\nlines")

with cluster(None, 2) as ray:
    failed = RayEngine(ray, Silent(), lambda title: None).run(work, [(n, sys.argv[1]) for n in range(8)], "trying")
print(json.dumps(failed))
"""


def test_what_kills_its_worker_again_and_again_is_set_aside(tmp_path: Path) -> None:
    script = tmp_path / "poison.py"
    script.write_text(_POISON)
    (tmp_path / "begun").mkdir()
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "begun")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=_PATIENCE_S,
    )
    failed = {int(number): reason for number, reason in json.loads(done.stdout).items()}
    assert failed.keys() == {3, 5}
    assert "its process ended" in failed[3]
    assert failed[5] == "ValueError: five lines"
    begun = [int(path.name.partition("-")[0]) for path in (tmp_path / "begun").iterdir()]
    assert [begun.count(number) for number in range(8)] == [1, 1, 1, 3, 1, 3, 1, 1]
