"""Drain's settings: their ranges, and how an existing drain3.ini gives them."""

from __future__ import annotations

import ast
import configparser
import json
import logging
from pathlib import Path
from typing import Any

from ai_detect.errors import ConfigError
from ai_detect.parsing.masking import Masks

logger = logging.getLogger(__name__)

_WHOLE_NUMBERS = {"depth": (3, 100), "max_children": (2, 1 << 31), "max_clusters": (1, 1 << 31)}

#: Drain3's own default, lower than ours: its masks are fewer, so that more of a message varies.
_INI_SIMILARITY = 0.4
#: Keys of section [DRAIN] in a drain3.ini, and the names of these settings here.
_INI_KEYS = {
    "sim_th": "similarity",
    "depth": "depth",
    "max_children": "max_children",
    "max_clusters": "max_clusters",
    "extra_delimiters": "extra_delimiters",
    "parametrize_numeric_tokens": "numeric_tokens_vary",
}


def check_setting(name: str, value: Any) -> None:
    """Raise ValueError unless Drain can work with this value of one of its settings."""
    if name == "max_clusters" and value is None:
        return
    if name in _WHOLE_NUMBERS:
        low, high = _WHOLE_NUMBERS[name]
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name} is {value!r}, expected a whole number from {low} to {high}")
    elif name == "similarity":
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise ValueError(f"{name} is {value!r}, expected a number from 0 to 1")
    elif name == "extra_delimiters":
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
            raise ValueError(f"{name} is {value!r:.100}, expected a list of strings")
    elif type(value) is not bool:
        raise ValueError(f"{name} is {value!r}, expected true or false")


def read_drain_ini(path: Path) -> tuple[Masks, dict[str, Any]]:
    """Masks and keyword settings of a `TemplateMiner`; raises ConfigError naming the path and the key.

    The file means what Drain3 0.9.11 takes it to mean, with one difference: masks are written `<NAME>` whatever
    mask_prefix and mask_suffix say.
    """
    parser = configparser.ConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=str(path))
    except OSError as error:
        raise ConfigError(f"--drain_config {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--drain_config {path} is not UTF-8 text: {error}") from error
    except configparser.Error as error:
        raise ConfigError(f"--drain_config {path} is not an ini file: {_one_line(error)}") from error
    if not parser.has_section("DRAIN") and not parser.has_section("MASKING"):
        raise ConfigError(f"--drain_config {path} has no section [DRAIN] or [MASKING]: is it a drain3.ini?")
    settings: dict[str, Any] = {"similarity": _INI_SIMILARITY}
    for key in parser.options("DRAIN") if parser.has_section("DRAIN") else ():
        if key in _INI_KEYS:
            settings[_INI_KEYS[key]] = _drain_value(parser, path, key)
        else:
            logger.warning("%s: [DRAIN] %s is no setting of Drain3 and has no effect", path, key)
    return _masks(parser, path), settings


def _drain_value(parser: configparser.ConfigParser, path: Path, key: str) -> Any:
    name = _INI_KEYS[key]
    try:
        value: Any
        if name == "similarity":
            value = parser.getfloat("DRAIN", key)
        elif name == "numeric_tokens_vary":
            value = parser.getboolean("DRAIN", key)
        elif name == "extra_delimiters":
            value = ast.literal_eval(parser.get("DRAIN", key))
        else:
            value = parser.getint("DRAIN", key)
        check_setting(name, value)
    except (ValueError, SyntaxError, RecursionError, MemoryError, configparser.Error) as error:
        raise _refused(path, f"[DRAIN] {key}", _one_line(error)) from error
    return value


def _masks(parser: configparser.ConfigParser, path: Path) -> Masks:
    where = "[MASKING] masking"
    try:
        entries = json.loads(parser.get("MASKING", "masking", fallback="[]"))
    except (ValueError, RecursionError, configparser.Error) as error:
        raise _refused(path, where, f"is not JSON ({_one_line(error)}); write \\\\d for \\d") from error
    if not isinstance(entries, list):
        raise _refused(path, where, "is not a JSON list")
    patterns: list[tuple[str, str]] = []
    for position, entry in enumerate(entries, 1):
        pattern, name = (
            (entry.get("regex_pattern"), entry.get("mask_with")) if isinstance(entry, dict) else (None, None)
        )
        if not isinstance(pattern, str) or not isinstance(name, str):
            raise _refused(path, where, f"entry {position} needs regex_pattern and mask_with, both strings")
        if name == "*":
            logger.warning('%s: %s: mask_with "*" is Drain\'s own wildcard; this mask is written <ANY>', path, where)
            name = "ANY"
        try:
            Masks(((name, pattern),), in_turn=True)
        except ValueError as error:
            raise _refused(path, where, f"entry {position}: {_one_line(error)}") from error
        patterns.append((name, pattern))
    return Masks(tuple(patterns), in_turn=True)


def _refused(path: Path, where: str, problem: str) -> ConfigError:
    return ConfigError(f"--drain_config {path}: {where}: {problem}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
