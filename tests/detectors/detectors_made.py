"""Logs made for the tests of the detectors: requests that read, compute, write and close."""

from __future__ import annotations

from typing import Any

import numpy as np

from ai_detect.config import DetectionSettings
from ai_detect.detectors.ensemble import DetectorBank
from ai_detect.detectors.suspicion import suspected
from ai_detect.detectors.views import SessionEvidence
from ai_detect.tables import Float32Array, SequenceTable

#: Event ids: 0 open, 1 read, 2 compute, 3 write, 4 close, 5 retry (rare); 6 and up are unseen in training.
N_KNOWN, N_EVENTS = 6, 9


def normal_session(rng: np.random.Generator) -> list[int]:
    body = [1] * int(rng.integers(1, 4)) + [2] + [3] * int(rng.integers(1, 4))
    return [0, *([5] if rng.random() < 0.05 else []), *body, 4]


def sequences_of(sessions: list[list[int]], gap_s: float = 1.0) -> SequenceTable:
    offsets = np.concatenate([[0], np.cumsum([len(session) for session in sessions])]).astype(np.int64)
    events = np.array([event for session in sessions for event in session], np.int32)
    gaps = np.full(len(events), gap_s, np.float32)
    gaps[offsets[:-1][np.diff(offsets) > 0]] = np.nan
    return SequenceTable(offsets, events, gaps)


def event_vectors(n: int = N_EVENTS) -> Float32Array:
    return np.random.default_rng(1).normal(size=(N_EVENTS, 8)).astype(np.float32)[:n]


def evidence_of(sessions: list[list[int]], gap_s: float = 1.0) -> SessionEvidence:
    """Counts through a fixed projection in place of an embedding; rarity of the event in place of a surprise."""
    sequences = sequences_of(sessions, gap_s)
    projection = np.random.default_rng(2).normal(size=(N_EVENTS, 8)).astype(np.float32)
    counts = np.stack([np.bincount(session, minlength=N_EVENTS) for session in sessions]).astype(np.float32)
    embedding = np.zeros((len(sessions), 8), np.float32)
    for event in range(N_EVENTS):  # added up in one order, so that rows do not depend on the batch
        embedding += counts[:, event : event + 1] * projection[event]
    embedding /= np.maximum(np.sqrt((embedding**2).sum(axis=1, keepdims=True)), 1e-9)
    surprise = np.array([0.1, 0.5, 0.3, 0.5, 0.1, 3.0, 9.0, 9.0, 9.0], np.float32)[sequences.event_id]
    late = np.nan_to_num(np.abs(np.log(np.maximum(sequences.gap_s, 1e-3)))).astype(np.float32)
    odd = np.column_stack([late, sequences.event_id % 3 == 0]).astype(np.float32)
    return SessionEvidence(sequences, embedding, surprise, sequences.event_id == 5, odd)


def bank_of(
    evidence: SessionEvidence, vectors: Float32Array, settings: DetectionSettings, **options: Any
) -> DetectorBank:
    """Fitted on these sessions and what looks abnormal in them."""
    suspects = suspected(evidence.sequences)
    return DetectorBank.fit(evidence, vectors, settings, seed=7, suspects=suspects, **options)


def normal_log(n: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [normal_session(rng) for _ in range(n)]


#: Sessions that are wrong, by what is wrong with them.
BROKEN = {
    "unseen event": [0, 1, 2, 6, 3, 4],
    "cut short": [0, 1],
    "nothing written": [0, 1, 1, 2, 4],
    "an unseen flood": [0, 1, 2, 7, 7, 7, 7, 8, 3, 4],
    "endless retries": [0, 5, 5, 5, 5, 5, 5, 5, 1, 2, 3, 4],
}
