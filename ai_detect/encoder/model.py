"""The session encoder: a small causal transformer that also keeps count.

An event's vector is the sum of a part made of its template's words and a part learned for it; all events unseen in
training share one learned part and differ by their words. Every position predicts the event after it. Two projections,
of what happened how often (content) and in which course (context), are what the contrastive loss compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ai_detect.config import EncoderSettings
from ai_detect.encoder.batches import END, FIRST_EVENT, MAX_RANK, PAD, bucket_length
from ai_detect.encoder.frozen import FrozenEncoder
from ai_detect.tables import Int32Array


class TokenTable(NamedTuple):
    """Input vectors of all tokens and the word parts of all events; rows beyond the known events are unseen ones."""

    seen: Tensor  # (n_tokens, dim)
    unseen: Tensor  # (n_tokens, dim) as if the event were unseen
    words: Tensor  # (n_tokens - FIRST_EVENT, dim)


class Block(nn.Module):
    """Pre-norm causal attention and feed-forward."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.attention_in = nn.Linear(dim, 3 * dim)
        self.attention_out = nn.Linear(dim, dim)
        self.feed_norm = nn.LayerNorm(dim)
        self.feed_in = nn.Linear(dim, 2 * dim)
        self.feed_out = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        """(n_tokens, dim) to the same; the tokens are those of rows of these shapes, (n, length) each."""
        heads = self.attention_in(self.attention_norm(x)).split([shape.numel() for shape in shapes])
        mixed = [
            self._attend(part.view(*shape, 3, self.n_heads, x.shape[1] // self.n_heads))
            for part, shape in zip(heads, shapes, strict=True)
        ]
        x = x + self.attention_out(torch.cat(mixed))
        x = x + self.feed_out(F.gelu(self.feed_in(self.feed_norm(x))))
        return x

    def _attend(self, heads: Tensor) -> Tensor:
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)  # padding follows: it is never seen
        return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


class SessionEncoder(nn.Module):
    """Token rows to states, next-event logits and projections; `words` is the word matrix of the known templates.

    Initial weights come from torch's generator, which the caller seeds.
    """

    words: Tensor

    def __init__(self, settings: EncoderSettings, n_events: int, words: Int32Array) -> None:
        super().__init__()
        if words.shape[0] != n_events:
            raise ValueError(f"{n_events} events with the words of {words.shape[0]}")
        dim = settings.dim
        self.settings = settings
        self.n_events, self.dim, self.max_events = n_events, dim, settings.max_events
        self.word_vectors = nn.Embedding(settings.n_word_buckets, dim)
        self.word_projection = nn.Linear(dim, dim, bias=False)
        self.event_vectors = nn.Parameter(torch.randn(n_events, dim))
        self.event_bias = nn.Parameter(torch.zeros(n_events))
        self.unseen_vector = nn.Parameter(torch.randn(dim))
        self.unseen_bias = nn.Parameter(torch.zeros(1))
        self.end_bias = nn.Parameter(torch.zeros(1))
        self.special_vectors = nn.Parameter(torch.randn(FIRST_EVENT, dim))
        self.position_vectors = nn.Parameter(0.3 * torch.randn(bucket_length(settings.max_events + 2), dim))
        self.rank_vectors = nn.Parameter(0.3 * torch.randn(MAX_RANK + 1, dim))
        self.counts_norm = nn.LayerNorm(dim)
        self.counts_in = nn.Linear(dim, dim)
        self.dropout = settings.dropout
        self.blocks = nn.ModuleList(Block(dim, settings.n_heads) for _ in range(settings.n_layers))
        self.norm = nn.LayerNorm(dim)
        self.predict = nn.Linear(dim, dim)
        self.content = nn.Linear(dim, dim)
        self.context = nn.Linear(2 * dim, dim)
        self.register_buffer("words", torch.from_numpy(words).long(), persistent=False)

    @torch.no_grad()
    def take_over(self, smaller: SessionEncoder) -> None:
        """Go on with the weights of an encoder that knows the first events only; the others begin as unseen ones."""
        own, weights = self.state_dict(), smaller.state_dict()
        n = smaller.n_events
        for name, unseen in (("event_vectors", "unseen_vector"), ("event_bias", "unseen_bias")):
            own[name][:n] = weights.pop(name)
            own[name][n:] = weights[unseen]
        self.load_state_dict({**own, **weights})

    def frozen(self) -> FrozenEncoder:
        """The encoder for scoring, which needs no torch."""
        weights = {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.state_dict().items()}
        return FrozenEncoder(self.settings, self.words.cpu().numpy().astype(np.int32), weights)

    def word_part(self, words: Tensor) -> Tensor:
        """What a template's words mean, (n, max_words) int64 to (n, dim)."""
        present = (words > 0).unsqueeze(-1)
        total = (self.word_vectors(words) * present).sum(1)
        vectors: Tensor = self.word_projection(total / present.sum(1).clamp(min=1).sqrt())
        return vectors

    def token_table(self, words: Tensor | None = None) -> TokenTable:
        """Vectors of all tokens; `words` (n, max_words) int64 are the words of the known events, then of others."""
        part = self.word_part(self.words if words is None else words)
        unseen = torch.cat([self.special_vectors, part + self.unseen_vector])
        known = part[: self.n_events] + self.event_vectors
        return TokenTable(torch.cat([self.special_vectors, known, unseen[FIRST_EVENT + self.n_events :]]), unseen, part)

    def forward(
        self, groups: Sequence[Tensor], table: TokenTable, unseen: Tensor | None = None, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """States (n_tokens, dim) after each token, and both projections of each row, (n, 2 * dim) of unit length.

        `groups` are rows of tokens, (n, length) int64 for each length; what is done to tokens one by one is done to
        those of all groups at once, in their order. `unseen` (n_tokens,) bool: shown by their words alone. `kept`
        (n_tokens, dim) bool: what dropout leaves of each, in training.
        """
        shapes = [rows.shape for rows in groups]
        tokens = torch.cat([rows.flatten() for rows in groups])
        if unseen is None:
            vectors = F.embedding(tokens, table.seen)
        else:
            vectors = F.embedding(tokens + unseen * len(table.seen), torch.cat([table.seen, table.unseen]))
        rank = torch.cat([occurrence_rank(rows).flatten() for rows in groups])
        # log(1 + count) grows by log1p(1 / count) with each occurrence: the running sum holds a prefix's log counts.
        growth = torch.log1p(1 / (rank + 1)) * (tokens >= FIRST_EVENT)
        counts = torch.cat([rows.cumsum(1).flatten(0, 1) for rows in _rows(vectors * growth.unsqueeze(-1), shapes)])
        position = torch.cat([torch.arange(rows.shape[1], device=rows.device).repeat(len(rows)) for rows in groups])
        x = (
            vectors
            + F.embedding(position, self.position_vectors)
            + F.embedding(rank.clamp(max=MAX_RANK), self.rank_vectors)
        )
        x = x + self.counts_in(self.counts_norm(counts))
        if kept is not None:
            x = x * kept / (1 - self.dropout)
        for block in self.blocks:
            x = block(x, shapes)
        states: Tensor = self.norm(x)
        filled = [rows != PAD for rows in groups]
        n_tokens = torch.cat([row.sum(1) for row in filled]).clamp(min=1)
        total = [(rows * row.unsqueeze(-1)).sum(1) for rows, row in zip(_rows(states, shapes), filled, strict=True)]
        width = torch.cat([row.new_full(row.shape[:1], row.shape[1], dtype=torch.int64) for row in filled])
        last = width.cumsum(0) - width + n_tokens - 1  # padding adds nothing to the counts
        content = F.normalize(self.content(counts[last]).float(), dim=1)
        course = torch.cat([torch.cat(total) / n_tokens.unsqueeze(-1), states[last]], 1)
        context = F.normalize(self.context(course).float(), dim=1)
        return states, torch.cat([content, context], 1) / 2**0.5

    def next_logits(self, states: Tensor, table: TokenTable, unseen: Tensor | None = None) -> Tensor:
        """Logits of the known events and, last, of the session's end, (m, dim) to (m, n_events + 1) float32.

        `unseen` (m, n_events) bool: events that this row must recognise by their words.
        """
        wanted = self.predict(states)
        own = wanted @ self.event_vectors.T + self.event_bias
        if unseen is not None:
            own = torch.where(unseen, wanted @ self.unseen_vector.unsqueeze(1) + self.unseen_bias, own)
        end = wanted @ self.special_vectors[END].unsqueeze(1) + self.end_bias
        return torch.cat([wanted @ table.words[: self.n_events].T + own, end], 1).float()

    def unseen_logits(self, states: Tensor, vectors: Tensor) -> Tensor:
        """Logit of one unseen event a row, given by its `table.unseen` vector: (m, dim), (m, dim) to (m,) float32."""
        logits: Tensor = (self.predict(states) * vectors).sum(1) + self.unseen_bias
        return logits.float()


def _rows(vectors: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """The (n_tokens, dim) vectors of rows of these shapes, each (n, length, dim)."""
    parts = vectors.split([shape.numel() for shape in shapes])  # type: ignore[no-untyped-call]
    return [part.view(*shape, vectors.shape[1]) for part, shape in zip(parts, shapes, strict=True)]


def occurrence_rank(tokens: Tensor) -> Tensor:
    """How often each token occurred before in its row, (n, length) int64."""
    return (tokens.unsqueeze(2) == tokens.unsqueeze(1)).tril(-1).sum(2)
