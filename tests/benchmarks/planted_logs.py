"""Logs to plant faults in: real ones, labelled or not (no label is read), and systems that are made up.

A made-up system has its own messages, procedures, times and values, all drawn from its name; what tells its faults
from normal differs from one to the next: order alone, counts, values, times, or new messages that mean no harm.
"""

from __future__ import annotations

import gzip
import random
import re
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from detection_splits import DATA, PROTOCOLS
from planted_faults import Message, Session

from ai_detect.config import InputSettings
from ai_detect.sequences.parsed_log import ParsedLog, learn_log, match_log
from ai_detect.tables import LEVELS

#: Sessions of a log that are used at most: of its first part for training, of the rest to plant in.
N_TRAIN, N_TEST = 1500, 700
#: Messages of the training sessions, about; longer sessions are fewer.
_MOST_MESSAGES = 80_000


@dataclass(frozen=True)
class Log:
    """Sessions in order of time, `window` messages each where they are windows."""

    train: list[Session]
    test: list[Session]
    window: int | None = None


def _sample(sessions: list[Session], most: int, seed: str) -> list[Session]:
    length = np.mean([len(session) for session in sessions])
    most = min(most, max(150, round(_MOST_MESSAGES * most / N_TRAIN / length)))
    chosen = random.Random(seed).sample(range(len(sessions)), min(most, len(sessions)))
    return [sessions[number] for number in sorted(chosen)]


# Real logs


def _sessions(log: ParsedLog) -> list[Session]:
    events, values = log.events, log.values
    numbers, keys, offsets = values.number.tolist(), values.key.tolist(), values.offsets.tolist()
    gaps, levels = log.sequences.gap_s.tolist(), events.level[log.sessions.rows].tolist()
    templates = [events.templates[event] for event in log.sequences.event_id.tolist()]
    of_event = [tuple(zip(numbers[a:b], keys[a:b], strict=True)) for a, b in pairwise(offsets)]
    of_event = of_event or [()] * len(templates)
    messages = [Message(*parts) for parts in zip(templates, levels, of_event, gaps, strict=True)]
    ends = log.sequences.offsets.tolist()
    return [messages[begin:end] for begin, end in pairwise(ends) if end > begin]


def _parsed(name: str, train: Path, test: Path, folder: Path, **reading: object) -> Log:
    settings = InputSettings(**reading)  # type: ignore[arg-type]
    learned, miner = learn_log(str(train), settings, folder / "cache")
    parts = [_sessions(learned), _sessions(match_log(str(test), settings, miner))]
    window = settings.window_size if settings.windowing == "fixed" else None
    lengths = {len(session) for session in parts[0]}
    if len(lengths) <= 2 and len(parts[0]) > 20:  # windows that somebody else has cut
        window = max(lengths)
    return Log(_sample(parts[0], N_TRAIN, f"{name} train"), _sample(parts[1], N_TEST, f"{name} test"), window)


def _protocol(name: str, folder: Path) -> Log:
    case = PROTOCOLS[name].split(folder, 0)
    return _parsed(name, case.train, case.test, folder, **{case.flags[0].removeprefix("--"): case.flags[1]})


def _split(name: str, path: Path, folder: Path, key: str | None = None, **reading: object) -> Log:
    """The first two thirds of the lines, or of the sessions by their first line, and the rest."""
    with gzip.open(path, "rb") as file:
        lines = file.readlines()
    part = [at * 3 >= 2 * len(lines) for at in range(len(lines))]
    if key is not None:
        order: dict[bytes, int] = {}
        found = [match[1] if (match := re.search(key.encode(), line)) else b"" for line in lines]
        for session in found:
            order.setdefault(session, len(order))
        part = [order[session] * 3 >= 2 * len(order) for session in found]
        reading["session_regex"] = key
    for file_name, wanted in (("train.log", False), ("test.log", True)):
        text = b"".join(line for line, later in zip(lines, part, strict=True) if later is wanted)
        (folder / file_name).write_bytes(text)
    return _parsed(name, folder / "train.log", folder / "test.log", folder, **reading)


