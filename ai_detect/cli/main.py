"""Entry of every command: flags in, exit code out, one line for what a user can mend."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ai_detect import __version__
from ai_detect.errors import AiDetectError, ConfigError, Interrupted

if TYPE_CHECKING:
    from ai_detect import config

# Threads of OpenMP that wait for each other by spinning make training ten times slower beside any other busy process
# (measured); it is read when torch loads its OpenMP, later than here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@dataclass(frozen=True)
class Command:
    """One subcommand: its class in command_settings, what it does, the module whose `run(settings, typed)` does it, and
    examples for --help.
    """

    settings_name: str
    summary: str
    module: str
    examples: str

    @property
    def settings(self) -> type[config.Settings]:
        """Its settings; imported when they are asked for, so that the overview of commands comes at once."""
        settings: type[config.Settings] = getattr(_imported("ai_detect.cli.command_settings"), self.settings_name)
        return settings


COMMANDS: dict[str, Command] = {
    "train": Command(
        "TrainCommand",
        "Train on a log: parse, learn what is normal, fit the detectors, save the model, score the evaluation file.",
        "ai_detect.cli.train_command",
        "  {prog} --train_file ./dataset/train.log --eval_file ./dataset/eval.log\n"
        "  {prog} --train_file hdfs.log --session_regex '(blk_-?\\d+)'\n"
        "  {prog} --train_file '/var/log/app/*.gz' --window_type time --window_seconds 60",
    ),
    "resume": Command(
        "ResumeCommand",
        "Go on from a checkpoint as if never stopped, then fit the detectors and score as train does.",
        "ai_detect.cli.resume_command",
        "  {prog} --train_file ./dataset/train.log --eval_file ./dataset/eval.log\n"
        "  {prog} --train_file ./dataset/train.log --use_best_checkpoint --num_epochs 10\n"
        "  {prog} --train_file ./dataset/train.log --checkpoint_path ./checkpoint/checkpoint-1000 "
        "--detection_method knn",
    ),
    "detect": Command(
        "DetectCommand",
        "Score a log with a trained model and report the anomalies, each with its lines and reasons.",
        "ai_detect.cli.detect_command",
        "  {prog} --log_file ./dataset/test.log\n"
        "  zcat app.log.gz | {prog} --log_file - --output_dir -\n"
        "  {prog} --log_file new.log --false_alarm_rate 0.001 --fail_on_anomaly\n"
        "  {prog} --log_file new.log --max_alerts_per_day 5\n"
        "  {prog} --log_file './logs/*.gz' --engine ray --ray_workers 4",
    ),
    "evaluate": Command(
        "EvaluateCommand",
        "Measure a model on a log, with labels (quality) or without (alarm rate and drift).",
        "ai_detect.cli.evaluate_command",
        "  {prog} --test_file ./dataset/test.log --label_file ./dataset/labels.csv --eval_all_methods\n"
        "  {prog} --test_file bgl.log --label_regex '^[^-]'",
    ),
    "parse": Command(
        "ParseCommand",
        "Parse only: which templates a log holds and which line is which.",
        "ai_detect.cli.parse_command",
        "  {prog} --log_file app.log --output_dir out",
    ),
    "checkpoints": Command(
        "CheckpointsCommand",
        "List, inspect, verify, compare and prune checkpoints; list and info check sizes, verify reads every byte.",
        "ai_detect.cli.checkpoints_command",
        "  {prog} list\n  {prog} verify --json\n  {prog} diff checkpoint-100 checkpoint-200\n  {prog} prune --dry_run",
    ),
}


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ai-detect COMMAND [flags]",
            "",
            "Finds what is wrong in logs that nobody has labelled.",
            "",
            *lines,
            "",
            "ai-detect COMMAND --help shows flags and examples; ai-detect --version the version.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 done, 1 failure, 2 usage, 3 anomalies found, 4 no input, 130/143
    signals).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"ai-detect {__version__}")
        return 0
    try:
        return _run(arguments[0], arguments[1:])
    except Interrupted as stop:
        if str(stop):
            print(f"ai-detect: {stop}", file=sys.stderr)
        return stop.exit_code
    except AiDetectError as error:
        print(f"ai-detect: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("ai-detect: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has left (| head): nothing to say to it, and no traceback at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(name: str, arguments: list[str]) -> int:
    from ai_detect import config

    if name not in COMMANDS:
        raise ConfigError(f"{config.unknown_name(name, COMMANDS, 'command')} (all commands: ai-detect --help)")
    from ai_detect.cli import flags

    command = COMMANDS[name]
    prog = flags.program_name(name)
    known = command.settings
    values = flags.typed_values(known, arguments, prog, command.examples.format(prog=prog), command.summary)
    settings = config.build(known, values, prog)
    _log_to_stderr(bool(getattr(settings, "quiet", False)))
    return int(_imported(command.module).run(settings, values))


def _imported(name: str) -> Any:
    """The module, loaded without garbage collection, which would search all that torch keeps again and again.

    That takes a seventh of the time to the first step of a resumed run.
    """
    if name in sys.modules:
        return sys.modules[name]
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()  # modules stay: no later collection searches them either
        gc.enable()


def _log_to_stderr(quiet: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logger = logging.getLogger("ai_detect")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False


class _Formatter(logging.Formatter):
    """Plain lines for talk, a word in front of what needs attention."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"
