from __future__ import annotations

import random

import numpy as np
import pytest
from detection_ablation import recorded, restricted
from planted_faults import FAULTS, Foreign, Message, Normal, Pick, Session, dirtied, incidents, plant
from planted_scores import Scores, _parsed
from priors import Planted, best_of, equal, weights_of

from ai_detect.config import DetectionSettings
from ai_detect.detectors import fusion
from ai_detect.detectors.components import components_of
from ai_detect.detectors.ensemble import DetectorBank
from ai_detect.detectors.suspicion import suspected, trusted
from ai_detect.detectors.views import SessionEvidence

FOREIGN = Foreign(["disk failed"], ["cache was flushed"])


def message(template: str, size: float = 10.0) -> Message:
    return Message(template, 3, ((size, 7), (float("nan"), 1)), 1.0)


def shop(n: int) -> list[Session]:
    """Two kinds of sessions, which never mix."""
    long, short = ["open", "read", "read", "check", "write", "sync", "close"], ["login", "look", "logout", "bye"]
    return [[message(template) for template in (short if at % 3 == 0 else long)] for at in range(n)]


NORMAL = Normal(shop(90), None)


def pick(seed: int = 0) -> Pick:
    return Pick(NORMAL, FOREIGN, random.Random(seed), True, [])


def templates(session: Session) -> list[str]:
    return [message.template for message in session]


@pytest.mark.parametrize("kind", FAULTS)
def test_a_planted_fault_is_one_that_training_does_not_have(kind: str) -> None:
    host = shop(2)[1]
    planted = [found for seed in range(20) if (found := plant(kind, host, pick(seed)))]
    assert planted
    for session in planted:
        same_events = tuple(templates(session)) in NORMAL.sequences
        assert same_events == (kind in ("delay", "value"))
        assert session != host


def test_an_order_that_varies_cannot_be_wrong() -> None:
    steps = random.Random(0)
    mixed = [[message(name) for name in steps.sample("abcdefgh", 8)] for _ in range(90)]
    what = pick()._replace(normal=Normal(mixed, None))
    host = [message(name) for name in "hgfedcba"]
    assert plant("exchanged", host, what) is None and plant("reversed", host, what) is None
    assert plant("dropped", host, what) is not None


def test_a_number_that_training_has_is_no_fault() -> None:
    what = pick()._replace(normal=Normal([[message("read")] * (at % 30 + 3) for at in range(90)], None))
    assert all(plant(kind, [message("read")] * 20, what) is None for kind in ("dropped", "partner", "exchanged"))


def test_windows_keep_their_length() -> None:
    normal = Normal(shop(90), 7)
    for kind in ("storm", "unseen", "partner"):
        session = plant(kind, shop(2)[1], pick()._replace(normal=normal, following=shop(2)[1]))
        assert session is not None
        assert len(session) == 7


def test_an_incident_is_the_same_every_time() -> None:
    happens = incidents(NORMAL, FOREIGN, "0")
    assert [incident.kind for incident in happens].count("silent") == 2
    for incident in happens:
        hosts = [session for session in shop(30) if incident.anchor in templates(session)]
        assert len({tuple(templates(found)) for s in hosts if (found := incident(s, pick()))}) <= 2


def test_so_many_training_sessions_are_dirtied() -> None:
    training = shop(200)
    changed = dirtied(training, NORMAL, FOREIGN, incidents(NORMAL, FOREIGN, "0"), 0.05, 0)
    assert sum(a != b for a, b in zip(changed, training, strict=True)) == 10
    assert all(changed)


def test_half_of_the_planted_weight_is_on_incidents() -> None:
    kind = np.array([""] * 95 + ["cut"] * 4 + ["value"] * 2 + ["incident 0 known"] * 7)
    weights = weights_of(kind, 0.5)
    assert weights[kind == "cut"].sum() == pytest.approx(weights[kind == "value"].sum())
    assert weights[kind == "incident 0 known"].sum() == pytest.approx(2.5)
    assert weights[kind != ""].sum() / weights.sum() == pytest.approx(0.05)


def evidence_of(sessions: list[Session], oddest: float) -> SessionEvidence:
    """What the encoder and the values say is made up."""
    sequences = _parsed(sessions, sorted(NORMAL.n_with), len(NORMAL.n_with)).sequences
    rng, n = np.random.default_rng(len(sessions)), len(sequences.event_id)
    surprise, odd = rng.exponential(size=n).astype(np.float32), (rng.random((n, 2)) < 0.1).astype(np.float32)
    odd[3, 0] = oddest
    embedding = rng.normal(size=(len(sessions), 4)).astype(np.float32)
    return SessionEvidence(sequences, embedding, surprise, sequences.event_id == 3, odd)


def test_components_are_fused_as_a_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "_LEAST_ALONE", 50)
    train, test = evidence_of(shop(60), 2), evidence_of(shop(31), 5000)
    vectors = np.eye(len(NORMAL.n_with), dtype=np.float32)
    suspects, components = suspected(train.sequences), components_of("ensemble")
    with restricted(components), recorded() as recorder:
        bank = DetectorBank.fit(train, vectors, DetectionSettings(), 0, suspects=suspects)
        table = bank.scores(test, vectors)
    parts, judged = recorder.parts, recorder.parts["judged"]
    columns = suspects[judged], trusted(suspects)[judged], dict(table.raw)
    planted = Planted(
        "shop", "as it is", Scores(parts["held_out"], parts["settled"], *columns, np.array([""] * 25 + ["cut"] * 6))
    )
    found, alarms = planted.fused(components)
    assert found == pytest.approx(-np.log(table.p_value), rel=1e-9)
    assert np.array_equal(alarms, table.is_anomaly)
    best = best_of([planted], components)
    assert planted.mixed_auprc(best) > planted.mixed_auprc(equal(components))
    assert [part.prior for part in best if part.alone] == [part.prior for part in components if part.alone]
