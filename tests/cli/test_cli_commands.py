"""The commands as people run them: what they write, say and return."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, SHOP_SESSION, Run, Shop, shop_log

SCORE_COLUMNS = [
    "session",
    "first_line",
    "last_line",
    "start_time",
    "end_time",
    "n_events",
    "score",
    "p_value",
    "is_anomaly",
]
FINDING_KEYS = [
    "schema_version",
    "session",
    "source",
    "start_time",
    "end_time",
    "n_events",
    "score",
    "p_value",
    "threshold",
]


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(path.read_text())))


def detect(run: Run, shop: Shop, output: Path | str, *flags: str | Path):
    return run(
        "detect", "--log_file", shop.test, "--model_dir", shop.checkpoints, "--output_dir", output, "--quiet", *flags
    )


def test_detect_finds_the_planted_faults_and_names_the_line(run: Run, shop: Shop, tmp_path: Path) -> None:
    assert detect(run, shop, tmp_path).code == 0
    findings = [json.loads(line) for line in (tmp_path / "anomalies.jsonl").read_text().splitlines()]
    planted = {f"request-{number:05}" for number in (17, 58, 91)}
    assert {finding["session"] for finding in findings[:3]} == planted
    lines = shop.test.read_text().splitlines()
    for finding in findings[:3]:
        assert list(finding)[: len(FINDING_KEYS)] == FINDING_KEYS
        reason = finding["reasons"][0]
        assert reason["kind"] == "unseen_event"
        assert "disk failure" in lines[reason["line"] - 1]
        assert reason["text"] == lines[reason["line"] - 1]
        assert finding["source"]["line_start"] <= reason["line"] <= finding["source"]["line_end"]
        assert finding["nearest_normal"] is not None


def test_scores_csv_holds_every_session_in_input_order(run: Run, shop: Shop, tmp_path: Path) -> None:
    assert detect(run, shop, tmp_path).code == 0
    rows = table(tmp_path / "scores.csv")
    assert list(rows[0])[: len(SCORE_COLUMNS)] == SCORE_COLUMNS
    assert len(list(rows[0])) > len(SCORE_COLUMNS)
    assert [row["session"] for row in rows] == [f"request-{number:05}" for number in range(120)]
    scores = [float(row["score"]) for row in rows]
    assert all(0 <= score <= 1 for score in scores)
    assert len(set(scores)) > 3
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["n_sessions"] == 120
    flagged = [row["session"] for row in rows if float(row["score"]) >= summary["threshold"]]
    assert len(flagged) == summary["n_anomalies"]


@pytest.mark.usefixtures("without_page")
def test_a_score_belongs_to_its_session_alone(run: Run, shop: Shop, tmp_path: Path) -> None:
    """Alone, in another order, among others: the same bytes."""
    assert detect(run, shop, tmp_path / "all").code == 0
    rows = {row["session"]: row for row in table(tmp_path / "all" / "scores.csv")}
    blocks: dict[str, list[str]] = {}
    for line in shop.test.read_text().splitlines(keepends=True):
        blocks.setdefault(line.split("(")[1].split(")")[0], []).append(line)
    chosen = ["request-00091", "request-00003", "request-00017"]
    for name, keys in [("alone", chosen[:1]), ("reversed", chosen)]:
        log = tmp_path / f"{name}.log"
        log.write_text("".join(line for key in keys for line in blocks[key]))
        output = tmp_path / name
        assert run("detect", "--log_file", log, "--model_dir", shop.model, "--output_dir", output, "--quiet").code == 0
        for row in table(output / "scores.csv"):
            whole = rows[row["session"]]
            places = {"first_line", "last_line"}
            assert {k: v for k, v in row.items() if k not in places} == {
                k: v for k, v in whole.items() if k not in places
            }


def test_the_console_names_each_kind_of_anomaly_once(run: Run, shop: Shop, tmp_path: Path) -> None:
    result = run("detect", "--log_file", shop.test, "--model_dir", shop.model, "--output_dir", tmp_path)
    findings = [json.loads(line) for line in (tmp_path / "anomalies.jsonl").read_text("ascii").splitlines()]
    kinds = [(finding["reasons"] or [{"kind": None}])[0] for finding in findings]
    n_kinds = len({(reason["kind"], reason.get("template")) for reason in kinds})
    shown = re.findall(r"^  0\.\d{4}  .*?(?:\[([\d,]+) more like this\])?$", result.out, re.MULTILINE)
    assert len(shown) == min(n_kinds, 5)
    left = re.search(r"\.\.\. and ([\d,]+) more of ", result.out)
    told = len(shown) + sum(int(more) for more in shown if more) + (int(left[1]) if left else 0)
    assert told == len(findings) > n_kinds > 1


def test_json_lines_on_standard_output_and_nothing_else(run: Run, shop: Shop) -> None:
    result = detect(run, shop, "-")
    assert result.code == 0
    assert [json.loads(line)["schema_version"] for line in result.out.splitlines()]


@pytest.mark.usefixtures("without_page")
def test_fail_on_anomaly(run: Run, shop: Shop, tmp_path: Path) -> None:
    assert detect(run, shop, tmp_path, "--fail_on_anomaly").code == 3
    quiet = tmp_path / "quiet.log"
    quiet.write_text(shop_log(5, seed=1))
    result = run(
        "detect", "--log_file", quiet, "--model_dir", shop.model, "--output_dir", tmp_path, "--fail_on_anomaly"
    )
    assert result.code == 0


@pytest.mark.parametrize("method", ["knn", "cluster", "lof", "iforest", "reconstruction", "ensemble"])
@pytest.mark.usefixtures("without_page")
def test_every_method_finds_the_planted_faults(run: Run, shop: Shop, tmp_path: Path, method: str) -> None:
    assert detect(run, shop, tmp_path, "--detection_method", method).code == 0
    rows = sorted(table(tmp_path / "scores.csv"), key=lambda row: -float(row["score"]))
    assert {row["session"] for row in rows[:3]} == {f"request-{number:05}" for number in (17, 58, 91)}


@pytest.mark.usefixtures("without_page")
def test_the_threshold_can_be_set(run: Run, shop: Shop, tmp_path: Path) -> None:
    def alarms(*flags: str) -> int:
        assert detect(run, shop, tmp_path, *flags).code == 0
        return int(json.loads((tmp_path / "summary.json").read_text())["n_anomalies"])

    assert alarms("--threshold", "0") == 120
    found = []
    for rate in (0.5, 0.02):
        found.append(alarms("--false_alarm_rate", str(rate)))
        assert found[-1] == sum(float(row["p_value"]) <= rate for row in table(tmp_path / "scores.csv"))
    assert 120 > found[0] > found[1] >= 3


def test_format_limits_what_is_written(run: Run, shop: Shop, tmp_path: Path) -> None:
    assert detect(run, shop, tmp_path, "--format", "jsonl").code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"anomalies.jsonl", "summary.json"}


def test_the_summary_is_the_same_whatever_is_written(run: Run, shop: Shop, tmp_path: Path) -> None:
    told = {}
    for wanted in ("jsonl", "csv"):
        printed = detect(run, shop, tmp_path, "--threshold", "0.1", "--format", wanted).out
        summary = json.loads((tmp_path / "summary.json").read_text())
        told[wanted] = printed, {**summary, "timings_s": None}
    assert told["csv"] == told["jsonl"]
    assert told["csv"][1]["n_anomalies"] > 10
    assert {path.name for path in tmp_path.iterdir()} == {"scores.csv", "summary.json"}


def test_a_checkpoint_is_fitted_first_and_says_so(run: Run, shop: Shop, tmp_path: Path) -> None:
    checkpoint = next(shop.checkpoints.glob("checkpoint-*"))
    result = run("detect", "--log_file", shop.test, "--model_dir", checkpoint, "--output_dir", tmp_path)
    assert result.code == 0
    assert "fitted first" in result.err


def test_another_window_than_the_models_is_refused(run: Run, shop: Shop, tmp_path: Path) -> None:
    result = detect(run, shop, tmp_path, "--window_type", "fixed")
    assert result.code == 2
    assert "--window_type fixed" in result.err


def test_parse_writes_templates_and_events(run: Run, shop: Shop, tmp_path: Path) -> None:
    assert run("parse", "--log_file", shop.train, "--output_dir", tmp_path).code == 0
    events = table(tmp_path / "events.csv")
    templates = table(tmp_path / "templates.csv")
    assert list(events[0]) == ["line", "event_id", "template"]
    assert list(templates[0]) == ["event_id", "template", "count", "first_line", "example"]
    assert sum(int(row["count"]) for row in templates) == len(events) == len(shop.train.read_text().splitlines())
    lines = shop.train.read_text().splitlines()
    assert all(row["example"] == lines[int(row["first_line"]) - 1] for row in templates)


def test_evaluate_with_labels(run: Run, shop: Shop, tmp_path: Path) -> None:
    flags = [
        "--label_file",
        shop.labels,
        "--model_dir",
        shop.checkpoints,
        "--output_dir",
        tmp_path,
        "--eval_all_methods",
    ]
    assert run("evaluate", "--test_file", shop.test, *flags).code == 0
    report = json.loads((tmp_path / "evaluation_report.json").read_text())
    assert report["methods"]["ensemble"]["auprc"] == 1.0
    assert {"knn", "cluster", "lof", "iforest", "reconstruction", "ensemble"} <= set(report["methods"])
    assert report["baselines"]
    assert (tmp_path / "evaluation_report.md").read_text().startswith("#")
    assert "<html" in (tmp_path / "evaluation_report.html").read_text()
    assert (tmp_path / "evaluation_report.png").read_bytes().startswith(b"\x89PNG")
    assert report["curves"].keys() == report["methods"].keys()
    best = max(row["auprc"] for row in report["baselines"].values())
    assert max(report["baselines"][name]["auprc"] for name in report["baseline_curves"]) == best


def test_with_labels_finds_the_file_beside_the_log(run: Run, shop: Shop, tmp_path: Path) -> None:
    flags = ["--with_labels", "--model_dir", shop.checkpoints, "--output_dir", tmp_path]
    assert run("evaluate", "--test_file", shop.test, *flags).code == 0
    assert json.loads((tmp_path / "evaluation_report.json").read_text())["n_anomalies"] == 3


def test_evaluate_by_a_label_regex(run: Run, shop: Shop, tmp_path: Path) -> None:
    flags = ["--label_regex", "disk failure", "--model_dir", shop.checkpoints, "--output_dir", tmp_path]
    assert run("evaluate", "--test_file", shop.test, *flags).code == 0
    assert json.loads((tmp_path / "evaluation_report.json").read_text())["n_anomalies"] == 3


def test_evaluate_without_labels(run: Run, shop: Shop, tmp_path: Path) -> None:
    assert (
        run("evaluate", "--test_file", shop.test, "--model_dir", shop.checkpoints, "--output_dir", tmp_path).code == 0
    )
    report = json.loads((tmp_path / "evaluation_report.json").read_text())
    assert "methods" not in report or not report["methods"]
    assert (tmp_path / "evaluation_report.png").read_bytes().startswith(b"\x89PNG")
    assert 0 < report["unlabelled"]["alarm_rate"] < 1


def test_checkpoints(run: Run, shop: Shop) -> None:
    folder = ["--checkpoint_dir", shop.checkpoints]
    rows = json.loads(run("checkpoints", "list", "--json", *folder).out)
    assert [row["tags"] for row in rows if "latest" in row["tags"]]
    assert [row["tags"] for row in rows if "best" in row["tags"]]
    assert run("checkpoints", "verify", *folder).code == 0
    assert (
        json.loads(run("checkpoints", "info", str(rows[0]["step"]), "--json", *folder).out)["step"] == rows[0]["step"]
    )
    assert "weights: distance" in run("checkpoints", "diff", rows[0]["name"], rows[-1]["name"], *folder).out
    assert "would delete" in run("checkpoints", "prune", "--save_total_limit", "1", "--dry_run", *folder).out
    assert "checkpoint" in run("checkpoints", "list", *folder).out


def test_overview_and_version(run: Run) -> None:
    assert "resume" in run("--help").out
    assert run("--version").out.startswith("ai-detect ")
    assert run().code == 2


@pytest.mark.slow
def test_scripts_run_from_any_folder_and_through_a_pipe(shop: Shop, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    detect_script = [sys.executable, str(ROOT / "ai_detect" / "detect.py"), "--log_file", "-", "--output_dir", "-"]
    done = subprocess.run(
        [*detect_script, "--model_dir", str(shop.model), "--quiet"],
        input=shop.test.read_bytes(),
        capture_output=True,
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    assert {"request-00017", "request-00058", "request-00091"} <= {
        json.loads(line)["session"] for line in done.stdout.splitlines()
    }
    assert done.stderr == b""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["parse", "--help"]])
def test_help_starts_without_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from ai_detect.cli.main import main
try:
    main({arguments!r})
except SystemExit:
    pass
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.slow
def test_the_first_step_after_a_resume_waits_for_no_later_stage(shop: Shop, tmp_path: Path) -> None:
    """What detectors and reports need takes two seconds to import; it is imported after training."""
    shutil.copytree(shop.checkpoints, tmp_path / "checkpoint")
    folders = ["--checkpoint_dir", str(tmp_path / "checkpoint"), "--output_dir", str(tmp_path / "output")]
    code = f"""
