"""Words in groups: how rare one is, beside those of the training sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ai_detect.artifacts import check_array
from ai_detect.detectors.value_groups import Tokens, beginnings, changes, check_groups, first_at_least, is_more, look_up
from ai_detect.detectors.value_slots import Observed
from ai_detect.tables import Float64Array, Int64Array

#: Beyond any surprise.
_MOST_SURPRISED = 1e12


@dataclass(frozen=True)
class Vocabularies:
    """Surprise of the values in groups by how many sessions hold them; group i has the keys
    `offsets[i]:offsets[i + 1]`.
    """

    groups: Int64Array  # ascending
    unseen: Float64Array  # surprise of a value that is not among the keys
    offsets: Int64Array
    keys: Int64Array  # ascending in each group
    surprises: Float64Array

    @classmethod
    def fit(cls, observed: Observed, middle: float) -> tuple[Vocabularies, Float64Array]:
        """Surprise of words; and that of each observed one beside the other sessions, (n,). Sessions from `middle` on
        are the later ones.
        """
        tokens = Tokens.of(observed.group, observed.session, observed.value)
        n_groups, weight, n_sessions = len(tokens.groups), tokens.weight, tokens.n_sessions
        order = np.lexsort((tokens.value, tokens.group))
        new = changes([tokens.group[order], tokens.value[order]])
        first = np.flatnonzero(new)  # of each word in its group; sessions are in order, so of its first session too
        word = np.empty(len(order), np.int64)
        word[order] = np.cumsum(new) - 1
        held_by = np.diff(np.append(first, len(order)))  # sessions
        mass = np.bincount(word, weight, len(first)).astype(np.float64)
        n_held = held_by[word]

        word_group = tokens.group[order][first]
        most = int(held_by.max(initial=0)) + 3
        by_holders = _Cumulated(word_group * most + held_by, mass)
        is_first = np.zeros(len(order), np.bool_)
        is_first[order[first]] = True
        late = tokens.session >= middle
        n_late = np.bincount(tokens.group[tokens.run_begin[:-1]][late[tokens.run_begin[:-1]]], minlength=n_groups)
        new_mass = np.bincount(tokens.group[late & is_first], weight[late & is_first], n_groups)
        begins = np.arange(n_groups) * most
        expected = by_holders.sum(begins, begins + 1) / np.maximum(n_sessions, 1) * n_late
        news = np.where(is_more(new_mass, expected), new_mass / np.maximum(n_late, 1), 0)

        def surprise(group: Int64Array, rare: Float64Array, n: np.ndarray) -> Float64Array:
            share = np.maximum((np.maximum(rare, 0) + 1) / (n + 1), news[group])
            # identifiers, new every second time, say nothing
            return np.asarray(np.maximum(-np.log(share) - np.log(2), 0), np.float64)

        # a word that k sessions hold is as rare as those of k + 1 (Good, 1953): the next session may bring it
        def rarer(group: Int64Array, n_holders: np.ndarray) -> Float64Array:
            return by_holders.sum(group * most, group * most + n_holders + 1)

        unseen = surprise(np.arange(n_groups), rarer(np.arange(n_groups), np.zeros(n_groups, np.int64)), n_sessions)
        surprises = surprise(word_group, rarer(word_group, held_by), n_sessions[word_group])
        telling = np.flatnonzero(surprises < unseen[word_group])
        keys = tokens.value[order][first][telling]
        model = cls(tokens.groups, unseen, beginnings(word_group[telling], n_groups), keys, surprises[telling])

        # without its own session a word has a holder less; so have the other words of that session
        own = _Cumulated(tokens.run * most + n_held, np.column_stack([weight, mass[word] - weight]))
        run = tokens.run * most
        lost = own.sum(run, run + n_held)[:, 0]
        gained = own.sum(run + n_held + 1, run + n_held + 1)[:, 1]
        others = by_holders.sum(tokens.group * most, tokens.group * most + n_held) - lost + gained
        of_token = surprise(tokens.group, others, n_sessions[tokens.group] - 1)
        return model, of_token[tokens.of_observed]

    def surprise(self, group: Int64Array, key: Int64Array) -> Float64Array:
        """-ln of the share of training values as rare; 0 for a group that training does not have."""
        at, there = look_up(self.groups, group)
        surprise = np.zeros(len(group))
        at, key = at[there], key[there]
        end = self.offsets[at + 1]
        place = first_at_least(self.keys, self.offsets[at], end, key)
        known = place < end
        known[known] = self.keys[place[known]] == key[known]
        surprises = self.unseen[at]
        surprises[known] = self.surprises[place[known]]
        surprise[there] = surprises
        return surprise

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that `from_state` takes."""
        return {f"words_{name}": array for name, array in vars(self).items()}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], n_groups: int) -> Vocabularies:
        """What was saved, of groups below `n_groups`; raises KeyError or ValueError where the arrays are not such."""
        made = cls(**{name: arrays[f"words_{name}"] for name in cls.__annotations__})
        check_groups("words", made.groups, made.offsets, made.keys, n_groups)
        check_array("words_keys", made.keys, np.int64, (None,))
        check_array("words_unseen", made.unseen, np.float64, made.groups.shape, low=0, high=_MOST_SURPRISED)
        check_array("words_surprises", made.surprises, np.float64, made.keys.shape, low=0, high=_MOST_SURPRISED)
        return made


class _Cumulated:
    """Sums of values over ranges of their keys."""

    def __init__(self, keys: Int64Array, values: Float64Array) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._sums = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values[order], axis=0)])

    def sum(self, low: Int64Array, high: Int64Array) -> Float64Array:
        """Sums over the keys from `low` to `high`, both included."""
        begin, end = np.searchsorted(self._keys, low), np.searchsorted(self._keys, high, side="right")
        return np.asarray(self._sums[end] - self._sums[begin], np.float64)
