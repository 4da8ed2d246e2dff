"""Every setting, declared once: name, type, default, help, range, and what a change of it means on resume.

The flags, the keys of a config file, the README's table and the JSON in a checkpoint all come from these classes.
Order: defaults < config file < flags; on resume the checkpoint takes the place of the defaults.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import CliPositionalArg

from ai_detect.errors import ConfigError

DetectionMethod = Literal["knn", "cluster", "lof", "iforest", "reconstruction", "ensemble"]
FusionMethod = Literal["dynamic_weight", "static_weight", "max", "mean"]
#: What a changed setting means on resume: applied; applied, printed and recorded; refused.
OnResume = Literal["harmless", "warn", "refuse"]


def _setting(default: Any, description: str, on_resume: OnResume = "harmless", **limits: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"on_resume": on_resume}, **limits)


class Settings(BaseModel):
    """Base of all groups: unknown keys are errors, values are checked, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputSettings(Settings):
    """How lines are read and grouped into sessions."""

    log_format: str = _setting(
        "auto",
        'header layout: auto, a known name, or a header string such as "<Date> <Time> <Level> <Component>: <Content>"',
        "refuse",
    )
    session_regex: str | None = _setting(
        None,
        "lines whose match (its first group that takes part, if there are groups) is equal form a session",
        "refuse",
    )
    session_field: str | None = _setting(None, "a named header or JSON field is the session key", "refuse")
    session_by_file: bool = _setting(False, "each file of a folder or glob is one session", "refuse")
    message_field: str | None = _setting(
        None, "JSON lines: the field that is mined (default: message, msg, log, ...)", "refuse"
    )
    window_type: Literal["session", "fixed", "sliding", "time"] | None = _setting(
        None, "how lines are grouped (default: session where a session key is given, else fixed)", "refuse"
    )
    window_size: int = _setting(50, "lines a fixed or sliding window", "refuse", ge=1, le=100_000)
    stride: int | None = _setting(
        None, "lines between the starts of sliding windows (default: half a window)", "refuse", ge=1
    )
    window_seconds: float = _setting(300.0, "length of a time window in seconds", "refuse", gt=0)
    not_join_lines: bool = _setting(
        False, "do not join continuation lines (stack traces) to the message before them", "refuse"
    )
    encoding: str = _setting("utf-8", "encoding of the log; undecodable bytes are kept and counted", "refuse")
    drain_config: Path | None = _setting(
        None, "an existing drain3.ini whose masks and Drain settings are used", "refuse"
    )

    @field_validator("session_regex")
    @classmethod
    def _regex_compiles(cls, value: str | None) -> str | None:
        return _compilable(value)

    @field_validator("encoding")
    @classmethod
    def _encoding_exists(cls, value: str) -> str:
        try:
            found = codecs.lookup(value).name
        except LookupError as error:
            raise ValueError(f"{error}; try utf-8 or latin-1") from error
        # UTF-16 and UTF-32 are turned into UTF-8 before lines are split; all others must leave ASCII as it is
        if not found.startswith(("utf-16", "utf-32")) and not _keeps_ascii(value):
            raise ValueError("not an encoding that logs are written in; try utf-8 or latin-1")
        return value

    @model_validator(mode="after")
    def _one_session_key(self) -> InputSettings:
        given = [
            flag
            for flag, value in (
                ("--session_regex", self.session_regex),
                ("--session_field", self.session_field),
                ("--session_by_file", self.session_by_file or None),
            )
            if value is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: a line has one session key")
        if self.window_type == "session" and not given:
            raise ValueError("--window_type session needs --session_regex, --session_field or --session_by_file")
        return self

    @property
    def join_lines(self) -> bool:
        """Whether continuation lines belong to the message before them."""
        return not self.not_join_lines

    @property
    def windowing(self) -> Literal["session", "fixed", "sliding", "time"]:
        """The window type with its default resolved."""
        if self.window_type is not None:
            return self.window_type
        return "session" if self.session_regex or self.session_field or self.session_by_file else "fixed"


def _compilable(pattern: str | None) -> str | None:
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
    return pattern


def _keeps_ascii(encoding: str) -> bool:
    """False for EBCDIC, and for codecs that are no character sets: base64, rot13, idna, punycode, unicode_escape."""
    line = "Mar 1 10:00:00 www.xn--mnchen-3ya.de started\n"
    try:
        return line.encode().decode(encoding) == line and len(rb"\x41".decode(encoding)) == 4
    except (LookupError, UnicodeError):
        return False


class EncoderSettings(Settings):
    """The shape of the session encoder."""

    dim: int = _setting(64, "width of event and session vectors", "refuse", ge=8, le=1024, multiple_of=8)
    n_layers: int = _setting(1, "transformer layers", "refuse", ge=1, le=24)
    n_heads: int = _setting(4, "attention heads (must divide dim)", "refuse", ge=1, le=64)
    n_word_buckets: int = _setting(4096, "hash buckets for the words of templates", "refuse", ge=64, le=1 << 20)
    max_events: int = _setting(
        128,
        "events that the encoder takes in one piece; longer sessions are encoded in pieces",
        "refuse",
        ge=8,
        le=4096,
    )
    dropout: float = _setting(0.1, "dropout in training", "refuse", ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> EncoderSettings:
        if self.dim % self.n_heads:
            raise ValueError(f"n_heads ({self.n_heads}) must divide dim ({self.dim})")
        return self


class TrainingSettings(Settings):
    """The training loop, its checkpoints and when it stops."""

    num_epochs: int | None = _setting(
        None,
        "epochs: 10 in all for train; N further ones for resume (default there: finish the interrupted run, or 5 more)",
        "warn",
        ge=1,
    )
    batch_size: int = _setting(
        128, "sessions an optimizer step sees at once; never changes a score", "warn", ge=1, le=65_536
    )
    learning_rate: float = _setting(2e-3, "peak learning rate of AdamW", "warn", gt=0, le=1)
    warmup_steps: int = _setting(20, "steps of linear warm-up", "warn", ge=0)
    weight_decay: float = _setting(0.01, "decoupled weight decay", "warn", ge=0, le=1)
    gradient_accumulation: int = _setting(1, "batches an optimizer step", "warn", ge=1)
    max_grad_norm: float = _setting(1.0, "gradients are clipped to this norm", "warn", gt=0)
    save_strategy: Literal["epoch", "steps"] = _setting("epoch", "when to evaluate and save")
    save_steps: int = _setting(100, "steps between checkpoints with --save_strategy steps", ge=1)
    save_total_limit: int = _setting(3, "newest checkpoints to keep", ge=1)
    keep_best: int = _setting(1, "checkpoints of lowest validation loss to keep as well", ge=0)
    patience: int = _setting(3, "evaluations without improvement before training stops", "warn", ge=1)
    not_early_stopping: bool = _setting(False, "train all epochs whatever the validation loss", "warn")
    not_use_contrastive: bool = _setting(False, "switch the contrastive loss off (masked events only)", "warn")
    not_use_augmentation: bool = _setting(False, "switch augmented views and shifted negatives off", "warn")
    eval_ratio: float = _setting(
        0.2, "share of the sessions, the last in time, held out where no evaluation file is given", "refuse", ge=0, lt=1
    )
    seed: int = _setting(42, "everything random is a function of this", "refuse", ge=0, lt=1 << 63)
    device: str = _setting("auto", "auto, cpu, cuda or cuda:N")
    precision: Literal["fp32", "bf16"] = _setting("fp32", "arithmetic of the encoder in training", "warn")
    report_to: Literal["none", "tensorboard", "wandb"] = _setting(
        "none", "also log metrics there (metrics.jsonl is always written)"
    )


class DetectionSettings(Settings):
    """Detectors, their fusion and where an alarm begins."""

    detection_method: DetectionMethod = _setting("ensemble", "detector", "warn")
    fusion_method: FusionMethod = _setting("dynamic_weight", "how the ensemble combines its p-values", "warn")
    contamination: float | None = _setting(
        None, "expected share of anomalies in the training log, in (0, 0.5]", gt=0, le=0.5
    )
    false_alarm_rate: float | None = _setting(
        None, "share of normal sessions that may raise an alarm, in (0, 0.5]", gt=0, le=0.5
    )

    @model_validator(mode="after")
    def _one_threshold(self) -> DetectionSettings:
        if self.contamination is not None and self.false_alarm_rate is not None:
            raise ValueError("--contamination and --false_alarm_rate exclude each other: both set the threshold")
        return self


class RunSettings(InputSettings, EncoderSettings, TrainingSettings, DetectionSettings):
    """Everything that a checkpoint's config.json holds: what made this run what it is."""


class OutputSettings(Settings):
    """Where results go and how much is said meanwhile."""

    output_dir: str = _setting("./output", "where reports go; detect: - writes JSON lines to standard output")
    config: Path | None = _setting(None, "JSON file of settings; flags win over it")
    quiet: bool = _setting(False, "say nothing but warnings and errors")


GroupedBy = Literal["settings", "model", "nothing"]
#: The window types that a setting is for.
_WINDOWS_OF = {"window_size": ("fixed", "sliding"), "stride": ("sliding",), "window_seconds": ("time",)}


class ReadingCommand(OutputSettings, InputSettings):
    """What all commands that read a log have; typed settings that would do nothing are refused."""

    #: What says how lines are grouped; where a model does, what is typed is compared with it later.
    grouped_by: ClassVar[GroupedBy] = "settings"
    streams: ClassVar[bool] = False  # whether results can go to standard output

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> ReadingCommand:
        if self.output_dir == "-" and not self.streams:
            raise ValueError("--output_dir -: only detect writes to standard output; name a folder")
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        if self.grouped_by == "nothing" and (ignored := sorted(given & {"window_type", *_WINDOWS_OF})):
            raise ValueError(f"--{', --'.join(ignored)}: this command groups no lines; leave it out")
        if self.grouped_by == "model" and self.window_type is None:
            return self
        for name, kinds in _WINDOWS_OF.items():
            if name in given and self.windowing not in kinds:
                raise ValueError(
                    f"--{name} does nothing where lines are grouped by {self.windowing}: "
                    f"leave it out, or give --window_type {' or '.join(kinds)}"
                )
        return self


class RunCommand(ReadingCommand, RunSettings):
    """What train and resume share."""

    train_file: str = _setting(..., "log to learn from: a file, glob, folder or - (gz, zst, bz2, xz read as they are)")
    eval_file: str | None = _setting(
        None, "log for validation and early stopping (default: the tail of the training log)", "warn"
    )
    checkpoint_dir: Path = _setting(Path("./checkpoint"), "where checkpoints go")
    model_dir: Path | None = _setting(None, "where the finished model goes (default: <checkpoint_dir>/model)")


class TrainCommand(RunCommand):
    """Train on a log: parse, learn what is normal, fit the detectors, save the model, score the evaluation file."""

    overwrite: bool = _setting(False, "discard the checkpoints of an earlier run in the folder")


class ResumeCommand(RunCommand):
    """Go on from a checkpoint as if never stopped, then fit the detectors and score as train does."""

    grouped_by: ClassVar[GroupedBy] = "model"

    checkpoint_path: Path | None = _setting(None, "this checkpoint (default: the newest valid one by step number)")
    use_best_checkpoint: bool = _setting(False, "the valid checkpoint of lowest validation loss")
    total_epochs: int | None = _setting(None, "go on to this epoch in all", "warn", ge=1)
    lr_policy: Literal["continue", "rewarm", "constant"] = _setting(
        "continue", "learning rate beyond the planned schedule", "warn"
    )
    force: bool = _setting(False, "override a refused seed or validation split")

    @model_validator(mode="after")
    def _one_target(self) -> ResumeCommand:
        if self.num_epochs is not None and self.total_epochs is not None:
            raise ValueError("--num_epochs counts further epochs and --total_epochs all of them: give one")
        if self.checkpoint_path is not None and self.use_best_checkpoint:
            raise ValueError("--checkpoint_path and --use_best_checkpoint exclude each other")
        return self


class DetectCommand(ReadingCommand):
    """Score a log with a trained model and report the anomalies, each with its lines and reasons."""

    grouped_by: ClassVar[GroupedBy] = "model"
    streams: ClassVar[bool] = True

    log_file: str = _setting(..., "log to score: a file, glob, folder or - for standard input")
    model_dir: Path = _setting(
        Path("./checkpoint"), "a model folder, a checkpoint folder that holds model/, or a checkpoint-*"
    )
    train_file: str | None = _setting(None, "only with a checkpoint-*: the log to fit the detectors on")
    detection_method: DetectionMethod | None = _setting(
        None, "any method that the model holds (default: the one it was trained for)"
    )
    threshold: float | None = _setting(
        None, "alarm at this calibrated score and above (default: the model's)", ge=0, le=1
    )
    false_alarm_rate: float | None = _setting(None, "alarm where the p-value is at most this", gt=0, le=0.5)
    top_k: int = _setting(50, "anomalies shown in the report, most abnormal first (files hold all)", ge=0)
    fail_on_anomaly: bool = _setting(False, "exit with 3 where anomalies are found")
    format: Literal["all", "csv", "jsonl", "html"] = _setting("all", "which result files to write beside summary.json")

    @model_validator(mode="after")
    def _one_threshold(self) -> DetectCommand:
        if self.threshold is not None and self.false_alarm_rate is not None:
            raise ValueError("--threshold and --false_alarm_rate exclude each other")
        return self


class EvaluateCommand(ReadingCommand):
    """Measure a model on a log, with labels (quality) or without (alarm rate and drift)."""

    grouped_by: ClassVar[GroupedBy] = "model"

    test_file: str = _setting(..., "log to evaluate on: a file, glob, folder or -")
    label_file: Path | None = _setting(None, "CSV session,label (Normal/Anomaly or 0/1)")
    label_regex: str | None = _setting(None, "a line that matches marks its session as an anomaly")
    with_labels: bool = _setting(False, "take labels.csv, label.csv or anomaly_label.csv beside the test file")
    model_dir: Path = _setting(
        Path("./checkpoint"), "a model folder, a checkpoint folder that holds model/, or a checkpoint-*"
    )
    train_file: str | None = _setting(None, "only with a checkpoint-*: the log to fit the detectors on")
    detection_method: DetectionMethod | None = _setting(
        None, "any method that the model holds (default: the one it was trained for)"
    )
    eval_all_methods: bool = _setting(False, "every method in one table and picture")
    top_k: int = _setting(20, "anomalies shown in the report", ge=0)

    @field_validator("label_regex")
    @classmethod
    def _label_regex_compiles(cls, value: str | None) -> str | None:
        return _compilable(value)

    @model_validator(mode="after")
    def _labels_of_one_kind(self) -> EvaluateCommand:
        if self.label_file is not None and self.label_regex is not None:
            raise ValueError("--label_file and --label_regex exclude each other: a session has one label")
        return self


class ParseCommand(ReadingCommand):
    """Parse only: which templates a log holds and which line is which."""

    grouped_by: ClassVar[GroupedBy] = "nothing"

    log_file: str = _setting(..., "log to parse: a file, glob, folder or -")


class CheckpointsCommand(Settings):
    """List, inspect, verify, compare and prune checkpoints."""

    action: CliPositionalArg[Literal["list", "info", "verify", "diff", "prune"]]
    names: CliPositionalArg[list[str]] = _setting([], "checkpoints: checkpoint-300, 300 or a path")
    checkpoint_dir: Path = _setting(Path("./checkpoint"), "folder that holds checkpoint-*")
    save_total_limit: int = _setting(3, "prune: newest checkpoints to keep", ge=1)
    keep_best: int = _setting(1, "prune: checkpoints of lowest validation loss to keep as well", ge=0)
    dry_run: bool = _setting(False, "prune: only say what would be removed")
    json_: bool = Field(False, alias="json", description="print JSON")


#: Flags of InputSettings that must equal the model's when it scores.
MODEL_BOUND = ("window_type", "window_size", "stride", "window_seconds", "not_join_lines", "drain_config")


S = TypeVar("S", bound=Settings)


def on_resume(name: str) -> OnResume:
    """What a change of this setting means on resume."""
    extra = RunSettings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return extra["on_resume"]  # type: ignore[return-value]


def build(settings: type[S], values: Mapping[str, Any], origin: str) -> S:
    """Check `values` and make the settings; raises ConfigError with every problem at once, naming `origin`."""
    known = {field.alias or name: field for name, field in settings.model_fields.items()}
    problems = [unknown_name(key, known, "setting") for key in values if key not in known]
    try:
        made = settings(**{key: value for key, value in values.items() if key in known})
    except ValidationError as error:
        problems += [_problem(item) for item in error.errors()]
    if problems:
        raise ConfigError(f"{origin}: " + "; ".join(problems))
    return made


def unknown_name(name: str, known: Mapping[str, Any], kind: str) -> str:
    """One sentence for a name that does not exist, with the nearest that does."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"unknown {kind} '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")


def _problem(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    message: str = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"--{name} is required"
    if item["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", item["ctx"]["expected"])
        near = get_close_matches(str(item["input"]), choices, n=1, cutoff=0.4)
        message = f"must be one of {', '.join(choices)}" + (f"; did you mean '{near[0]}'?" if near else "")
    if not name:
        return message
    return f"--{name} {item['input']}: {message}" if not isinstance(item["input"], dict) else f"--{name}: {message}"
