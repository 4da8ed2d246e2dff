"""Dropout whose masks belong to samples: a session meets the same mask alone, in any batch, on any process.

Masks are windows into one fixed noise made by a hash of our own, so that no generator has to be seeded, saved or
restored, and the number of processes does not change what is trained.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ai_detect.sequences.augmentation import mix64_array
from ai_detect.tables import BoolArray

#: Different windows that there are.
_N_WINDOWS = 1 << 20


def dropout_masks(seeds: NDArray[np.uint64], length: int, dim: int, share: float) -> BoolArray:
    """What is kept of each row, (n, length, dim) bool, False for about `share` of the values; `seeds` (n,) uint64."""
    size = length * dim
    windows = sliding_window_view(_noise(1 << (size - 1).bit_length(), share), size)
    starts = (mix64_array(seeds, 0) % np.uint64(_N_WINDOWS)).astype(np.int64)
    return windows[starts].reshape(len(seeds), length, dim)


@cache
def _noise(size: int, share: float) -> BoolArray:
    """Enough noise for a window of up to `size` values at every start; longer noise begins with the shorter one."""
    kept: BoolArray = mix64_array(np.arange(_N_WINDOWS + size), 0) >= np.uint64(int(share * 2**64))
    return kept
