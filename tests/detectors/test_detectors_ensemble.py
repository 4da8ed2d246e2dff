from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from detectors_made import BROKEN, N_KNOWN, bank_of, event_vectors, evidence_of, normal_log

from ai_detect.config import AlarmSettings, DetectionSettings
from ai_detect.detectors import fusion as module
from ai_detect.detectors.calibration import TailCalibration
from ai_detect.detectors.components import COMPONENTS, METHODS, components_of
from ai_detect.detectors.ensemble import DetectorBank
from ai_detect.detectors.fusion import MEAN, Fusion, shares_of
from ai_detect.detectors.reference import most_rows
from ai_detect.detectors.views import SessionEvidence, SessionViews
from ai_detect.errors import ConfigError, DataError, Interrupted

SETTINGS = DetectionSettings()


def fit(sessions: list[list[int]], settings: DetectionSettings = SETTINGS) -> DetectorBank:
    return bank_of(evidence_of(sessions), event_vectors(N_KNOWN), settings)


@pytest.fixture(scope="module")
def bank() -> DetectorBank:
    return fit(normal_log(1000))


@pytest.mark.parametrize("method", METHODS)
def test_broken_sessions_score_above_normal_ones(bank: DetectorBank, method: str) -> None:
    normal, broken = normal_log(200, seed=3), list(BROKEN.values())
    scores = bank.scores(evidence_of(normal + broken), event_vectors(), method=method).score
    assert np.median(scores[200:]) > np.quantile(scores[:200], 0.95)


def test_the_default_finds_every_kind_of_damage_and_leaves_normal_sessions_alone(bank: DetectorBank) -> None:
    table = bank.scores(evidence_of(normal_log(500, seed=3) + list(BROKEN.values())), event_vectors())
    assert table.is_anomaly[500:].tolist() == [True] * len(BROKEN)
    assert table.is_anomaly[:500].mean() < 0.01


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_the_same_alone_in_any_batch_and_in_any_order(bank: DetectorBank, method: str) -> None:
    sessions = normal_log(40, seed=3) + list(BROKEN.values())
    together = bank.scores(evidence_of(sessions), event_vectors(), method=method)
    order = np.random.default_rng(0).permutation(len(sessions))
    shuffled = bank.scores(evidence_of([sessions[i] for i in order]), event_vectors(), method=method)
    assert np.array_equal(shuffled.score, together.score[order])
    for i in (0, 7, 41, 43):
        alone = bank.scores(evidence_of([sessions[i]]), event_vectors(), method=method)
        assert alone.score[0] == together.score[i]
        assert {name: raw[0] for name, raw in alone.raw.items()} == {n: raw[i] for n, raw in together.raw.items()}


@pytest.mark.parametrize("method", METHODS)
def test_the_table_is_consistent(bank: DetectorBank, method: str) -> None:
    table = bank.scores(evidence_of(normal_log(100, seed=3) + list(BROKEN.values())), event_vectors(), method=method)
    assert set(table.raw) == {component.name for component in components_of(method)}
    assert ((table.score >= 0) & (table.score < 1)).all()
    assert len(np.unique(table.score)) > 3
    order = np.argsort(table.p_value)
    assert (np.diff(table.score[order]) <= 0).all()
    assert np.array_equal(table.is_anomaly, table.score >= table.threshold)


def test_all_methods_at_once_are_each_alone(bank: DetectorBank) -> None:
    evidence = evidence_of(list(BROKEN.values()))
    tables = bank.scores_by_method(evidence, event_vectors())
    assert set(tables) == set(METHODS)
    for method in METHODS:
        assert np.array_equal(tables[method].score, bank.scores(evidence, event_vectors(), method=method).score)


@pytest.mark.parametrize("n_sessions", [8, 10])
def test_scores_of_other_sessions_than_asked_for_are_refused(bank: DetectorBank, n_sessions: int) -> None:
    raw = bank.raw_in_blocks([evidence_of(normal_log(n)) for n in (8, 1)], event_vectors(), ["ensemble"])
    with pytest.raises(ValueError, match=f"of 9 sessions, not of {n_sessions}"):
        bank.judged(raw, n_sessions, ["ensemble"])