def _hadoop(folder: Path) -> Log:
    with tarfile.open(DATA / "hadoop" / "hadoop_raw.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    for number, application in enumerate(sorted((folder / "hadoop_raw").iterdir())):
        part = folder / ("test" if number % 3 == 2 else "train")
        part.mkdir(exist_ok=True)
        application.rename(part / application.name)
    return _parsed("hadoop", folder / "train", folder / "test", folder, session_by_file=True)


_2K = DATA / "loghub_2k"
_LO2 = DATA / "lo2" / "lo2.log.gz"
REAL: dict[str, Callable[[Path], Log]] = {
    "hdfs": lambda folder: _protocol("hdfs", folder),
    "openstack": lambda folder: _protocol("openstack", folder),
    "bgl": lambda folder: _protocol("bgl", folder),
    "postgresql": lambda folder: _protocol("postgresql", folder),
    "linux": lambda folder: _split("linux", DATA / "linux" / "Linux.log.gz", folder, window_size=20),
    "linux by process": lambda folder: _split(
        "linux by process", DATA / "linux" / "Linux.log.gz", folder, r"^\S+ +\S+ \S+ \S+ (\S+?\[\d+\]):"
    ),
    "hadoop": _hadoop,
    "lo2": lambda folder: _split("lo2", _LO2, folder, window_size=50),
    "lo2 by request": lambda folder: _split("lo2 by request", _LO2, folder, r"\]\s+([\w-]{22}) [A-Z]+ "),
    "openssh": lambda folder: _split("openssh", _2K / "OpenSSH" / "OpenSSH_2k.log.gz", folder, r"(sshd\[\d+\])"),
    "healthapp": lambda folder: _split("healthapp", _2K / "HealthApp" / "HealthApp_2k.log.gz", folder, window_size=10),
    "zookeeper": lambda folder: _split("zookeeper", _2K / "Zookeeper" / "Zookeeper_2k.log.gz", folder, window_size=10),
}


# Made-up systems


def _words(*lines: str) -> tuple[str, ...]:
    return tuple(" ".join(lines).split())


_WORDS = _words(
    "request worker queue page index cache user token batch job node replica lease shard topic message stream",
    "buffer disk volume snapshot record table row cursor session socket route packet frame image order payment",
    "invoice cart report schedule task pool thread lock metric probe sensor valve pump motor meter badge door",
    "camera account key",
)
_ACTIONS = _words(
    "opened closed accepted started finished scheduled received sent stored loaded flushed merged split renewed",
    "assigned released queued polled written read deleted created updated verified copied moved resumed mounted",
)
_WARNING = LEVELS.index("warning")
_TROUBLE = ("retrying {} after timeout", "{} not found, using default", "warning: slow {}", "{} rejected, trying again")


@dataclass(frozen=True)
class Traits:
    """What a made-up system is like."""

    n_messages: int = 30
    n_procedures: int = 8
    steps: tuple[int, int] = (4, 12)
    calls: tuple[int, int] = (1, 3)  # procedures a session
    loop: float = 0.15  # probability that a step comes again
    skip: float = 0.05
    interleaved: bool = False
    timed: float | None = 0.5  # spread of the times between messages; None: no times
    values: int = 1  # values a message, at most
    spread: float = 0.5  # of the numbers
    trouble: float = 0.02  # sessions with a usual retry or warning
    novelty: float = 0.05  # sessions with messages of their own, which mean no harm
    rare: float = 0.0  # procedures that are seldom called
    window: int | None = None


SYSTEMS = {
    "order only": Traits(40, 40, (4, 12), (4, 20), 0.0, 0.02, timed=None, values=0, trouble=0),
    "workflow": Traits(25, 3, (8, 16), (1, 1), 0.1, 0.03, rare=0.05),
    "values": Traits(8, 2, (3, 6), (1, 2), 0.0, 0.0, values=3, spread=0.2, trouble=0.0, novelty=0.0),
    "heartbeat": Traits(6, 2, (3, 3), (6, 10), 0.0, 0.01, timed=0.05, values=1, novelty=0.02),
    "concurrent": Traits(60, 12, (4, 10), (3, 6), 0.2, 0.05, interleaved=True, trouble=0.1, window=40),
    "chatty": Traits(120, 30, (3, 8), (2, 6), 0.2, 0.1, novelty=0.2, trouble=0.1, rare=0.3),
    "troubled": Traits(35, 10, (4, 9), (1, 4), 0.2, 0.05, trouble=0.35, values=2, spread=1.0, novelty=0.1),
    "short": Traits(20, 12, (2, 4), (1, 1), 0.05, 0.02, values=2, rare=0.2, novelty=0.02),
}


class _System:
    """A system drawn from a name."""

    def __init__(self, name: str, traits: Traits) -> None:
        self.traits = traits
        self.random = random.Random(name)
        pick = self.random
        self.templates = [
            f"{pick.choice(_WORDS)} {pick.choice(_WORDS)} {pick.choice(_ACTIONS)}" for _ in range(traits.n_messages)
        ]
        self.templates = list(dict.fromkeys(self.templates))
        self.n_values = [pick.randint(0, traits.values) for _ in self.templates]
        self.wait = [pick.lognormvariate(-1, 1.5) for _ in self.templates]
        self.size = [[pick.lognormvariate(4, 2) for _ in range(n)] for n in self.n_values]
        self.procedures = [
            [pick.randrange(len(self.templates)) for _ in range(pick.randint(*traits.steps))]
            for _ in range(traits.n_procedures)
        ]
        n_rare = round(traits.rare * traits.n_procedures) if traits.n_procedures > 3 else int(traits.rare > 0)
        self.weights = [0.01 if number < n_rare else pick.expovariate(1) + 0.1 for number in range(traits.n_procedures)]

    def message(self, event: int) -> Message:
        pick, traits = self.random, self.traits
        values = []
        for slot in range(self.n_values[event]):
            if (event + slot) % 3 == 0:  # one of a few words
                values.append(
                    (float("nan"), zlib.crc32(f"{event} {slot} {min(int(pick.expovariate(0.7)), 5)}".encode()) >> 1)
                )
            else:
                number = self.size[event][slot] * pick.lognormvariate(0, traits.spread)
                values.append((number, zlib.crc32(f"{number:.0f}".encode()) >> 1))
        gap = float("nan") if traits.timed is None else self.wait[event] * pick.lognormvariate(0, traits.timed)
        return Message(self.templates[event], 0, tuple(values), gap)

    def run(self) -> Session:
        pick, traits = self.random, self.traits
        done: Session = []
        for event in pick.choices(self.procedures, self.weights)[0]:
            if pick.random() < traits.skip:
                continue
            done.append(self.message(event))
            while pick.random() < traits.loop:
                done.append(self.message(event))
        return done or [self.message(0)]

    def session(self) -> Session:
        pick, traits = self.random, self.traits
        runs = [self.run() for _ in range(pick.randint(*traits.calls))]
        if traits.interleaved:
            order = [number for number, run in enumerate(runs) for _ in run]
            pick.shuffle(order)
            left = [iter(run) for run in runs]
            result = [next(left[number]) for number in order]
        else:
            result = [message for run in runs for message in run]
        if pick.random() < traits.trouble:
            text = pick.choice(_TROUBLE).format(_WORDS[pick.randrange(4)])
            result.insert(pick.randint(1, len(result)), Message(text, pick.choice((0, _WARNING)), (), result[0].gap))
        while pick.random() < traits.novelty:
            at = pick.randrange(len(result))
            text = f"{result[at].template} for {pick.choice(_WORDS)} {pick.choice(_WORDS)}"
            result[at] = result[at]._replace(template=text)
        return [result[0]._replace(gap=float("nan")), *result[1:]]

    def log(self, n: int) -> list[Session]:
        sessions = [self.session() for _ in range(n)]
        size = self.traits.window
        if size is None:
            return sessions
        lines = [message for session in sessions for message in session]
        lines = [m if m.gap == m.gap else m._replace(gap=1.0) for m in lines]
        windows = [lines[at : at + size] for at in range(0, len(lines) - size + 1, size)]
        return [[window[0]._replace(gap=float("nan")), *window[1:]] for window in windows]


def made_up(name: str) -> Log:
    """A made-up system's log."""
    sessions = _System(name, SYSTEMS[name]).log(N_TRAIN + N_TEST)
    train = round(len(sessions) * N_TRAIN / (N_TRAIN + N_TEST))
    return Log(_sample(sessions[:train], N_TRAIN, name), _sample(sessions[train:], N_TEST, name), SYSTEMS[name].window)


def logs() -> Iterator[tuple[str, Log]]:
    """Every log that is there, by name."""
    for name, make in REAL.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                log = make(Path(folder))
            except FileNotFoundError as error:
                print(f"{name}: there is no {error.filename}, skipped", file=sys.stderr)
                continue
        yield name, log
    for name in SYSTEMS:
        yield name, made_up(name)
