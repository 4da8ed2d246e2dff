"""On resume the checkpoint supplies every setting; a typed one is applied or refused, never ignored."""

from __future__ import annotations

import pytest

from ai_detect.config import RunSettings
from ai_detect.errors import ConfigError
from ai_detect.training.settings_diff import Difference, difference_table, resumed_settings


def test_untyped_settings_come_from_the_checkpoint() -> None:
    stored = RunSettings(learning_rate=0.5, seed=7, session_regex="x")
    merged, differences = resumed_settings(stored, RunSettings(), typed=())
    assert merged == stored
    assert differences == []


def test_typed_settings_are_applied_and_shown() -> None:
    stored = RunSettings(learning_rate=0.5, not_use_contrastive=False)
    command = RunSettings(learning_rate=0.25, not_use_contrastive=True)
    merged, differences = resumed_settings(stored, command, typed=("learning_rate", "not_use_contrastive"))
    assert merged == command
    assert [(item.name, item.effect) for item in differences] == [
        ("learning_rate", "warn"),
        ("not_use_contrastive", "warn"),
    ]
    assert "0.5" in difference_table(differences)
    assert "0.25" in difference_table(differences)


def test_typing_the_same_value_is_no_difference() -> None:
    _, differences = resumed_settings(RunSettings(window_size=30), RunSettings(window_size=30), typed=("window_size",))
    assert differences == []


def test_a_window_type_that_was_the_default_is_no_difference() -> None:
    stored = RunSettings(session_regex="x")
    _, differences = resumed_settings(
        stored, RunSettings(session_regex="x", window_type="session"), typed=("window_type",)
    )
    assert differences == []


def test_another_model_is_refused_with_both_values() -> None:
    with pytest.raises(ConfigError, match=r"--window_size 20 \(checkpoint: 30\)"):
        resumed_settings(RunSettings(window_size=30), RunSettings(window_size=20), typed=("window_size",), force=True)


def test_force_overrides_the_seed_and_the_split_only() -> None:
    with pytest.raises(ConfigError, match="--force"):
        resumed_settings(RunSettings(), RunSettings(seed=1), typed=("seed",))
    merged, differences = resumed_settings(RunSettings(), RunSettings(seed=1), typed=("seed",), force=True)
    assert merged.seed == 1
    assert differences[0].effect == "warn"


def test_the_table_says_what_each_difference_means_and_lines_it_up() -> None:
    table = difference_table(
        [
            Difference("window_size", 50, 20, "refuse"),
            Difference("torch", "2.12.0", "2.13.0", "warn"),
            Difference("not_use_contrastive", False, True, "warn"),
            Difference("number of processes", 1, 2, "harmless"),
            Difference("session_regex", None, "blk_", "refuse"),
        ]
    )
    assert table.splitlines() == [
        "  what                 checkpoint  command",
        "  number of processes  1           2        harmless",
        "  torch                2.12.0      2.13.0   allowed, recorded: results may differ",
        "  not_use_contrastive  off         on       allowed, recorded: results may differ",
        "  window_size          50          20       refused: would be another model",
        "  session_regex        not set     blk_     refused: would be another model",
    ]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("/a/long/folder" * 20 + "/eval.log", "folder/eval.log"),
        ([f"{n:064}" for n in range(9)], "['0000"),
        ("a\n\x1b[2Jb", r"a\n\x1b[2Jb"),
    ],
)
def test_a_long_or_unprintable_value_is_cut_to_one_short_line(value: object, seen: str) -> None:
    _, row = difference_table([Difference("eval_file", value, "x", "warn")]).splitlines()
    assert seen in row and len(row) < 110 and row.isprintable()
