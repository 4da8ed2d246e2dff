"""Scoring: bit-identical whatever the company, right for any length, and better for training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from encoder.encoder_made import N_EVENTS, WORDS, encoder, routine, routines, table_of, train

from ai_detect.encoder.embedding import embed_sessions, event_surprise, expected_events
from ai_detect.encoder.model import SessionEncoder
from ai_detect.tables import SequenceTable


@pytest.fixture(scope="module")
def model() -> SessionEncoder:
    made = encoder()
    train(made, routines(192), 12)
    return made


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def odd_sessions() -> SequenceTable:
    """Sessions of all lengths from none to many pieces, some twice, some with unseen events."""
    rng = np.random.default_rng(5)
    lengths = [0, 1, 1, 2, 3, 14, 15, 22, 23, 24, 25, 26, 48, 49, 130, *rng.integers(1, 60, 120).tolist()]
    sessions = [rng.integers(0, len(WORDS), n).tolist() for n in lengths]
    return table_of([*sessions, *sessions[3:9], *(routine(rng) for _ in range(40))])


def scores(model: SessionEncoder, table: SequenceTable) -> list[tuple[bytes, bytes]]:
    vectors, surprise = embed_sessions(model, table, WORDS), event_surprise(model, table, WORDS)
    ends = table.offsets.tolist()
    return [(vectors[i].tobytes(), surprise[ends[i] : ends[i + 1]].tobytes()) for i in range(len(table))]


def test_shapes_and_units(model: SessionEncoder) -> None:
    table = odd_sessions()
    vectors, surprise = embed_sessions(model, table, WORDS), event_surprise(model, table, WORDS)
    assert vectors.shape == (len(table), 2 * model.dim)
    assert vectors.dtype == surprise.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert surprise.shape == table.event_id.shape
    assert np.isfinite(surprise).all()
    assert (surprise >= -1e-5).all()


def test_no_session_depends_on_its_company(model: SessionEncoder) -> None:
    table = odd_sessions()
    together = scores(model, table)
    rng = np.random.default_rng(0)
    for order in (np.arange(len(table))[::-1].copy(), rng.permutation(len(table)), rng.permutation(len(table))[:37]):
        assert scores(model, table.take(order)) == [together[i] for i in order]
    for alone in [*range(16), 60, 90]:
        assert scores(model, table.take(np.array([alone]))) == [together[alone]]


def test_threads_change_nothing(model: SessionEncoder, threads: None) -> None:
    table = odd_sessions()
    found = []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        found.append(scores(model, table))
    assert found[0] == found[1] == found[2]


def test_the_model_comes_back_as_it_was(model: SessionEncoder) -> None:
    model.train()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    scores(model, odd_sessions())
    assert model.training
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_progress_counts_all_sessions(model: SessionEncoder) -> None:
    table = odd_sessions()
    told: list[int] = []
    event_surprise(model, table, WORDS, on_progress=told.append)
    assert sum(told) == len(table)


def test_no_sessions_at_all(model: SessionEncoder) -> None:
    assert embed_sessions(model, table_of([]), WORDS).shape == (0, 2 * model.dim)
    assert event_surprise(model, table_of([]), WORDS).shape == (0,)


def test_surprise_points_at_what_is_wrong(model: SessionEncoder) -> None:
    usual = [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7]
    foreign = [*usual[:6], 9, *usual[6:]]
    unseen = [*usual[:6], N_EVENTS + 1, *usual[6:]]
    cut = usual[:8]
    table = table_of([usual, foreign, unseen, cut])
    normal, with_foreign, with_unseen, cut_short = np.split(
        event_surprise(model, table, WORDS), table.offsets[1:-1].tolist()
    )
    assert int(with_foreign.argmax()) == 6
    assert with_foreign[6] > 2 * normal.max()
    assert with_unseen[6] > normal.max()
    assert int(cut_short.argmax()) == 7  # the end comes too early
    assert cut_short[7] > normal.max()


def test_expected_events(model: SessionEncoder) -> None:
    best = expected_events(model, np.array([0, 1, N_EVENTS], np.int32), 2, 3)
    assert best[0][0] == 2
    assert [p for _, p in best] == sorted((p for _, p in best), reverse=True)
    assert 0 < sum(p for _, p in best) <= 1 + 1e-6
    assert len(expected_events(model, np.array([0, N_EVENTS] * 30, np.int32), 60, 99)) == N_EVENTS
    assert expected_events(model, np.array([], np.int32), 0, 1)[0][0] == 0


def test_training_beats_no_training(model: SessionEncoder) -> None:
    reference, normal = routines(300), routines(60, seed=9)
    rng = np.random.default_rng(3)
    odd = []
    for _ in range(60):
        events = routine(rng)
        at = int(rng.integers(1, len(events) - 4))
        odd.append(events[:at] + events[at : at + 3][::-1] + events[at + 3 :])
    separations = []
    for candidate in (encoder(), model):
        known = embed_sessions(candidate, reference, WORDS)
        near, far = (
            1 - (embed_sessions(candidate, table, WORDS) @ known.T).max(1) for table in (normal, table_of(odd))
        )
        surprise = [event_surprise(candidate, table, WORDS).mean() for table in (normal, table_of(odd))]
        separations.append(
            (np.mean(far[:, None] > near) + np.mean(far[:, None] == near) / 2, surprise[1] - surprise[0])
        )
    (before, gap_before), (after, gap_after) = separations
    assert after >= before
    assert after > 0.9
    assert gap_after > max(0.1, gap_before)
