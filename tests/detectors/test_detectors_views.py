from __future__ import annotations

import numpy as np
import pytest
from detectors_made import BROKEN, N_KNOWN, event_vectors, evidence_of, normal_log

import ai_detect.detectors.occurrences as occurrences_module
import ai_detect.detectors.views as views_module
from ai_detect.detectors.views import VIEWS, SessionEvidence, SessionViews


@pytest.fixture(scope="module")
def fitted() -> SessionViews:
    return SessionViews.fit(evidence_of(normal_log(200)).sequences, event_vectors(N_KNOWN))


def test_rows_do_not_depend_on_the_rows_beside_them(fitted: SessionViews, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = normal_log(60, seed=4) + list(BROKEN.values())
    together = fitted.transform(evidence_of(sessions), event_vectors(), VIEWS)
    order = np.random.default_rng(0).permutation(len(sessions))
    shuffled = fitted.transform(evidence_of([sessions[i] for i in order]), event_vectors(), VIEWS)
    monkeypatch.setattr(views_module, "_BLOCK", 7)
    in_blocks = fitted.transform(evidence_of(sessions), event_vectors(), VIEWS)
    for name, rows in together.items():
        assert np.array_equal(shuffled[name], rows[order]), name
        assert np.array_equal(in_blocks[name], rows), name
        assert np.isfinite(rows).all(), name
        assert rows.dtype == np.float32, name


def test_each_view_sees_its_kind_of_damage(fitted: SessionViews) -> None:
    sessions = [
        [0, 1, 2, 3, 4],
        [0, 6, 1, 2, 3, 4],
        [0, 3, 2, 1, 4],
        [0, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4],
        [0, 1, 2, 4],
    ]
    views = fitted.transform(evidence_of(sessions), event_vectors(), VIEWS)
    plain, new, swapped, repeated, missing = range(5)
    assert views["novelty"][new].min() > 0
    assert (views["novelty"][[plain, swapped, repeated, missing]] == 0).all()
    assert views["order"][swapped, 1] > views["order"][plain, 1]
    assert views["bigrams"][swapped] > 0
    assert (views["bigrams"][[plain, repeated]] == 0).all()
    assert np.array_equal(views["relations"][swapped], views["relations"][plain])
    assert np.array_equal(views["presence"][repeated], views["presence"][plain])
    assert views["relations"][repeated, 0] > views["relations"][plain, 0]
    assert views["rarity"][missing, 0] > views["rarity"][plain, 0]
    assert views["timing"][repeated, 0] > views["timing"][plain, 0]


def test_an_unseen_event_never_lowers_rarity_novelty_or_order(fitted: SessionViews) -> None:
    sessions = normal_log(100, seed=9)
    before = fitted.transform(evidence_of(sessions), event_vectors(), VIEWS)
    after = fitted.transform(
        evidence_of([[*session[:2], 7, *session[2:]] for session in sessions]), event_vectors(), VIEWS
    )
    for name, column in (("rarity", 0), ("novelty", 0), ("novelty", 1), ("order", 1)):
        assert (after[name][:, column] >= before[name][:, column]).all(), name


def test_unseen_is_what_training_did_not_hold_whatever_its_id() -> None:
    """In cross-fitting an event of the vocabulary may be missing from the other folds."""
    sessions = [[0, 1, 2], [0, 2], [0, 1, 1]] * 5
    views = SessionViews.fit(evidence_of(sessions).sequences, event_vectors(N_KNOWN))
    by_low_id, by_high_id = (
        views.transform(evidence_of([[0, unseen, 2]]), event_vectors(), VIEWS) for unseen in (N_KNOWN - 1, N_KNOWN + 1)
    )
    for name in ("presence", "rarity", "order", "bigrams"):
        assert np.array_equal(by_low_id[name], by_high_id[name]), name


def test_distances_are_as_if_every_unseen_event_had_its_own_column(fitted: SessionViews) -> None:
    known, one, two = fitted.transform(evidence_of([[0, 1, 4], [0, 1, 4, 6], [0, 1, 4, 6, 7]]), event_vectors(), VIEWS)[
        "presence"
    ]
    assert np.linalg.norm(two - known) == pytest.approx(np.sqrt(2) * np.linalg.norm(one - known), rel=1e-5)


def test_many_events_share_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occurrences_module, "MAX_COLUMNS", 4)
    monkeypatch.setattr(occurrences_module, "_SHARED_COLUMNS", 2)
    views = SessionViews.fit(evidence_of(normal_log(50)).sequences, event_vectors(N_KNOWN))
    assert views.transform(evidence_of(normal_log(5)), event_vectors(), VIEWS)["presence"].shape == (5, 5)


def test_sessions_without_events_or_times(fitted: SessionViews) -> None:
    evidence = evidence_of([[0, 1, 2, 3, 4], []], gap_s=float("nan"))
    for name, rows in fitted.transform(evidence, event_vectors(), VIEWS).items():
        assert np.isfinite(rows).all(), name


def test_state_round_trip(fitted: SessionViews) -> None:
    again = SessionViews.from_state(fitted.state())
    evidence = evidence_of(list(BROKEN.values()))
    expected = fitted.transform(evidence, event_vectors(), VIEWS)
    for name, rows in again.transform(evidence, event_vectors(), VIEWS).items():
        assert np.array_equal(rows, expected[name])


def test_evidence_that_does_not_fit_is_refused() -> None:
    evidence = evidence_of(normal_log(3))
    with pytest.raises(ValueError, match="does not fit 3 sessions"):
        SessionEvidence(evidence.sequences, evidence.embedding[:2], evidence.surprise, evidence.failure, evidence.odd)
    with pytest.raises(ValueError, match="odd"):
        SessionEvidence(evidence.sequences, evidence.embedding, evidence.surprise, evidence.failure, evidence.odd[:, 0])
    with pytest.raises(ValueError, match="surprise"):
        SessionEvidence(evidence.sequences, evidence.embedding, evidence.surprise[:-1], evidence.failure, evidence.odd)
