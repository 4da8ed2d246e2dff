"""Sessions as padded token arrays: pieces of bounded length, length buckets, and training batches.

A training batch is a pure function of (seed, epoch, session indices); what is made of one session never depends on the
others in its batch, so neither batch size, worker, nor resume changes a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ai_detect.sequences.augmentation import light_view, mix64, mix64_array, shifted_negative
from ai_detect.tables import BoolArray, Int32Array, Int64Array, SequenceTable

#: Tokens that are no events; a piece that is not a session's first begins with CONTINUE.
PAD, BEGIN, END, CONTINUE = 0, 1, 2, 3
#: Token of event id 0.
FIRST_EVENT = 4
#: So many occurrences of an event in a session are told apart by a vector of their own.
MAX_RANK = 15

#: Share of the events that a training sample shows by their words alone, as an event unseen in training looks.
_UNSEEN_SHARE = 1 / 16
_BUCKETS = (16, 24, 32, 48, 64, 80, 104, 136)
_TRAINING_STEP = 4
#: Batches of more tokens than this are padded to a multiple of so many: for sizes that come again a process finds room
#: in what earlier steps have left, for sizes that never do it takes more memory with every step.
_MANY_TOKENS, _TOKENS_STEP = 16_384, 1024


class Piece(NamedTuple):
    """A run of a session's events from `start` on; the first `n_context` of them belong to the piece before as well."""

    events: Int32Array
    start: int
    ends: bool
    n_context: int


@dataclass(frozen=True)
class TokenGroup:
    """Token rows of one length, and which pieces they are."""

    tokens: Int64Array  # (n, length)
    pieces: Int64Array  # (n,) index into the pieces given


@dataclass(frozen=True)
class EncodedBatch:
    """What one training step sees: pieces 0..n-1 are the sessions, n..2n-1 their light views, 2n..3n-1 damaged copies;
    rows beyond them are padding.

    Views are absent without the contrastive loss, damaged copies also without augmentation.
    """

    groups: tuple[TokenGroup, ...]
    n: int
    n_negatives: int
    unseen: BoolArray  # (n, n_events) events that this sample shows by their words alone
    content: Int64Array  # (n + n_negatives,) hash of the multiset of events: of the sessions, then of the negatives
    seeds: NDArray[np.uint64]  # (n_pieces,) of each piece's dropout mask
    copies: Int64Array  # (n,) equal sessions that each stands for