def test_saved_and_loaded_it_scores_the_same(bank: DetectorBank, caplog: pytest.LogCaptureFixture) -> None:
    evidence = evidence_of(normal_log(50, seed=3) + list(BROKEN.values()))
    with caplog.at_level(logging.WARNING):
        again = DetectorBank.from_state(*bank.state())
        for method in METHODS:
            before, after = (b.scores(evidence, event_vectors(), method=method) for b in (bank, again))
            assert np.array_equal(before.score, after.score)
            assert before.threshold == after.threshold
    assert not caplog.records
    assert np.array_equal(again.suspicious, bank.suspicious)
    values, arrays = again.state()
    assert values == bank.state()[0]
    assert all(np.array_equal(array, arrays[name]) for name, array in bank.state()[1].items())


def test_a_library_that_scores_differently_is_reported(bank: DetectorBank, caplog: pytest.LogCaptureFixture) -> None:
    values, arrays = bank.state()
    moved = {**arrays, "comparison/checks/tails:order": arrays["comparison/checks/tails:order"] + 1}
    with caplog.at_level(logging.WARNING):
        DetectorBank.from_state(values, moved).scores(evidence_of(normal_log(3)), event_vectors())
    assert "tails:order scores differently" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 99},
        {"components": ["knn:extremes"]},
        {"methods": {}},
        {"detection_method": "magic"},
        {"fusion_method": "magic"},
        {"seed": "x"},
    ],
)
def test_a_state_that_is_not_one_is_refused(bank: DetectorBank, change: dict[str, object]) -> None:
    values, arrays = bank.state()
    with pytest.raises(ValueError, match=r".+"):
        DetectorBank.from_state({**values, **change}, arrays)


def test_a_missing_array_is_refused(bank: DetectorBank) -> None:
    values, arrays = bank.state()
    for name in ("comparison/rows/extremes", "method/knn/values", "suspicious", "comparison/views/transitions/codes"):
        with pytest.raises(KeyError):
            DetectorBank.from_state(values, {key: array for key, array in arrays.items() if key != name})


def test_fitting_twice_gives_the_same_bank(bank: DetectorBank) -> None:
    values, arrays = fit(normal_log(1000)).state()
    assert values == bank.state()[0]
    assert all(np.array_equal(array, arrays[name]) for name, array in bank.state()[1].items())


def test_repeated_anomalies_in_training_do_not_become_normal() -> None:
    """A twentieth of the log is one and the same incident, which is its own nearest neighbour."""
    incident = [0, 1, 5, 5, 7]
    sessions = normal_log(400)
    for position in range(0, 400, 20):
        sessions[position] = incident
    bank = bank_of(evidence_of(sessions), event_vectors(), SETTINGS)
    table = bank.scores(evidence_of([*normal_log(200, seed=3), incident]), event_vectors())
    assert table.score[-1] > np.quantile(table.score[:-1], 0.97)
    assert table.is_anomaly[-1]
    assert 0.03 < bank.suspected_share < 0.08
    assert bank.suspicious[::20].all()


def test_a_clean_log_is_not_suspected(bank: DetectorBank) -> None:
    assert bank.suspected_share == 0


def test_a_given_rate_sets_the_threshold() -> None:
    sessions = normal_log(400)
    for settings in (DetectionSettings(false_alarm_rate=0.1), DetectionSettings(contamination=0.1)):
        bank = fit(sessions, settings)
        assert 0.03 < bank.suspicious.mean() < 0.15  # equal sessions are on one side: one kind in ten
        table = bank.scores(evidence_of(normal_log(400, seed=3)), event_vectors())
        assert 0.03 < table.is_anomaly.mean() < 0.2


@pytest.mark.parametrize("fusion", ["static_weight", "max", "mean"])
def test_each_other_fusion_finds_the_unseen_event(fusion: str) -> None:
    bank = fit(normal_log(200), DetectionSettings.model_validate({"fusion_method": fusion}))
    table = bank.scores(evidence_of([*normal_log(100, seed=3), BROKEN["unseen event"]]), event_vectors())
    assert table.score[-1] > np.quantile(table.score[:-1], 0.98)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_few_sessions_are_enough(n: int) -> None:
    bank = fit([[0, 1, 2, 3, 4]] * n)
    for method in METHODS:
        table = bank.scores(evidence_of([[0, 1, 2, 3, 4], [0, 6, 7, 8]]), event_vectors(), method=method)
        assert np.isfinite(table.score).all()
        assert table.score[1] > table.score[0], method


