"""Parsing beside plain Drain3 with the same masks, on every log at hand: makes docs/benchmarks-parsing.md's table.

    python tests/benchmarks/parsing.py --output docs/benchmarks-parsing.md [--only hdfs] [--rounds 3]

Ours is a raw file to columns: lines split, header read (time, level, fields), session key found, text masked, values
kept, template mined and every message given its template. Theirs is `drain3.TemplateMiner.add_log_message` alone, on
messages that we cut out for it before its clock starts, with our masks as one alternation and our settings of Drain.
Each figure is of a fresh process, imports and start-up left out; the two alternate, and the ratio is the median of the
rounds' ratios. Seconds are of the processor, not the clock on the wall, so that a busy machine spoils little. Before,
ids, sizes and templates are compared over the whole log.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from detection_splits import DATA, ROOT

from ai_detect.config import InputSettings
from ai_detect.ingest.byte_dictionary import ByteDictionary
from ai_detect.ingest.log_sources import find_sources
from ai_detect.ingest.messages import MessageReader
from ai_detect.parsing.compiled_columns import blocks_of, masking_of, read_messages
from ai_detect.parsing.events import Messages, event_table, read_plainly
from ai_detect.parsing.masking import DEFAULT_MASKS
from ai_detect.parsing.template_miner import TemplateMiner

BEGIN, END = "<!-- parsing table begins -->", "<!-- parsing table ends -->"
COLUMNS = (
    "log",
    "lines",
    "MB",
    "templates",
    "plain Drain3, lines/s",
    "ours before, lines/s",
    "ours, lines/s",
    "multiple",
)

LOGS: dict[str, tuple[str, dict[str, Any]]] = {
    "hdfs": ("hdfs_2pct/HDFS.log.gz", {"session_regex": r"blk_-?\d+"}),
    "bgl": ("bgl_windows/bgl.log.gz", {"session_regex": r"^\S+"}),
    "hadoop": ("hadoop/hadoop_raw.tar.gz", {"session_by_file": True}),
    "lo2": ("lo2/lo2.log.gz", {}),
    "openstack": ("openstack_kalaki/openstack.log.gz", {"session_regex": r"^\S+"}),
    "linux": ("linux/Linux.log.gz", {}),
}


def _unpacked(spec: Path, folder: Path) -> str:
    """The log without compression, which is not what is compared."""
    if spec.name.endswith(".tar.gz"):
        with tarfile.open(spec) as archive:
            archive.extractall(folder, filter="data")
        return str(folder)
    target = folder / spec.name.removesuffix(".gz")
    with gzip.open(spec, "rb") as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file)
    return str(target)


def _reader(path: str, values: dict[str, Any]) -> MessageReader:
    return MessageReader(find_sources(path), InputSettings(**values))


def _plain_drain3() -> Any:
    """Drain3's own miner with our masks and settings."""
    from drain3.masking import AbstractMaskingInstruction
    from drain3.template_miner import TemplateMiner as Drain3
    from drain3.template_miner_config import TemplateMinerConfig

    class OneAlternation(AbstractMaskingInstruction):
        def __init__(self) -> None:
            super().__init__("all")
            ((self._pattern, self._masks),) = DEFAULT_MASKS._steps

        def mask(self, content: str, mask_prefix: str, mask_suffix: str) -> str:
            masks = self._masks
            return self._pattern.sub(lambda match: masks[match.lastindex or 0], content)

    config = TemplateMinerConfig()
    ours = TemplateMiner().to_json()["drain"]
    config.drain_sim_th, config.drain_depth = ours["similarity"], ours["depth"]
    config.drain_max_children, config.drain_max_clusters = ours["max_children"], ours["max_clusters"]
    config.masking_instructions = [OneAlternation()]
    return Drain3(config=config)


def _texts(path: str, values: dict[str, Any]) -> list[str]:
    return [text for batch in _reader(path, values) for text in batch.text]


