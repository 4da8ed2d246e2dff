"""Which event follows which in training, and how unusual the neighbours in a session are.

Tokens are event ids, then `n_known` for any event that training does not hold, then the begin and the end of a session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ai_detect import scratch
from ai_detect.artifacts import check_array
from ai_detect.tables import Float64Array, Int64Array, SequenceTable, added_up

#: Weight of the smoothing prior of a transition, in transitions.
_PRIOR = 1.0
#: Sessions that are looked at at once when fitted; only memory depends on it.
_BLOCK = 8_192


@dataclass(frozen=True)
class Transitions:
    """Neighbouring tokens of training; a pair is coded as the first times the number of tokens, plus the second."""

    codes: Int64Array  # of the pairs that occur, ascending
    counts: Int64Array  # how often each occurs
    token_counts: Int64Array  # (n_known + 3,) how often each token occurs; the begin as often as the end

    @classmethod
    def fit(cls, sequences: SequenceTable, n_events: int) -> Transitions:
        """Count in training sessions, whose events have ids below `n_events`."""
        width = n_events + 3
        token_counts, codes, counts = np.zeros(width, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
        for block in scratch.blocks(len(sequences), _BLOCK):
            own = sequences.take(np.arange(block.start, block.stop))
            tokens, previous = _neighbours(own, own.event_id.astype(np.int64), n_events)
            token_counts += np.bincount(tokens, minlength=width)
            codes, counts = added_up((codes, counts), np.unique(previous * width + tokens, return_counts=True))
        token_counts[-2] = token_counts[-1]
        return cls(codes, counts, token_counts)

    def describe(self, sequences: SequenceTable) -> tuple[Float64Array, Float64Array]:
        """Of each session -ln probability of its transitions, the mean and the largest (smoothed bigrams),
        (n_sessions, 2), and how strange its pairs that training never has are, (n_sessions, 1).

        Where many different tokens follow the first of a pair in training, or come before the second, a new one tells
        little. The share of the next ones that is new is estimated by that of those seen once (Good and Turing's
        estimate); a pair is as strange as the lesser of -ln of the two, and each counts once in a session.
        """
        n_tokens = len(self.token_counts)
        tokens, previous = self._neighbours(sequences)
        codes = previous * n_tokens + tokens
        at = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        seen = np.where(self.codes[at] == codes, self.counts[at], 0)
        prior = (np.append(self.token_counts[:-2], [0, self.token_counts[-1]]) + 0.5) / (
            self.token_counts.sum() - self.token_counts[-2] + 0.5 * n_tokens
        )
        surprise = -np.log((seen + _PRIOR * prior[tokens]) / (self.token_counts[previous] + _PRIOR))
        session = np.repeat(np.arange(len(sequences)), sequences.lengths + 1)
        mean = np.bincount(session, surprise, len(sequences)) / (sequences.lengths + 1)
        largest = np.zeros(len(sequences))
        np.maximum.at(largest, session, surprise)
        order = np.column_stack([mean, largest])

        session, codes = np.divmod(np.unique(session[seen == 0] * n_tokens**2 + codes[seen == 0]), n_tokens**2)
        once = self.codes[self.counts == 1]
        after, before = (
            np.maximum(-np.log((np.bincount(of, minlength=n_tokens) + 0.5) / (self.token_counts + 1)), 0)
            for of in (once // n_tokens, once % n_tokens)
        )
        strange = np.minimum(after[codes // n_tokens], before[codes % n_tokens])
        return order, np.asarray(np.bincount(session, strange, len(sequences))[:, None], np.float64)

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that `from_state` takes."""
        return {"codes": self.codes, "counts": self.counts, "token_counts": self.token_counts}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], n_known: int, most: int) -> Transitions:
        """The transitions that were saved; raises KeyError or ValueError where the arrays are not those of `n_known`
        events, none of which is counted more often than `most`.
        """
        codes, counts, token_counts = (arrays[name] for name in ("codes", "counts", "token_counts"))
        check_array("codes of transitions", codes, np.int64, (None,), low=0, high=(n_known + 3) ** 2 - 1)
        check_array("counts of transitions", counts, np.int64, codes.shape, low=1, high=most)
        check_array("token_counts", token_counts, np.int64, (n_known + 3,), low=0, high=most)
        if len(codes) == 0 or (np.diff(codes) <= 0).any():
            raise ValueError("transitions do not rise")
        return cls(codes, counts, token_counts)

    def _neighbours(self, sequences: SequenceTable) -> tuple[Int64Array, Int64Array]:
        n_known = len(self.token_counts) - 3
        known = self.token_counts[:n_known] > 0
        events = sequences.event_id.astype(np.int64)
        inside = events < n_known
        inside[inside] = known[events[inside]]
        return _neighbours(sequences, np.where(inside, events, n_known), n_known)


def _neighbours(sequences: SequenceTable, events: Int64Array, n_known: int) -> tuple[Int64Array, Int64Array]:
    """Every token of each session but the begin, and what comes before it, (n_events_total + n_sessions,)."""
    tokens = np.insert(events, sequences.offsets[1:], n_known + 2)
    starts = sequences.offsets[:-1] + np.arange(len(sequences))
    previous = np.concatenate([[n_known + 1], tokens[:-1]])
    previous[starts] = n_known + 1
    return tokens, previous