def test_nothing_to_fit_on_is_a_data_error() -> None:
    nothing = evidence_of([[0]]).take(np.zeros(0, np.int64))
    with pytest.raises(DataError, match="no session"):
        DetectorBank.fit(nothing, event_vectors(N_KNOWN), SETTINGS, seed=7, suspects=np.zeros(0, np.bool_))


def test_an_unknown_method_is_a_config_error(bank: DetectorBank) -> None:
    with pytest.raises(ConfigError, match="magic"):
        bank.scores(evidence_of([[0]]), event_vectors(), method="magic")


def test_fitting_stops_when_asked() -> None:
    def stop() -> None:
        raise Interrupted("stopped", 2)

    with pytest.raises(Interrupted):
        bank_of(evidence_of(normal_log(20)), event_vectors(N_KNOWN), SETTINGS, check=stop)


def test_a_model_may_not_hold_more_reference_rows_than_are_ever_made(bank: DetectorBank) -> None:
    values, arrays = bank.state()
    rows = arrays["comparison/rows/timing"]
    n = most_rows(rows.shape[1]) + 1
    grown = {"comparison/rows/timing": np.resize(rows, (n, rows.shape[1])), "comparison/weights/timing": np.ones(n)}
    with pytest.raises(ValueError, match="timing"):
        DetectorBank.from_state(values, {**arrays, **grown})


