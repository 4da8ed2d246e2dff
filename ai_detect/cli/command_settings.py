"""What each command takes beside the settings of a run: files, folders, and how the result is shown."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import CliPositionalArg

from ai_detect.config import AlarmSettings, DetectionMethod, InputSettings, RunSettings, Settings, compilable, setting


class OutputSettings(Settings):
    """Where results go and how much is said meanwhile."""

    output_dir: str = setting("./output", "where reports go; detect: - writes JSON lines to standard output")
    config: Path | None = setting(None, "JSON file of settings; flags win over it")
    quiet: bool = setting(False, "no progress and talk: results, warnings and errors only")


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

    train_file: str = setting(..., "log to learn from: a file, glob, folder or - (gz, zst, bz2, xz read as they are)")
    eval_file: str | None = setting(
        None, "log for validation and early stopping (default: the tail of the training log)", "warn"
    )
    checkpoint_dir: Path = setting(Path("./checkpoint"), "where checkpoints go")
    model_dir: Path | None = setting(None, "where the finished model goes (default: <checkpoint_dir>/model)")
    total_steps: int | None = setting(
        None, "stop training after this optimizer step, counted over all resumes", "warn", ge=1
    )


class TrainCommand(RunCommand):
    """What train takes."""

    overwrite: bool = setting(False, "discard the checkpoints of an earlier run in the folder")


class ResumeCommand(RunCommand):
    """What resume takes."""

    grouped_by: ClassVar[GroupedBy] = "model"

    checkpoint_path: Path | None = setting(None, "this checkpoint (default: the newest valid one by step number)")
    use_best_checkpoint: bool = setting(False, "the valid checkpoint of lowest validation loss")
    total_epochs: int | None = setting(None, "go on to this epoch in all", "warn", ge=1)
    new_data: bool = setting(
        False, "fine-tune on another training log: weights are kept, epochs are counted on it from 0", "warn"
    )
    lr_policy: Literal["continue", "rewarm", "constant"] = setting(
        "continue", "learning rate beyond the planned schedule", "warn"
    )
    force: bool = setting(False, "override a refused seed or validation split")
    allow_missing: bool = setting(
        False, "with --checkpoint_path: go on without its optimizer.pt, whose averages then start from nothing", "warn"
    )

    verify: bool = setting(
        False, "prove on this run that resuming is exact: straight against killed and resumed, in a temporary folder"
    )
    steps: int | None = setting(None, "with --verify: steps to compare (default: an epoch's, 20 to 200)", ge=1)

    @model_validator(mode="after")
    def _one_target(self) -> ResumeCommand:
        if self.num_epochs is not None and self.total_epochs is not None:
            raise ValueError("--num_epochs counts further epochs and --total_epochs all of them: give one")
        if self.checkpoint_path is not None and self.use_best_checkpoint:
            raise ValueError("--checkpoint_path and --use_best_checkpoint exclude each other")
        if self.steps is not None and not self.verify:
            raise ValueError("--steps belongs to --verify; --total_steps limits training")
        own = {"num_epochs", "total_epochs", "total_steps", "model_dir", "save_strategy", "save_steps", "new_data"}
        if self.verify and (ignored := sorted((own | {"allow_missing"}) & self.model_fields_set)):
            raise ValueError(f"--{', --'.join(ignored)}: --verify trains copies as --steps says; leave it out")
        if self.verify and self.train_file == "-":
            raise ValueError("--verify reads the training log several times: give a file, not standard input")
        if self.allow_missing and self.checkpoint_path is None:
            raise ValueError("--allow_missing: name the checkpoint with --checkpoint_path")
        return self


class DetectCommand(ReadingCommand, AlarmSettings):
    """What detect takes."""

    grouped_by: ClassVar[GroupedBy] = "model"
    streams: ClassVar[bool] = True
    alarm_names: ClassVar[tuple[str, ...]] = ("threshold", *AlarmSettings.alarm_names)

    log_file: str = setting(..., "log to score: a file, glob, folder or - for standard input")
    model_dir: Path = setting(
        Path("./checkpoint"), "a model folder, a checkpoint folder that holds model/, or a checkpoint-*"
    )
    train_file: str | None = setting(None, "only with a checkpoint-*: the log to fit the detectors on")
    detection_method: DetectionMethod | None = setting(
        None, "any method that the model holds (default: the one it was trained for)"
    )
    threshold: float | None = setting(
        None, "alarm at this calibrated score and above (default: the model's)", ge=0, le=1
    )
    top_k: int = setting(50, "anomalies shown in the report, most abnormal first (files hold all)", ge=0)
    fail_on_anomaly: bool = setting(False, "exit with 3 where anomalies are found")
    format: Literal["all", "csv", "jsonl", "html"] = setting("all", "which result files to write beside summary.json")
    engine: Literal["local", "ray"] = setting(
        "local", "local: this process; ray: in parts, by the processes of a Ray cluster (docs/distributed.md)"
    )
    ray_address: str | None = setting(
        None, "with --engine ray: host:port of the cluster, or auto (default: one on this machine, for this run)"
    )
    ray_workers: int | None = setting(
        None, "with --engine ray: processes on this machine (default: one a processor)", ge=1
    )
    block_bytes: int = setting(1 << 26, "with --engine ray: bytes of log that one process reads at a time", ge=1)

    @model_validator(mode="after")
    def _parts_of_one_log(self) -> DetectCommand:
        given = {name for name in ("ray_address", "ray_workers", "block_bytes") if name in self.model_fields_set}
        if self.engine != "ray":
            if given:
                raise ValueError(f"--{', --'.join(sorted(given))}: only --engine ray takes it; leave it out")
            return self
        if self.ray_address is not None and self.ray_workers is not None:
            raise ValueError("--ray_workers is for a cluster on this machine: leave it out, or --ray_address")
        if "-" in (self.log_file, self.output_dir):
            raise ValueError("--engine ray: its processes share files; name a file and an --output_dir that all see")
        return self


class EvaluateCommand(ReadingCommand, AlarmSettings):
    """What evaluate takes."""

    grouped_by: ClassVar[GroupedBy] = "model"

    test_file: str = setting(..., "log to evaluate on: a file, glob, folder or -")
    label_file: Path | None = setting(None, "CSV session,label (Normal/Anomaly or 0/1)")
    label_regex: str | None = setting(None, "a line that matches marks its session as an anomaly")
    with_labels: bool = setting(False, "take labels.csv, label.csv or anomaly_label.csv beside the test file")
    model_dir: Path = setting(
        Path("./checkpoint"), "a model folder, a checkpoint folder that holds model/, or a checkpoint-*"
    )
    train_file: str | None = setting(None, "only with a checkpoint-*: the log to fit the detectors on")
    detection_method: DetectionMethod | None = setting(
        None, "any method that the model holds (default: the one it was trained for)"
    )
    eval_all_methods: bool = setting(False, "every method in one table and one picture, evaluation_report.png")
    top_k: int = setting(20, "anomalies shown in the report", ge=0)

    @field_validator("label_regex")
    @classmethod
    def _label_regex_compiles(cls, value: str | None) -> str | None:
        return compilable(value)

    @model_validator(mode="after")
    def _labels_of_one_kind(self) -> EvaluateCommand:
        if self.label_file is not None and self.label_regex is not None:
            raise ValueError("--label_file and --label_regex exclude each other: a session has one label")
        return self


class ParseCommand(ReadingCommand):
    """What parse takes."""

    grouped_by: ClassVar[GroupedBy] = "nothing"

    log_file: str = setting(..., "log to parse: a file, glob, folder or -")


class CheckpointsCommand(Settings):
    """What checkpoints takes."""

    action: CliPositionalArg[Literal["list", "info", "verify", "diff", "prune"]]
    names: CliPositionalArg[list[str]] = setting(
        [], "checkpoints: checkpoint-300, 300 or a path; one for info, two for diff, any number for verify"
    )
    checkpoint_dir: Path = setting(Path("./checkpoint"), "folder that holds checkpoint-*")
    save_total_limit: int = setting(3, "prune: newest checkpoints to keep", ge=1)
    keep_best: int = setting(1, "prune: checkpoints of lowest validation loss to keep as well", ge=0)
    dry_run: bool = setting(False, "prune: only say what would be removed")
    json_: bool = Field(False, alias="json", description="print JSON")

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> CheckpointsCommand:
        pruning = sorted(self.model_fields_set & {"save_total_limit", "keep_best", "dry_run"})
        if pruning and self.action != "prune":
            raise ValueError(f"--{', --'.join(pruning)}: only prune takes it; leave it out")
        if self.names and self.action in ("list", "prune"):
            raise ValueError(f"{self.action} takes no names of checkpoints: it is about all of a folder")
        return self
