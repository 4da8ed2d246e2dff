"""What resume costs and what it survives, beside Hugging Face Trainer, Lightning and accelerate: one command makes the
tables in docs/benchmarks-resume.md.

    python tests/benchmarks/resume.py --output docs/benchmarks-resume.md
    python tests/benchmarks/resume.py --quick --only ours
    python tests/benchmarks/resume.py --only ours hf --part faults

The peers come with `pip install -e .[peers]`; one that is not installed is left out, with a line that says so. Each
run is a process of its own, all under one number of threads, in a temporary folder that is gone at the end (about 1 GB;
some 25 minutes on two cores, two with --quick --only ours). The training processes of the peers are in
tests/benchmarks/resume_workers.py; ours are the real commands. All of them write a line to metrics.jsonl when the
optimizer has stepped, and that line is what is waited for.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
WORKERS = ROOT / "tests" / "benchmarks" / "resume_workers.py"
BEGIN, END = "<!-- resume tables begin -->", "<!-- resume tables end -->"
#: The same for every process: one number of threads, which do not spin while they wait (another process may be busy).
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": str(os.cpu_count()),
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": "",
}
SHARES = (0.01, 0.5, 0.99)
SESSION_REGEX = r"\((request-\d+)\)"
BATCH_SIZE = 128  # the default of train.py
#: Kinds of message, each in words of its own; four messages tell apart more sessions than any log here has.
KINDS = [
    " ".join(f"{stem}{middle}{end}" for end in ("", "s", "ed", "er", "ing", "ly"))
    for stem in ("add", "bind", "copy", "drop", "edit", "find")
    for middle in ("al", "en", "ic", "or", "um", "us")
]
ROWS = 4900  # of the peers' embedding: a model of the size of ours
POLL_S = 0.002
LIMIT_S = 1800.0


@dataclass(frozen=True)
class Data:
    """The same number of samples as a log (four fifths of its sessions are trained on) and as an array of tokens."""

    log: Path
    tokens: Path
    n_samples: int


@dataclass(frozen=True)
class Plan:
    """How a run trains and saves; None leaves a flag out."""

    batch_size: int = BATCH_SIZE
    num_epochs: int | None = None
    save_steps: int | None = None
    save_at: tuple[int, ...] = ()  # peers only


@dataclass(frozen=True)
class Contestant:
    """A program that trains, is interrupted and resumes; `packages` are what it needs to be installed."""

    key: str
    name: str
    packages: tuple[str, ...]

    def command(self, data: Data, folder: Path, plan: Plan, *, resume: bool) -> list[str]:
        """The training process whose checkpoints and metrics.jsonl are in `folder`."""
        flags = [str(WORKERS), self.key, "--folder", str(folder), "--tokens", str(data.tokens), "--rows", str(ROWS)]
        flags += ["--batch_size", str(plan.batch_size), "--num_epochs", str(plan.num_epochs or 1)]
        if plan.save_steps:
            flags += ["--save_steps", str(plan.save_steps)]
        return [*flags, "--save_at", *map(str, plan.save_at), *(["--resume"] if resume else [])]

    def weights(self, checkpoint: Path) -> Path:
        """The file that holds the weights of a checkpoint."""
        return checkpoint / "model.safetensors" if checkpoint.is_dir() else checkpoint

    def final_weights(self, folder: Path) -> Path:
        """The file with the weights of a run that came to its end."""
        return folder / "final.safetensors"


class Ours(Contestant):
    """This project, by its real commands."""

    def command(self, data: Data, folder: Path, plan: Plan, *, resume: bool) -> list[str]:
        """train.py or resume_train.py; on resume the settings are the checkpoint's."""
        flags = ["--train_file", str(data.log), "--checkpoint_dir", str(folder), "--output_dir", str(folder / "output")]
        if resume:
            return ["ai_detect/resume_train.py", *flags]
        flags += ["--session_regex", SESSION_REGEX, "--batch_size", str(plan.batch_size), "--not_early_stopping"]
        if plan.num_epochs:
            flags += ["--num_epochs", str(plan.num_epochs)]
        if plan.save_steps:
            flags += ["--save_strategy", "steps", "--save_steps", str(plan.save_steps)]
        return ["ai_detect/train.py", *flags]

    def final_weights(self, folder: Path) -> Path:
        """The last checkpoint's weights."""
        return newest(folder) / "model.safetensors"


