"""Values in groups of comparable ones: each counts once a session, and each is found again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ai_detect.artifacts import check_array
from ai_detect.tables import BoolArray, Float64Array, Int64Array, check_offsets


class Tokens(NamedTuple):
    """The distinct values of each session in each group, sorted by group, session and value."""

    groups: Int64Array  # the distinct groups, ascending
    group: Int64Array  # index into groups
    session: Int64Array
    value: np.ndarray
    run: Int64Array  # number of the (group, session)
    run_begin: Int64Array  # first token of each run, and the number of tokens behind the last
    of_observed: Int64Array  # the token of each observed value

    @classmethod
    def of(cls, group: Int64Array, session: Int64Array, value: np.ndarray) -> Tokens:
        """Of observed values, one a row: its group, its session, and itself."""
        groups, group = np.unique(group, return_inverse=True)
        order = np.lexsort((value, session, group))
        ordered = [group[order], session[order], value[order]]
        new_run, new = (changes(ordered[:n]) for n in (2, 3))
        first = np.flatnonzero(new)
        of_observed = np.empty(len(order), np.int64)
        of_observed[order] = np.cumsum(new) - 1
        run = (np.cumsum(new_run) - 1)[first]
        run_begin = np.append(np.flatnonzero(changes([run])), len(run))
        group, session, value = (column[first] for column in ordered)
        return cls(groups, group, session, value, run, run_begin, of_observed)

    @property
    def weight(self) -> Float64Array:
        """What a token counts: all of a session's in a group count 1."""
        return 1 / np.diff(self.run_begin)[self.run]

    @property
    def n_sessions(self) -> Int64Array:
        """Sessions in each group."""
        return np.bincount(self.group[self.run_begin[:-1]], minlength=len(self.groups))


def changes(columns: list[np.ndarray]) -> BoolArray:
    """Rows that differ from the row before, (n,) bool; the first does."""
    differs = np.ones(len(columns[0]), np.bool_)
    differs[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return differs


def beginnings(group: Int64Array, n_groups: int) -> Int64Array:
    """Where each group begins in an ascending column, and the length of the column."""
    return np.searchsorted(group, np.arange(n_groups + 1))


def is_more(found: np.ndarray, expected: Float64Array) -> BoolArray:
    """Whether a count is more than chance, which hardly ever strays four deviations, makes of what is expected."""
    return np.asarray(found > expected + 4 * np.sqrt(expected + 1))


def look_up(groups: Int64Array, group: Int64Array) -> tuple[Int64Array, BoolArray]:
    """Where each group stands among the ascending `groups`, and whether it does."""
    at = np.searchsorted(groups, group)
    there = at < len(groups)
    there[there] = groups[at[there]] == group[there]
    return at, there


def first_at_least(values: np.ndarray, begin: Int64Array, end: Int64Array, wanted: np.ndarray) -> Int64Array:
    """The first place from `begin` to `end` whose value is not below the wanted one; `end` where all are."""
    if not len(values):
        return begin.copy()
    below, last = begin - 1, end - 1  # all values up to `below` are below the wanted one
    step = 1 << max(int((end - begin).max(initial=0)).bit_length() - 1, 0)
    while step:
        further = below + step
        is_below = values.take(further, mode="clip") < wanted
        is_below &= further <= last
        np.copyto(below, further, where=is_below)
        step //= 2
    return below + 1


def check_groups(kind: str, groups: Int64Array, offsets: Int64Array, values: np.ndarray, n_groups: int) -> None:
    """Raise ValueError unless the groups rise below `n_groups`, and the values in each group rise."""
    check_array(f"{kind}_groups", groups, np.int64, (None,), low=0, high=n_groups - 1)
    if values.ndim != 1 or offsets.shape != (len(groups) + 1,):
        raise ValueError(f"{kind}_offsets does not fit its groups")
    check_offsets(f"{kind}_offsets", offsets, len(values))
    falls = np.flatnonzero(values[1:] <= values[:-1]) + 1
    if (groups[1:] <= groups[:-1]).any() or not np.isin(falls, offsets).all():
        raise ValueError(f"{kind} does not rise")
