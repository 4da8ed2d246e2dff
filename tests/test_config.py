"""Settings: every one declared once, checked with all problems at once, and reachable by a flag with help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ai_detect import config
from ai_detect.cli import flags
from ai_detect.cli.command_settings import (
    CheckpointsCommand,
    DetectCommand,
    EvaluateCommand,
    ParseCommand,
    ResumeCommand,
    TrainCommand,
)
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
    values = flags.typed_values(TrainCommand, ["--train-file", "a.log", "--num-epochs=3"], "prog", "")
    assert values == {"train_file": "a.log", "num_epochs": "3"}
    assert config.build(TrainCommand, values, "prog").num_epochs == 3


def test_regex_values_arrive_unchanged() -> None:
    pattern = r"(blk_-?\d+),[1,2]{3}"
    values = flags.typed_values(TrainCommand, ["--train_file", "a", "--session_regex", pattern], "prog", "")
    assert values["session_regex"] == pattern


def test_config_file_loses_to_flags(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"num_epochs": 4, "batch_size": 32}))
    arguments = ["--train_file", "a", "--config", str(path), "--num_epochs", "7"]
    made = config.build(TrainCommand, flags.typed_values(TrainCommand, arguments, "prog", ""), "prog")
    assert (made.num_epochs, made.batch_size) == (7, 32)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"num_epoch": 4}', "did you mean 'num_epochs'"),
        ('{"config": "x"}', "holds 'config' itself"),
        ("[1]", "one JSON object"),
        ("{", "not valid JSON"),
    ],
)
def test_bad_config_file_is_named(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        flags.typed_values(TrainCommand, ["--config", str(path)], "prog", "")
    assert str(path) in str(caught.value)


def test_all_problems_are_shown_together() -> None:
    values = {"train_file": "a", "num_epochs": 0, "detection_method": "kn", "session_regex": "(", "batchsize": 3}
    with pytest.raises(ConfigError) as caught:
        config.build(TrainCommand, values, "prog")
    message = str(caught.value)
    for part in ("--num_epochs 0", "did you mean 'knn'", "--session_regex (", "did you mean 'batch_size'"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("command", "values", "expected"),
    [
        (
            TrainCommand,
            {"train_file": "a", "session_regex": "x", "session_field": "y"},
            "exclude each other",
        ),
        (TrainCommand, {"train_file": "a", "window_type": "session"}, "needs --session_regex"),
        (
            TrainCommand,
            {"train_file": "a", "contamination": 0.1, "false_alarm_rate": 0.1},
            "exclude each other",
        ),
        (TrainCommand, {"train_file": "a", "encoding": "utf-99"}, "utf-8"),
        (TrainCommand, {"train_file": "a", "dim": 24, "n_heads": 5}, "must divide"),
        (ResumeCommand, {"train_file": "a", "num_epochs": 2, "total_epochs": 3}, "give one"),
        (
            ResumeCommand,
            {"train_file": "a", "use_best_checkpoint": True, "checkpoint_path": "c"},
            "exclude",
        ),
        (ResumeCommand, {"train_file": "a", "overwrite": True}, "unknown setting 'overwrite'"),
        (
            TrainCommand,
            {"train_file": "a", "window_seconds": 60},
            "--window_seconds does nothing .* by fixed",
        ),
        (TrainCommand, {"train_file": "a", "stride": 5}, "give --window_type sliding"),
        (
            TrainCommand,
            {"train_file": "a", "window_size": 50, "session_regex": "x"},
            "grouped by session",
        ),
        (
            TrainCommand,
            {"train_file": "a", "window_size": 5, "window_type": "time"},
            "fixed or sliding",
        ),
        (
            DetectCommand,
            {"log_file": "a", "stride": 5, "window_type": "fixed"},
            "--stride does nothing",
        ),
        (
            EvaluateCommand,
            {"test_file": "a", "label_file": "b", "label_regex": "c"},
            "exclude each other",
        ),
        (EvaluateCommand, {"test_file": "a", "label_regex": "("}, "not a regular expression"),
        (TrainCommand, {"train_file": "a", "output_dir": "-"}, "name a folder"),
        (ResumeCommand, {"train_file": "a", "output_dir": "-"}, "name a folder"),
        (EvaluateCommand, {"test_file": "a", "output_dir": "-"}, "name a folder"),
        (
            ParseCommand,
            {"log_file": "a", "window_size": 20},
            "--window_size: this command groups no lines",
        ),
        (ParseCommand, {"log_file": "a", "output_dir": "-"}, "name a folder"),
        (
            DetectCommand,
            {"log_file": "a", "threshold": 0.5, "false_alarm_rate": 0.1},
            "exclude each other",
        ),
        (TrainCommand, {}, "--train_file is required"),
    ],
)
def test_combinations_that_cannot_be(command: type[config.Settings], values: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        config.build(command, values, "prog")


@pytest.mark.parametrize(
    "encoding", ["idna", "punycode", "base64", "rot13", "hex", "unicode_escape", "undefined", "cp037"]
)
def test_what_is_no_encoding_of_logs_is_refused(encoding: str) -> None:
    with pytest.raises(ConfigError, match="try utf-8 or latin-1"):
        config.build(ParseCommand, {"log_file": "a", "encoding": encoding}, "prog")


@pytest.mark.parametrize(
    "encoding",
    [
        "UTF8",
        "utf-8-sig",
        "latin-1",
        "ascii",
        "cp1252",
        "utf-16",
        "UTF-16LE",
        "utf-32",
        "gb18030",
        "shift_jis",
        "shift_jis_2004",
        "euc-jp",
        "iso2022_jp",
        "big5",
        "koi8-r",
        "cp437",
    ],
)
def test_encodings_of_logs_are_taken(encoding: str) -> None:
    assert config.InputSettings(encoding=encoding).encoding == encoding


def test_settings_that_a_model_or_a_checkpoint_completes_are_taken() -> None:
    stored = config.RunSettings(session_regex="x").model_dump()
    assert config.RunSettings(**stored).windowing == "session"
    for command in (
        DetectCommand(log_file="a", stride=5),
        ResumeCommand(train_file="a", stride=5),
    ):
        assert command.stride == 5
    assert TrainCommand(train_file="a", window_type="time", window_seconds=1, stride=None).window_seconds == 1
    assert DetectCommand(log_file="a", output_dir="-").output_dir == "-"


def test_checkpoint_names_may_follow_flags() -> None:
    for arguments in (
        ["verify", "--checkpoint_dir", "x", "3", "4"],
        ["verify", "3", "--checkpoint_dir", "x", "4"],
        ["--checkpoint_dir=x", "verify", "3", "4"],
    ):
        values = flags.typed_values(CheckpointsCommand, arguments, "prog", "")
        made = config.build(CheckpointsCommand, values, "prog")
        assert (made.action, made.names, made.checkpoint_dir) == ("verify", ["3", "4"], Path("x"))
    made = config.build(
        CheckpointsCommand,
        flags.typed_values(CheckpointsCommand, ["list", "--json"], "prog", ""),
        "prog",
    )
    assert (made.action, made.names, made.json_) == ("list", [], True)
    for arguments in ([], ["--dry_run"], ["verfy"], ["list", "--checkpoint_dirs", "x"]):
        with pytest.raises(ConfigError):
            config.build(
                CheckpointsCommand,
                flags.typed_values(CheckpointsCommand, arguments, "prog", ""),
                "prog",
            )


def test_every_run_setting_says_what_a_change_on_resume_means() -> None:
    for name in config.RunSettings.model_fields:
        assert config.on_resume(name) in ("harmless", "warn", "refuse")


def test_windowing_follows_the_session_key() -> None:
    assert config.InputSettings().windowing == "fixed"
    assert config.InputSettings(session_regex="x").windowing == "session"
    assert config.InputSettings(session_regex="x", window_type="time").windowing == "time"