def bucket_length(n_tokens: int) -> int:
    """Padded length of a row of `n_tokens` tokens: a function of the row alone."""
    return next((length for length in _BUCKETS if n_tokens <= length), -(-n_tokens // 64) * 64)


def training_length(n_tokens: int) -> int:
    """Padded length of a row of `n_tokens` tokens in training, where rows of many lengths cost little more than of few;
    not above `bucket_length`.
    """
    return -(-n_tokens // _TRAINING_STEP) * _TRAINING_STEP


def context_length(max_events: int) -> int:
    """Events that a piece, unless it is a session's first, has in common with the one before."""
    return max_events // 4


def pieces_of(events: Int32Array, max_events: int) -> list[Piece]:
    """A session as pieces of at most `max_events` events, each beginning with the last ones of the piece before."""
    n_context = context_length(max_events)
    starts = range(0, max(1, len(events) - n_context), max_events - n_context)
    return [
        Piece(events[start : start + max_events], start, start + max_events >= len(events), n_context if start else 0)
        for start in starts
    ]


def group_pieces(pieces: Sequence[Piece], padded: Callable[[int], int] = bucket_length) -> list[TokenGroup]:
    """Token rows of pieces by `padded` length, shortest first, in the given order within a length."""
    buckets = np.array([padded(1 + len(piece.events) + piece.ends) for piece in pieces], np.int64)
    groups = []
    for length in np.unique(buckets):
        chosen = np.flatnonzero(buckets == length)
        members = [pieces[i] for i in chosen.tolist()]
        n_events = np.array([len(piece.events) for piece in members])[:, None]
        column = np.arange(length)
        tokens = np.full((len(chosen), length), PAD, np.int64)
        tokens[:, 0] = [CONTINUE if piece.start else BEGIN for piece in members]
        tokens[(column > 0) & (column <= n_events)] = np.concatenate([piece.events for piece in members]) + FIRST_EVENT
        tokens[(column == n_events + 1) & np.array([piece.ends for piece in members])[:, None]] = END
        groups.append(TokenGroup(tokens, chosen))
    return groups


def make_batch(
    sequences: SequenceTable,
    indices: Int64Array,
    seed: int,
    epoch: int,
    *,
    n_events: int,
    max_events: int,
    contrastive: bool = True,
    augmentation: bool = True,
    copies: Int64Array | None = None,
) -> EncodedBatch:
    """The sessions in `indices`, a light view and a damaged copy of each; event ids below `n_events` are known.

    `copies` (len(indices),) is how many sessions each stands for; without it, for itself.
    A session longer than `max_events` is represented by one run of its events, another one in each epoch. Without
    `augmentation` the view is the session itself (dropout still sets the two apart) and nothing is damaged.
    """
    seeds = [mix64(seed, epoch, index) for index in np.asarray(indices).tolist()]
    plain = [_crop(sequences.session(index), max_events, s) for index, s in zip(indices, seeds, strict=True)]
    views, negatives = [], []
    if contrastive and augmentation:
        views = [p._replace(events=light_view(p.events, mix64(s, 1))) for p, s in zip(plain, seeds, strict=True)]
        negatives = [_damaged(p, mix64(s, 2), n_events, max_events) for p, s in zip(plain, seeds, strict=True)]
    elif contrastive:
        views = plain
    numbers = np.array(seeds, np.uint64)[:, None] + np.arange(n_events, dtype=np.uint64)
    unseen = mix64_array(numbers, 3) < np.uint64(int(_UNSEEN_SHARE * 2**64))
    content = _contents([piece.events for piece in (*plain, *negatives)])
    groups = [*group_pieces([*plain, *views, *negatives], training_length)]
    masks = [mix64(s, 4, role) for role, made in enumerate((plain, views, negatives)) for s in seeds[: len(made)]]
    groups += _padding(sum(group.tokens.size for group in groups), len(masks))
    if copies is None:
        copies = np.ones(len(plain), np.int64)
    return EncodedBatch(tuple(groups), len(plain), len(negatives), unseen, content, np.array(masks, np.uint64), copies)


def _padding(n_tokens: int, n_pieces: int) -> list[TokenGroup]:
    """Rows of padding for a batch of so many tokens, which are no pieces."""
    n_rows = -n_tokens % _TOKENS_STEP // _TRAINING_STEP
    if n_tokens <= _MANY_TOKENS or not n_rows:
        return []
    return [TokenGroup(np.full((n_rows, _TRAINING_STEP), PAD, np.int64), np.full(n_rows, n_pieces))]


def _crop(events: Int32Array, max_events: int, seed: int) -> Piece:
    start = mix64(seed, 0) % max(1, len(events) - max_events + 1)
    return Piece(events[start : start + max_events], start, start + max_events >= len(events), 0)


def _damaged(piece: Piece, seed: int, n_events: int, max_events: int) -> Piece:
    damaged = shifted_negative(piece.events, seed, n_events)[:max_events]
    if np.array_equal(damaged, piece.events):  # the damage lay in what was just cut off
        damaged = damaged[: len(damaged) // 2]
    return piece._replace(events=damaged)


def _contents(sessions: Sequence[Int32Array]) -> Int64Array:
    """The hash of each session's multiset of events."""
    hashes = mix64_array(np.concatenate([np.zeros(0, np.int32), *sessions]), 0)
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes, dtype=np.uint64)])  # beyond 64 bits it wraps
    ends = np.cumsum([len(events) for events in sessions], dtype=np.int64)
    return np.diff(total[ends], prepend=total[:1]).view(np.int64)