def test_held_out_detectors_learn_from_the_sessions_that_the_final_ones_learn_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One suspect in 150 is trusted as a whole; each fold, being smaller, would have judged that for itself."""
    n_learned = []
    learn = SessionViews.fit
    monkeypatch.setattr(
        SessionViews, "fit", lambda known, vectors: n_learned.append(len(known)) or learn(known, vectors)
    )
    suspects = np.arange(150) == 7
    assert 0 < suspects.mean() < 0.0075
    DetectorBank.fit(evidence_of(normal_log(150)), event_vectors(N_KNOWN), SETTINGS, seed=7, suspects=suspects)
    *folds, final = n_learned
    assert final == 150
    assert sum(folds) == 4 * 150


def test_sessions_of_a_frequent_kind_share_one_p_value_whichever_fold_they_were_held_out_with() -> None:
    kinds = normal_log(8, seed=1)
    which = np.random.default_rng(0).integers(0, len(kinds), 800)
    made = fit([kinds[i] for i in which])
    for method in METHODS:
        held_out = made.methods[method].held_out
        assert all(len(np.unique(held_out[which == kind])) == 1 for kind in range(len(kinds))), method


def test_a_few_sessions_that_are_far_out_do_not_blunt_what_a_component_says_of_a_further_one() -> None:
    """By its rank among 200 sessions of which four lie as far out, no session would be less usual than one in 40."""
    sessions = normal_log(200)
    far = ([0, *[1] * 30, 2, 3, 4], [0, 1, *[2] * 30, 3, 4], [0, 1, 2, *[3] * 30, 4], [0, 1, 2, 3, 4] * 4)
    for position, session in zip((20, 70, 120, 170), far, strict=True):
        sessions[position] = session
    bank = fit(sessions)
    assert not bank.suspected.any()
    table = bank.scores(evidence_of([[0, 1, 2, *[1, 2] * 20, 3, 4]]), event_vectors())
    assert -np.log(table.p_values["tails:order"][0]) > 1.5 * np.log(201)


def with_odd_values(evidence: SessionEvidence, seed: int, odd: float | None = None, column: int = 0) -> SessionEvidence:
    """Values of all sorts in every event, and in the middle of the last session one that is `odd`."""
    values = np.random.default_rng(seed).exponential(size=evidence.odd.shape).astype(np.float32)
    if odd is not None:
        values[-3, column] = odd
    return replace(evidence, odd=values)


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("fusion", ["static_weight", "dynamic_weight"])
def test_an_odd_value_raises_an_alarm_where_all_else_is_as_ever(
    fusion: str, column: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEAST_ALONE", 300)
    settings = DetectionSettings.model_validate({"fusion_method": fusion})
    train = with_odd_values(evidence_of(normal_log(300)), seed=0)
    bank = bank_of(train, event_vectors(N_KNOWN), settings)
    fresh = with_odd_values(evidence_of(normal_log(300, seed=3)), seed=1, odd=40.0, column=column)
    # of 300 sessions none can show less than one in 301
    table = bank.scores(fresh, event_vectors(), alarm=AlarmSettings(false_alarm_rate=0.04))
    assert table.is_anomaly[-1]
    assert table.is_anomaly[:-1].mean() < 0.08


def test_two_messages_that_change_places_raise_an_alarm_in_a_long_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the mean over fifty transitions, and over all components, a new one is hardly heard."""
    monkeypatch.setattr(module, "_LEAST_ALONE", 300)
    rng = np.random.default_rng(0)

    def session() -> list[int]:
        rounds = [[1] * int(rng.integers(1, 4)) + [2, 3] for _ in range(rng.integers(4, 20))]
        events = [0, *(event for events in rounds for event in events), 4]
        for _ in range(rng.integers(1, 4) if rng.random() < 0.1 else 0):
            events.insert(int(rng.integers(1, len(events))), 5)  # comes anywhere
        return events

    bank, fresh = fit([session() for _ in range(400)]), [session() for _ in range(400)]
    for damaged in fresh[:20]:
        pairs = [at for at in range(len(damaged) - 1) if damaged[at : at + 2] == [2, 3]]
        at = pairs[len(pairs) // 2]
        damaged[at : at + 2] = [3, 2]
    found = bank.scores(evidence_of(fresh), event_vectors(), alarm=AlarmSettings(false_alarm_rate=0.02)).is_anomaly
    assert found[:20].mean() > 0.8
    assert found[20:].mean() < 0.05


def test_what_is_heard_alone_takes_the_place_of_a_quieter_mean() -> None:
    mean, single = np.random.default_rng(0).exponential(size=(2, 1000))
    as_it_is = TailCalibration(np.array([0.0, 20.0]), np.array([0.0, 20.0]), 1.0, 0.1)
    raw = {"tails:numbers": single, "tails:order": mean}
    alone = {MEAN: as_it_is, "tails:numbers": as_it_is}
    fusion = Fusion("static_weight", {"tails:order": 1.0}, {"tails:numbers": 0.1}, alone)
    statistic = fusion.statistic(raw, raw)
    assert np.allclose(statistic, np.maximum(mean, single + np.log(0.1)))
    assert (statistic > mean).any()


def test_one_component_alone_does_not_outrank_what_many_agree_on() -> None:
    mean, single = np.random.default_rng(1).exponential(size=(2, 1000))
    by_mean, by_single = TailCalibration.fit(mean), TailCalibration.fit(single)
    fusion = Fusion(
        "static_weight", {"tails:order": 1.0}, {"tails:words": 0.2}, {MEAN: by_mean, "tails:words": by_single}
    )
    raw = {"tails:words": np.array([1e6, 0.0]), "tails:order": np.array([0.0, 40.0])}
    alone, agreed = fusion.statistic(raw, {"tails:order": raw["tails:order"]})
    assert np.log(1001 * 0.2) == pytest.approx(alone)
    assert agreed > alone


def test_nothing_is_heard_alone_where_few_sessions_calibrate_or_all_components_are_alike(bank: DetectorBank) -> None:
    least, components = module._LEAST_ALONE, components_of("ensemble")
    heard = {"tails:bigrams", "tails:numbers", "tails:words"}
    assert set(shares_of("static_weight", components, least)) == heard
    assert shares_of("static_weight", components, least - 1) == {}
    assert shares_of("max", components, least) == {}
    assert shares_of("mean", components, least) == {}
    assert shares_of("static_weight", components_of("knn"), least) == {}
    assert set(bank.methods["ensemble"].fusion.alone) == {MEAN} | heard


def test_distances_between_session_vectors_say_less_where_the_log_is_dirty(bank: DetectorBank) -> None:
    sessions = normal_log(400)
    sessions[::20] = [[0, 6, 7, 8, 6, 7, 8, 4]] * 20
    dirty = bank_of(evidence_of(sessions), event_vectors(), SETTINGS)
    assert not bank.suspected.any()
    assert dirty.suspected.sum() == 20

    def share(made: DetectorBank) -> float:
        weights = made.methods["ensemble"].fusion.weights
        return weights["knn:embedding"] / weights["iforest:profile"]

    prior = next(component for component in COMPONENTS if component.name == "knn:embedding")
    assert share(bank) == pytest.approx(prior.prior)
    assert share(dirty) == pytest.approx(prior.prior_if_dirty)
