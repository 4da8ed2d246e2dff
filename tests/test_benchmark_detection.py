"""The benchmark of detection: its splits, its opponents, and that no label reaches a score."""

from __future__ import annotations

import csv
import gzip
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import detection
import detection_ablation
import numpy as np
import pytest
from detection import Run, measure_all, measure_run, measure_variant
from detection_ablation import FittedBank, recorded, restricted, without_negatives
from detection_baselines import count_invariants, find_invariants, next_event_lstm
from detection_splits import Case, Protocol, sessions_of, with_contamination
from detection_tables import OURS, ablation_tables, detection_tables, replace_between, sweep_table
from pipeline import Cost
from support import SHOP_SESSION, shop_log

from ai_detect.cli.main import main as ai_detect
from ai_detect.config import DetectionSettings
from ai_detect.detectors.components import Component, components_of
from ai_detect.detectors.ensemble import DetectorBank
from ai_detect.detectors.suspicion import suspected, trusted
from ai_detect.detectors.views import SessionEvidence
from ai_detect.encoder.batches import EncodedBatch, make_batch
from ai_detect.evaluation.baselines import Baseline
from ai_detect.pipeline import LogAnomalyPipeline
from ai_detect.run_encoder import untrained_encoder
from ai_detect.tables import SequenceTable

FAULTY = (3, 11, 18, 26, 33, 47, 52, 59)
N_SESSIONS = 64


@pytest.fixture
def shop_protocol(tmp_path: Path) -> Protocol:
    """A labelled log whose faulty sessions have a line without a session key."""
    lines = shop_log(N_SESSIONS, seed=5, faulty=FAULTY).replace("write block", "write\n\tblock")
    log, labels = tmp_path / "shop.log.gz", tmp_path / "labels.csv"
    log.write_bytes(gzip.compress(lines.encode()))
    rows = [f"request-{number:05},{'Anomaly' if number in FAULTY else 'Normal'}" for number in range(N_SESSIONS)]
    labels.write_text("session,label\n" + "\n".join(rows) + "\n")
    return Protocol("hdfs", "A shop", log, labels, ("--session_regex", SHOP_SESSION), SHOP_SESSION)


def sessions(path: Path) -> list[str]:
    """Session of every line of a part that begins a message."""
    return [line.split("(")[1].split(")")[0] for line in path.read_text().splitlines() if not line.startswith("\t")]


def faulty(names: Sequence[str]) -> set[str]:
    return {f"request-{number:05}" for number in FAULTY} & set(names)


@pytest.mark.parametrize("in_time_order", [False, True])
def test_parts_share_no_session_and_clean_holds_no_anomaly(
    shop_protocol: Protocol, tmp_path: Path, in_time_order: bool
) -> None:
    split = Protocol(**{**vars(shop_protocol), "in_time_order": in_time_order})
    for seed in (0, 1):
        dirty, clean = (split.split(tmp_path / f"{seed}-{share}", seed, share) for share in (None, 0.0))
        train, test = sessions(dirty.train), sessions(dirty.test)
        assert not set(train) & set(test)
        assert len(set(train)) == len(set(test)) == N_SESSIONS / 2
        assert faulty(train) and faulty(test)
        assert set(sessions(clean.train)) == set(train) - faulty(train)
        assert clean.test.read_bytes() == dirty.test.read_bytes()
        assert dirty.train.read_text().count("\n\tblock") == len(faulty(train))
        assert "\n\tblock" not in clean.train.read_text()
        assert train == sorted(train)  # lines stay in the order of the log
        assert (max(train) < min(test)) == in_time_order
    assert (sessions(split.split(tmp_path / "a", 0).train) == sessions(split.split(tmp_path / "b", 1).train)) == (
        in_time_order
    )


