"""Two published models as opponents in speed: what one training step of each does, on sessions of event ids.

Sizes and batches are those of their own code; nothing is scored with them here.
"""

from __future__ import annotations

import numpy as np
import torch
from detection_baselines import LEARNING_RATE, NextEvent, event_windows
from torch import nn
from torch.nn import functional

from ai_detect.tables import Int64Array, SequenceTable

#: LogBERT (Guo et al. 2021): width, layers, heads, sessions a batch, share of the events that are masked.
HIDDEN, N_LAYERS, N_HEADS, LOGBERT_BATCH, MASKED = 256, 4, 4, 32, 0.65
_PAD, _MASK, _SESSION, _FIRST = 0, 1, 2, 3


class DeepLog:
    """Next event of a window of ten by an LSTM of two layers of 64 (Du et al. 2017), 2,048 windows a batch.

    With `once` a window that repeats in a batch is computed once.
    """

    def __init__(self, sequences: SequenceTable, *, once: bool) -> None:
        known = np.unique(sequences.event_id)
        self._windows, self._target = event_windows(sequences, known)
        self._first = sequences.offsets + np.arange(len(sequences) + 1)  # a session has a row more than events
        self._once = once
        self._model = NextEvent(len(known) + 2, len(known) + 1)
        self._optimizer = torch.optim.Adam(self._model.parameters(), LEARNING_RATE)
        self.batch_size = round(2048 * len(sequences) / len(self._target))  # in sessions

    def step(self, sessions: Int64Array) -> None:
        """Learn from all windows of these sessions."""
        rows = np.concatenate([np.arange(self._first[session], self._first[session + 1]) for session in sessions])
        windows = self._windows[rows]
        if self._once:
            distinct, inverse = np.unique(windows, axis=0, return_inverse=True)
            logits = self._model(torch.from_numpy(distinct))[torch.from_numpy(inverse.reshape(-1))]
        else:
            logits = self._model(torch.from_numpy(windows))
        loss = functional.cross_entropy(logits, torch.from_numpy(self._target[rows]))
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


class LogBert(nn.Module):
    """Masked events by a transformer, and the distance of the sessions' vectors from their centre."""

    def __init__(self, sequences: SequenceTable) -> None:
        super().__init__()
        self._sequences = sequences
        n_events, longest = int(sequences.event_id.max()) + 1, int(sequences.lengths.max())
        self.embed = nn.Embedding(n_events + _FIRST, HIDDEN, padding_idx=_PAD)
        self.position = nn.Embedding(longest + 1, HIDDEN)
        layer = nn.TransformerEncoderLayer(HIDDEN, N_HEADS, 2 * HIDDEN, 0.1, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, N_LAYERS, enable_nested_tensor=False)
        self.out = nn.Linear(HIDDEN, n_events + _FIRST)
        self.register_buffer("centre", torch.zeros(HIDDEN))
        self._optimizer = torch.optim.Adam(self.parameters(), 1e-3)
        self.batch_size = LOGBERT_BATCH

    def step(self, sessions: Int64Array) -> None:
        """Learn from these sessions, padded to the longest of them."""
        events = [self._sequences.session(session) + _FIRST for session in sessions.tolist()]
        tokens = np.full((len(events), 1 + max(map(len, events))), _PAD, np.int64)
        tokens[:, 0] = _SESSION
        for row, session in zip(tokens, events, strict=True):
            row[1 : 1 + len(session)] = session
        target = torch.from_numpy(tokens)
        masked = (torch.rand(target.shape) < MASKED) & (target >= _FIRST)
        place = torch.arange(tokens.shape[1])
        vectors = self.embed(target.masked_fill(masked, _MASK)) + self.position(place)
        states = self.encoder(vectors, src_key_padding_mask=target == _PAD)
        loss = functional.cross_entropy(self.out(states[masked]), target[masked])
        loss = loss + 0.1 * (states[:, 0] - self.centre).square().sum(1).mean()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