CONTESTANTS: Sequence[Contestant] = (
    Ours("ours", "ai_detect", ("torch",)),
    Contestant("hf", "HF Trainer", ("transformers", "accelerate")),
    Contestant("lightning", "Lightning", ("lightning",)),
    Contestant("lightning-stateful", "Lightning, stateful loader", ("lightning", "torchdata")),
    Contestant("accelerate", "accelerate", ("accelerate",)),
)


# Processes


@contextmanager
def running(arguments: Sequence[str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of this interpreter, its output in a file; killed at the end of the block if it still runs."""
    with open(output, "wb") as file:
        process = subprocess.Popen([sys.executable, *arguments], stdout=file, stderr=file, cwd=ROOT, env=ENVIRONMENT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], output: Path) -> None:
    """Poll until `ready`; raises RuntimeError with the output where the process ends before."""
    deadline = time.monotonic() + LIMIT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} ended with {process.poll()}\n{output.read_text()[-3000:]}")
        time.sleep(POLL_S)


def finish(arguments: Sequence[str], output: Path, expected: int | None = 0) -> int:
    """Run to the end and return the exit code; raises RuntimeError where it is not the expected one."""
    with running(arguments, output) as process:
        code = process.wait(LIMIT_S)
    if expected is not None and code != expected:
        raise RuntimeError(f"{' '.join(arguments)} ended with {code}\n{output.read_text()[-3000:]}")
    return code


def first_step(folder: Path) -> int:
    """The step of the first line of metrics.jsonl, 0 where there is none yet."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        line = file.readline()
    return int(json.loads(line)["step"]) if line.endswith(b"\n") else 0


def last_step(folder: Path) -> int:
    """The step of the last complete line of metrics.jsonl, 0 where there is none yet."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        complete = file.read().split(b"\n")[:-1]
    return int(json.loads(complete[-1])["step"]) if complete else 0


def checkpoints(folder: Path) -> dict[int, Path]:
    """Checkpoints by step, in rising order."""
    found = {int(m[1]): path for path in folder.iterdir() if (m := re.match(r"checkpoint-(\d+)", path.name))}
    return dict(sorted(found.items()))


def newest(folder: Path) -> Path:
    """The checkpoint of the largest step."""
    return list(checkpoints(folder).values())[-1]


def copy(source: Path, target: Path) -> None:
    """Copy a checkpoint, which is a folder or a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


# Data


def make_data(folder: Path, n_sessions: int) -> Data:
    """A log of short sessions (four lines, no two alike: of equal ones an epoch looks at a few), and tokens for as many
    samples as are trained on of it.
    """
    log, begun = folder / f"app-{n_sessions}.log", datetime(2026, 3, 1)
    with open(log, "w") as file:
        for number in range(n_sessions):
            for at in range(4):
                kind = KINDS[number // len(KINDS) ** at % len(KINDS)]
                stamp = (begun + timedelta(milliseconds=80 * number + 20 * at)).isoformat(" ", "milliseconds")
                shown = f"{kind} {number * 7919 % 1000}"
                file.write(f"{stamp.replace('.', ',')} INFO [shop] (request-{number:07}) {shown}\n")
    n_samples = n_sessions * 4 // 5
    tokens = folder / f"tokens-{n_sessions}.npy"
    np.save(tokens, np.random.default_rng(0).integers(1, 64, (n_samples, 8)).astype(np.int16))
    return Data(log, tokens, n_samples)


# From process start to the first step


def measure_start(contestants: Sequence[Contestant], folder: Path, *, quick: bool) -> list[list[str]]:
    """Rows of name, and median and range of seconds at each share of an epoch."""
    data = make_data(folder, 25_000 if quick else 1_250_000)
    time.sleep(3)  # in life a log is older; of one just written no fingerprint is kept
    n_steps = math.ceil(data.n_samples / BATCH_SIZE)
    at = [max(1, round(share * n_steps)) for share in SHARES]
    stored: dict[str, list[Path]] = {}
    for contestant in contestants:
        print(f"{contestant.name}: checkpoints at steps {', '.join(map(str, at))} of {n_steps}", flush=True)
        make = _our_checkpoints if isinstance(contestant, Ours) else _peer_checkpoints
        stored[contestant.key] = make(contestant, data, folder, at)
    seconds: dict[tuple[str, int], list[float]] = {}
    torch_alone: list[float] = []
    for _ in range(1 if quick else 5):
        torch_alone.append(_import_torch())
        print(f"  import torch: {torch_alone[-1]:.2f} s", flush=True)
        for contestant in contestants:
            for step, checkpoint in zip(at, stored[contestant.key], strict=True):
                took = _first_step(contestant, data, folder / contestant.key, checkpoint, step)
                seconds.setdefault((contestant.key, step), []).append(took)
                print(f"  {contestant.name}, step {step}: {took:.2f} s", flush=True)
    rows = [["`import torch` alone", *[_spread(torch_alone, "{:.2f}")] * len(at)]]
    return rows + [[c.name, *(_spread(seconds[c.key, step], "{:.2f}") for step in at)] for c in contestants]


def _import_torch() -> float:
    begun = time.monotonic()
    command = [sys.executable, "-c", "import os, torch; os.write(1, b'.')"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        return time.monotonic() - begun


def _our_checkpoints(contestant: Contestant, data: Data, folder: Path, at: Sequence[int]) -> list[Path]:
    """A real run stopped by a signal after its first step; its checkpoint, written again further on in the epoch."""
    from ai_detect.training.checkpoint import PARTS, load_checkpoint, read_checkpoint, write_checkpoint

    run, output = folder / contestant.key, folder / "ours.txt"
    with running(contestant.command(data, run, Plan(), resume=False), output) as process:
        wait_for(lambda: first_step(run) > 0, process, output)
        process.send_signal(signal.SIGTERM)
        if process.wait(LIMIT_S) != 128 + signal.SIGTERM:
            raise RuntimeError(output.read_text())
    loaded = load_checkpoint(read_checkpoint(newest(run)))
    parts = {name: (loaded.checkpoint.path / name).read_bytes() for name in PARTS if name != "trainer_state.json"}
    if loaded.trainer_state.n_samples != data.n_samples:
        raise RuntimeError(f"{loaded.trainer_state.n_samples} sessions are trained on, {data.n_samples} expected")
    made = []
    for step in at:
        position = {"step": step, "samples_in_epoch": step * BATCH_SIZE}
        store = folder / f"{contestant.key}-{step}"
        store.mkdir()
        made.append(write_checkpoint(store, loaded.trainer_state.model_copy(update=position), parts, None).path)
    return made


def _peer_checkpoints(contestant: Contestant, data: Data, folder: Path, at: Sequence[int]) -> list[Path]:
    """A real run up to the last of these steps."""
    run, output = folder / contestant.key, folder / f"{contestant.key}.txt"
    plan = Plan(num_epochs=1, save_at=tuple(at))
    with running(contestant.command(data, run, plan, resume=False), output) as process:
        wait_for(lambda: last_step(run) > at[-1], process, output)
    made = []
    for step in at:
        found = checkpoints(run)[step]
        made.append(folder / f"{contestant.key}-{step}" / found.name)
        copy(found, made[-1])
    return made


def _first_step(contestant: Contestant, data: Data, run: Path, checkpoint: Path, step: int) -> float:
    """Seconds from the start of a process that resumes from this checkpoint to its first step, then killed."""
    for path in run.iterdir():
        if path.name != "cache":  # of the parsed log: in life it is warm, as the log was trained on before
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    copy(checkpoint, run / checkpoint.name)
    output = run.with_suffix(".txt")
    begun = time.monotonic()
    with running(contestant.command(data, run, Plan(num_epochs=1), resume=True), output) as process:
        wait_for(lambda: first_step(run) > 0, process, output)
        took = time.monotonic() - begun
        if (first := first_step(run)) != step + 1:
            raise RuntimeError(f"{contestant.name} went on with step {first}, not {step + 1}\n{output.read_text()}")
    return took


# Writing a checkpoint


def measure_saves(contestants: Sequence[Contestant], folder: Path, *, quick: bool) -> list[list[str]]:
    """Rows of name, parameters, saves, milliseconds that training waits a save and for the last, and their share."""
    data = make_data(folder, 4_000)
    n_epochs = 3 if quick else 10
    rows, ours_s = [], None
    for contestant in contestants:
        run, output = folder / f"saves-{contestant.key}", folder / "saves.txt"
        if isinstance(contestant, Ours):
            log = ["--train_file", str(data.log), "--session_regex", SESSION_REGEX, "--num_epochs", str(n_epochs)]
            if not quick:
                log = ["--train_file", "dataset/train.log", "--eval_file", "dataset/eval.log"]
                log += ["--session_field", "session"]
            folders = ["--checkpoint_dir", str(run / "run"), "--output_dir", str(run / "output")]
            finish([str(WORKERS), "ours", "--folder", str(run), "train", *log, *folders], output)
        else:
            plan = Plan(num_epochs=n_epochs, save_steps=25)
            finish(contestant.command(data, run, plan, resume=False), output)
        lines = [json.loads(line) for line in (run / "saves.jsonl").read_text().splitlines()]
        times = [line["seconds"] for line in lines if line["what"] == "save"]
        total = sum(line["seconds"] for line in lines if line["what"] != "train")
        if isinstance(contestant, Ours):
            ours_s = sum(line["seconds"] for line in lines if line["what"] == "train") - total
        weights = contestant.final_weights(run / "run" if isinstance(contestant, Ours) else run)
        share = "" if ours_s is None else f"{100 * total / (ours_s + total):.2f} %"
        held_up = _spread([1000 * seconds for seconds in times], "{:.1f}")
        at_end = sum(1000 * line["seconds"] for line in lines if line["what"] == "finish")
        rows.append([contestant.name, f"{_n_parameters(weights):,}", f"{len(times)}", held_up, f"{at_end:.1f}", share])
        print(f"  {contestant.name}: {held_up} ms a save, {share}", flush=True)
    return rows


def _n_parameters(weights: Path) -> int:
    return sum(math.prod(entry["shape"]) for name, entry in _header(weights)[1].items() if name != "__metadata__")


def _header(weights: Path) -> tuple[int, dict[str, dict[str, list[int]]]]:
    """Where the tensors of a safetensors file begin, and what its header says of each."""
    with open(weights, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return 8 + length, json.loads(file.read(length))


# Faults


@dataclass(frozen=True)
class Resumed:
    """What a process that was told to resume did."""

    code: int
    first_step: int  # 0 for none
    weights: str | None  # sha256 at the end
    lines: tuple[str, ...]


FAULTS = {
    "kill": "kill -9 between checkpoints, then resume",
    "truncated": "newest checkpoint's weights cut to half",
    "missing": "a part of the newest checkpoint missing (each in turn)",
    "flipped": "one bit flipped in the newest checkpoint's weights",
}


def measure_faults(
    contestants: Sequence[Contestant], folder: Path, *, quick: bool
) -> tuple[list[list[str]], list[str]]:
    """A row a contestant with what it did after each fault, and notes with what it said."""
    data = make_data(folder, 2_000)
    # 100 steps, 50 an epoch: the kill is in the middle of the first, with two checkpoints there
    plan = Plan(batch_size=32, num_epochs=2, save_steps=15)
    rows, notes = [], []
    for contestant in contestants:
        run, output = folder / f"faults-{contestant.key}", folder / "faults.txt"
        straight = [_straight(contestant, data, run, plan, output) for _ in range(2)]
        if straight[0] != straight[1]:
            notes.append(f"{contestant.name}: two runs that nobody touched already end with different weights")
        with running(contestant.command(data, run, plan, resume=False), output) as process:
            wait_for(lambda run=run: last_step(run) >= 37, process, output)
        killed = folder / f"killed-{contestant.key}"
        run.rename(killed)
        newest_step = list(checkpoints(killed))[-1]
        cells, heard = [], set[str]()
        for fault, harm in _harms(contestant, killed, quick=quick).items():
            found: dict[str, list[str]] = {}
            for part, damage in harm.items():
                shutil.copytree(killed, run)
                damage(newest(run))
                resumed = _resume(contestant, data, run, plan, output)
                shutil.rmtree(run)
                if fault == "kill":
                    heard = {without_numbers(line) for line in resumed.lines}
                new = [line for line in resumed.lines if without_numbers(line) not in heard]
                outcome = _outcome(fault, resumed, newest_step, straight[0], new)
                found.setdefault(outcome, []).append(part)
                said = resumed.lines[-1] if resumed.code else next(iter(new), "")
                about = f"{contestant.name}, {fault} {part}".strip()
                print(f"  {about}: {outcome}; said: {said}", flush=True)
                if said and fault != "kill":
                    notes.append(f"{about}: `{said[:240]}`")
            cells.append(_words(found))
        rows.append([contestant.name, *cells])
    return rows, notes


def _straight(contestant: Contestant, data: Data, run: Path, plan: Plan, output: Path) -> str:
    finish(contestant.command(data, run, plan, resume=False), output)
    weights = hashlib.sha256(contestant.final_weights(run).read_bytes()).hexdigest()
    shutil.rmtree(run)
    return weights


def _harms(contestant: Contestant, killed: Path, *, quick: bool) -> Mapping[str, Mapping[str, Callable[[Path], None]]]:
    """What is done to the newest checkpoint, by fault and part."""

    def cut(checkpoint: Path) -> None:
        path = contestant.weights(checkpoint)
        os.truncate(path, path.stat().st_size // 2)

    def flip(checkpoint: Path) -> None:
        path = contestant.weights(checkpoint)
        content = bytearray(path.read_bytes())
        content[_middle_of_weights(path, bytes(content))] ^= 0x10
        path.write_bytes(content)

    checkpoint = newest(killed)
    names = sorted(path.name for path in checkpoint.iterdir()) if checkpoint.is_dir() else []
    if quick:
        names = names[:1]
    missing = {name: lambda checkpoint, name=name: (checkpoint / name).unlink() for name in names}
    return {"kill": {"": lambda _: None}, "truncated": {"": cut}, "missing": missing, "flipped": {"": flip}}


def _middle_of_weights(path: Path, content: bytes) -> int:
    """Offset of a byte within the mantissa of a weight (float32, little endian): what is flipped stays finite."""
    if path.suffix == ".safetensors":
        begin, header = _header(path)
        largest = max((entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"), key=np.ptp)
        return begin + largest[0] + (largest[1] - largest[0]) // 8 * 4 + 2
    import torch

    weights = torch.load(path, map_location="cpu", weights_only=False)["state_dict"].values()
    raw = max((tensor.numpy().tobytes() for tensor in weights), key=len)
    return content.index(raw) + len(raw) // 8 * 4 + 2


def _resume(contestant: Contestant, data: Data, run: Path, plan: Plan, output: Path) -> Resumed:
    """Resume to the end in the folder where the run was killed."""
    (run / "metrics.jsonl").unlink()  # never read on resume; its first line now says where it went on
    code = finish(contestant.command(data, run, plan, resume=True), output, expected=None)
    weights = hashlib.sha256(contestant.final_weights(run).read_bytes()).hexdigest() if code == 0 else None
    text = output.read_text().replace(f"{run}/", "").replace(str(run), ".")
    return Resumed(code, first_step(run), weights, tuple(line.strip() for line in text.splitlines() if line.strip()))


def without_numbers(line: str) -> str:
    """A line of output as it is the same in two runs: timings and steps aside."""
    return re.sub(r"\d+(\.\d+)?", "#", line)


def _outcome(fault: str, resumed: Resumed, newest_step: int, straight: str, new: Sequence[str]) -> str:
    if resumed.code:
        return "error"
    weights = "same bytes" if resumed.weights == straight else "other weights"
    went_on = resumed.first_step - 1
    if fault == "kill":
        return weights if went_on == newest_step else f"went on from step {went_on}: {weights}"
    if went_on != newest_step:
        said = "says so" if any("not taken" in line or "checkpoint" in line for line in new) else "in silence"
        return f"falls back to checkpoint-{went_on}, {said}; {weights}"
    return f"loaded {'with a warning' if new else 'in silence'}; {weights}"


def _words(found: Mapping[str, Sequence[str]]) -> str:
    """One cell: an outcome, with the parts it was for where there are several outcomes."""
    if not found:
        return "one file, no parts"
    if len(found) == 1:
        return next(iter(found))
    return "<br>".join(f"{', '.join(parts)}: {outcome}" for outcome, parts in found.items())


# Tables


def _spread(values: Sequence[float], form: str) -> str:
    low, middle, high = (form.format(value) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}-{high})"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    head = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def machine() -> str:
    """Where this is measured, with which versions, and how busy the machine is with other things."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        model = (re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [""])[0]
    found = []
    for name in ("torch", "transformers", "lightning", "torchdata", "accelerate"):
        if importlib.util.find_spec(name):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return (
        f"{model or platform.machine()}, {os.cpu_count()} cores and threads, Python {platform.python_version()}, "
        f"{', '.join(found)}; load average before the run {os.getloadavg()[1]:.1f}. Seconds and milliseconds are "
        "medians, with the smallest and the largest."
    )


def main() -> None:
    """Measure, print, and put the tables between the marks of the output file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file whose tables are replaced")
    parser.add_argument("--only", nargs="*", choices=[c.key for c in CONTESTANTS], help="leave the others out")
    parser.add_argument("--part", nargs="*", choices=["start", "saves", "faults"], default=["start", "saves", "faults"])
    parser.add_argument("--quick", action="store_true", help="20,000 samples, once: to see that it works")
    arguments = parser.parse_args()
    chosen = []
    for contestant in CONTESTANTS:
        if arguments.only and contestant.key not in arguments.only:
            continue
        if missing := [name for name in contestant.packages if importlib.util.find_spec(name) is None]:
            print(f"{contestant.name}: skipped, {' and '.join(missing)} not installed (pip install -e .[peers])")
            continue
        chosen.append(contestant)
    parts = [f"{machine()}\n"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "start" in arguments.part:
            (folder / "start").mkdir()
            rows = measure_start(chosen, folder / "start", quick=arguments.quick)
            shutil.rmtree(folder / "start")
            columns = ["seconds to the first step", *(f"at {share:.0%} of the epoch" for share in SHARES)]
            parts.append(f"### From process start to the first resumed step\n\n{table(columns, rows)}")
        if "saves" in arguments.part:
            rows = measure_saves(chosen, folder, quick=arguments.quick)
            columns = ["", "parameters", "saves", "ms a save", "ms at the end", "share of training time"]
            parts.append(f"### Time that training waits for a checkpoint\n\n{table(columns, rows)}")
        if "faults" in arguments.part:
            rows, notes = measure_faults(chosen, folder, quick=arguments.quick)
            faults = table(["", *FAULTS.values()], rows)
            said = "".join(f"- {note}\n" for note in notes)
            parts.append(f"### What a fault leads to\n\n{faults}\nWhat was said:\n\n{said}")
    text = "\n".join(parts)
    print(text)
    if arguments.output:
        head, rest = arguments.output.read_text().split(BEGIN)
        arguments.output.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
