"""Sessions become token rows; a training sample is a function of seed, epoch and session alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from encoder.encoder_made import N_EVENTS, routines, table_of
from hypothesis import given
from hypothesis import strategies as st

from ai_detect.encoder.batches import (
    BEGIN,
    CONTINUE,
    END,
    FIRST_EVENT,
    PAD,
    EncodedBatch,
    bucket_length,
    group_pieces,
    make_batch,
    pieces_of,
    training_length,
)
from ai_detect.tables import SequenceTable


@given(st.integers(0, 400), st.integers(8, 64))
def test_pieces_cover_every_event_once_beside_their_context(length: int, max_events: int) -> None:
    pieces = pieces_of(np.arange(length, dtype=np.int32), max_events)
    fresh = np.concatenate([piece.events[piece.n_context :] for piece in pieces])
    assert fresh.tolist() == list(range(length))
    assert all(len(piece.events) <= max_events for piece in pieces)
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(piece.start == 0 or piece.events[0] == piece.start for piece in pieces)
    assert [piece.n_context == 0 for piece in pieces] == [True] + [False] * (len(pieces) - 1)


@given(st.lists(st.integers(0, 90), min_size=1, max_size=20), st.sampled_from([bucket_length, training_length]))
def test_token_rows_hold_the_pieces(lengths: list[int], padded: Callable[[int], int]) -> None:
    pieces = [piece for n in lengths for piece in pieces_of(np.arange(n, dtype=np.int32), 32)]
    seen = []
    for group in group_pieces(pieces, padded):
        for row, number in zip(group.tokens, group.pieces.tolist(), strict=True):
            piece = pieces[number]
            events = (piece.events + FIRST_EVENT).tolist()
            tokens = [CONTINUE if piece.start else BEGIN, *events, *([END] if piece.ends else [])]
            assert len(tokens) <= len(row) == padded(len(tokens)) <= bucket_length(len(tokens))
            assert row.tolist() == tokens + [PAD] * (len(row) - len(tokens))
            seen.append(number)
    assert sorted(seen) == list(range(len(pieces)))


def samples(batch: EncodedBatch) -> list[list[list[int]]]:
    """For each sample the tokens of its pieces without padding, and its unseen events."""
    rows = {
        piece: row[row != PAD].tolist()
        for group in batch.groups
        for piece, row in zip(group.pieces.tolist(), group.tokens, strict=True)
    }
    n_views = len(rows) // batch.n
    return [
        [rows[view * batch.n + i] for view in range(n_views)] + [batch.unseen[i].tolist()] + [[int(batch.content[i])]]
        for i in range(batch.n)
    ]


def batch_of(table: SequenceTable, indices: list[int], epoch: int = 1, **switches: bool) -> EncodedBatch:
    return make_batch(table, np.array(indices), 7, epoch, n_events=N_EVENTS, max_events=24, **switches)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    table = table_of([*(routines(20).session(i).tolist() for i in range(20)), list(range(12)) * 9, [], [3]])
    everything = samples(batch_of(table, list(range(23))))
    some = [22, 4, 20, 11, 21]
    assert samples(batch_of(table, some)) == [everything[i] for i in some]
    assert samples(batch_of(table, [20])) == [everything[20]]
    assert samples(batch_of(table, list(range(23)), epoch=2)) != everything


def test_pieces_of_a_long_session_change_with_the_epoch() -> None:
    table = table_of([list(range(12)) * 30])
    rows = [batch_of(table, [0], epoch=epoch, contrastive=False).groups[0].tokens[0].tolist() for epoch in range(20)]
    assert len({tuple(row) for row in rows}) > 5
    assert all(sum(token >= FIRST_EVENT for token in row) == 24 for row in rows)


@pytest.mark.parametrize(
    ("switches", "n_views", "n_negatives"),
    [
        ({}, 3, 5),
        ({"augmentation": False}, 2, 0),
        ({"contrastive": False}, 1, 0),
        ({"contrastive": False, "augmentation": False}, 1, 0),
    ],
)
def test_switches(switches: dict[str, bool], n_views: int, n_negatives: int) -> None:
    batch = batch_of(routines(5), list(range(5)), **switches)
    assert sum(len(group.pieces) for group in batch.groups) == 5 * n_views
    assert batch.n_negatives == n_negatives
    if not switches.get("augmentation", True) and n_views == 2:
        assert all(first == second for first, second, *_ in samples(batch))


def test_the_session_itself_comes_first_and_damage_last() -> None:
    table = routines(30)
    for i, (session, _, damaged, *_) in enumerate(samples(batch_of(table, list(range(30))))):
        assert session == [BEGIN, *(table.session(i) + FIRST_EVENT).tolist(), END]
        assert damaged != session


def test_a_damaged_copy_of_the_longest_session_still_fits_and_differs() -> None:
    table = table_of([list(range(12)) * 2] * 64)
    for session, _, damaged, *_ in samples(batch_of(table, list(range(64)))):
        assert damaged != session
        assert sum(token >= FIRST_EVENT for token in damaged) <= 24
