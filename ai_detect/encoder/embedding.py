"""Sessions to vectors and surprise: a session's result never depends on the sessions around it, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController

from ai_detect.encoder.batches import (
    BEGIN,
    CONTINUE,
    END,
    FIRST_EVENT,
    Piece,
    context_length,
    group_pieces,
    pieces_of,
)
from ai_detect.encoder.frozen import FrozenEncoder, TokenVectors
from ai_detect.sequences.windowing import distinct_sequences
from ai_detect.tables import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array, SequenceTable

#: Tokens of one call of the model, and sessions that are cut into pieces at a time; they change nothing but speed.
_CALL_TOKENS = 1024
_SLAB = 4096
_TINY = 1e-30
#: Numbers of encoded sessions that are kept in case they come again: 16 MiB.
_KEPT_NUMBERS = 1 << 22


class Encoded(NamedTuple):
    """What the encoder makes of sessions."""

    vectors: Float32Array  # (n_sessions, 3 * dim): what happened, in which course, and what of it was a surprise
    surprise: Float32Array  # (n_events_total,) -ln p of each event given the events before it


class _Call(NamedTuple):
    """Token rows of one call, and the pieces in them, each with its session's number."""

    tokens: Int64Array  # (rows, length)
    pieces: list[tuple[int, Piece]]


class SessionEncoding:
    """Vectors and surprise of the sessions of a log, block by block; identical ones are encoded once.

    `words` is the word matrix of all templates that the sequences name. An unseen event is judged by its words. A
    session's last event has at least the surprise of the session's ending.

    The first two thirds of a session's vector are what the contrastive loss compares, of unit length; a long session is
    the mean of its pieces, each weighted by the events that are new in it. The contrastive loss spreads out all that
    tells sessions apart, be it usual or not. So the last third is the mean of the events' vectors, each weighted by its
    surprise: what is expected takes no room in it. Its length is the logarithm of the mean's, or one improbable event
    would outweigh all else.
    """

    def __init__(self, model: FrozenEncoder, words: Int32Array) -> None:
        self._model = model
        with _alone():
            self._table = model.token_vectors(words)
        self._known: dict[bytes, tuple[Float32Array, Float32Array]] = {}
        self._n_kept = 0

    def encode(self, sequences: SequenceTable, on_progress: Callable[[int], None] | None = None) -> Encoded:
        """What the encoder makes of these sessions; `on_progress` is told of sessions done."""
        first, inverse, counts = distinct_sequences(sequences)
        keys = [sequences.session(session).tobytes() for session in first.tolist()]
        is_new = np.array([key not in self._known for key in keys], np.bool_)
        if on_progress is not None and not is_new.all():
            on_progress(int(counts[~is_new].sum()))
        new = np.flatnonzero(is_new)
        made = self._encode(sequences.take(first[new]), counts[new], on_progress)
        found = [self._known.get(key) for key in keys]
        for number, at in enumerate(new.tolist()):
            found[at] = made[number]
            self._keep(keys[at], made[number])
        vectors = np.array([pair[0] for pair in found if pair], np.float32).reshape(len(found), 3 * self._model.dim)
        surprise = np.concatenate([np.zeros(0, np.float32), *(pair[1] for pair in found if pair)])
        offsets = np.cumsum([0, *(len(pair[1]) for pair in found if pair)])
        shift = np.repeat(offsets[inverse] - sequences.offsets[:-1], sequences.lengths)
        return Encoded(vectors[inverse], surprise[np.arange(len(shift)) + shift])

    def _keep(self, key: bytes, encoded: tuple[Float32Array, Float32Array]) -> None:
        size = sum(part.size for part in encoded)
        if self._n_kept + size > _KEPT_NUMBERS:
            self._known.clear()
            self._n_kept = 0
        if size <= _KEPT_NUMBERS:
            self._known[key] = encoded
            self._n_kept += size

    def _encode(
        self, distinct: SequenceTable, counts: Int64Array, on_progress: Callable[[int], None] | None
    ) -> list[tuple[Float32Array, Float32Array]]:
        """Vector and surprise of each of these sessions, which all differ."""
        model, table, n_sessions = self._model, self._table, len(distinct)
        compared, surprising = np.zeros((n_sessions, 2 * model.dim)), np.zeros((n_sessions, model.dim))
        n_read = np.zeros((n_sessions, 1))
        surprise = np.zeros(len(distinct.event_id), np.float32)
        with _alone():
            for call in _calls(model, distinct, on_progress, counts):
                states, vectors = model.states(call.tokens, table)
                rows = _surprise(model, call.tokens, states, table)
                weight = (rows * _new_tokens(call.tokens, model.max_events)).astype(np.float64)
                weighted = (table.seen[call.tokens[:, 1:]] * weight[..., None]).sum(axis=1)
                parts = zip(call.pieces, vectors.astype(np.float64), rows, weighted, strict=True)
                for (session, piece), vector, row, of_surprise in parts:
                    begin, n = int(distinct.offsets[session]) + piece.start, len(piece.events)
                    compared[session] += max(1, n - piece.n_context) * vector
                    surprising[session] += of_surprise
                    n_read[session] += n - piece.n_context + piece.ends
                    surprise[begin + piece.n_context : begin + n] = row[piece.n_context : n]
                    if piece.ends and n:
                        surprise[begin + n - 1] = max(row[n - 1], row[n])
            whole = np.hstack([_unit(compared), _shortened(surprising / n_read)]).astype(np.float32)
        return [(whole[i], surprise[distinct.offsets[i] : distinct.offsets[i + 1]]) for i in range(n_sessions)]


