"""Killed at random instants and at every stage, with damage in between: the run ends with the straight run's bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from ai_detect.training.checkpoint_store import scan_checkpoints
from resume.process_runs import TIMEOUT_S, Job, ending, wait_until

FLAGS = ("--batch_size", "8", "--num_epochs", "12", "--save_strategy", "steps", "--save_steps", "7", "--patience", "40")
N_STEPS = 300  # of 200 sessions in 12 epochs
N_RANDOM_KILLS = 20
#: Stages that random instants may miss, in the order in which a run comes to them; None stands for random ones.
PLANNED: list[str | None] = ["parse:1", "cache:2", "step:3", "fsync:4", "hashing:2", "rename:1"]
PLANNED += [None] * 8 + ["validation:1", "optimizer:2", "fsync:6", "prune:1"] + [None] * 6 + ["fsync:8", "validation:2"]
PLANNED += [None] * 6
ENDING = ["fit:1", "calibration:2", "fit:1", "model:1", "fsync:3", "scoring:1", "report:1"]
DAMAGES = {10: "truncated", 15: "flipped", 21: "missing", 25: "moved"}


def damage(job: Job, kind: str, draw: random.Random) -> Job:
    """Harm the newest checkpoint, or move the whole run and scramble its times."""
    path = job.newest() / draw.choice(["model.safetensors", "optimizer.pt", "trainer_state.json", "templates.json"])
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        at = draw.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :])
    elif kind == "missing":
        path.unlink()
    else:
        moved = job.at(job.folder.with_name("elsewhere") / "run")
        shutil.copytree(job.folder, moved.folder)
        shutil.rmtree(job.folder)
        for found in sorted(moved.folder.rglob("*")):
            os.utime(found, (draw.randrange(10**9), draw.randrange(10**9)))
        return moved
    return job


def is_past(job: Job, step: int) -> bool:
    return job.step() > step


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_kill_storm(tmp_path: Path, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    job = Job.make(tmp_path, 200, *FLAGS, "--device", device, *(["--deterministic"] if device == "cuda" else []))
    straight = job.at(tmp_path / "straight")
    code, err = straight.run()
    assert code == 0, err
    assert straight.state()["step"] == N_STEPS

    seed = random.SystemRandom().randrange(2**32)
    draw = random.Random(seed)
    n_killed = n_fallen_back = 0
    for number, point in enumerate(PLANNED):
        if point is not None:
            code, err = job.run(point, signal.SIGKILL, "--quiet")
            assert code == -signal.SIGKILL, (seed, point, err)
        else:  # between the steps that are left, so that the storm lasts until the end of training
            left = PLANNED[number:].count(None)
            until = job.step() + draw.randrange(max(1, (N_STEPS - 30 - job.step()) // left + 7))
            process = job.process("never", 0, "--quiet")
            reached = partial(is_past, job, until)
            assert wait_until(process, reached, draw.random() * 0.02), (seed, until)
            process.kill()
            assert process.wait(TIMEOUT_S) == -signal.SIGKILL
        n_killed += 1
        if number in DAMAGES:
            assert len(scan_checkpoints(job.folder, verify=True)[0]) > 1, seed
            job = damage(job, DAMAGES[number], draw)
            n_fallen_back += bool(scan_checkpoints(job.folder, verify=True)[1])
    assert n_fallen_back == 3

    for point in ENDING:
        code, err = job.run(point, signal.SIGKILL, "--quiet")
        assert code == -signal.SIGKILL, (seed, point, err)
        n_killed += 1
    encoder = job.newest() / "model.safetensors"
    trained = (encoder, encoder.stat().st_mtime_ns)
    assert n_killed >= 30
    code, err = job.run()
    assert code == 0, (seed, err)
    assert "only the fit stage is left" in err
    assert (job.newest() / "model.safetensors", encoder.stat().st_mtime_ns) == trained  # not trained again
    assert ending(job) == ending(straight), seed
    assert not [path.name for path in job.folder.glob(".*") if path.name != ".lock"]