def run_once(what: str, path: str, values: dict[str, Any]) -> float:
    """Processor seconds of one way through the log."""
    if what == "drain3":
        texts, miner = _texts(path, values), _plain_drain3()
        gc.collect()  # what imports left, which is no part of either
        begun = time.process_time()
        for text in texts:
            miner.add_log_message(text)
        return time.process_time() - begun
    read = read_messages if what == "ours" else read_plainly
    with tempfile.TemporaryDirectory() as folder:  # loads the machine code
        warm = Path(folder) / "warm.log"
        warm.write_text("a 1\nb 2\n")
        _to_columns(read, str(warm), {})
    gc.collect()
    begun = time.process_time()
    _to_columns(read, path, values)
    return time.process_time() - begun


def _to_columns(
    read: Callable[[MessageReader, TemplateMiner, bool], Messages], path: str, values: dict[str, Any]
) -> None:
    miner = TemplateMiner()
    reader = _reader(path, values)
    messages = read(reader, miner, True)
    miner.freeze()
    event_table(messages, reader, miner)


def check_exactness(path: str, values: dict[str, Any]) -> int:
    """Compare ids line by line, and every cluster's number, size and template, over the whole log; lines' number."""
    theirs = _plain_drain3()
    expected = [theirs.add_log_message(text)["cluster_id"] - 1 for text in _texts(path, values)]
    clusters = sorted((c.cluster_id - 1, c.size, c.get_template()) for c in theirs.drain.clusters)
    ours, texts, keys = TemplateMiner(), ByteDictionary(), ByteDictionary()
    (patterns, mask), learner = masking_of(ours, texts), ours.byte_learner(ours.words_of(texts))
    found = [learner.add(mask(block)[0]) for block in blocks_of(_reader(path, values), keys, patterns)]
    learner.flush()
    if np.concatenate(found).tolist() != expected or ours.clusters != clusters:
        raise SystemExit(f"{path}: not the ids, sizes and templates of plain Drain3")
    return len(clusters)


def _in_fresh_process(what: str, path: str, values: dict[str, Any]) -> float:
    command = [sys.executable, __file__, "--once", what, path, json.dumps(values)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return float(output.splitlines()[-1])


def measure(name: str, spec: Path, values: dict[str, Any], rounds: int) -> tuple[str, ...]:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        path = _unpacked(spec, Path(temporary))
        n_templates = check_exactness(path, values)
        reader = _reader(path, values)
        for _ in reader:
            pass
        n_lines, n_bytes = reader.counters.n_lines, reader.counters.n_bytes
        seconds: dict[str, list[float]] = {"drain3": [], "before": [], "ours": []}
        for _ in range(rounds):
            for what in seconds:
                seconds[what].append(_in_fresh_process(what, path, values))
    ratio = statistics.median(a / b for a, b in zip(seconds["drain3"], seconds["ours"], strict=True))
    rates = [f"{n_lines / statistics.median(seconds[what]):,.0f}" for what in seconds]
    return name, f"{n_lines:,}", f"{n_bytes / 1e6:.1f}", f"{n_templates:,}", *rates, f"{ratio:.1f}"


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def main() -> None:
    """Measure, print, and put the table between the marks of the output file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file whose table is replaced")
    parser.add_argument("--only", nargs="*", help="names of logs, such as hdfs bgl 2k-Apache")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes of each kind")
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        what, path, values = arguments.once
        print(run_once(what, path, json.loads(values)))
        return
    rows = []
    systems = ("Apache", "BGL", "HDFS", "Hadoop", "HealthApp", "Linux", "OpenSSH", "Zookeeper")
    logs = {**LOGS, **{f"2k-{system}": (f"loghub_2k/{system}/{system}_2k.log.gz", {}) for system in systems}}
    for name, (path, values) in logs.items():
        if arguments.only and name not in arguments.only:
            continue
        if not (DATA / path).exists():
            print(f"{name}: skipped, {DATA / path} is not there (AI_DETECT_DATA)", file=sys.stderr)
            continue
        rows.append(measure(name, DATA / path, values, arguments.rounds))
        print(" | ".join(rows[-1]), flush=True)
    if arguments.output:
        text = arguments.output.read_text()
        head, rest = text.split(BEGIN)
        machine = f"{platform.machine()}, Python {platform.python_version()}, {arguments.rounds} rounds"
        table = "\n".join(_table(rows))
        arguments.output.write_text(f"{head}{BEGIN}\n\nMeasured on {machine}.\n\n{table}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
