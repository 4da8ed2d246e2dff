"""Capture the labelled log: a PostgreSQL server, its normal traffic, and faults injected among it.

One command makes everything again: `python dataset/capture.py --output_dir dataset`.
"""

import argparse
import gzip
import math
import os
import random
import signal
import sys
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import psycopg
from clients import Line
from faults import FAULTS, GroundTruth, Scene
from postgres_server import PostgresServer, find_binaries
from session_labels import FaultyClient, label_sessions, read_sessions, write_labels
from summary import PARTS, summarise
from traffic import BEHAVIOURS, BENCH

SHARES = dict(zip(PARTS, (0.55, 0.15, 0.30), strict=True))
FULL_SIZE = 5600
DAMAGED_PART = "test"
PAGE = 8192
LONELY = {"connections_exhausted": 0.37, "backend_killed": 0.71}


@dataclass(frozen=True)
class Event:
    """Something that begins at a second of a part: a round of a behaviour, or a fault."""

    second: float
    name: str
    is_fault: bool
    seed: str


def plan_part(part: str, sessions: int, seconds: float, seed: int) -> list[Event]:
    """The events of one part in time order; the same arguments give the same plan."""
    rng = random.Random(f"{seed}/{part}")
    names = list(BEHAVIOURS)
    weights = [BEHAVIOURS[name].weight for name in names]
    moments: list[tuple[float, str, bool]] = []
    planned = 0.0
    while planned < sessions:
        name = rng.choices(names, weights)[0]
        planned += BEHAVIOURS[name].sessions
        moments.append((_busy_moment(rng, seconds), name, False))
    index = PARTS.index(part)
    scale = sessions / (FULL_SIZE * SHARES[part])
    for name, fault in FAULTS.items():
        for _ in range(math.ceil(round(fault.rounds[index] * scale, 6))):
            share = LONELY[name] if name in LONELY else _moment_apart(rng)
            moments.append((share * seconds, name, True))
    return [
        Event(second, name, is_fault, f"{seed}/{part}/{number}")
        for number, (second, name, is_fault) in enumerate(sorted(moments))
    ]


def _busy_moment(rng: random.Random, seconds: float) -> float:
    """A moment of the part; more of them fall into its busy hours."""
    while True:
        share = rng.random()
        if rng.random() < 0.7 + 0.3 * math.sin(6 * math.pi * share):
            return share * seconds


def _moment_apart(rng: random.Random) -> float:
    """A moment for a fault that shall not be drowned in one from which everyone suffers."""
    while True:
        share = rng.uniform(0.02, 0.95)
        if all(abs(share - moment) > 0.02 for moment in LONELY.values()):
            return share


def perform(events: list[Event], port: int, truth: GroundTruth) -> Counter[str]:
    """Let every event begin at its second and wait for all to end; how often each kind of act failed."""
    failures: Counter[str] = Counter()
    acts: list[Future[None]] = []
    begin = time.monotonic()

    def act(event: Event) -> None:
        line = Line(port, random.Random(event.seed))
        try:
            if event.is_fault:
                FAULTS[event.name].act(Scene(event.name, line, truth))
            else:
                BEHAVIOURS[event.name].act(line)
        except (psycopg.Error, OSError) as error:
            failures[f"{event.name}: {type(error).__name__}"] += 1
        for client_port, pid in line.refused_locks:
            truth.clients.append(FaultyClient("lock_timeout", client_port, pid, datetime.now(timezone.utc)))

    with ThreadPoolExecutor(8) as everyday, ThreadPoolExecutor(3) as injectors:
        for event in events:
            time.sleep(max(0.0, begin + event.second - time.monotonic()))
            acts.append((injectors if event.is_fault else everyday).submit(act, event))
    for done in acts:
        done.result()
    return failures


def prepare(server: PostgresServer) -> Path:
    """Make the databases, outside the captured logs; the file of the table that will be damaged."""
    server.create(bulk_megabytes=12)
    server.start(server.folder / "setup.log")
    server.query(f"CREATE TABLESPACE bulk LOCATION '{server.bulk}'")
    server.query("CREATE DATABASE shop")
    server.query((Path(__file__).parent / "shop_schema.sql").read_text(encoding="utf-8"), "shop")
    server.query(f"CREATE ROLE {BENCH.user} LOGIN PASSWORD '{BENCH.password}'")
    server.query(f"CREATE DATABASE {BENCH.database} OWNER {BENCH.user}")
    options = ["-h", str(server.folder), "-p", str(server.port), "-U", BENCH.user]
    server.run("pgbench", "-i", "-q", *options, BENCH.database)
    damaged = server.data / server.query("SELECT pg_relation_filepath('order_archive')", "shop")
    server.stop()
    return damaged


def damage(table: Path) -> None:
    """Overwrite a part of the table's last page but one, as a failing disk does."""
    with table.open("r+b") as file:
        file.seek(table.stat().st_size - 2 * PAGE + PAGE // 2)
        file.write(bytes(range(256)))


def capture_part(server: PostgresServer, part: str, events: list[Event]) -> tuple[bytes, dict[str, str]]:
    """One part: start the server, let everything happen, stop it; the log and the kind of every session."""
    log = server.folder / f"{part}.log"
    truth = GroundTruth()
    server.start(log)
    postmaster = server.postmaster_pid()
    failures = perform(events, server.port, truth)
    server.stop()
    content = log.read_bytes()
    lines = content.decode().splitlines()
    kinds = label_sessions(read_sessions(lines), truth.clients, truth.windows, postmaster)
    print(f"{part}: {len(lines)} lines, acts that ended in an error: {dict(failures)}", file=sys.stderr)
    return content, kinds


def capture(output_dir: Path, server_dir: Path, port: int, sessions: int, minutes: float, seed: int) -> None:
    """Capture all parts into `output_dir`."""
    binaries = find_binaries()
    if binaries is None:
        raise SystemExit("PostgreSQL is needed for capturing: apt-get install postgresql postgresql-contrib")
    os.environ["PATH"] = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    output_dir.mkdir(parents=True, exist_ok=True)
    server = PostgresServer(binaries, server_dir, port)
    kinds: dict[str, str] = {}
    try:
        damaged = prepare(server)
        for part, share in SHARES.items():
            if part == DAMAGED_PART:
                damage(damaged)
            events = plan_part(part, round(sessions * share), minutes * 60 * share, seed)
            content, new_kinds = capture_part(server, part, events)
            if kinds.keys() & new_kinds.keys():
                raise RuntimeError(f"sessions of {part} occurred before: {kinds.keys() & new_kinds.keys()}")
            kinds.update(new_kinds)
            (output_dir / f"{part}.log.gz").write_bytes(gzip.compress(content, compresslevel=9, mtime=0))
    finally:
        server.remove()
    write_labels(output_dir / "labels.csv", kinds)
    print(summarise(output_dir))


def main() -> None:
    """Read the command line and capture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="where the logs and labels.csv are written")
    parser.add_argument("--server_dir", type=Path, default=Path("/tmp/pg_capture"), help="a new folder for the server")
    parser.add_argument("--port", type=int, default=54329, help="the server's TCP port")
    parser.add_argument("--sessions", type=int, default=FULL_SIZE, help="about how many sessions in all parts")
    parser.add_argument("--minutes", type=float, default=8.0, help="how long the traffic of all parts takes")
    parser.add_argument("--seed", type=int, default=2026, help="the seed of the plan and of every client's choices")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the server is removed"))
    capture(**vars(arguments))


if __name__ == "__main__":
    main()
