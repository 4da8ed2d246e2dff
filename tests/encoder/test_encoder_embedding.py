"""Scoring: bit-identical whatever the company, right for any length, and better for training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encoder.encoder_made import N_EVENTS, SETTINGS, WORDS, encoder, routine, routines, table_of, train
from threadpoolctl import threadpool_limits

from ai_detect.encoder.batches import END, FIRST_EVENT, group_pieces, pieces_of
from ai_detect.encoder.embedding import SessionEncoding, encode_sessions, expected_events
from ai_detect.encoder.frozen import FrozenEncoder
from ai_detect.encoder.model import SessionEncoder
from ai_detect.tables import SequenceTable


@pytest.fixture(scope="module")
def trained() -> SessionEncoder:
    made = encoder()
    train(made, routines(192), 12)
    return made.eval()


@pytest.fixture(scope="module")
def model(trained: SessionEncoder) -> FrozenEncoder:
    return trained.frozen()


def odd_sessions() -> SequenceTable:
    """Sessions of all lengths from none to many pieces, some twice, some with unseen events."""
    rng = np.random.default_rng(5)
    lengths = [0, 1, 1, 2, 3, 14, 15, 22, 23, 24, 25, 26, 48, 49, 130, *rng.integers(1, 60, 120).tolist()]
    sessions = [rng.integers(0, len(WORDS), n).tolist() for n in lengths]
    return table_of([*sessions, *sessions[3:9], *(routine(rng) for _ in range(40))])


def scores(model: FrozenEncoder, table: SequenceTable) -> list[tuple[bytes, bytes]]:
    vectors, surprise = encode_sessions(model, table, WORDS)
    ends = table.offsets.tolist()
    return [(vectors[i].tobytes(), surprise[ends[i] : ends[i + 1]].tobytes()) for i in range(len(table))]


def test_shapes_and_units(model: FrozenEncoder) -> None:
    table = odd_sessions()
    vectors, surprise = encode_sessions(model, table, WORDS)
    assert vectors.shape == (len(table), 3 * model.dim)
    assert vectors.dtype == surprise.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors[:, : 2 * model.dim], axis=1), 1, atol=1e-5)
    assert np.isfinite(vectors).all()
    assert surprise.shape == table.event_id.shape
    assert np.isfinite(surprise).all()
    assert (surprise >= -1e-5).all()


def test_no_session_depends_on_its_company(model: FrozenEncoder) -> None:
    table = odd_sessions()
    together = scores(model, table)
    rng = np.random.default_rng(0)
    for order in (np.arange(len(table))[::-1].copy(), rng.permutation(len(table)), rng.permutation(len(table))[:37]):
        assert scores(model, table.take(order)) == [together[i] for i in order]
    for alone in [*range(16), 60, 90]:
        assert scores(model, table.take(np.array([alone]))) == [together[alone]]


def test_threads_change_nothing(model: FrozenEncoder) -> None:
    table = odd_sessions()
    found = []
    for n_threads in (1, 2, 3):
        with threadpool_limits(n_threads):
            found.append(scores(model, table))
    assert found[0] == found[1] == found[2]


def test_no_event_depends_on_how_many_others_are_unseen(model: FrozenEncoder) -> None:
    table, more = odd_sessions(), np.concatenate([WORDS, *[WORDS[::-1]] * 30])
    for words in (more, more[:300]):
        vectors, surprise = encode_sessions(model, table, words)
        assert np.array_equal(vectors, encode_sessions(model, table, WORDS).vectors)
        assert np.array_equal(surprise, encode_sessions(model, table, WORDS).surprise)


def test_numpy_computes_what_torch_does(trained: SessionEncoder, model: FrozenEncoder) -> None:
    short = [i for i, n in enumerate(odd_sessions().lengths.tolist()) if 0 < n <= SETTINGS.max_events]
    table = odd_sessions().take(np.array(short))
    vectors, surprise = encode_sessions(model, table, WORDS)
    groups = group_pieces([pieces_of(table.session(i), model.max_events)[0] for i in range(len(table))])
    with torch.inference_mode():
        tokens_of = trained.token_table(torch.from_numpy(WORDS).long())
        for group in groups:
            flat, expected = trained([torch.from_numpy(group.tokens)], tokens_of)
            states = flat.view(*group.tokens.shape, -1)
            assert np.abs(vectors[group.pieces, : 2 * model.dim] - expected.numpy()).max() < 1e-6
            for tokens, state, session in zip(torch.from_numpy(group.tokens), states, group.pieces, strict=True):
                n = len(table.session(int(session)))
                log_p = trained.next_logits(state[:n], tokens_of).double()
                logits = torch.cat([log_p, torch.zeros(n, 1).double()], 1)
                for at, event in enumerate((tokens[1 : n + 1] - FIRST_EVENT).tolist()):
                    logits[at, -1] = -torch.inf
                    if event >= N_EVENTS:
                        unseen = tokens_of.unseen[event + FIRST_EVENT]
                        logits[at, -1] = trained.unseen_logits(state[at : at + 1], unseen[None])[0]
                wanted = [min(event, N_EVENTS + 1) for event in (tokens[1 : n + 1] - FIRST_EVENT).tolist()]
                right = -logits.log_softmax(1)[range(n), [N_EVENTS + 1 if e > N_EVENTS - 1 else e for e in wanted]]
                assert tokens[n + 1] == END
                ending = -trained.next_logits(state[n : n + 1], tokens_of).double().log_softmax(1)[0, N_EVENTS]
                right[-1] = max(right[-1], ending)
                found = surprise[table.offsets[session] : table.offsets[session + 1]]
                assert np.abs(found - right.numpy()).max() < 2e-5


def test_weights_that_do_not_fit_are_refused(model: FrozenEncoder) -> None:
    weights = model.weights
    for change in (
        {"event_bias": weights["event_bias"][:-1]},
        {"event_bias": weights["event_bias"].astype(np.float64)},
        {"event_bias": weights["event_bias"] * np.nan},
        {"more": weights["event_bias"]},
    ):
        with pytest.raises(ValueError, match=r"event_bias|more"):
            FrozenEncoder.from_state(SETTINGS, model.words, {**weights, **change})
    for name in weights:
        with pytest.raises(ValueError, match=name):
            FrozenEncoder.from_state(SETTINGS, model.words, {n: array for n, array in weights.items() if n != name})


def test_a_frozen_encoder_stays_as_it_was(trained: SessionEncoder) -> None:
    candidate = encoder()
    frozen, table = candidate.frozen(), odd_sessions()
    before = scores(frozen, table)
    train(candidate, routines(64), 1)
    assert scores(frozen, table) == before
    assert scores(candidate.frozen(), table) != before


def test_progress_counts_all_sessions(model: FrozenEncoder) -> None:
    table = odd_sessions()
    told: list[int] = []
    SessionEncoding(model, WORDS).encode(table, told.append)
    assert sum(told) == len(table)


def test_no_sessions_at_all(model: FrozenEncoder) -> None:
    vectors, surprise = encode_sessions(model, table_of([]), WORDS)
    assert vectors.shape == (0, 3 * model.dim)
    assert surprise.shape == (0,)


def test_surprise_points_at_what_is_wrong(model: FrozenEncoder) -> None:
    usual = [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7]
    foreign = [*usual[:6], 9, *usual[6:]]
    unseen = [*usual[:6], N_EVENTS + 1, *usual[6:]]
    cut = usual[:8]
    table = table_of([usual, foreign, unseen, cut])
    normal, with_foreign, with_unseen, cut_short = np.split(
        encode_sessions(model, table, WORDS).surprise, table.offsets[1:-1].tolist()
    )
    assert int(with_foreign.argmax()) == 6
    assert with_foreign[6] > 2 * normal.max()
    assert with_unseen[6] > normal.max()
    assert int(cut_short.argmax()) == 7  # the end comes too early
    assert cut_short[7] > normal.max()


def test_the_last_third_is_the_log_length_mean_of_the_events_vectors_weighted_by_surprise(
    model: FrozenEncoder,
) -> None:
    rng = np.random.default_rng(1)
    table = table_of([routine(rng), [3], [], [N_EVENTS + 1, 0], rng.integers(0, N_EVENTS, 60).tolist()])
    vectors, surprise = encode_sessions(model, table, WORDS)
    of_token = model.token_vectors(WORDS).seen.astype(np.float64)
    for session, vector in enumerate(vectors[:, 2 * model.dim :].astype(np.float64)):
        events = table.session(session)
        own = surprise[table.offsets[session] : table.offsets[session + 1]].astype(np.float64)
        expected = np.zeros(model.dim)
        if len(events):  # the surprise of the end is known only where it is larger than the last event's
            expected = (own[:-1, None] * of_token[events[:-1] + FIRST_EVENT]).sum(0)
        mean = vector / np.linalg.norm(vector) * np.expm1(np.linalg.norm(vector)) * model.dim**0.5
        rest = mean * (len(events) + 1) - expected
        parts = of_token[[END] if len(events) == 0 else [int(events[-1]) + FIRST_EVENT, END]].T
        weights, *_ = np.linalg.lstsq(parts, rest, rcond=None)
        assert np.allclose(parts @ weights, rest, atol=1e-3)
        assert (weights > -1e-4).all()
        assert len(events) == 0 or weights.max() == pytest.approx(own[-1], abs=1e-3)


def test_what_surprises_more_lies_further_out(model: FrozenEncoder) -> None:
    usual, swapped, foreign = [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 3, 2, 4, 5, 6, 7], [0, 1, 9, 10, 4, 5, 6, 7]
    vectors = encode_sessions(model, table_of([usual, swapped, foreign]), WORDS).vectors[:, 2 * model.dim :]
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths[0] < lengths[1] < lengths[2]


def test_expected_events(model: FrozenEncoder) -> None:
    best = expected_events(model, np.array([0, 1, N_EVENTS], np.int32), 2, 3)
    assert best[0][0] == 2
    assert [p for _, p in best] == sorted((p for _, p in best), reverse=True)
    assert 0 < sum(p for _, p in best) <= 1 + 1e-6
    assert len(expected_events(model, np.array([0, N_EVENTS] * 30, np.int32), 60, 99)) == N_EVENTS
    assert expected_events(model, np.array([], np.int32), 0, 1)[0][0] == 0


def test_training_beats_no_training(model: FrozenEncoder) -> None:
    reference, normal = routines(300), routines(60, seed=9)
    rng = np.random.default_rng(3)
    odd = []
    for _ in range(60):
        events = routine(rng)
        at = int(rng.integers(1, len(events) - 4))
        odd.append(events[:at] + events[at : at + 3][::-1] + events[at + 3 :])
    separations = []
    for candidate in (encoder().frozen(), model):
        known = encode_sessions(candidate, reference, WORDS).vectors
        read = [encode_sessions(candidate, table, WORDS) for table in (normal, table_of(odd))]
        near, far = (np.linalg.norm(found.vectors[:, None] - known, axis=2).min(1) for found in read)
        surprise = [found.surprise.mean() for found in read]
        separations.append(
            (np.mean(far[:, None] > near) + np.mean(far[:, None] == near) / 2, surprise[1] - surprise[0])
        )
    (before, gap_before), (after, gap_after) = separations
    assert after >= before
    assert after > 0.9
    assert gap_after > max(0.1, gap_before)