def test_contamination_is_reached_with_fewer_normals_where_anomalies_are_few() -> None:
    keys = [str(number) for number in range(1000)]
    labels = {key: int(int(key) % 50 == 0) for key in keys}  # 20 anomalies
    shares, drawn = (0.0, 0.01, 0.02, 0.10), []
    for share in shares:
        kept = with_contamination(keys, labels, share, seed=3)
        drawn.append({key for key in kept if labels[key]})
        assert len(drawn[-1]) / len(kept) == pytest.approx(share, abs=1e-3)
        assert kept == sorted(kept, key=int)
    assert [len(found) for found in drawn] == [0, 10, 20, 20]
    assert drawn[1] < drawn[2] == drawn[3]
    assert len(with_contamination(keys, labels, 0.10, seed=3)) == 200


def in_process(arguments: Sequence[str]) -> tuple[Cost, bytes]:
    """A command of the benchmark without the start of a process."""
    assert ai_detect([Path(arguments[0]).stem, *arguments[1:]]) == 0
    return Cost(1.0, 1.0), b""


def test_shuffled_labels_change_no_score(
    shop_protocol: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    monkeypatch.setattr(detection, "run_process", lambda arguments: commands.extend(arguments) or in_process(arguments))
    with open(shop_protocol.labels, newline="") as file:
        heading, *rows = csv.reader(file)
    labels = [label for _, label in rows]
    random.Random(1).shuffle(labels)
    shuffled = tmp_path / "shuffled.csv"
    shuffled.write_text(
        "\n".join(",".join(row) for row in [heading, *zip([key for key, _ in rows], labels, strict=True)])
    )
    other = Protocol(**{**vars(shop_protocol), "labels": shuffled})
    results = [
        measure_run(Run(protocol, "contaminated", None, 0), tmp_path / folder)
        for protocol, folder in ((shop_protocol, "true"), (other, "shuffled"))
    ]
    parts = [
        (tmp_path / folder / name).read_bytes() for name in ("train.log", "test.log") for folder in ("true", "shuffled")
    ]
    assert parts[0] == parts[1] and parts[2] == parts[3]
    scores = [(tmp_path / folder / "output" / "scores.csv").read_bytes() for folder in ("true", "shuffled")]
    assert scores[0] == scores[1]
    assert not any("labels.csv" in word or "shuffled.csv" in word for word in commands)
    true, false = (result["methods"] for result in results)
    assert true[OURS]["auroc"] != false[OURS]["auroc"]  # they do decide how good the scores are
    assert true["flag_all"]["recall"] == 1 and true[OURS]["distinct"]["auprc"] is not None
    assert {"lstm", "invariants", "lof20", "pca_spe", "knn1_uniq"} < set(true)
    assert results[0]["train_contamination"] == pytest.approx(
        len(faulty(sessions(tmp_path / "true" / "train.log"))) / 32
    )


def sequences_of(members: Sequence[Sequence[int]]) -> SequenceTable:
    offsets = np.concatenate([[0], np.cumsum([len(events) for events in members])]).astype(np.int64)
    events = np.array([event for member in members for event in member], np.int32)
    return SequenceTable(offsets, events, np.full(len(events), np.nan, np.float32))


def test_the_lstm_finds_what_cannot_come_next() -> None:
    session = list(range(20))
    train = sequences_of([session, [*session[:10], 10, 10, *session[11:]]] * 800)
    test = sequences_of([session, session[:12], [*session[:8], 99, *session[9:]], [*session[:5], 15, *session[5:]]])
    found = next_event_lstm(train, test, seed=0)
    assert found.is_anomaly.tolist() == [False, True, True, True]  # broken off, unknown, out of order
    assert found.scores.argmax() == 2
    assert found.scores[2] >= 22  # behind the 20 events and the end
    assert np.array_equal(found.scores, next_event_lstm(train, test, seed=0).scores)
    alone = next_event_lstm(train, test.take(np.array([3])), seed=0)
    assert alone.scores[0] == pytest.approx(found.scores[3], rel=1e-5)


OPEN, CLOSE, READ, FROM_DISK, FROM_CACHE, TWICE = range(6)


def file_sessions(n: int, n_unclosed: int = 0) -> list[list[int]]:
    """As many closed as opened, reads come from disk or cache, one event twice for every opening."""
    rng = random.Random(7)
    made = []
    for number in range(n):
        opened, disk, cache = (rng.randint(1, 4) for _ in range(3))
        events = [OPEN] * opened + [TWICE] * (2 * opened) + [FROM_DISK] * disk + [FROM_CACHE] * cache
        made.append(events + [READ] * (disk + cache) + [CLOSE] * (opened - (number < n_unclosed)))
    return made


def test_invariants_are_those_that_nearly_all_sessions_hold() -> None:
    def relations(n_unclosed: int) -> set[tuple[tuple[int, int], ...]]:
        counts = np.array([np.bincount(events, minlength=7) for events in file_sessions(200, n_unclosed)], np.float64)
        distinct, times = np.unique(counts, axis=0, return_counts=True)
        rows = find_invariants(distinct, times).astype(int)
        return {tuple((int(at), int(row[at])) for at in np.flatnonzero(row)) for row in rows}

    same, double = ((OPEN, 1), (CLOSE, -1)), ((OPEN, 2), (TWICE, -1))
    total, never = ((READ, 1), (FROM_DISK, -1), (FROM_CACHE, -1)), ((6, 1),)
    assert {same, double, total, never} <= relations(0) == relations(4)  # broken in 2 %
    assert same not in relations(10) and {double, total, never} <= relations(10)


def test_a_broken_invariant_is_an_alarm_and_weighs_by_how_rare_it_is() -> None:
    good = [OPEN, TWICE, TWICE, FROM_DISK, READ, FROM_CACHE, READ, CLOSE]
    broken, unread, unknown = good[:-1], [event for event in good if event != READ], [*good, 9]
    train = sequences_of(file_sessions(400, n_unclosed=4))
    found = count_invariants(train, sequences_of([good, broken, unread, unknown]))
    assert found.is_anomaly.tolist() == [False, True, True, True]
    assert found.scores[0] == 0
    assert found.scores[1] < found.scores[2]  # some training sessions are not closed, all reads come from somewhere


def result(test: str, mode: str, seed: int, **auprc_of: float) -> dict[str, Any]:
    """What a run stores, with one figure for everything."""
    methods = {}
    for name, value in auprc_of.items():
        figures = dict.fromkeys(("auprc", "auroc", "precision", "recall", "f1", "fpr", "best_f1"), value)
        methods[name] = {**figures, "distinct": {**figures, "auprc": value / 2, "precision": None}}
    costs = ("train_s", "train_mb", "detect_s", "detect_mb", "score_s", "classic_s", "lstm_s", "invariants_s")
    return {
        **{"version": "v1", "code": "c0de", "test": test, "title": test.upper(), "mode": mode, "seed": seed},
        **{"train_sessions": 10, "train_contamination": 0.1, "test_sessions": 20, "prevalence": 0.25},
        **{
            "distinct_prevalence": 0.5,
            "detection": {"suspected_contamination": 0.07},
            "cost": dict.fromkeys(costs, 2.0),
        },
        **{"recall_by_kind": {"n_neither": 3, "recall_neither": 0.5, "n_short": 0, "recall_short": None}},
        "methods": methods,
    }


def rows_of(table: str, first_cell: str) -> list[list[str]]:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    return [row for row in rows if row[0] == first_cell]


def test_tables_from_stored_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others = {"flag_all": 0.1, "ecod": 0.7}
    stored = [result("openstack", "clean", seed, **{OURS: 0.98 + 0.02 * seed}, **others, lof20=0.8) for seed in (0, 1)]
    stored += [result("bgl", "clean", 0, **{OURS: 0.91}, **others, lof20=0.95)]
    work_dir, document = tmp_path / "work", tmp_path / "document.md"
    work_dir.mkdir()
    for number, each in enumerate(stored):
        (work_dir / f"detection-{number}.json").write_text(json.dumps(each))
    document.write_text("before\n<!-- detection tables begin -->\nold\n<!-- detection tables end -->\nafter\n")
    command = ["detection.py", "--seeds", "--output", str(document)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="nothing was measured"):
        detection.main()
    assert "old" in document.read_text()
    monkeypatch.setattr(sys, "argv", [*command, "--work_dir", str(work_dir)])
    detection.main()
    text = document.read_text()
    assert text.startswith("before\n<!-- detection") and text.endswith("tables end -->\nafter\n") and "old" not in text
    assert capsys.readouterr().out.strip() in text
    assert "v1 (code c0de)" in text and "seeds 0, 1" in text
    summary, distinct, *_ = rows_of(text, "openstack")
    assert summary[1:4] == ["0.990 ± 0.010", "0.800 (lof20)", "+0.190"] and summary[-2:] == ["0.99 / 0.998", "yes / no"]
    assert distinct[1] == "0.495 ± 0.005"
    bgl = rows_of(text, "bgl")[0]
    assert bgl[2:4] == ["0.950 (lof20)", "-0.040"] and bgl[-2:] == ["best / 0.900", "no / no"]
    assert rows_of(text, "**mean of 2**")[0][1:4] == ["**0.950**", "0.875", "**+0.075**"]
    assert "by more than 0.01: yes (worst -0.040)" in text and "in the mean by 0.03: reached (+0.075)" in text
    assert rows_of(text, "bgl, clean") == [
        ["bgl, clean", "10", "2.0", "2", "20", "2.0", "2", "10", "2.0", "2.0", "2.0"]
    ]
    assert "neither 0.500 of 3, short none" in text
    assert rows_of(text, "lof20")[0][1] == "0.950" and rows_of(text, "lof20")[1][1] == "0.800"
    with pytest.raises(ValueError, match="sweep tables begin"):
        replace_between(text, "sweep", "")


def test_the_sweep_lists_shares_in_rising_order() -> None:
    methods = {OURS: 0.9, "knn1_uniq": 0.1, "ecod": 0.2, "iforest": 0.3, "lstm": 0.4, "invariants": 0.5}
    runs = [
        {**result("hdfs", f"{share:.0%}", 0, **methods), "train_contamination": share} for share in (0.1, 0.0, 0.03)
    ]
    rows = rows_of(sweep_table(runs), "hdfs")
    assert [row[1] for row in rows] == ["0.0%", "3.0%", "10.0%"]
    assert rows[0][2:5] == ["10", "7.0%", "0.900 / 0.900 / 0.9000"]


def test_what_is_measured_is_not_measured_again(
    shop_protocol: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def measure(run: Run, folder: Path) -> dict[str, Any]:
        if run.seed == 2:
            raise KeyboardInterrupt
        measured.append(run.seed)
        found = result("hdfs", "clean", run.seed, **{OURS: 0.9}, flag_all=0.1)
        return {key: value for key, value in found.items() if key not in ("version", "code")}

    monkeypatch.setattr(detection, "measure_run", measure)
    runs = [Run(shop_protocol, "clean", 0.0, seed) for seed in (0, 1, 2)]
    with pytest.raises(KeyboardInterrupt):
        measure_all(iter(runs), tmp_path)
    measure_all(iter(runs[:2]), tmp_path)
    assert measured == [0, 1]
    assert "| hdfs | 0.900 |" in detection_tables(detection.stored(tmp_path, "detection"))
    monkeypatch.setattr(detection, "code_version", lambda: {"version": "v2", "code": "other"})
    measure_all(iter(runs[:1]), tmp_path)
    assert measured == [0, 1, 0]  # the code has changed


def evidence_of(members: Sequence[Sequence[int]]) -> SessionEvidence:
    """An embedding and a surprise of every event that are made up, and the rarest known event is a failure."""
    sequences = sequences_of(members)
    random_numbers = np.random.default_rng(len(members))
    embedding = random_numbers.normal(size=(len(members), 4)).astype(np.float32)
    surprise, *odd = random_numbers.exponential(size=(3, len(sequences.event_id))).astype(np.float32)
    return SessionEvidence(sequences, embedding, surprise, sequences.event_id == TWICE, np.stack(odd, axis=1))


@pytest.mark.slow
def test_parts_alone_and_left_out_are_what_a_bank_of_such_parts_says() -> None:
    settings, vectors = DetectionSettings(), np.eye(8, dtype=np.float32)
    train, test = evidence_of(file_sessions(100)), evidence_of([*file_sessions(30), [OPEN, READ], [OPEN, 7, CLOSE]])
    suspects = suspected(train.sequences)
    assert not suspects.any()  # what is trusted is the same for all
    with recorded() as recorder:
        bank = DetectorBank.fit(train, vectors, settings, 3, suspects=suspects)
    rows = recorder.fitted(bank, settings, test, vectors).rows()

    def restricted_to(components: Sequence[Component]) -> Baseline:
        with restricted(components):
            scores = DetectorBank.fit(train, vectors, settings, 3, suspects=suspects).scores(test, vectors)
        return Baseline(-np.log(scores.p_value), scores.is_anomaly)

    listened = components_of("ensemble")
    for part in listened[1::6]:
        alone, others = restricted_to([part]), restricted_to([other for other in listened if other is not part])
        for row, expected in ((f"alone {part.name}", alone), (f"without {part.name}", others)):
            assert rows[row].scores == pytest.approx(expected.scores, rel=1e-9), row
            assert np.array_equal(rows[row].is_anomaly, expected.is_anomaly), row
            assert not np.allclose(rows[row].scores, rows[OURS].scores)
    for method, table in bank.scores_by_method(test, vectors).items():
        row = rows[OURS if method == "ensemble" else method]
        assert row.scores == pytest.approx(-np.log(table.p_value), rel=1e-9)
        assert np.array_equal(row.is_anomaly, table.is_anomaly)


def test_a_dirty_log_is_judged_as_the_whole_model_judged_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, vectors = DetectionSettings(), np.eye(8, dtype=np.float32)
    train = evidence_of([*file_sessions(90), *[[OPEN, 6, 7, READ]] * 10])
    test = evidence_of([*file_sessions(30), [OPEN, READ], [OPEN, 6, 7, READ]])
    with recorded() as recorder:
        bank = DetectorBank.fit(train, vectors, settings, 3, suspects=suspected(train.sequences))
    assert not trusted(bank.suspected).all()
    refitted, listened = FittedBank._refitted, components_of("ensemble")
    monkeypatch.setattr(FittedBank, "_refitted", lambda self, components: refitted(self, listened))
    rows = recorder.fitted(bank, settings, test, vectors).rows()
    again = rows[f"alone {listened[0].name}"]  # but it is all of them
    assert np.array_equal(again.scores, rows[OURS].scores)
    assert np.array_equal(again.is_anomaly, rows[OURS].is_anomaly)


def test_a_view_that_is_left_out_is_nowhere_looked_at() -> None:
    vectors = np.eye(8, dtype=np.float32)
    train, test = evidence_of(file_sessions(100)), evidence_of(file_sessions(31))

    def scores(left_out: Sequence[str], factor: float) -> list[float]:
        known, new = (
            SessionEvidence(e.sequences, e.embedding**factor, e.surprise**factor, e.failure, e.odd)
            for e in (train, test)
        )
        bank = Mock(sessions_per_day=None, suspected=suspected(known.sequences))
        judged = np.zeros(0, np.int64)
        fitted = FittedBank(bank, DetectionSettings(), 3, known, vectors, judged, judged, {}, {}, new, vectors)
        return fitted.without(left_out).scores.tolist()

    assert scores(("embedding", "surprise"), 1) == scores(("embedding", "surprise"), 2)
    assert scores(("embedding",), 1) != scores(("embedding",), 2)


def test_a_batch_without_negatives_is_the_batch_but_for_them() -> None:
    sequences = sequences_of(file_sessions(20))
    whole = make_batch(sequences, np.arange(8), 1, 0, n_events=6, max_events=128)
    batch = without_negatives(whole)
    assert whole.n_negatives == batch.n == 8 and batch.n_negatives == 0
    pieces = np.concatenate([group.pieces for group in batch.groups])
    assert sorted(pieces) == list(range(16)) and len(batch.seeds) == 16 and len(batch.content) == 8
    rows = [
        {
            int(piece): tokens.tobytes()
            for group in made.groups
            for piece, tokens in zip(group.pieces, group.tokens, strict=True)
        }
        for made in (whole, batch)
    ]
    assert rows[1] == {piece: tokens for piece, tokens in rows[0].items() if piece < 16}


@pytest.mark.slow
def test_variants_train_with_a_part_changed(
    shop_protocol: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []

    def worker(arguments: Sequence[str]) -> tuple[Cost, bytes]:
        commands.extend(arguments)
        monkeypatch.setattr(sys, "argv", [*arguments, "--num_epochs", "2", "--batch_size", "16"])
        detection_ablation.main()
        return Cost(1.0, 1.0), b""

    remade: list[EncodedBatch] = []
    monkeypatch.setattr(
        detection_ablation, "without_negatives", lambda batch: remade.append(batch) or without_negatives(batch)
    )
    monkeypatch.setattr(detection, "run_process", worker)
    found, models = {}, {}
    for variant in ("untrained", "no_negatives"):
        found[variant] = measure_variant(
            Run(shop_protocol, "contaminated", None, 0, "ablation", variant), tmp_path / variant
        )
        models[variant] = LogAnomalyPipeline.load(tmp_path / variant / "checkpoint" / "model")
    assert not any("labels.csv" in word for word in commands)
    initial = untrained_encoder(models["untrained"].settings, models["untrained"].miner).frozen().weights
    moved = {
        variant: [name for name, weights in model.encoder.weights.items() if not np.array_equal(weights, initial[name])]
        for variant, model in models.items()
    }
    assert not moved["untrained"]
    assert "event_vectors" in moved["no_negatives"] and "word_projection.weight" in moved["no_negatives"]
    assert remade and all(batch.n_negatives for batch in remade)
    assert set(found["untrained"]["methods"]) - set(found["no_negatives"]["methods"]) == {"no_encoder"}
    assert found["untrained"]["methods"][OURS]["auprc"] > 0.5
    table = ablation_tables([{**each, "version": "v1", "code": "c0de"} for each in found.values()])
    assert rows_of(table, "no encoder") and rows_of(table, "without shifted negatives")


def test_the_ablation_compares_runs_that_both_have() -> None:
    def measured(test: str, seed: int, variant: str, **auprc_of: float) -> dict[str, Any]:
        return {**result(test, "clean", seed, **auprc_of), "variant": variant}

    parts = {"no order": 0.80, "alone tails:order": 0.40, "knn": 0.70}
    runs = [
        measured("hdfs", 0, "trained", **{OURS: 0.9}, **parts),
        measured("hdfs", 1, "trained", **{OURS: 0.7}, **parts),
        measured("bgl", 0, "trained", **{OURS: 0.6}, **parts),
        measured("hdfs", 0, "untrained", **{OURS: 0.8, "no_encoder": 0.5}),
    ]
    text = ablation_tables(runs)
    assert "| | hdfs clean | bgl clean | mean | difference |" in text.replace("|  |", "| |")
    assert rows_of(text, "trained (default)")[0][1:] == ["0.800 / 0.800", "0.600 / 0.600", "**0.700 / 0.700**", ""]
    assert rows_of(text, "untrained")[0][1:] == ["0.800 / 0.800", "-", "**0.800 / 0.800**", "-0.100 / -0.100"]
    assert rows_of(text, "no encoder")[0][-1] == "-0.400 / -0.400"
    assert rows_of(text, "`order`")[0][-1] == "+0.100 / +0.100"  # +0.0 on hdfs, +0.2 on bgl
    assert rows_of(text, "`tails:order`")[0][1:3] == ["0.400 / 0.400", "0.400 / 0.400"]
    assert rows_of(text, "`knn`")[0][-1] == "+0.000 / +0.000"


def test_bundled_log_is_split_as_it_is_shipped(tmp_path: Path) -> None:
    bundled = detection.PROTOCOLS["postgresql"]
    case: Case = bundled.split(tmp_path, 0)
    assert case.train.read_bytes() == gzip.decompress(bundled.log.read_bytes())
    assert bundled.test_log is not None and case.test.read_bytes() == gzip.decompress(bundled.test_log.read_bytes())
    assert not set(sessions_of(bundled.log, bundled.key)) & set(sessions_of(bundled.test_log, bundled.key))
