"""Sessions to vectors and surprise: a session's result never depends on the sessions around it.

Every call of the model has one shape for each length bucket, filled up with empty rows, so that the same arithmetic is
done for a session alone, in any batch, and in any order: results are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ai_detect.encoder.batches import BEGIN, CONTINUE, END, FIRST_EVENT, PAD, Piece, group_pieces, pieces_of
from ai_detect.encoder.model import SessionEncoder, TokenTable
from ai_detect.sequences.windowing import distinct_sequences
from ai_detect.tables import Float32Array, Int32Array, Int64Array, SequenceTable

#: Tokens of one call of the model, and sessions that are cut into pieces at a time.
_CALL_TOKENS = 2048
_SLAB = 4096


class _Call(NamedTuple):
    """Token rows of one call; its first rows hold pieces, each with its session's number."""

    tokens: Tensor  # (rows, length)
    pieces: list[tuple[int, Piece]]


def embed_sessions(
    model: SessionEncoder,
    sequences: SequenceTable,
    words: Int32Array,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Float32Array:
    """Session vectors, (n_sessions, 2 * dim) float32 of unit length.

    `words` is the word matrix of all templates that the sequences name; `on_progress` is told of sessions done. A long
    session is the mean of its pieces, each weighted by the events that are new in it.
    """
    first, inverse, counts = distinct_sequences(sequences)
    distinct = sequences.take(first)
    total = np.zeros((len(first), 2 * model.dim), np.float64)
    with _scoring(model, torch.from_numpy(words)) as table:
        for call in _calls(model, distinct, on_progress, counts):
            vectors = model(call.tokens, table)[1].double().cpu().numpy()
            for (session, piece), vector in zip(call.pieces, vectors, strict=False):
                total[session] += max(1, len(piece.events) - piece.n_context) * vector
    length = np.sqrt(np.square(total).sum(1, keepdims=True))
    unit: Float32Array = (total / length).astype(np.float32)
    return unit[inverse]


def event_surprise(
    model: SessionEncoder,
    sequences: SequenceTable,
    words: Int32Array,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Float32Array:
    """-log p of each event given the events before it, (n_events_total,) float32 in nats.

    An unseen event is judged by its words. A session's last event has at least the surprise of the session's ending.
    """
    first, inverse, counts = distinct_sequences(sequences)
    distinct = sequences.take(first)
    surprise = np.zeros(len(distinct.event_id), np.float32)
    with _scoring(model, torch.from_numpy(words)) as table:
        for call in _calls(model, distinct, on_progress, counts):
            rows = _surprise(model, call.tokens, table).cpu().numpy()
            for (session, piece), row in zip(call.pieces, rows, strict=False):
                begin, n = int(distinct.offsets[session]) + piece.start, len(piece.events)
                surprise[begin + piece.n_context : begin + n] = row[piece.n_context : n]
                if piece.ends and n:
                    surprise[begin + n - 1] = max(row[n - 1], row[n])
    shift = np.repeat(distinct.offsets[inverse] - sequences.offsets[:-1], sequences.lengths)
    return surprise[np.arange(len(shift)) + shift]


def expected_events(model: SessionEncoder, ids: Int32Array, position: int, k: int) -> list[tuple[int, float]]:
    """The k likeliest known events at `position`, given those before it, with their probabilities, best first."""
    before = ids[max(0, position - model.max_events) : position]
    lead = BEGIN if len(before) == position else CONTINUE
    known = np.minimum(before.astype(np.int64), model.n_events)  # all unseen events as one, without words
    with _scoring(model, torch.cat([model.words.cpu(), torch.zeros_like(model.words[:1]).cpu()])) as table:
        tokens = torch.from_numpy(np.concatenate([[lead], known + FIRST_EVENT])).to(model.words.device)
        states = model(tokens.unsqueeze(0), table)[0]
        log_p = model.next_logits(states[:, -1], table)[0].log_softmax(0)[: model.n_events]
        best = log_p.topk(min(k, model.n_events))
        return [(int(event), float(p)) for event, p in zip(best.indices, best.values.exp(), strict=True)]


@contextmanager
def _scoring(model: SessionEncoder, words: Tensor) -> Iterator[TokenTable]:
    """The token table of these words while the model is in evaluation mode and keeps no gradients."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield model.token_table(words.long().to(model.words.device))
    finally:
        model.train(was_training)


def _calls(
    model: SessionEncoder, sequences: SequenceTable, on_progress: Callable[[int], None] | None, counts: Int64Array
) -> Iterator[_Call]:
    """All pieces of all sessions in calls of fixed shape; progress is told in sessions, `counts` for each of these."""
    for slab in range(0, len(sequences), _SLAB):
        end = min(slab + _SLAB, len(sequences))
        pieces = [
            (session, piece)
            for session in range(slab, end)
            for piece in pieces_of(sequences.session(session), model.max_events)
        ]
        for group in group_pieces([piece for _, piece in pieces]):
            length = group.tokens.shape[1]
            n_rows = max(1, _CALL_TOKENS // length)
            for at in range(0, len(group.tokens), n_rows):
                tokens = np.full((n_rows, length), PAD, np.int64)
                chosen = group.pieces[at : at + n_rows].tolist()
                tokens[: len(chosen)] = group.tokens[at : at + n_rows]
                yield _Call(torch.from_numpy(tokens).to(model.words.device), [pieces[i] for i in chosen])
        if on_progress:
            on_progress(int(counts[slab:end].sum()))


def _surprise(model: SessionEncoder, tokens: Tensor, table: TokenTable) -> Tensor:
    """-log p of each token but the first, (rows, length - 1)."""
    states = model(tokens, table)[0][:, :-1].reshape(-1, model.dim)
    after = tokens[:, 1:].reshape(-1)
    logits = model.next_logits(states, table)
    event = after - FIRST_EVENT
    known = torch.where(after == END, model.n_events, event).clamp(min=0, max=model.n_events)
    wanted = logits.gather(1, known.unsqueeze(1)).squeeze(1)
    total = logits.logsumexp(1)
    is_unseen = event >= model.n_events
    unseen = model.unseen_logits(states, table.unseen[after])
    surprise = torch.where(is_unseen, torch.logaddexp(total, unseen) - unseen, total - wanted)
    return surprise.view(len(tokens), -1)
