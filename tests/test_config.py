"""Settings: every one declared once, checked with all problems at once, and reachable by a flag with help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ai_detect import config
from ai_detect.cli import flags
from ai_detect.cli.main import COMMANDS
from ai_detect.errors import ConfigError


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_help(name: str) -> None:
    for field_name, field in COMMANDS[name].settings.model_fields.items():
        if field_name not in ("action",):
            assert field.description, f"--{field_name} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_flag_and_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = COMMANDS[name]
    with pytest.raises(SystemExit) as stop:
        flags.typed_values(command.settings, ["--help"], "prog", command.examples.format(prog="prog"))
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for field_name, field in command.settings.model_fields.items():
        if field_name not in ("action", "names"):
            assert f"--{field.alias or field_name}" in text
    assert "examples:" in text


def test_only_typed_flags_are_reported() -> None:
    values = flags.typed_values(config.TrainCommand, ["--train-file", "a.log", "--num-epochs=3"], "prog", "")
    assert values == {"train_file": "a.log", "num_epochs": "3"}
    assert config.build(config.TrainCommand, values, "prog").num_epochs == 3


def test_regex_values_arrive_unchanged() -> None:
    pattern = r"(blk_-?\d+),[1,2]{3}"
    values = flags.typed_values(config.TrainCommand, ["--train_file", "a", "--session_regex", pattern], "prog", "")
    assert values["session_regex"] == pattern


def test_config_file_loses_to_flags(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"num_epochs": 4, "batch_size": 32}))
    arguments = ["--train_file", "a", "--config", str(path), "--num_epochs", "7"]
    made = config.build(config.TrainCommand, flags.typed_values(config.TrainCommand, arguments, "prog", ""), "prog")
    assert (made.num_epochs, made.batch_size) == (7, 32)


@pytest.mark.parametrize(
    ("content", "expected"),
    [('{"num_epoch": 4}', "did you mean 'num_epochs'"), ("[1]", "one JSON object"), ("{", "not valid JSON")],
)
def test_bad_config_file_is_named(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        flags.typed_values(config.TrainCommand, ["--config", str(path)], "prog", "")
    assert str(path) in str(caught.value)


def test_all_problems_are_shown_together() -> None:
    values = {"train_file": "a", "num_epochs": 0, "detection_method": "kn", "session_regex": "(", "batchsize": 3}
    with pytest.raises(ConfigError) as caught:
        config.build(config.TrainCommand, values, "prog")
    message = str(caught.value)
    for part in ("--num_epochs 0", "did you mean 'knn'", "--session_regex (", "did you mean 'batch_size'"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("command", "values", "expected"),
    [
        (config.TrainCommand, {"train_file": "a", "session_regex": "x", "session_field": "y"}, "exclude each other"),
        (config.TrainCommand, {"train_file": "a", "window_type": "session"}, "needs --session_regex"),
        (config.TrainCommand, {"train_file": "a", "contamination": 0.1, "false_alarm_rate": 0.1}, "exclude each other"),
        (config.TrainCommand, {"train_file": "a", "encoding": "utf-99"}, "utf-8"),
        (config.TrainCommand, {"train_file": "a", "dim": 24, "n_heads": 5}, "must divide"),
        (config.ResumeCommand, {"train_file": "a", "num_epochs": 2, "total_epochs": 3}, "give one"),
        (config.ResumeCommand, {"train_file": "a", "use_best_checkpoint": True, "checkpoint_path": "c"}, "exclude"),
        (config.DetectCommand, {"log_file": "a", "threshold": 0.5, "false_alarm_rate": 0.1}, "exclude each other"),
        (config.TrainCommand, {}, "--train_file is required"),
    ],
)
def test_combinations_that_cannot_be(command: type[config.Settings], values: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        config.build(command, values, "prog")


def test_every_run_setting_says_what_a_change_on_resume_means() -> None:
    for name in config.RunSettings.model_fields:
        assert config.on_resume(name) in ("harmless", "warn", "refuse")


def test_windowing_follows_the_session_key() -> None:
    assert config.InputSettings().windowing == "fixed"
    assert config.InputSettings(session_regex="x").windowing == "session"
    assert config.InputSettings(session_regex="x", window_type="time").windowing == "time"
