"""The README's command, and new detectors for a run that is finished; kills and signals are in tests/resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import SHOP_SESSION, Run, shop_log

FLAGS = ["--session_regex", SHOP_SESSION, "--batch_size", "16", "--save_strategy", "steps", "--save_steps", "7"]


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_new_detectors_for_a_finished_run_train_nothing(run: Run, tmp_path: Path) -> None:
    """`resume_train.py ... --use_best_checkpoint --detection_method knn`, settings taken from the checkpoint."""
    for name, n, seed in (("train", 120, 1), ("eval", 40, 2)):
        (tmp_path / f"{name}.log").write_text(shop_log(n, seed))
    files = ["--train_file", tmp_path / "train.log", "--eval_file", tmp_path / "eval.log"]
    folder = tmp_path / "run"
    folders = ["--checkpoint_dir", folder, "--output_dir", tmp_path / "output"]
    assert run("train", *files, *folders, *FLAGS, "--num_epochs", "2").code == 0
    before = {path: path.read_bytes() for path in [*folder.glob("checkpoint-*/*"), folder / "metrics.jsonl"]}
    weights = (folder / "model" / "model.safetensors").read_bytes()
    finished = json.loads((folder / "run.json").read_bytes())["finished"]

    for flags in (["--use_best_checkpoint", "--detection_method", "knn"], ["--detection_method", "lof"]):
        result = run("resume", *files, *folders, *flags)
        assert result.code == 0 and "the run is finished: --detection_method fits anew" in result.err
        settings = json.loads((folder / "model" / "model.json").read_bytes())["settings"]
        assert settings["detection_method"] == flags[-1] and settings["session_regex"] == SHOP_SESSION
        assert (folder / "model" / "model.safetensors").read_bytes() == weights

    card = folder / "model" / "model.json"
    card.write_text(json.dumps({**json.loads(card.read_bytes()), "format_version": 2}))
    result = run("detect", "--log_file", tmp_path / "eval.log", "--model_dir", folder / "model")
    assert result.code == 4 and "resume_train.py makes the model anew from its checkpoints, without tr" in result.err
    result = run("resume", *files, *folders)
    assert result.code == 0 and "only the fit stage is left" in result.err
    assert json.loads(card.read_bytes())["format_version"] > 2
    assert (folder / "model" / "model.safetensors").read_bytes() == weights

    oldest = min(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    result = run("resume", *files, *folders, "--checkpoint_path", oldest, "--detection_method", "knn")
    assert result.code == 0, result.err
    assert (folder / "model" / "model.safetensors").read_bytes() == (oldest / "model.safetensors").read_bytes()

    assert {path: path.read_bytes() for path in before} == before
    assert json.loads((folder / "run.json").read_bytes())["finished"] == finished
    result = run("resume", *files, *folders, "--learning_rate", "0.01", "--total_epochs", "2")
    assert result.code == 2 and "no epoch is left to train" in result.err  # never ignored
