"""Events by compiled code are those by Python, over whole logs, and it is used where it pays."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import SHOP_SESSION, shop_log

from ai_detect.config import InputSettings
from ai_detect.ingest import line_shapes
from ai_detect.ingest.log_sources import find_sources
from ai_detect.ingest.messages import MessageReader
from ai_detect.parsing import compiled_columns, events, text_shapes
from ai_detect.parsing.compiled_columns import read_messages
from ai_detect.parsing.events import Messages, event_table, read_plainly
from ai_detect.parsing.masking import Masks
from ai_detect.parsing.template_miner import TemplateMiner

DATA = Path(os.environ.get("AI_DETECT_DATA", Path(__file__).parents[3] / "shared" / "data"))
SYSTEMS = ("HDFS", "BGL", "Linux", "Hadoop", "OpenSSH", "Apache", "Zookeeper", "HealthApp")
LOGS: dict[str, tuple[str, dict[str, Any]]] = {
    "hdfs": ("hdfs_2pct/HDFS.log.gz", {"session_regex": r"blk_-?\d+"}),
    "bgl": ("bgl_windows/bgl.log.gz", {"session_regex": r"^\S+"}),
    "openstack": ("openstack_kalaki/openstack.log.gz", {"session_regex": r"^\S+"}),
    "linux": ("linux/Linux.log.gz", {}),
    "lo2": ("lo2/lo2.log.gz", {}),
    "hadoop": ("hadoop/hadoop_raw.tar.gz", {"session_by_file": True}),
    **{system: (f"loghub_2k/{system}/{system}_2k.log.gz", {}) for system in SYSTEMS},
}


def same(spec: str | Path, miner: TemplateMiner | None = None, **values: Any) -> Messages:
    """The messages of a log, which both ways give alike, learned and then matched."""
    state = (miner or TemplateMiner()).to_json()
    for learns in (True, False):
        plain, fast = TemplateMiner.from_json(state), TemplateMiner.from_json(state)
        readers = [MessageReader(find_sources(spec), InputSettings(**values)) for _ in range(2)]
        expected = read_plainly(readers[0], plain, learns)
        found = read_messages(readers[1], fast, learns)
        for name in ("offset", "line", "timestamp", "text", "session", "level"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        for name in ("counts", "number", "key"):
            np.testing.assert_array_equal(getattr(found.values, name), getattr(expected.values, name))
        assert [*found.texts, *found.session_keys] == [*expected.texts, *expected.session_keys]
        assert (readers[1].counters, readers[1].files) == (readers[0].counters, readers[0].files)
        assert fast.to_json() == plain.to_json()
        plain.freeze()
        fast.freeze()
        tables = [event_table(messages, readers[0], plain) for messages in (expected, found)]
        assert events.event_table(found, readers[1], fast).templates == tables[0].templates
        for name in ("event_id", "offset"):
            np.testing.assert_array_equal(getattr(tables[1], name), getattr(tables[0], name))
        for name in ("offsets", "number", "key"):
            np.testing.assert_array_equal(getattr(tables[1].values, name), getattr(tables[0].values, name))
        state = plain.to_json()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", LOGS)
def test_every_real_log(name: str, tmp_path: Path) -> None:
    path, values = LOGS[name]
    spec = DATA / path
    if not spec.exists():
        pytest.skip(f"shared data are absent ({spec})")
    if spec.name.endswith(".tar.gz"):
        with tarfile.open(spec) as archive:
            archive.extractall(tmp_path, filter="data")
        spec = tmp_path
    same(spec, **values)


@pytest.mark.parametrize(
    "miner",
    [
        TemplateMiner(),
        TemplateMiner(Masks((("ID", r"item-\d+"), ("NUM", r"\d+")), in_turn=True), depth=5, similarity=0.4),
        TemplateMiner(Masks((("NUM", r"\d+"),)), max_clusters=3, extra_delimiters=["="]),
    ],
)
@pytest.mark.parametrize("log_format", ["auto", "plain", "<Date> <Time> <Level> [<Component>] <Content>"])
def test_masks_layouts_and_miners_of_every_kind(tmp_path: Path, miner: TemplateMiner, log_format: str) -> None:
    path = tmp_path / "shop.log"
    path.write_text(shop_log(60, seed=1) + "é odd 7\n<NUM> <*> 8\n")
    messages = same(path, miner, session_regex=SHOP_SESSION, log_format=log_format)
    assert len(messages.texts) > 4


def test_a_mask_may_tell_digits_apart_before_its_name_or_the_session_token(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("login <5FA> u-1 ok\n" * 4 + "login <2FA> u-1 ok\n" * 2)
    same(log, TemplateMiner(Masks((("2FA", r"code-\d+"), ("ID", r"u-\d+")))), log_format="plain")
    log.write_text("count 5[k1] x7\n" * 4 + "count 0[k2] x7\n" * 3)
    miner = TemplateMiner(Masks((("Z", "0<"), ("N", r"[a-z]\d"))))
    same(log, miner, log_format="plain", session_regex=r"(\[k\d\])")


def test_traces_that_go_over_the_ends_of_blocks(tmp_path: Path) -> None:
    """The messages before a trace that goes on in the next block keep their texts, which are known from their lines."""
    line = "2026-01-31 10:00:{:02d},001 INFO [main] org.own.App: order of {} took {} ms\n"
    trace = "\u00e9chec\n" + "\tat org.own.Stock.take(Stock.java:12)\n" * 20  # which only Python reads
    log = tmp_path / "a.log"
    log.write_text("".join(line.format(i % 60, "abc"[i % 3], i % 10) + trace * (i % 3 == 2) for i in range(3000)))
    assert len(same(log, log_format="hadoop").texts) == 3


@pytest.mark.parametrize("regex", [r"rq=(\w{4})", r"x(\w+)", r"^\w{4}", r"=(\w+)"])
def test_a_key_may_be_part_of_a_hexadecimal_word(tmp_path: Path, regex: str) -> None:
    """A key of digits alone is left in the text, others are taken out; the lines are of one shape."""
    log = tmp_path / "a.log"
    for keys in (("1234", "abcd"), ("abcd", "1234")):
        lines = [line.format(key) for key in keys for line in ("rq={0}ab12 of abcd", "0x{0} of abcd") for _ in range(4)]
        log.write_text("\n".join(lines))
        same(log, log_format="plain", session_regex=regex)


def test_shapes_are_forgotten_where_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (line_shapes, text_shapes):
        monkeypatch.setattr(module, "_MOST_SHAPES", 8)
        monkeypatch.setattr(module, "_MOST_BYTES", 1024)
    monkeypatch.setattr(text_shapes, "_MOST_SPANS", 16)
    head = "2026-01-31 10:00:0{},001 INFO [main] org.own.App: "
    for number in range(20):  # half of a file's shapes are those of the file before it
        texts = [f"{'x' * (number // 2 + k)} of blk_{{}} took {{}}7 ms" for k in range(1, 5)]
        lines = [(head + texts[i % 4]).format(i % 10, i % 7 + 1, i % 9) for i in range(600)]
        (tmp_path / f"{number:02d}.log").write_text("\n".join(lines))
    messages = same(tmp_path, session_regex=r"blk_\d+", log_format="hadoop")
    assert len(messages.texts) == 13


def test_compiled_code_is_used_where_it_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shop.log"
    path.write_text(shop_log(60, seed=1))
    used: list[int] = []
    monkeypatch.setattr(compiled_columns, "read_messages", lambda *a: (used.append(1), read_messages(*a))[1])
    expected: list[list[int]] = [[], [], [1]]
    for bounds, ready in (((1 << 30, 1 << 30), True), ((0, 1 << 30), False), ((0, 1 << 30), True)):
        monkeypatch.setattr(events, "_WORTH_LOADING", bounds[0])
        monkeypatch.setattr(events, "_WORTH_COMPILING", bounds[1])
        monkeypatch.setattr(compiled_columns, "is_ready", lambda ready=ready: ready)
        table = events.learn_events(MessageReader(find_sources(path), InputSettings()), TemplateMiner())
        assert used == expected.pop(0)
        assert len(table.templates) > 4


def test_the_first_compilation_is_announced_and_needs_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "shop.log"
    path.write_text(shop_log(60, seed=1))
    monkeypatch.setattr(events, "_WORTH_LOADING", 0)
    monkeypatch.setattr(events, "_WORTH_COMPILING", 0)
    used: list[bool] = []
    monkeypatch.setattr(compiled_columns, "read_messages", lambda *a: (used.append(True), read_plainly(*a))[1])
    for can_compile, ready, announced in ((False, False, 0), (True, True, 0), (True, False, 1)):
        monkeypatch.setattr(compiled_columns, "CAN_COMPILE", can_compile)
        monkeypatch.setattr(compiled_columns, "is_ready", lambda ready=ready: ready)
        with caplog.at_level("INFO"):
            caplog.clear()
            events.learn_events(MessageReader(find_sources(path), InputSettings()), TemplateMiner())
        assert sum("once" in record.getMessage() for record in caplog.records) == announced
    assert used == [True, True]


@pytest.mark.slow
def test_the_results_are_the_same_where_no_cache_can_be_written(tmp_path: Path) -> None:
    script = (
        "import numba.core.caching as c\n"
        "c.CacheImpl._locator_classes = []\n"
        "from ai_detect.ingest.compiled import compiled, is_kept\n"
        "f = compiled(lambda x: x + 1)\n"
        "assert f(1) == 2 and not is_kept(f)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2], timeout=120)
