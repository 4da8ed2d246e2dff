"""R14, R27, R33: torchrun's processes see the same samples and losses as one, decide as one, and end together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import ROOT

from resume.process_runs import ENVIRONMENT, TIMEOUT_S, Job, ending, wait_until

FLAGS = ("--batch_size", "16", "--num_epochs", "4", "--save_strategy", "steps", "--save_steps", "6", "--seed", "5")
SOON_S = 30


def losses(job: Job) -> dict[int, tuple[float, float]]:
    """Epoch position and loss by step, from metrics.jsonl."""
    rows = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return {row["step"]: (row["epoch"], row["loss"]) for row in rows}


def assert_same_training(found: Job, expected: Job) -> None:
    """The same samples at every step, and the losses that they give but for rounding."""
    a, b = losses(found), losses(expected)
    assert a.keys() == b.keys()
    for step, (epoch, loss) in a.items():
        assert epoch == b[step][0]
        assert loss == pytest.approx(b[step][1], rel=2e-4), step
    assert found.state()["val_losses"] == pytest.approx(expected.state()["val_losses"], rel=2e-4)
    assert found.state()["order_check"] == expected.state()["order_check"]


def workers(launcher: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun started, by rank."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher.pid:
                rank = dict(item.split("=", 1) for item in (folder / "environ").read_text().split("\0") if "=" in item)
                found.append((int(rank["RANK"]), int(folder.name)))
        except (OSError, KeyError):
            continue
    return [pid for _, pid in sorted(found)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Job:
    # 117 sessions: the last batch of an epoch has 5, which four processes cannot share evenly
    job = Job.make(tmp_path_factory.mktemp("alone"), 117, *FLAGS)
    code, err = job.run()
    assert code == 0, err
    return job


@pytest.fixture(scope="module")
def on_two(alone: Job, tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = alone.at(tmp_path_factory.mktemp("two") / "run")
    code, err = job.run_on(2)
    assert code == 0, err
    return job


@pytest.mark.slow
def test_r27_two_and_four_processes_train_as_one(alone: Job, on_two: Job, tmp_path: Path) -> None:
    assert_same_training(on_two, alone)
    on_four = alone.at(tmp_path / "run")
    code, err = on_four.run_on(4)
    assert code == 0, err
    assert_same_training(on_four, alone)
    # One process wrote: every file once, nothing of the others beside it.
    assert err.count("saved ") == alone_saves(alone) + 1  # and the model
    names = {path.name for path in on_four.folder.iterdir()}
    assert names == {path.name for path in alone.folder.iterdir()}


def alone_saves(job: Job) -> int:
    steps = losses(job)
    return len(steps) // 6 + (len(steps) % 6 > 0)


@pytest.mark.slow
def test_r27_stopped_on_two_resumed_on_one_and_on_four(alone: Job, tmp_path: Path) -> None:
    job = alone.at(tmp_path / "run")
    stopped = job.processes(2)
    assert wait_until(stopped, lambda: job.step() >= 7)
    begun = time.monotonic()
    stopped.send_signal(signal.SIGTERM)
    err = stopped.communicate(timeout=TIMEOUT_S)[1]
    assert stopped.returncode != 0 and time.monotonic() - begun < SOON_S
    assert err.count("ai-detect: stopped by SIGTERM at step") == 1
    assert "go on with: " in err
    stopped_at = job.step()
    assert stopped_at < 31, "the machine was too busy to be stopped in time"
    code, err = job.run("never", 0, "--total_steps", str(min(31, stopped_at + 7)))
    assert code == 0, err
    assert "processes" in err  # the table of what differs
    code, err = job.run_on(4)
    assert code == 0, err
    assert_same_training(job, alone)


@pytest.mark.slow
def test_r27_killed_and_resumed_on_two_gives_the_bytes_of_two(on_two: Job, tmp_path: Path) -> None:
    job = on_two.at(tmp_path / "run")
    for step, rank in ((8, 1), (17, 0)):
        process = job.processes(2)
        assert wait_until(process, lambda step=step: job.step() >= step)
        begun = time.monotonic()
        os.kill(workers(process)[rank], signal.SIGKILL)
        err = process.communicate(timeout=TIMEOUT_S)[1]
        # R14: one that dies ends all, promptly and in words
        assert process.returncode != 0 and time.monotonic() - begun < SOON_S
        assert "another process of this run has ended" in err and "resume" in err
        assert not workers(process)
    code, err = job.run_on(2)
    assert code == 0, err
    assert ending(job) == ending(on_two)


@pytest.mark.slow
def test_r27_a_batch_that_cannot_be_shared_is_refused(alone: Job, tmp_path: Path) -> None:
    job = Job(alone.train_log, alone.eval_log, (*alone.flags, "--batch_size", "15"), tmp_path / "run")
    code, err = job.run_on(2)
    assert code != 0
    assert "--batch_size 15 cannot be shared evenly by 2 processes" in err
    assert not list(tmp_path.rglob("checkpoint-*"))


@pytest.mark.slow
def test_r33_a_checkpoint_that_one_process_does_not_see_ends_all(alone: Job, tmp_path: Path) -> None:
    for place in ("0", "1"):
        shutil.copytree(alone.folder, tmp_path / place / "run")
    newest = alone.newest().name
    shutil.rmtree(tmp_path / "1" / "run" / newest)  # hidden from the second process
    script = tmp_path / "from_its_own_folder.py"
    program = "import os, sys; sys.path[0] = sys.argv.pop(1); os.chdir(sys.argv.pop(1) + '/' + os.environ['RANK'])\n"
    script.write_text(program + "from ai_detect.cli.main import main; sys.exit(main(sys.argv[1:]))\n")
    flags = ["resume", "--train_file", str(alone.train_log), "--checkpoint_dir", "run", "--num_epochs", "1"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    done = subprocess.run(
        [*launcher, str(ROOT), str(tmp_path), *flags],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode != 0
    assert f"process 1: run/{newest} does not exist" in done.stderr
    assert "a folder that all processes share" in done.stderr
    assert not (tmp_path / "0" / "run" / "superseded").exists()


@pytest.mark.slow
def test_r14_a_first_process_that_cannot_save_ends_all(alone: Job, tmp_path: Path) -> None:
    script = tmp_path / "full_disk.py"
    program = (
        "import errno, sys; sys.path[0] = sys.argv.pop(1)\n"
        "from ai_detect.cli.main import main\n"
        "from ai_detect.training import checkpoint, trainer\n"
        "def full(*given):\n    raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "checkpoint._write_durable = full\n"
        "trainer.FINAL_WAITS_S = (0.0, 0.0)\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    script.write_text(program)
    job = alone.at(tmp_path / "run")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    done = subprocess.run(
        [*launcher, str(ROOT), *job.arguments()], env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode != 0
    assert "cannot be saved (" in done.stderr and "none was saved" in done.stderr
    assert not (job.folder / "model").exists()


@pytest.mark.slow
def test_bf16_and_accumulation_on_two_processes(alone: Job, tmp_path: Path) -> None:
    flags = (*alone.flags, "--batch_size", "8", "--gradient_accumulation", "2", "--precision", "bf16")
    job = Job(alone.train_log, alone.eval_log, flags, tmp_path / "run")
    code, err = job.run_on(2)
    assert code == 0, err
    exact, rough = losses(alone), losses(job)
    assert {step: epoch for step, (epoch, _) in rough.items()} == {step: epoch for step, (epoch, _) in exact.items()}
    assert rough[max(rough)][1] < rough[1][1]
