"""`SlotPlan.fill` in compiled code."""

from __future__ import annotations

import numpy as np

from ai_detect import scratch
from ai_detect.ingest.compiled import compiled
from ai_detect.parsing.values import LARGEST, MaskedValues, SlotPlan
from ai_detect.tables import MAX_VALUES, Int32Array, ValueTable


def filled(plan: SlotPlan, text: Int32Array, values: MaskedValues) -> ValueTable:
    """The values of messages in their slots; `text` says which text each message is."""
    n_slots = np.diff(plan.offsets).astype(np.int8)
    counts = scratch.filled(len(text), np.int8, lambda block: n_slots[text[block]])
    number, key = scratch.Growing(np.float32), scratch.Growing(np.int32)
    n_before = 0
    for block in scratch.blocks(len(text)):
        masks = values.counts[block]
        after = n_before + int(masks.sum(dtype=np.int64))
        n = int(counts[block].sum(dtype=np.int64))
        numbers, keys = np.empty(n, np.float32), np.empty(n, np.uint32)
        _fill(
            text[block], masks, values.number[n_before:after], values.key[n_before:after], plan.offsets, plan.first,
            plan.n_masks, plan.word, plan.is_word, plan.number, numbers, keys,
        )  # fmt: skip
        number.append(numbers)
        key.append(keys.view(np.int32))
        n_before = after
    return ValueTable(scratch.offsets_of(counts), number.column(), key.column())


@compiled
def _mix(left: int, right: int) -> np.uint64:
    """`values.mix` of two hashes."""
    mixed = (np.uint64(left) * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(right) * np.uint64(0xBF58476D1CE4E5B9))
    return ((mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)) >> np.uint64(32)


@compiled
def _fill(
    text: np.ndarray,
    counts: np.ndarray,
    number: np.ndarray,
    key: np.ndarray,
    offsets: np.ndarray,
    first: np.ndarray,
    n_masks: np.ndarray,
    word: np.ndarray,
    is_word: np.ndarray,
    factor: np.ndarray,
    out_number: np.ndarray,
    out_key: np.ndarray,
) -> None:
    """Fill slots message by message; the values of a message follow those of the one before."""
    begin, at = 0, 0
    for row in range(len(text)):
        n_values = counts[row]
        for slot in range(offsets[text[row]], offsets[text[row] + 1]):
            value = np.float64(np.nan)
            slot_key = word[slot]
            mask = begin + first[slot]
            if n_masks[slot] == 0:
                value = factor[slot]
            elif n_masks[slot] == 1 and first[slot] < n_values:
                value = np.float64(number[mask]) * factor[slot]
                if not is_word[slot]:
                    slot_key = np.uint64(key[mask])
            if is_word[slot]:
                for nth in range(min(n_masks[slot], n_values - first[slot], MAX_VALUES)):
                    slot_key = _mix(slot_key, key[mask + nth])
            out_number[at] = value if np.abs(value) <= LARGEST else np.nan
            out_key[at] = np.uint32(slot_key)
            at += 1
        begin += n_values
