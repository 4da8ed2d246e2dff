"""Sessions and encoders of our own making for the tests of the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ai_detect.config import EncoderSettings
from ai_detect.encoder.batches import make_batch
from ai_detect.encoder.losses import training_loss
from ai_detect.encoder.model import SessionEncoder
from ai_detect.encoder.vocabulary import word_matrix
from ai_detect.tables import Int32Array, SequenceTable

N_EVENTS = 12
TEMPLATES = [f"worker started step number{chr(97 + i)} of job <NUM>" for i in range(N_EVENTS)]
UNSEEN = ["worker failed with error <NUM>", "disk is full"]
SETTINGS = EncoderSettings(dim=32, n_heads=2, n_word_buckets=512, max_events=24)
WORDS: Int32Array = word_matrix([*TEMPLATES, *UNSEEN], SETTINGS.n_word_buckets)


def table_of(sessions: Sequence[Sequence[int]]) -> SequenceTable:
    """The table of these event ids."""
    offsets = np.cumsum([0, *map(len, sessions)]).astype(np.int64)
    events = np.array([event for session in sessions for event in session], np.int32)
    return SequenceTable(offsets, events, np.full(len(events), np.nan, np.float32))


def routine(rng: np.random.Generator) -> list[int]:
    """A session of the usual kind: a start, some rounds of work, an end; now and then two neighbours change places."""
    events = [0, 1] + [2, 3, 4, 5] * int(rng.integers(1, 4)) + [6, 7]
    if rng.random() < 0.3:
        at = int(rng.integers(1, len(events) - 2))
        events[at], events[at + 1] = events[at + 1], events[at]
    return events


def routines(n: int, seed: int = 0) -> SequenceTable:
    """`n` usual sessions."""
    rng = np.random.default_rng(seed)
    return table_of([routine(rng) for _ in range(n)])


def encoder(seed: int = 0, settings: EncoderSettings = SETTINGS) -> SessionEncoder:
    """An untrained encoder of the known templates."""
    torch.manual_seed(seed)
    return SessionEncoder(settings, N_EVENTS, word_matrix(TEMPLATES, settings.n_word_buckets))


def train(model: SessionEncoder, sequences: SequenceTable, n_epochs: int, seed: int = 0) -> list[float]:
    """A bare training loop; the loss of every step."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    model.train()
    for epoch in range(n_epochs):
        for start in range(0, len(sequences), 64):
            indices = np.arange(start, min(start + 64, len(sequences)))
            batch = make_batch(sequences, indices, seed, epoch, n_events=N_EVENTS, max_events=model.max_events)
            loss, _ = training_loss(model, batch, contrastive=True)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses
