"""What a resumed run goes on from, how far, and with which weights: found by a reviewer, kept by tests."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from support import Result, Run, shop_log

from ai_detect.cli import verify_command
from ai_detect.training.checkpoint_store import best_checkpoint, scan_checkpoints
from resume.process_runs import Job, ending

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_page")]

FLAGS = ("--batch_size", "16", "--num_epochs", "4", "--save_strategy", "steps", "--save_steps", "4", "--patience", "50")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished run of 32 steps."""
    job = Job.make(tmp_path_factory.mktemp("finished"), 120, *FLAGS)
    code, err = job.run()
    assert code == 0 and job.step() == 32, err
    return job


@pytest.fixture
def job(finished: Job, tmp_path: Path) -> Job:
    """A copy of it."""
    shutil.copytree(finished.folder, tmp_path / "run")
    return finished.at(tmp_path / "run")


def resume(run: Run, job: Job, *flags: str | Path) -> Result:
    folders = ["--checkpoint_dir", job.folder, "--output_dir", job.folder / "output"]
    given = [] if "--train_file" in flags else ["--train_file", job.train_log]
    return run("resume", *given, *folders, *flags)


def model_step(job: Job) -> int:
    return int(json.loads((job.folder / "model" / "model.json").read_bytes())["card"]["step"])


def test_fine_tuned_weights_are_not_those_of_the_old_log(run: Run, job: Job, tmp_path: Path) -> None:
    """The same evaluation log and no new template: losses before and after are still of two different runs."""
    new_log = tmp_path / "new.log"
    new_log.write_text(shop_log(90, seed=9))
    result = resume(run, job, "--train_file", new_log, "--new_data", "--num_epochs", "1", "--learning_rate", "1e-6")
    assert result.code == 0 and "0 of them new" in result.err, result.err
    assert model_step(job) > 32
    assert best_checkpoint(job.folder).checkpoint.step > 32
    assert resume(run, job, "--train_file", new_log, "--use_best_checkpoint", "--num_epochs", "1").code == 0


def test_fine_tuning_that_would_take_no_step_is_refused(run: Run, job: Job, tmp_path: Path) -> None:
    new_log = tmp_path / "new.log"
    new_log.write_text(shop_log(90, seed=9))
    before = {path: path.read_bytes() for path in job.folder.glob("checkpoint-*/*")}
    for flags in (["--total_steps", "20"], ["--lr_policy", "constant"]):
        result = resume(run, job, "--train_file", new_log, "--new_data", *flags)
        assert result.code == 2 and flags[0] in result.err
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_was_extended_and_stopped_is_not_finished(run: Run, job: Job) -> None:
    code, err = job.run("step:5", signal.SIGTERM, "--num_epochs", "4")
    assert code == 143, err
    result = resume(run, job, "--detection_method", "knn")
    assert result.code == 0 and "fits anew" not in result.err
    assert job.state()["epoch"] == 8


def test_total_steps_goes_on_where_it_was_killed_in_the_fit_stage(finished: Job, tmp_path: Path) -> None:
    job = finished.at(tmp_path / "run")
    code, err = job.run("fit:1", signal.SIGKILL, "--total_steps", "10")
    assert code == -signal.SIGKILL and job.step() == 10, err
    code, err = job.run("never", 0, "--total_steps", "20")
    assert code == 0 and job.step() == 20, err
    code, err = job.run()
    assert code == 0, err
    assert ending(job) == ending(finished)


def test_stopping_at_steps_changes_nothing_that_comes_later(finished: Job, tmp_path: Path) -> None:
    job = finished.at(tmp_path / "run")
    for step in ("9", "10", "11", "13"):
        code, err = job.run("never", 0, "--total_steps", step)
        assert code == 0 and job.step() == int(step), err
    code, err = job.run()
    assert code == 0, err
    assert ending(job) == ending(finished)


def test_the_command_that_goes_on_holds_what_the_checkpoint_does_not_know(finished: Job, tmp_path: Path) -> None:
    job = finished.at(tmp_path / "run")
    flags = ("--total_steps", "20", "--model_dir", str(tmp_path / "a model"))
    code, err = job.run("step:9", signal.SIGTERM, *flags)
    assert code == 143
    told = re.search(r"go on with: (.*)", err)
    assert told is not None
    for part in (f"--train_file {job.train_log}", f"--checkpoint_dir {job.folder}", "--total_steps 20", "'"):
        assert part in told[1]
    code, err = job.run("parse:1", signal.SIGTERM)
    assert "give the same command again" in err or "go on with" not in err


def test_a_gone_evaluation_log_says_who_asks_for_it(run: Run, job: Job, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.log"
    shutil.copy(job.eval_log, moved)
    hidden = job.eval_log.with_name("hidden.log")
    job.eval_log.rename(hidden)
    try:
        result = resume(run, job, "--num_epochs", "1")
        assert result.code == 4 and "--eval_file" in result.err and "so far" in result.err
        assert resume(run, job, "--num_epochs", "1", "--eval_file", moved).code == 0
    finally:
        hidden.rename(job.eval_log)


def test_an_old_branch_goes_on_in_the_folder_of_its_run(run: Run, job: Job) -> None:
    oldest = scan_checkpoints(job.folder)[0][0].path
    assert resume(run, job, "--checkpoint_path", oldest, "--num_epochs", "1").code == 0
    left = sorted((job.folder / "superseded").glob("*/checkpoint-32"))
    result = run("resume", "--train_file", job.train_log, "--checkpoint_path", left[0], "--num_epochs", "1")
    assert result.code == 0, result.err
    assert not list(left[0].parent.rglob("model"))


def test_a_model_that_would_not_load_is_not_saved(run: Run, finished: Job, tmp_path: Path) -> None:
    """Training that diverges within the range of its flags: said by train, not found out by detect."""
    folders = ["--checkpoint_dir", tmp_path / "run", "--output_dir", tmp_path / "output"]
    flags = [*finished.flags, "--learning_rate", "1", "--num_epochs", "3"]
    result = run("train", "--train_file", finished.train_log, *folders, *flags)
    if result.code == 0:
        log = ["--log_file", finished.eval_log, "--model_dir", tmp_path / "run", "--output_dir", tmp_path / "output"]
        assert run("detect", *log).code == 0
    else:
        assert result.code == 1 and "lower --learning_rate" in result.err
        assert not (tmp_path / "run" / "model").exists()


class TestVerify:
    def test_from_an_older_checkpoint_the_kills_hit_training(self, run: Run, job: Job) -> None:
        oldest = scan_checkpoints(job.folder)[0][0]
        before = {path: path.read_bytes() for path in job.folder.rglob("*") if path.is_file()}
        flags = ("--checkpoint_path", oldest.path, "--verify", "--steps", "24")
        result = run("resume", "--train_file", job.train_log, *flags)
        assert result.code == 0, result.err
        killed = [int(step) for step in re.findall(r"killed in training, at step (\d+)", result.err)]
        assert len(killed) == 3 and all(oldest.step < step <= oldest.step + 24 for step in killed), killed
        assert "killed in the fit stage" in result.err and "verified" in result.out
        after = {
            path: path.read_bytes() for path in job.folder.rglob("*") if path.is_file() and "cache" not in path.parts
        }
        assert {path: before[path] for path in after if path.name != ".lock"} == {
            path: content for path, content in after.items() if path.name != ".lock"
        }

    def test_a_difference_is_told_and_kept(self, run: Run, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        results = verify_command._results

        def finished(run: Path, *given: object, **options: object) -> bool:
            for name in ("model", "output"):  # what the processes of the test above leave
                shutil.copytree(job.folder / name, run / name, dirs_exist_ok=True)
            return True

        def differing(folder: Path) -> dict[str, str]:
            found = results(folder)
            return {**found, "metrics.jsonl": "0"} if folder.name == "killed" else found

        monkeypatch.setattr(verify_command, "_results", differing)
        monkeypatch.setattr(verify_command, "_run", finished)
        result = resume(run, job, "--verify", "--steps", "24")
        assert result.code == 1
        assert re.search(r"DIFFERENT +metrics.jsonl", result.out)
        kept = re.search(r"kept in (\S+):", result.out)
        assert kept is not None and Path(kept[1]).is_dir()
        shutil.rmtree(kept[1])

    @pytest.mark.parametrize("flags", [["--num_epochs", "3"], ["--total_steps", "9"], ["--new_data"]])
    def test_flags_that_it_would_not_heed_are_refused(self, run: Run, job: Job, flags: list[str]) -> None:
        result = resume(run, job, "--verify", *flags)
        assert result.code == 2 and flags[0] in result.err