import signal, sys
from ai_detect.cli.main import main
from ai_detect.training.encoder_task import EncoderTask
loss = EncoderTask.training_loss

def stopped(*arguments):
    signal.raise_signal(signal.SIGINT)
    return loss(*arguments)

EncoderTask.training_loss = stopped
assert main(["resume", "--train_file", {str(shop.train)!r}, "--num_epochs", "1", *{folders!r}]) == 130
later = ["sklearn", "scipy", "pyod", "pandas", "joblib", "matplotlib", "jinja2"]
assert not (found := [name for name in later if name in sys.modules]), found
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_windows_need_no_session_key(run: Run, shop: Shop, tmp_path: Path) -> None:
    flags = [
        "--window_size",
        "20",
        "--num_epochs",
        "1",
        "--checkpoint_dir",
        tmp_path / "c",
        "--output_dir",
        tmp_path / "o",
    ]
    assert run("train", "--train_file", shop.train, *flags).code == 0
    result = run("detect", "--log_file", shop.test, "--model_dir", tmp_path / "c", "--output_dir", tmp_path / "o")
    assert result.code == 0
    first = next(iter(table(tmp_path / "o" / "scores.csv")))
    assert (first["first_line"], first["last_line"]) == ("1", "20")


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_training_without_contrast_and_augmentation(run: Run, shop: Shop, tmp_path: Path) -> None:
    flags = ["--not_use_contrastive", "--not_use_augmentation", "--session_regex", SHOP_SESSION, "--num_epochs", "1"]
    folders = ["--checkpoint_dir", tmp_path / "c", "--output_dir", tmp_path / "o"]
    assert run("train", "--train_file", shop.train, *flags, *folders).code == 0
    metrics = [json.loads(line) for line in (tmp_path / "c" / "metrics.jsonl").read_text().splitlines()]
    assert all("contrastive" not in row for row in metrics)


@pytest.mark.slow
def test_a_layout_with_natural_sessions_is_pointed_out(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "pg.log"
    line = "2026-03-01 10:00:{:02}.000 UTC [{}] 65e1.{:x} u@d/app LOG:  statement: SELECT {}\n"
    log.write_text("".join(line.format(n % 60, 100 + n // 5, n // 5, n) for n in range(60)))
    folders = ["--checkpoint_dir", tmp_path / "c", "--output_dir", tmp_path / "o"]
    result = run("train", "--train_file", log, "--num_epochs", "1", *folders)
    assert result.code == 0
    assert "--session_field session" in result.err
