"""A log done in parts equals the log done as a whole, for every kind of session and of clock; nothing is done twice."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import SHOP_SESSION, Shop, shop_log

from ai_detect import artifacts
from ai_detect.config import AlarmSettings, InputSettings
from ai_detect.distributed.job import Job
from ai_detect.distributed.parse_block import ParseTask, frozen_model, parse_block
from ai_detect.distributed.score_shard import ScoreTask, score_shard
from ai_detect.errors import ConfigError, DataError
from ai_detect.parsing import events
from ai_detect.pipeline import LogAnomalyPipeline
from ai_detect.sequences.parsed_log import ParsedLog

_COLUMNS = ("offset", "line", "timestamp", "event_id", "session_id", "level")


@dataclass
class InThisProcess:
    """An engine that does one part after the other, in any order; `refuses` says which parts fail, and why."""

    refuses: Callable[[Any], str | None] = lambda item: None
    done: list[Any] = field(default_factory=list)

    def run(self, work: Callable[[Any], None], items: Sequence[Any], title: str) -> dict[int, str]:
        failed = {}
        for number in reversed(range(len(items))):
            if reason := self.refuses(items[number]):
                failed[number] = reason
            else:
                work(items[number])
                self.done.append(items[number])
        return failed

    def n_done(self, kind: type) -> int:
        return sum(isinstance(item, kind) for item in self.done)


@pytest.fixture(autouse=True)
def not_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small blocks are most of the time of these tests; no machine loses its power in them."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def model(shop: Shop) -> LogAnomalyPipeline:
    return LogAnomalyPipeline.load(shop.model)


def job(model: LogAnomalyPipeline, folder: Path, settings: InputSettings, n_bytes: int, **more: Any) -> Job:
    return Job(model, settings, more.pop("engine", InThisProcess()), folder, n_bytes, more.pop("shard_events", 60))


def assert_equal(parts: ParsedLog, whole: ParsedLog) -> None:
    for name in _COLUMNS:
        np.testing.assert_array_equal(getattr(parts.events, name), getattr(whole.events, name), name)
    for name in ("offsets", "number", "key"):
        np.testing.assert_array_equal(getattr(parts.events.values, name), getattr(whole.events.values, name), name)
    for name in ("templates", "n_known", "sources", "counters"):
        assert getattr(parts.events, name) == getattr(whole.events, name), name
    assert list(parts.events.session_keys) == list(whole.events.session_keys)
    assert list(parts.sessions.keys) == list(whole.sessions.keys)
    np.testing.assert_array_equal(parts.sessions.rows, whole.sessions.rows)
    np.testing.assert_array_equal(parts.sequences.gap_s, whole.sequences.gap_s)


def interleaved(n_sessions: int, seed: int) -> str:
    """The shop's lines, with those of many sessions between each other, and new messages among them."""
    lines = shop_log(n_sessions, seed, faulty=tuple(range(3, n_sessions, 7))).splitlines()
    order = sorted(range(len(lines)), key=lambda at: (at // 60, at * 7919 % 60))
    for at in range(0, len(lines), 11):
        stamp, _, session = lines[order[at]].partition(" INFO ")
        lines[order[at]] = f"{stamp} INFO {session.split(') ')[0]}) code{at // 11 % 9} is a new word{at % 5}"
    return "\n".join(lines[at] for at in order) + "\n"


SESSIONS = {
    "key": {"session_regex": SHOP_SESSION},
    "key of some lines": {"session_regex": r"user (\d)"},
    "fixed": {"window_type": "fixed", "window_size": 17},
    "sliding": {"window_type": "sliding", "window_size": 20, "stride": 7},
    "with holes": {"window_type": "sliding", "window_size": 5, "stride": 13},
    "time": {"window_type": "time", "window_seconds": 45.0},
    "file": {"session_by_file": True},
}


@pytest.mark.parametrize("kind", SESSIONS)
@pytest.mark.parametrize("n_bytes", [700, 5000])
def test_every_kind_of_session_is_the_same(kind: str, n_bytes: int, model: LogAnomalyPipeline, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a.log").write_text(interleaved(60, 5))
    (folder / "b.log").write_text(interleaved(25, 6).rstrip("\n"))
    with gzip.open(folder / "c.log.gz", "wt") as file:
        file.write(interleaved(10, 7))
    settings = InputSettings(**SESSIONS[kind])
    whole = model.parse(str(folder), settings)
    done = job(model, tmp_path, settings, n_bytes)
    log = done.parse(str(folder))
    assert_equal(log.load(), whole)
    assert done.engine.n_done(ParseTask) > (10 if n_bytes == 700 else 3)
    for alarm in (AlarmSettings(), AlarmSettings(fdr=0.2)):
        expected, found = model.score(whole, alarm=alarm), done.score(log, alarm=alarm)
        assert (found.rule, found.asked, found.method) == (expected.rule, expected.asked, expected.method)
        assert found.scores.threshold == expected.scores.threshold
        for name in ("score", "p_value", "is_anomaly"):
            np.testing.assert_array_equal(getattr(found.scores, name), getattr(expected.scores, name))
        assert found.scores.raw.keys() == expected.scores.raw.keys()
        for name, column in expected.scores.raw.items():
            np.testing.assert_array_equal(found.scores.raw[name], column)
    assert done.engine.n_done(ScoreTask) >= 2
    done.finish()
    assert not list(tmp_path.glob("work-*"))


def times(shape: str, n: int, step: timedelta, begin: datetime = datetime(2025, 12, 27, 9)) -> list[str]:
    return [(begin + at * step).strftime(shape) for at in range(n)]


def lines(shape: str, n: int, step: timedelta) -> str:
    """Times of this shape, each with a message; every ninth goes on in lines without a header, some come too early."""
    stamps = times(shape, n, step)
    for at in range(5, n, 31):
        stamps[at], stamps[at - 1] = stamps[at - 1], stamps[at]
    text = ""
    for at, stamp in enumerate(stamps):
        text += f"{stamp} host-{at % 3} app[{at % 7}]: event {'abcde'[at % 5]} number {at}\n"
        if at % 9 == 0:
            text += "java.lang.IllegalStateException: broken\n\tat org.shop.Cart(Cart.java:1)\n\nCaused by: rain\n"
    return text


LOGS: dict[str, tuple[str, dict[str, Any]]] = {
    "a year begins": (lines("%b %d %H:%M:%S", 400, timedelta(hours=1)), {"log_format": "syslog"}),
    "several years begin": (lines("%b %d %H:%M:%S", 400, timedelta(days=9)), {"log_format": "syslog"}),
    "years run away": (lines("%b %d %H:%M:%S", 900, timedelta(days=150)), {"log_format": "syslog"}),
    "clocks of one day": (lines("%H:%M:%S", 300, timedelta(seconds=70)), {"log_format": "<Time> <Node> <Content>"}),
    "clocks of many days": (lines("%H:%M:%S", 300, timedelta(hours=5)), {"log_format": "<Time> <Node> <Content>"}),
    "which fields are the time": (
        lines("x %H:%M:%S", 150, timedelta(hours=5)) + lines("%Y-%m-%d %H:%M:%S", 150, timedelta(hours=1)) * 2,
        {"log_format": "<Date> <Time> <Node> <Content>"},
    ),
    "whole times": (lines("%Y-%m-%dT%H:%M:%S.000+00:00", 300, timedelta(hours=1)), {"log_format": "syslog_iso"}),
    "no joining": (lines("%b %d %H:%M:%S", 300, timedelta(hours=9)), {"log_format": "syslog", "not_join_lines": True}),
    "plain": (lines("\ufeff%b", 300, timedelta(hours=9)), {"log_format": "plain"}),
    "json": (
        "".join(
            f'{{"time": "{stamp}", "level": "info", "msg": "event {at % 4}\\nand {at}", "request": "r{at % 13}"}}\n'
            for at, stamp in enumerate(times("%H:%M:%S", 300, timedelta(hours=5)))
        ),
        {"log_format": "json", "session_field": "request", "message_field": "msg"},
    ),
    "odd bytes": (
        "\ufeff"
        + lines("%b %d %H:%M:%S", 40, timedelta(hours=9)).replace("\n", "\r\n")
        + "\ufeffno header\n\n   \n"
        + "Dec 31 23:59:59 host-1 app[1]: "
        + "long " * 250_000
        + "\n"
        + lines("%b %d %H:%M:%S", 40, timedelta(hours=9)).replace("event", "\udcff\udce4event")
        + "Jan  1 00:00:00 host-1 app[2]: end without newline",
        {"log_format": "syslog"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "compiled"),
    [(name, False) for name in LOGS]
    + [
        pytest.param(name, True, marks=pytest.mark.slow)
        for name in ("clocks of many days", "a year begins", "odd bytes")
    ],
)
def test_what_depends_on_the_lines_before_is_the_same(
    name: str, compiled: bool, model: LogAnomalyPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, values = LOGS[name]
    settings = InputSettings(**{"window_size": 10, **values})
    path = tmp_path / "some.log"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    whole = model.parse(str(path), settings)
    if compiled:
        monkeypatch.setattr(events, "_WORTH_LOADING", 0)
        monkeypatch.setattr(events, "_WORTH_COMPILING", 0)
    for n_bytes in (333, 2500):
        done = job(model, tmp_path / str(n_bytes), settings, n_bytes)
        assert_equal(done.parse(str(path)).load(), whole)
        assert done.engine.n_done(ParseTask) >= 2


def test_rotated_files_share_a_clock_and_others_do_not(model: LogAnomalyPipeline, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    text = lines("%b %d %H:%M:%S", 300, timedelta(days=6)).splitlines(keepends=True)
    parts = ["".join(text[at : at + 150]) for at in range(0, len(text), 150)]
    for number, part in enumerate(reversed(parts)):
        if number % 2:
            (folder / f"app.log.{number}.gz").write_bytes(gzip.compress(part.encode()))
        else:
            (folder / f"app.log.{number}").write_text(part)
    (folder / "other.log").write_text("".join(text))
    (folder / "wide.log").write_bytes("".join(text).encode("utf-16"))
    (folder / "blank.log").write_text("\n \n\n")
    settings = InputSettings(log_format="syslog", window_type="time", window_seconds=86400.0)
    whole = model.parse(str(folder), settings)
    assert_equal(job(model, tmp_path, settings, 2000).parse(str(folder)).load(), whole)
    assert len({stamp // (365 * 86_400_000_000_000) for stamp in whole.events.timestamp.tolist()}) > 3


def test_a_log_elsewhere_is_cut_as_one_on_the_disk(model: LogAnomalyPipeline, shop: Shop, tmp_path: Path) -> None:
    spec = f"file://{shop.test}"
    done = job(model, tmp_path, model.settings, 2000)
    assert_equal(done.parse(spec).load(), model.parse(spec))
    assert done.engine.n_done(ParseTask) > 10


def test_blocks_are_parsed_once_where_their_times_are_whole(
    model: LogAnomalyPipeline, shop: Shop, tmp_path: Path
) -> None:
    engine = InThisProcess()
    done = job(model, tmp_path, model.settings, 2000, engine=engine)
    done.parse(str(shop.test))
    n_blocks = os.path.getsize(shop.test) // 2000
    assert n_blocks <= engine.n_done(ParseTask) <= n_blocks + 1


def test_what_is_done_is_not_done_again(model: LogAnomalyPipeline, shop: Shop, tmp_path: Path) -> None:
    """The first run ends before its last parts, as if killed; the second does these alone."""

    def killed_after(n: int, engine: InThisProcess) -> Callable[[Any], str | None]:
        def refuses(item: Any) -> str | None:
            if len(engine.done) >= n:
                raise KeyboardInterrupt
            return None

        return refuses

    whole = model.score(model.parse(str(shop.test)))
    settings = model.settings
    n_parsed, n_scored = 0, 0
    for n in (3, 8, 10, 1000):
        engine = InThisProcess()
        engine.refuses = killed_after(n, engine)
        done = job(model, tmp_path, settings, 4000, engine=engine)
        with suppress(KeyboardInterrupt):
            scored = done.score(done.parse(str(shop.test)))
        n_parsed += engine.n_done(ParseTask)
        n_scored += engine.n_done(ScoreTask)
    n_blocks = -(-os.path.getsize(shop.test) // 4000)
    assert n_parsed in (n_blocks, n_blocks - 1)
    assert 0 < engine.n_done(ScoreTask) < n_scored
    np.testing.assert_array_equal(scored.scores.score, whole.scores.score)
    assert list(scored.log.sessions.keys) == list(whole.log.sessions.keys)


def test_half_written_results_are_made_again(model: LogAnomalyPipeline, shop: Shop, tmp_path: Path) -> None:
    done = job(model, tmp_path, model.settings, 4000)
    expected = done.parse(str(shop.test)).load()
    blocks = done.work / "blocks"
    min(blocks.glob("*.json")).unlink()  # events without the clock: it died between the two
    max(blocks.glob("*.json")).write_text('{"end": 1}')
    again = job(model, tmp_path, model.settings, 4000)
    assert_equal(again.parse(str(shop.test)).load(), expected)
    assert again.engine.n_done(ParseTask) == 2


def test_another_log_model_or_setting_is_another_job(model: LogAnomalyPipeline, shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text(shop_log(40, seed=1))
    done = job(model, tmp_path, model.settings, 4000)
    done.parse(str(path))
    path.write_text(shop_log(40, seed=1).replace("logged in", "logged on"))
    os.utime(path, ns=(1, 1))
    again = job(model, tmp_path, model.settings, 4000)
    assert_equal(again.parse(str(path)).load(), model.parse(str(path)))
    assert again.engine.n_done(ParseTask) == done.engine.n_done(ParseTask) > 2
    assert again.work == done.work
    assert job(model, tmp_path, InputSettings(), 4000).work != done.work


def test_a_file_among_others_has_another_key(model: LogAnomalyPipeline, tmp_path: Path) -> None:
    for name, seed in (("here/a.log", 1), ("there/a.log", 2)):
        (tmp_path / "logs" / name).parent.mkdir(parents=True)
        (tmp_path / "logs" / name).write_text(shop_log(20, seed))
    settings = InputSettings(session_by_file=True)
    for spec in (tmp_path / "logs" / "here", tmp_path / "logs"):
        log = job(model, tmp_path, settings, 4000).parse(str(spec))
        assert_equal(log.load(), model.parse(str(spec), settings))


def test_a_poisoned_block_is_set_aside_and_the_rest_is_done(
    model: LogAnomalyPipeline, shop: Shop, tmp_path: Path
) -> None:
    poisoned = 8000

    def refuses(item: Any) -> str | None:
        begin = item.block.source.begin if isinstance(item, ParseTask) else None
        return "poison" if begin is not None and poisoned <= begin < poisoned + 4000 else None

    done = job(model, tmp_path, model.settings, 4000, engine=InThisProcess(refuses))
    log = done.parse(str(shop.test)).load()
    assert [(part.stage, part.reason) for part in done.set_aside] == [("parsing", "poison")]
    assert str(shop.test) in done.set_aside[0].part
    whole = model.parse(str(shop.test))
    is_kept = (whole.events.offset < log.events.offset[log.events.offset < poisoned + 200].max() + 1) | (
        whole.events.offset >= log.events.offset[log.events.offset > poisoned + 200].min()
    )
    for name in ("offset", "line", "timestamp", "level"):
        np.testing.assert_array_equal(getattr(log.events, name), getattr(whole.events, name)[is_kept])
    done.finish()
    engine = InThisProcess()
    healed = job(model, tmp_path, model.settings, 4000, engine=engine)
    assert_equal(healed.parse(str(shop.test)).load(), whole)
    assert engine.n_done(ParseTask) == 1


def test_a_poisoned_shard_is_set_aside_and_the_rest_is_scored(
    model: LogAnomalyPipeline, shop: Shop, tmp_path: Path
) -> None:
    def refuses(item: Any) -> str | None:
        return "poison" if isinstance(item, ScoreTask) and item.first <= 50 < item.behind else None

    done = job(model, tmp_path, model.settings, 4000, engine=InThisProcess(refuses))
    scored = done.score(done.parse(str(shop.test)))
    whole = model.score(model.parse(str(shop.test)))
    kept = [whole.log.sessions.keys.index(key) for key in scored.log.sessions.keys]
    assert 50 not in kept
    assert 80 < len(kept) < 120
    np.testing.assert_array_equal(scored.scores.score, whole.scores.score[kept])
    assert done.set_aside[0].stage == "scoring"
    anomalies = np.flatnonzero(scored.scores.is_anomaly)
    explained = [explanation.reasons for _, explanation in model.explain(scored, anomalies)]
    assert explained == [explanation.reasons for _, explanation in model.explain(whole, np.array(kept)[anomalies])]
    assert done.work.is_dir()
    done.finish()
    assert done.work.is_dir()


def test_all_that_fails_is_an_error(model: LogAnomalyPipeline, shop: Shop, tmp_path: Path) -> None:
    for kind, message in ((ParseTask, "none of its"), (ScoreTask, "no shard")):
        engine = InThisProcess(lambda item, kind=kind: "poison" if isinstance(item, kind) else None)
        done = job(model, tmp_path, model.settings, 4000, engine=engine)
        with pytest.raises(DataError, match=f"{message}.*poison"):
            done.score(done.parse(str(shop.test)))


def test_a_log_without_any_key_is_refused_as_by_one_process(
    model: LogAnomalyPipeline, shop: Shop, tmp_path: Path
) -> None:
    settings = InputSettings(session_regex="(nowhere)")
    with pytest.raises(DataError, match=r"nowhere.*matches no line"):
        job(model, tmp_path, settings, 4000).parse(str(shop.test))


def test_standard_input_is_refused(model: LogAnomalyPipeline, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    if os.fork() == 0:
        path.write_text("a line\n")
        os._exit(0)
    with pytest.raises(ConfigError, match="give files"):
        job(model, tmp_path, model.settings, 4000).parse(str(path))
    os.wait()


def test_work_that_is_done_leaves_its_results_as_they_are(
    model: LogAnomalyPipeline, shop: Shop, tmp_path: Path
) -> None:
    done = job(model, tmp_path, model.settings, 4000)
    done.score(done.parse(str(shop.test)))
    files = {path: path.stat().st_mtime_ns for path in done.work.rglob("*") if path.is_file()}
    for item in done.engine.done:
        (parse_block if isinstance(item, ParseTask) else score_shard)(item)
    assert {path: path.stat().st_mtime_ns for path in done.work.rglob("*") if path.is_file()} == files


def another_model(model: LogAnomalyPipeline, folder: Path) -> None:
    """A sound model that differs in its settings alone."""
    shutil.rmtree(folder, ignore_errors=True)
    settings = model.settings.model_copy(update={"seed": model.settings.seed + 1})
    parts = (model.miner, model.encoder, model.bank, model.normal, model.values, model.card)
    LogAnomalyPipeline(settings, *parts).save(folder)


def test_a_model_that_lies_in_the_work_folder_is_not_taken(
    model: LogAnomalyPipeline, shop: Shop, tmp_path: Path
) -> None:
    done = job(model, tmp_path, model.settings, 50_000)
    another_model(model, done.work / "model")
    done.score(done.parse(str(shop.test)))
    assert LogAnomalyPipeline.load(done.work / "model").settings == model.settings


@pytest.mark.parametrize("kind", [ParseTask, ScoreTask])
def test_a_model_that_is_exchanged_meanwhile_is_refused(
    model: LogAnomalyPipeline, shop: Shop, tmp_path: Path, kind: type
) -> None:
    def exchanges(item: Any) -> str | None:
        if isinstance(item, kind):
            frozen_model.cache_clear()
            another_model(model, done.work / "model")
        return None

    done = job(model, tmp_path, model.settings, 50_000, engine=InThisProcess(exchanges))
    with pytest.raises(DataError, match=r"model: not the model that this job began with; remove .*work-"):
        done.score(done.parse(str(shop.test)))


CHANGES: dict[str, Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]] = {
    "rows are missing": lambda scores: {name: column[:-3] for name, column in scores.items()},
    "no number": lambda scores: {name: column * np.nan for name, column in scores.items()},
    "another type": lambda scores: {name: column.astype(np.float32) for name, column in scores.items()},
    "a component is missing": lambda scores: dict(list(scores.items())[1:]),
    "a component too many": lambda scores: {**scores, "other": np.zeros(len(next(iter(scores.values()))))},
    "nothing": lambda scores: {},
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_result_of_a_shard_that_does_not_fit_is_refused(
    model: LogAnomalyPipeline, shop: Shop, tmp_path: Path, what: str
) -> None:
    done = job(model, tmp_path, model.settings, 50_000)
    log = done.parse(str(shop.test))
    expected = done.score(log).scores.score
    path = min((done.work / "scores").iterdir())
    scores = artifacts.parse_arrays(path.read_bytes())
    artifacts.write_arrays(path, CHANGES[what](scores))
    with pytest.raises(
        DataError, match=rf"^{re.escape(str(path))}: the result of a shard is broken \(.+\); remove it$"
    ):
        done.score(log)
    path.unlink()
    np.testing.assert_array_equal(done.score(log).scores.score, expected)
