"""Flags made from the settings classes of config.py by pydantic-settings, which was chosen because it reports which
flags were typed (resume needs that), checks ranges with the same declarations, and lets a config file use the same
names."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from pydantic_settings import BaseSettings, CliSettingsSource

from ai_detect import config
from ai_detect.artifacts import read_json
from ai_detect.cli import command_settings
from ai_detect.errors import ConfigError

_GROUPS: dict[type[config.Settings], str] = {
    config.InputSettings: "reading and grouping lines",
    config.EncoderSettings: "encoder",
    config.TrainingSettings: "training and checkpoints",
    config.AlarmSettings: "where an alarm begins (give one of these, or none)",
    config.DetectionSettings: "detection",
    command_settings.OutputSettings: "output",
}


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are ours: one line, with the nearest flag that exists."""

    def error(self, message: str) -> NoReturn:
        if unknown := re.search(r"unrecognized arguments: (--[^\s=]+)", message):
            message = config.unknown_name(unknown[1], self._option_string_actions, "flag")
        raise ConfigError(f"{message} (all flags: {self.prog} --help)")


def typed_values(
    settings: type[config.Settings], argv: Sequence[str], prog: str, examples: str, summary: str = ""
) -> dict[str, Any]:
    """The values that the command line and its `--config` file give, unchecked; raises ConfigError, exits on --help.

    Dashes in flag names are accepted for underscores.
    """
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [flags]",
        description=summary,
        epilog=f"examples:\n{examples}" if examples else None,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=120),
    )
    groups = {base: parser.add_argument_group(title) for base, title in _GROUPS.items() if issubclass(settings, base)}

    def add_argument(target: Any, *names: str, **keywords: Any) -> Any:
        owner = next((base for base in groups if names[0].lstrip("-") in base.model_fields), None)
        keywords["help"] = re.sub(r" ?\(default: (None|False)\)$", "", keywords["help"])
        if "metavar" in keywords:
            keywords["metavar"] = {"int": "N", "float": "X", "str": "TEXT", "Path": "PATH"}.get(
                str(keywords["metavar"]), keywords["metavar"]
            )
        return argparse.ArgumentParser.add_argument(cast(Any, groups[owner] if owner else target), *names, **keywords)

    flags = type("Flags", (settings, BaseSettings), {"__doc__": summary})
    arguments = [_underscored(argument) for argument in argv]
    source = CliSettingsSource[Any](
        flags,
        root_parser=parser,
        cli_parse_args=arguments,
        parse_args_method=argparse.ArgumentParser.parse_intermixed_args,
        cli_implicit_flags="toggle",
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_use_class_docs_for_groups=False,
        add_argument_method=add_argument,
        add_argument_group_method=None,
    )
    values = dict(source())
    if "config" in values:
        values = {**_config_file(Path(str(values["config"])), settings), **values}
    return values


def _underscored(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _config_file(path: Path, settings: type[config.Settings]) -> dict[str, Any]:
    try:
        values = read_json(path)
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"--config: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path}: expected one JSON object of settings")
    unknown = [
        config.unknown_name(key, settings.model_fields, "setting") for key in values if key not in settings.model_fields
    ]
    if unknown:
        raise ConfigError(f"--config {path}: " + "; ".join(unknown))
    if "config" in values:
        raise ConfigError(f"--config {path}: holds 'config' itself, which would not be read; put all settings into one")
    return values


def program_name(command: str) -> str:
    """How this command is called, as a script or as a subcommand, just as the present one was."""
    script = {"resume": "resume_train.py"}.get(command, f"{command}.py")
    return f"python ai_detect/{script}" if sys.argv[0].endswith(".py") else f"ai-detect {command}"
