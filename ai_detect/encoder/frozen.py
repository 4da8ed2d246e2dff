"""The trained encoder as arrays: what `SessionEncoder` computes, evaluated by numpy.

Scoring takes less time than importing torch, so it does without; the results agree to float32 rounding. A product of
matrices rounds with their shapes and with the place of a row in them, so that the rows of each session are multiplied
alone (numpy's products of stacks): what comes out of a session is the same bits whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ai_detect.artifacts import check_array
from ai_detect.config import EncoderSettings
from ai_detect.encoder.batches import END, FIRST_EVENT, MAX_RANK, PAD, bucket_length
from ai_detect.tables import BoolArray, Float32Array, Int32Array, Int64Array

#: Numerator and denominator of x * p(x^2) / q(x^2), erf(x) to 4e-7 for |x| < 4 (the float32 approximation of Eigen).
_ERF_P = np.array(
    [
        *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05),
        *(-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
    ],
    np.float32,
)
_ERF_Q = np.array(
    [-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02],
    np.float32,
)


class TokenVectors(NamedTuple):
    """What all tokens mean; rows beyond the known events are unseen ones."""

    seen: Float32Array  # (n_tokens, dim) input vectors
    unseen: Float32Array  # (n_tokens, dim) as if the event were unseen
    following: (
        Float32Array  # (n_events + 1, dim) what the state before a known event, or last the end, is compared with
    )


class FrozenEncoder:
    """A trained `SessionEncoder`; `words` is the word matrix of the known templates, `weights` those of its state."""

    def __init__(self, settings: EncoderSettings, words: Int32Array, weights: Mapping[str, Float32Array]) -> None:
        self.settings, self.words, self.weights = settings, words, dict(weights)
        self.dim, self.max_events, self.n_events = settings.dim, settings.max_events, len(words)

    @classmethod
    def from_state(
        cls, settings: EncoderSettings, words: Int32Array, weights: Mapping[str, np.ndarray]
    ) -> FrozenEncoder:
        """The encoder that was saved; raises ValueError where the weights are not those of one or not finite."""
        shapes = weight_shapes(settings, len(words))
        if missing := sorted(shapes.keys() - weights.keys()):
            raise ValueError(f"the settings ask for weights that are not there: {', '.join(missing[:5])}")
        if unknown := sorted(weights.keys() - shapes.keys()):
            raise ValueError(f"there are weights that the settings do not ask for: {unknown[:5]!s:.200}")
        for name, shape in shapes.items():
            if weights[name].shape != shape:
                raise ValueError(f"{name} has shape {weights[name].shape}, its settings ask for {shape}")
            check_array(name, weights[name], np.float32, shape)
        return cls(settings, words, weights)

    def word_part(self, words: Int32Array) -> Float32Array:
        """What a template's words mean, (n, max_words) int32 to (n, dim)."""
        vectors, total = self.weights["word_vectors.weight"], np.zeros((len(words), self.dim), np.float32)
        for column in words.T:
            total += vectors[column] * (column > 0)[:, None]
        n_words = np.maximum((words > 0).sum(axis=1, keepdims=True), 1).astype(np.float32)
        return _each_times(total / np.sqrt(n_words), self.weights["word_projection.weight"])

    @cached_property
    def known_vectors(self) -> TokenVectors:
        """Vectors of all known tokens, and of one unseen event without words."""
        return self.token_vectors(np.concatenate([self.words, np.zeros_like(self.words[:1])]))

    def token_vectors(self, words: Int32Array) -> TokenVectors:
        """Vectors of all tokens; `words` (n, max_words) are the words of the known events, then of others."""
        special, part = self.weights["special_vectors"], self.word_part(words)
        known = part[: self.n_events] + self.weights["event_vectors"]
        unseen = np.concatenate([special, part + self.weights["unseen_vector"]])
        seen = np.concatenate([special, known, unseen[FIRST_EVENT + self.n_events :]])
        return TokenVectors(seen, unseen, np.concatenate([known, special[END : END + 1]]))

    def states(self, tokens: Int64Array, table: TokenVectors) -> tuple[Float32Array, Float32Array]:
        """States (n, length, dim) after each token, and both projections (n, 2 * dim) of unit length; `tokens`
        (n, length) are rows of one length bucket.
        """
        n, length = tokens.shape
        vectors = table.seen[tokens]
        rank = _occurrence_rank(tokens)
        # log(1 + count) grows by log1p(1 / count) with each occurrence: the running sum holds a prefix's log counts.
        growth = np.log1p(1 / np.arange(1, length + 1, dtype=np.float32))[rank] * (tokens >= FIRST_EVENT)
        counts = np.cumsum(vectors * growth[..., None], axis=1)
        x: Float32Array = vectors + self.weights["position_vectors"][:length]
        x += self.weights["rank_vectors"][np.minimum(rank, MAX_RANK)]
        x += self._linear("counts_in", self._norm("counts_norm", counts))
        for layer in range(self.settings.n_layers):
            x = self._block(f"blocks.{layer}.", x)
        states = self._norm("norm", x)
        filled = tokens != PAD
        n_tokens = np.maximum(filled.sum(axis=1), 1)
        mean = (states * filled[..., None]).sum(axis=1) / n_tokens[:, None].astype(np.float32)
        last = states[np.arange(n), n_tokens - 1]
        content = _unit(self._linear("content", counts[:, -1:])[:, 0])
        context = _unit(self._linear("context", np.concatenate([mean, last], axis=1)[:, None])[:, 0])
        both = np.concatenate([content, context], axis=1) / np.float32(2**0.5)
        return states, np.asarray(both, np.float32)

    def _block(self, name: str, x: Float32Array) -> Float32Array:
        """Pre-norm causal attention and feed-forward, (n, length, dim) to the same."""
        n, length, dim = x.shape
        heads = self._linear(f"{name}attention_in", self._norm(f"{name}attention_norm", x))
        heads = heads.reshape(n, length, 3, self.settings.n_heads, dim // self.settings.n_heads)
        query, key, value = heads.transpose(2, 0, 3, 1, 4)
        likeness = query @ key.swapaxes(2, 3)
        likeness *= np.float32((dim // self.settings.n_heads) ** -0.5)
        likeness += np.triu(np.full((length, length), -np.inf, np.float32), 1)  # padding follows and is never seen
        likeness -= likeness.max(axis=3, keepdims=True)
        np.exp(likeness, out=likeness)
        likeness /= likeness.sum(axis=3, keepdims=True)
        mixed = (likeness @ value).swapaxes(1, 2).reshape(x.shape)
        x = x + self._linear(f"{name}attention_out", mixed)
        fed = self._linear(f"{name}feed_in", self._norm(f"{name}feed_norm", x))
        x += self._linear(f"{name}feed_out", _gelu(fed))
        return x

    def predict(self, states: Float32Array) -> Float32Array:
        """What is wanted after each state, (n, length, dim) to the same."""
        return self._linear("predict", states)

    def next_logits(self, wanted: Float32Array, table: TokenVectors) -> Float32Array:
        """Logits of the known events and, last, of the session's end, (n, length, dim) to (n, length, n_events + 1);
        `wanted` is what `predict` makes of states.
        """
        logits = wanted @ table.following.T
        logits += np.concatenate([self.weights["event_bias"], self.weights["end_bias"]])
        return logits

    def unseen_logits(self, wanted: Float32Array, vectors: Float32Array) -> Float32Array:
        """Logit of one unseen event a row, given by its `unseen` vector: (m, dim), (m, dim) to (m,)."""
        return np.asarray((wanted * vectors).sum(axis=1) + self.weights["unseen_bias"])

    def _linear(self, name: str, x: Float32Array) -> Float32Array:
        """(n, length, in) to (n, length, out)."""
        y = x @ self.weights[f"{name}.weight"].T
        y += self.weights[f"{name}.bias"]
        return y

    def _norm(self, name: str, x: Float32Array) -> Float32Array:
        x = np.subtract(x, x.mean(axis=2, keepdims=True), dtype=np.float32)
        x /= np.sqrt(np.square(x).mean(axis=2, keepdims=True) + np.float32(1e-5))
        x *= self.weights[f"{name}.weight"]
        x += self.weights[f"{name}.bias"]
        return x


def weight_shapes(settings: EncoderSettings, n_events: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of an encoder, those of `SessionEncoder.state_dict`."""
    dim = settings.dim
    linear = {"counts_in": (dim, dim), "predict": (dim, dim), "content": (dim, dim), "context": (dim, 2 * dim)}
    norms = ["counts_norm", "norm"]
    for layer in range(settings.n_layers):
        name = f"blocks.{layer}."
        linear |= {f"{name}attention_in": (3 * dim, dim), f"{name}attention_out": (dim, dim)}
        linear |= {f"{name}feed_in": (2 * dim, dim), f"{name}feed_out": (dim, 2 * dim)}
        norms += [f"{name}attention_norm", f"{name}feed_norm"]
    return {
        "word_vectors.weight": (settings.n_word_buckets, dim),
        "word_projection.weight": (dim, dim),
        "event_vectors": (n_events, dim),
        "event_bias": (n_events,),
        "unseen_vector": (dim,),
        "unseen_bias": (1,),
        "end_bias": (1,),
        "special_vectors": (FIRST_EVENT, dim),
        "position_vectors": (bucket_length(settings.max_events + 2), dim),
        "rank_vectors": (MAX_RANK + 1, dim),
        **{f"{name}.weight": shape for name, shape in linear.items()},
        **{f"{name}.bias": shape[:1] for name, shape in linear.items()},
        **{f"{name}.{part}": (dim,) for name in norms for part in ("weight", "bias")},
    }


def _occurrence_rank(tokens: Int64Array) -> Int64Array:
    """How often each token occurred before in its row, (n, length)."""
    length = tokens.shape[1]
    before: BoolArray = np.tril(np.ones((length, length), np.bool_), -1)
    return np.asarray(((tokens[:, :, None] == tokens[:, None, :]) & before).sum(axis=2))


def _each_times(rows: Float32Array, matrix: Float32Array) -> Float32Array:
    """The product of each row alone with a matrix, (n, in), (out, in) to (n, out)."""
    return (rows[:, None] @ matrix.T)[:, 0]


def _unit(vectors: Float32Array) -> Float32Array:
    length = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    return np.asarray(vectors / np.maximum(length, np.float32(1e-12)))


def _gelu(x: Float32Array) -> Float32Array:
    half = np.clip(x * np.float32(0.5**0.5), -4, 4)
    square = half * half
    above, below = _polynomial(_ERF_P, square), _polynomial(_ERF_Q, square)
    above *= half
    above /= below
    above += 1
    above *= x
    above *= np.float32(0.5)
    return above


def _polynomial(coefficients: Float32Array, x: Float32Array) -> Float32Array:
    """From the highest power to the lowest."""
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total *= x
        total += coefficient
    return total
