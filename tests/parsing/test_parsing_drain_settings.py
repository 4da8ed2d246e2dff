"""An existing drain3.ini means what Drain3 takes it to mean; a broken one is refused with its path and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from drain3.template_miner import TemplateMiner as Drain3Miner
from drain3.template_miner_config import TemplateMinerConfig

from ai_detect.errors import ConfigError
from ai_detect.parsing.template_miner import TemplateMiner

INI = r"""
[SNAPSHOT]
snapshot_interval_minutes = 10
compress_state = True

[MASKING]
masking = [
          {"regex_pattern":"((?<=[^A-Za-z0-9])|^)(\\d{1,3}(\\.\\d{1,3}){3})((?=[^A-Za-z0-9])|$)", "mask_with": "IP"},
          {"regex_pattern":"(?P<word>executed cmd )(\".+?\")", "mask_with": "CMD"},
          {"regex_pattern":"((?<=[^A-Za-z0-9])|^)([\\-\\+]?\\d+)((?=[^A-Za-z0-9])|$)", "mask_with": "NUM"}
          ]
mask_prefix = <:
mask_suffix = :>

[DRAIN]
sim_th = 0.5
depth = 5
max_children = 3
max_clusters = 3
extra_delimiters = ["_", "="]
parametrize_numeric_tokens = no
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "drain3.ini"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_settings_and_the_masks_are_drain3s(tmp_path: Path) -> None:
    path = write(tmp_path, INI)
    config = TemplateMinerConfig()
    config.load(str(path))
    theirs = Drain3Miner(config=config)
    ours = TemplateMiner.from_drain_ini(path)
    lines = [
        f'{verb} user={name} from 10.0.0.{i} after {i} s executed cmd "rm -{i}" blk_{i * 7}_x{i % 4}'
        for i in range(12)
        for verb in ("login", "logout", "a9", "kill", "restart now")
        for name in ("ann", "bob")
    ]
    their_ids = [theirs.add_log_message(line)["cluster_id"] - 1 for line in lines]
    assert ours.learn(ours.mask(lines)[0]) == their_ids
    expected = sorted((c.cluster_id - 1, c.size, c.get_template()) for c in theirs.drain.clusters)
    assert ours.clusters == [(i, n, text.replace("<:", "<").replace(":>", ">")) for i, n, text in expected]
    assert len(expected) == 3
    assert TemplateMiner.from_json(ours.to_json()).to_json() == ours.to_json()


def test_what_the_file_does_not_set_is_drain3s_default(tmp_path: Path) -> None:
    state = TemplateMiner.from_drain_ini(write(tmp_path, "[DRAIN]\ndepth = 4\n")).to_json()
    assert state["masks"]["patterns"] == []
    assert state["drain"] == TemplateMiner(similarity=0.4).to_json()["drain"]


def test_drains_own_wildcard_is_no_mask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, '[MASKING]\nmasking = [{"regex_pattern": "x+", "mask_with": "*"}]\n[DRAIN]\nsim = 1\n')
    assert TemplateMiner.from_drain_ini(path).mask(["a xx b"])[0] == ["a <ANY> b"]
    assert any("<ANY>" in message for message in caplog.messages)
    assert any("[DRAIN] sim " in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("depth = 4", "not an ini file"),
        ("[OTHER]\na = 1", "[DRAIN]"),
        ("[DRAIN]\nsim_th = high", "[DRAIN] sim_th"),
        ("[DRAIN]\nsim_th = 1.5", "[DRAIN] sim_th"),
        ("[DRAIN]\nsim_th = nan", "[DRAIN] sim_th"),
        ("[DRAIN]\ndepth = 2", "[DRAIN] depth"),
        ("[DRAIN]\ndepth = 4.5", "[DRAIN] depth"),
        ("[DRAIN]\nmax_children = 0", "[DRAIN] max_children"),
        ("[DRAIN]\nmax_clusters = none", "[DRAIN] max_clusters"),
        ("[DRAIN]\nextra_delimiters = _", "[DRAIN] extra_delimiters"),
        ("[DRAIN]\nextra_delimiters = [1]", "[DRAIN] extra_delimiters"),
        ("[DRAIN]\nextra_delimiters = __import__('os')", "[DRAIN] extra_delimiters"),
        ("[DRAIN]\nparametrize_numeric_tokens = perhaps", "[DRAIN] parametrize_numeric_tokens"),
        ("[DRAIN]\ndepth = %(x)s", "[DRAIN] depth"),
        ('[MASKING]\nmasking = [{"regex_pattern": "\\d", "mask_with": "A"}]', "[MASKING] masking: is not JSON"),
        ("[MASKING]\nmasking = {}", "[MASKING] masking: is not a JSON list"),
        ('[MASKING]\nmasking = [{"regex": "a"}]', "[MASKING] masking: entry 1"),
        ('[MASKING]\nmasking = [{"regex_pattern": "(", "mask_with": "A"}]', "[MASKING] masking: entry 1"),
        ('[MASKING]\nmasking = [{"regex_pattern": "a", "mask_with": "A B"}]', "[MASKING] masking: entry 1"),
    ],
)
def test_a_broken_file_is_refused_with_path_and_key(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        TemplateMiner.from_drain_ini(path)
    message = str(caught.value)
    assert str(path) in message
    assert named in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        TemplateMiner.from_drain_ini(tmp_path / "absent.ini")
    (tmp_path / "latin.ini").write_bytes(b"[DRAIN]\n# \xff\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        TemplateMiner.from_drain_ini(tmp_path / "latin.ini")
