"""Upper tails of what training measured, in groups: how seldom a value as large was seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ai_detect.artifacts import check_array
from ai_detect.tables import Float32Array, Float64Array, Int64Array

#: Shares of the training values below the stored quantiles; the last is the largest value seen.
QUANTILES = (0.5, 0.9, 0.99, 1.0)
#: Fewer values than this say nothing about a tail: the wider group is asked instead.
ENOUGH_VALUES = 20
#: The group of all values.
EVERYWHERE = -(2**62)
#: Beyond any count that is stored; sums of such counts stay below 2**63.
MOST_COUNTED = 1 << 40


@dataclass(frozen=True)
class TailTable:
    """Upper quantiles of a value in groups: row i holds group `keys[i]`, its number of values and their `QUANTILES`."""

    keys: Int64Array
    n: Int64Array
    quantiles: Float32Array  # (n_groups, 4)

    def row(self, key: int) -> int | None:
        """Row of a group, None where training has too few values of it."""
        return self._rows.get(key)

    @cached_property
    def _rows(self) -> dict[int, int]:
        """The rows of groups with enough values."""
        enough = np.flatnonzero(self.n >= ENOUGH_VALUES)
        return dict(zip(self.keys[enough].tolist(), enough.tolist(), strict=True))

    def state(self, kind: str) -> dict[str, np.ndarray]:
        """The arrays that `from_state` takes, by names that begin with `kind`."""
        return {f"{kind}_{name}": getattr(self, name) for name in type(self).__annotations__}

    @classmethod
    def from_state(cls, kind: str, arrays: Mapping[str, np.ndarray]) -> TailTable:
        """The table that was saved; raises KeyError or ValueError where the arrays are not one."""
        keys, n, quantiles = (arrays[f"{kind}_{name}"] for name in cls.__annotations__)
        check_array(f"{kind}_keys", keys, np.int64, (None,))
        check_array(f"{kind}_n", n, np.int64, keys.shape, low=1, high=MOST_COUNTED)
        # in nats: the exponential of such a number is finite
        check_array(f"{kind}_quantiles", quantiles, np.float32, (*keys.shape, len(QUANTILES)), low=-700, high=700)
        if (keys[1:] <= keys[:-1]).any() or (np.diff(quantiles, axis=1) < 0).any():
            raise ValueError(f"the picture of normal: {kind} does not rise")
        return cls(keys, n, quantiles)


def tail_table(groups: Int64Array, values: Float64Array) -> TailTable:
    """Quantiles of `values` by group; NaN values are left out."""
    known = ~np.isnan(values)
    groups, values = groups[known], values[known]
    order = np.lexsort((values, groups))
    keys, start, n = np.unique(groups[order], return_index=True, return_counts=True)
    ranks = np.ceil(np.outer(n, QUANTILES)).astype(np.int64) - 1
    quantiles = values[order][start[:, None] + ranks] if len(keys) else np.zeros((0, len(QUANTILES)))
    return TailTable(keys, n.astype(np.int64), quantiles.astype(np.float32))


def joined_tables(tables: Iterable[TailTable]) -> TailTable:
    """The groups of all these tables, which hold none in common, each below those of the next one."""
    parts = list(tables)
    return TailTable(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("keys", "n", "quantiles")))


def tail_probability(value: float, n: int, quantiles: Float32Array) -> float:
    """A cautious share of training values at least as large, for a value in nats; it falls on beyond the largest."""
    half, tenth, hundredth, largest = (float(quantile) for quantile in quantiles)
    if value > largest:
        return min(0.01, 1 / (n + 1)) * float(np.exp(max(largest - value, -600)))  # never 0
    return 1.0 if value <= half else 0.5 if value <= tenth else 0.1 if value <= hundredth else 0.01
