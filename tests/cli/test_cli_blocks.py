"""What detect, parse and train write does not depend on how much of a log is worked on at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from support import SHOP_SESSION, Run, Shop

from ai_detect import log_evidence, pipeline, scratch, tables
from ai_detect.artifacts import parse_arrays
from ai_detect.cli import parse_command
from ai_detect.detectors import suspicion, value_columns, values, views
from ai_detect.model_file import MODEL_PARTS
from ai_detect.reporting import learning, session_tables
from ai_detect.sequences import parsed_log, session_blocks

TINY = (
    (scratch, "BLOCK_ROWS", 5),
    (scratch, "_SHORT_BYTES", 16),
    (session_blocks, "MAX_SESSIONS", 3),
    (session_blocks, "MAX_EVENTS", 16),
    (tables, "_STRINGS_AT_ONCE", 2),
    (tables, "_TEXT_AT_ONCE", 9),
    (tables, "_SESSIONS_AT_ONCE", 5),
    (log_evidence, "_BLOCK", 7),
    (parsed_log, "_GATHERED", 2),
    (pipeline, "_EXPLAINED", 3),
    (suspicion, "_BLOCK", 64),
    (value_columns, "_TOGETHER", 8),
    (values, "_BLOCK", 64),
    (views, "_BLOCK", 32),
    (learning, "_BLOCK", 32),
    (parse_command, "_ROWS", 4),
    (session_tables, "_ROWS", 4),
)


def written(folder: Path) -> dict[str, str]:
    """The files of a folder, without what the clock said."""
    files = {path.name: path.read_text() for path in folder.iterdir()}
    if "summary.json" in files:
        summary = json.loads(files["summary.json"])
        for name in summary.pop("timings_s"):
            files["report.html"] = re.sub(f"<dt>{name}</dt><dd>[^<]*</dd>", "", files["report.html"])
        files["summary.json"] = json.dumps(summary)
    return files


def test_files_are_the_same_whatever_the_blocks(
    run: Run, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {
        "detect": ["detect", "--log_file", shop.test, "--model_dir", shop.model],
        "parse": ["parse", "--log_file", shop.test, "--session_regex", SHOP_SESSION],
    }
    for name, command in commands.items():
        assert run(*command, "--output_dir", tmp_path / f"{name}-whole").code == 0
    for module, name, value in TINY:
        monkeypatch.setattr(module, name, value)
    for name, command in commands.items():
        assert run(*command, "--output_dir", tmp_path / f"{name}-blocks").code == 0
        whole, blocks = (written(tmp_path / f"{name}-{kind}") for kind in ("whole", "blocks"))
        assert whole == blocks
        assert len(whole) > 1


@pytest.mark.usefixtures("without_page")
def test_what_is_learned_is_the_same_whatever_the_blocks(
    run: Run, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in TINY:
        monkeypatch.setattr(module, name, value)
    flags = ["--session_regex", SHOP_SESSION, "--num_epochs", "3", "--batch_size", "32", "--quiet"]
    folders = ["--checkpoint_dir", tmp_path / "checkpoint", "--output_dir", tmp_path / "output"]
    assert run("train", "--train_file", shop.train, *flags, *folders).code == 0
    for name in MODEL_PARTS:
        made, expected = tmp_path / "checkpoint" / "model" / name, shop.model / name
        if name == "values.safetensors":  # sums round, and where they do, another of many like values is kept
            again, before = (parse_arrays(path.read_bytes()) for path in (made, expected))
            for part in ("numbers_groups", "numbers_n_sessions", "numbers_edges", "words_groups", "words_keys"):
                np.testing.assert_allclose(again[part], before[part], rtol=1e-9)
        else:
            assert made.read_bytes() == expected.read_bytes(), name
