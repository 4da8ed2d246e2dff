"""R24 and R25: asked to stop in any stage, a run leaves soon with 130 or 143, and goes on as if never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ai_detect.training.checkpoint_store import scan_checkpoints
from resume.process_runs import ENVIRONMENT, SABOTEUR, Job, ending, wait_until

FLAGS = ("--batch_size", "16", "--num_epochs", "4", "--save_strategy", "steps", "--save_steps", "6")
#: "Soon" on a machine that does other work as well: far less than any stage would take to its end on a real log.
SOON_S = 30


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = Job.make(tmp_path_factory.mktemp("straight"), 120, *FLAGS)
    code, err = job.run()
    assert code == 0, err
    return job


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "number"),
    [
        ("parse:1", signal.SIGTERM),
        ("step:4", signal.SIGINT),
        ("step:20", signal.SIGTERM),
        ("validation:2", signal.SIGTERM),
        ("hashing:1", signal.SIGINT),  # inside a save
        ("fit:1", signal.SIGTERM),
        ("calibration:3", signal.SIGINT),
        ("scoring:1", signal.SIGTERM),
    ],
)
def test_r24_a_signal_in_any_stage_saves_and_leaves(straight: Job, tmp_path: Path, point: str, number: int) -> None:
    job = straight.at(tmp_path / "run")
    begun = time.monotonic()
    code, err = job.run(point, number)
    assert time.monotonic() - begun < 2 * SOON_S
    assert code == 128 + number, err
    assert f"stopped by {signal.Signals(number).name}" in err and "Traceback" not in err
    valid, rejected = scan_checkpoints(job.folder, verify=True)
    assert not rejected
    if point != "parse:1":
        assert valid and "go on with: " in err and "--train_file" in err.split("go on with: ")[1]
    if point.startswith(("step", "validation")):
        assert f"saved {valid[-1].path}" in err or "saved before" in err
    code, err = job.run()
    assert code == 0, err
    assert ending(job) == ending(straight)


@pytest.mark.slow
def test_r24_a_second_signal_leaves_at_once_and_harms_nothing(straight: Job, tmp_path: Path) -> None:
    job = straight.at(tmp_path / "run")
    slow = "import time; from ai_detect.training import checkpoint; inner = checkpoint._write_durable\n"
    slow += "def held(*given):\n    time.sleep(3); inner(*given)\ncheckpoint._write_durable = held\n"  # 18 s a save
    program = f"import sys; sys.path.insert(0, {str(SABOTEUR.parent)!r})\n{slow}"
    program += f"from ai_detect.cli.main import main; sys.exit(main({job.arguments()!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert wait_until(process, lambda: job.step() >= 8, 0.1)
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None  # saving
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    process.communicate(timeout=SOON_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 10  # the save itself would have taken more
    assert not scan_checkpoints(job.folder)[1]
    code, err = job.run()
    assert code == 0, err
    assert ending(job) == ending(straight)


@pytest.mark.slow
def test_r24_usr1_saves_and_goes_on(straight: Job, tmp_path: Path) -> None:
    job = straight.at(tmp_path / "run")
    code, err = job.run("step:9", signal.SIGUSR1)
    assert code == 0, err
    assert "checkpoint-9 (" in err
    assert ending(job) == ending(straight)


@pytest.mark.slow
def test_r25_an_interrupted_run_does_not_deploy_and_leaves_no_child(straight: Job, tmp_path: Path) -> None:
    job = straight.at(tmp_path / "run")
    command = [sys.executable, str(SABOTEUR), "step:9", str(int(signal.SIGTERM)), *job.arguments()]
    line = " ".join(f"'{word}'" for word in command) + f" && touch '{tmp_path}/deployed'"
    process = subprocess.Popen(line, shell=True, env=ENVIRONMENT, start_new_session=True, stderr=subprocess.DEVNULL)
    assert process.wait(timeout=120) == 128 + signal.SIGTERM
    assert not (tmp_path / "deployed").exists()
    with pytest.raises(ProcessLookupError):  # nobody is left in its session
        os.killpg(process.pid, 0)
