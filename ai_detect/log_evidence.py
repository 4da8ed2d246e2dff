"""What encoder and values know of the sessions of a log, block by block: what detectors go by."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ai_detect import scratch
from ai_detect.config import RunSettings
from ai_detect.detectors.severity import failure_events
from ai_detect.detectors.values import ValueModel
from ai_detect.detectors.views import SessionEvidence
from ai_detect.encoder import embedding
from ai_detect.encoder.embedding import SessionEncoding
from ai_detect.encoder.frozen import FrozenEncoder
from ai_detect.encoder.vocabulary import word_matrix
from ai_detect.errors import CheckpointError
from ai_detect.sequences.parsed_log import ParsedLog, Progress, Silent, SomeSessions
from ai_detect.sequences.session_blocks import session_blocks
from ai_detect.tables import BoolArray, Float32Array, ragged_rows

#: Sessions whose events are listed at once; only memory depends on it.
_BLOCK = 1 << 13


def learn_values(log: ParsedLog, normal: BoolArray) -> tuple[ValueModel, Float32Array]:
    """What values are usual in the `normal` sessions; how odd those of each event are by the other sessions of these,
    (n_events, 2).
    """
    all_values = log.values
    kept, offsets = np.flatnonzero(normal), log.sequences.offsets
    of_kept = scratch.Growing(np.int64)
    for block in scratch.blocks(len(kept), _BLOCK):
        begins = offsets[kept[block]]
        of_kept.append(ragged_rows(begins, offsets[kept[block] + 1] - begins))
    events = of_kept.column()
    values, own = ValueModel.fit(log.sequences.take(kept), all_values.take(events), log.events.n_known)
    odd = values.surprise(log.sequences, all_values).surprise
    for block in scratch.blocks(len(events)):
        odd[events[block]] = own.surprise[block]
    return values, odd


def evidence_blocks(
    encoder: FrozenEncoder,
    log: ParsedLog,
    settings: RunSettings,
    odd_values: Callable[[slice, SomeSessions], Float32Array],
    progress: Progress | None = None,
) -> Iterator[SessionEvidence]:
    """What is known of all sessions, block by block; `odd_values` tells how odd the values in the events of some are,
    (n_events, 2).
    """
    encoding = SessionEncoding(encoder, word_matrix(log.events.templates, settings.n_word_buckets))
    with (progress or Silent()).stage("encoding", len(log.sessions), "sessions") as advance:
        for sessions in session_blocks(log.sequences.offsets):
            block = log.of_sessions(np.arange(sessions.start, sessions.stop))
            vectors, surprise = encoding.encode(block.sequences, advance)
            _check_finite(vectors, surprise)
            failure = failure_events(log.events.templates, block.sequences.event_id, block.level)
            yield SessionEvidence(block.sequences, vectors, surprise, failure, odd_values(sessions, block))


def whole_evidence(
    encoder: FrozenEncoder, log: ParsedLog, settings: RunSettings, odd: Float32Array, progress: Progress | None = None
) -> SessionEvidence:
    """What is known of all sessions at once; `odd` (n_events_total, 2) tells how odd the values of each event are."""
    n, n_events, offsets = len(log.sequences), len(log.sequences.event_id), log.sequences.offsets
    dim = 3 * settings.dim
    vectors = scratch.zeros(n * dim, np.float32).reshape(n, dim)
    surprise, failure = scratch.zeros(n_events, np.float32), scratch.zeros(n_events, np.bool_)
    session = event = 0
    for block in evidence_blocks(
        encoder, log, settings, lambda part, _: odd[offsets[part.start] : offsets[part.stop]], progress
    ):
        vectors[session : session + len(block)] = block.embedding
        events = slice(event, event + len(block.surprise))
        surprise[events], failure[events] = block.surprise, block.failure
        session, event = session + len(block), events.stop
    return SessionEvidence(log.sequences, vectors, surprise, failure, odd)


def event_vectors(encoder: FrozenEncoder, log: ParsedLog, settings: RunSettings) -> Float32Array:
    """What the words of each event mean to the encoder, (n_templates, dim) float32; unseen events included."""
    vectors = embedding.event_vectors(encoder, word_matrix(log.events.templates, settings.n_word_buckets))
    _check_finite(vectors)
    return vectors


def _check_finite(*arrays: Float32Array) -> None:
    """Raise CheckpointError where finite weights gave numbers that are not."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise CheckpointError("the encoder's weights are so large that its output is not finite; train again")