def encode_sessions(model: FrozenEncoder, sequences: SequenceTable, words: Int32Array) -> Encoded:
    """Vectors and surprise of sessions, as `SessionEncoding` makes them."""
    return SessionEncoding(model, words).encode(sequences)


def _new_tokens(tokens: Int64Array, max_events: int) -> BoolArray:
    """Which tokens but the first are events or ends that no piece before held, (rows, length - 1)."""
    after = tokens[:, 1:]
    is_context = (tokens[:, :1] == CONTINUE) & (np.arange(after.shape[1]) < context_length(max_events))
    return np.asarray(((after >= FIRST_EVENT) | (after == END)) & ~is_context)


def _shortened(vectors: Float64Array) -> Float64Array:
    """The vectors with log(1 + length) as their length, where an event's vector is about one long."""
    length = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True) / vectors.shape[1])
    return np.asarray(_unit(vectors) * np.log1p(length))


def _unit(vectors: Float64Array) -> Float64Array:
    return np.asarray(vectors / np.maximum(np.sqrt(np.square(vectors).sum(axis=1, keepdims=True)), _TINY))


def event_vectors(model: FrozenEncoder, words: Int32Array) -> Float32Array:
    """What the words of each event mean to the model, (n, max_words) to (n, dim) float32."""
    with _alone():
        return model.word_part(words)


def expected_events(model: FrozenEncoder, ids: Int32Array, position: int, k: int) -> list[tuple[int, float]]:
    """The k likeliest known events at `position`, given those before it, with their probabilities, best first."""
    before = ids[max(0, position - model.max_events) : position]
    lead = BEGIN if len(before) == position else CONTINUE
    known = np.minimum(before.astype(np.int64), model.n_events)  # all unseen events as one, without words
    with _alone():
        states, _ = model.states(np.concatenate([[lead], known + FIRST_EVENT])[None], model.known_vectors)
        logits = model.next_logits(model.predict(states[:, -1:]), model.known_vectors)[0, 0]
        p = np.exp(logits - _log_sum(logits))[: model.n_events]
    best = np.argsort(-p, kind="stable")[:k]
    return [(event, float(p[event])) for event in best.tolist()]


@contextmanager
def _alone() -> Iterator[None]:
    """One thread, as threads cut products up where they like, which changes how they round; what overflows is noticed
    by whoever uses the results.
    """
    with _controller().limit(limits=1, user_api="blas"), np.errstate(all="ignore"):
        yield


@cache
def _controller() -> ThreadpoolController:
    """What sets the threads of numpy's BLAS; looking for it takes milliseconds."""
    return ThreadpoolController()


def _calls(
    model: FrozenEncoder, sequences: SequenceTable, on_progress: Callable[[int], None] | None, counts: Int64Array
) -> Iterator[_Call]:
    """All pieces of all sessions; progress is told in sessions, `counts` for each of these."""
    for slab in range(0, len(sequences), _SLAB):
        end = min(slab + _SLAB, len(sequences))
        pieces = [
            (session, piece)
            for session in range(slab, end)
            for piece in pieces_of(sequences.session(session), model.max_events)
        ]
        for group in group_pieces([piece for _, piece in pieces]):
            n_rows = max(1, _CALL_TOKENS // group.tokens.shape[1])
            for at in range(0, len(group.tokens), n_rows):
                chosen = group.pieces[at : at + n_rows].tolist()
                yield _Call(group.tokens[at : at + n_rows], [pieces[i] for i in chosen])
        if on_progress:
            on_progress(int(counts[slab:end].sum()))


def _surprise(model: FrozenEncoder, tokens: Int64Array, states: Float32Array, table: TokenVectors) -> Float32Array:
    """-ln p of each token but the first, (rows, length - 1), in nats."""
    wanted = model.predict(states[:, :-1])
    logits = model.next_logits(wanted, table)
    total = _log_sum(logits)
    event = tokens[:, 1:] - FIRST_EVENT
    known = np.where(tokens[:, 1:] == END, model.n_events, np.clip(event, 0, model.n_events))
    surprise = total - np.take_along_axis(logits, known[..., None], axis=2)[..., 0]
    unseen = np.nonzero(event >= model.n_events)
    logit = model.unseen_logits(wanted[unseen], table.unseen[event[unseen] + FIRST_EVENT])
    surprise[unseen] = np.logaddexp(total[unseen], logit) - logit
    return surprise


def _log_sum(logits: Float32Array) -> Float32Array:
    """Logarithm of the sum of the exponentials along the last axis."""
    most = logits.max(axis=-1, keepdims=True)
    return np.asarray(most[..., 0] + np.log(np.exp(logits - most).sum(axis=-1)), np.float32)
