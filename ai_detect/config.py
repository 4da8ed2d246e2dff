"""Every setting of a run, declared once: name, type, default, help, range, and what a change means on resume.

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

from ai_detect.errors import ConfigError

DetectionMethod = Literal["knn", "cluster", "lof", "iforest", "reconstruction", "ensemble"]
FusionMethod = Literal["dynamic_weight", "static_weight", "max", "mean"]
#: What a changed setting means on resume: applied; applied, printed and recorded; refused.
OnResume = Literal["harmless", "warn", "refuse"]


def setting(default: Any, description: str, on_resume: OnResume = "harmless", **limits: Any) -> Any:
    """A field with its help, its range (`ge`, `le`, ...), and what a change of it means on resume."""
    return Field(default, description=description, json_schema_extra={"on_resume": on_resume}, **limits)


class Settings(BaseModel):
    """Base of all groups: unknown keys are errors, values are checked, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputSettings(Settings):
    """How lines are read and grouped into sessions."""

    log_format: str = setting(
        "auto",
        'header layout: auto, a known name, or a header string such as "<Date> <Time> <Level> <Component>: <Content>"',
        "refuse",
    )
    session_regex: str | None = setting(
        None,
        "lines whose match (its first group that takes part, if there are groups) is equal form a session",
        "refuse",
    )
    session_field: str | None = setting(None, "a named header or JSON field is the session key", "refuse")
    session_by_file: bool = setting(False, "each file of a folder or glob is one session", "refuse")
    message_field: str | None = setting(
        None, "JSON lines: the field that is mined (default: message, msg, log, ...)", "refuse"
    )
    window_type: Literal["session", "fixed", "sliding", "time"] | None = setting(
        None, "how lines are grouped (default: session where a session key is given, else fixed)", "refuse"
    )
    window_size: int = setting(50, "lines a fixed or sliding window", "refuse", ge=1, le=100_000)
    stride: int | None = setting(
        None, "lines between the starts of sliding windows (default: half a window)", "refuse", ge=1
    )
    window_seconds: float = setting(300.0, "length of a time window in seconds", "refuse", gt=0)
    not_join_lines: bool = setting(
        False, "do not join continuation lines (stack traces) to the message before them", "refuse"
    )
    encoding: str = setting("utf-8", "encoding of the log; undecodable bytes are kept and counted", "refuse")
    drain_config: Path | None = setting(
        None, "an existing drain3.ini whose masks and Drain settings are used", "refuse"
    )

    @field_validator("session_regex")
    @classmethod
    def _regex_compiles(cls, value: str | None) -> str | None:
        return compilable(value)

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


def compilable(pattern: str | None) -> str | None:
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

    dim: int = setting(64, "width of event and session vectors", "refuse", ge=8, le=1024, multiple_of=8)
    n_layers: int = setting(1, "transformer layers", "refuse", ge=1, le=24)
    n_heads: int = setting(4, "attention heads (must divide dim)", "refuse", ge=1, le=64)
    n_word_buckets: int = setting(4096, "hash buckets for the words of templates", "refuse", ge=64, le=1 << 20)
    max_events: int = setting(
        128,
        "events that the encoder takes in one piece; longer sessions are encoded in pieces",
        "refuse",
        ge=8,
        le=4096,
    )
    dropout: float = setting(0.1, "dropout in training", "refuse", ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> EncoderSettings:
        if self.dim % self.n_heads:
            raise ValueError(f"n_heads ({self.n_heads}) must divide dim ({self.dim})")
        return self


class TrainingSettings(Settings):
    """The training loop, its checkpoints and when it stops."""

    num_epochs: int | None = setting(
        None,
        "epochs: 10 in all for train; N further ones for resume (default there: finish the interrupted run, or 5 more)",
        "warn",
        ge=1,
    )
    batch_size: int = setting(
        128, "sessions an optimizer step sees at once; never changes a score", "warn", ge=1, le=65_536
    )
    learning_rate: float = setting(2e-3, "peak learning rate of AdamW", "warn", gt=0, le=1)
    warmup_steps: int = setting(20, "steps of linear warm-up", "warn", ge=0)
    weight_decay: float = setting(0.01, "decoupled weight decay", "warn", ge=0, le=1)
    gradient_accumulation: int = setting(1, "batches an optimizer step", "warn", ge=1)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", "warn", gt=0)
    save_strategy: Literal["epoch", "steps"] = setting("epoch", "when to evaluate and save")
    save_steps: int = setting(100, "steps between checkpoints with --save_strategy steps", ge=1)
    save_total_limit: int = setting(3, "newest checkpoints to keep", ge=1)
    keep_best: int = setting(1, "checkpoints of lowest validation loss to keep as well", ge=0)
    patience: int = setting(3, "evaluations without improvement before training stops", "warn", ge=1)
    not_early_stopping: bool = setting(False, "train all epochs whatever the validation loss", "warn")
    not_use_contrastive: bool = setting(False, "switch the contrastive loss off (next-event prediction only)", "warn")
    not_use_augmentation: bool = setting(False, "switch augmented views and shifted negatives off", "warn")
    eval_ratio: float = setting(
        0.2, "share of the sessions, the last in time, held out where no evaluation file is given", "refuse", ge=0, lt=1
    )
    seed: int = setting(42, "everything random is a function of this", "refuse", ge=0, lt=1 << 32)
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    deterministic: bool = setting(False, "on a GPU: the same bits in every run, at some cost in speed", "warn")
    precision: Literal["fp32", "bf16"] = setting("fp32", "arithmetic of the encoder in training", "warn")
    report_to: Literal["none", "tensorboard", "wandb"] = setting(
        "none", "also log metrics there (metrics.jsonl is always written)"
    )


class AlarmSettings(Settings):
    """Where an alarm begins, in one of the user's terms or none."""

    #: The settings that exclude each other; at most one is given.
    alarm_names: ClassVar[tuple[str, ...]] = ("contamination", "false_alarm_rate", "max_alerts_per_day", "fdr")

    contamination: float | None = setting(
        None, "expected share of anomalies in the training log, in (0, 0.5]", gt=0, le=0.5
    )
    false_alarm_rate: float | None = setting(
        None, "share of normal sessions that may raise an alarm, in (0, 0.5]", gt=0, le=0.5
    )
    max_alerts_per_day: float | None = setting(
        None, "false alarms a day, on average, at as many sessions a day as the training log has", gt=0, le=1e9
    )
    fdr: float | None = setting(
        None,
        "share of false alarms among all alarms of a scored log, on average, in (0, 0.5] (Benjamini-Hochberg: which "
        "sessions are reported depends on the whole log, no score does)",
        gt=0,
        le=0.5,
    )

    @model_validator(mode="after")
    def _one_threshold(self) -> AlarmSettings:
        given = [f"--{name}" for name in self.alarm_names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: each of them sets the threshold")
        return self


class DetectionSettings(AlarmSettings):
    """Detectors, their fusion and where an alarm begins."""

    detection_method: DetectionMethod = setting("ensemble", "detector", "warn")
    fusion_method: FusionMethod = setting("static_weight", "how the ensemble combines its p-values", "warn")


class RunSettings(InputSettings, EncoderSettings, TrainingSettings, DetectionSettings):
    """Everything that a checkpoint's config.json holds: what made this run what it is."""


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
