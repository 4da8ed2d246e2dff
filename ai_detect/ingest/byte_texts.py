"""The text of a message in compiled code: without its session key, and with its continuation lines."""

from __future__ import annotations

import numpy as np

from ai_detect.ingest.compiled import compiled, copy_bytes
from ai_detect.ingest.messages import EMPTY_TEXT
from ai_detect.ingest.session_keys import SESSION_TOKEN

#: A text grows where its key, of one byte at least, becomes SESSION_TOKEN.
GROWTH = len(SESSION_TOKEN)
IS_SPACE = np.array([byte < 128 and chr(byte).isspace() for byte in range(256)])
IS_ALNUM = np.array([byte < 128 and chr(byte).isalnum() for byte in range(256)])
TOKEN = np.frombuffer(SESSION_TOKEN.encode(), np.uint8).copy()
EMPTY = np.frombuffer(EMPTY_TEXT.encode(), np.uint8).copy()


@compiled
def put_text(
    data: np.ndarray, begin: int, end: int, key_begin: int, key_end: int, begins_text: bool, out: np.ndarray, at: int
) -> int:
    """Write the text without its key, and without white space around it, at `out[at]`; returns where it ends.

    The key is none where it is empty; what becomes of it is what `session_keys.without_key` says.
    """
    first_out = at
    n_key = key_end - key_begin
    is_number = n_key > 0
    for i in range(key_begin, key_end):
        is_number = is_number and 48 <= data[i] <= 57
    skipped = begin
    if is_number and begins_text and end - begin >= n_key:
        same = True
        for i in range(n_key):
            same = same and data[begin + i] == data[key_begin + i]
        if same:
            skipped = begin + n_key
    while skipped < end and IS_SPACE[data[skipped]]:
        skipped += 1
    if n_key == 0 or is_number:
        at += copy_bytes(data[skipped:end], out[at:])
    else:
        key, text = data[key_begin:key_end], data[begin:end]
        head, tail = key[0], key[n_key - 1]
        done, tested = 0, -1
        at_last = len(text) - n_key
        i = 0
        while i <= at_last:
            if text[np.uint64(i)] != head:
                if i > tested:
                    if not _may_hold(text[i : at_last + 1], text[i + n_key - 1 :], head, tail):
                        break
                    tested = at_last
                i += 1
                continue
            found = True
            for j in range(1, n_key):
                if text[i + j] != key[j]:
                    found = False
                    break
            if not found:
                i += 1
                continue
            after = i + n_key
            inside = (IS_ALNUM[head] and i > 0 and IS_ALNUM[text[i - 1]]) or (
                IS_ALNUM[tail] and after < len(text) and IS_ALNUM[text[after]]
            )
            if inside:
                at += copy_bytes(text[done:after], out[at:])
            elif i == 0:
                while after < len(text) and IS_SPACE[text[after]]:
                    after += 1
            else:
                at += copy_bytes(text[done:i], out[at:])
                at += copy_bytes(TOKEN, out[at:])
            i = done = after
        at += copy_bytes(text[done:], out[at:])
        # white space before the text goes last, as it decides whether the key stands at the beginning
        blank = first_out
        while blank < at and IS_SPACE[out[blank]]:
            blank += 1
        if blank > first_out:
            for i in range(blank, at):
                out[first_out + i - blank] = out[i]
            at -= blank - first_out
    while at > first_out and IS_SPACE[out[at - 1]]:
        at -= 1
    if at == first_out:
        at += copy_bytes(EMPTY, out[at:])
    return at


@compiled
def _may_hold(begins: np.ndarray, ends: np.ndarray, head: int, tail: int) -> bool:
    """Whether a string that begins and ends with these bytes may begin in the first view and end at the same place of
    the second. The loop becomes vector instructions.
    """
    found = 0
    for i in range(len(begins)):
        found |= (begins[i] == head) & (ends[i] == tail)
    return found != 0


@compiled
def joined_text(text: np.ndarray, lines: np.ndarray, out: np.ndarray) -> int:
    """Write a text and the lines after it with one blank for all white space; returns the length."""
    at = 0
    after_space = True
    for part in range(2):
        source = lines if part else text
        for i in range(len(source)):
            if IS_SPACE[source[i]]:
                after_space = True
            else:
                if after_space and at > 0:
                    out[at] = 32
                    at += 1
                after_space = False
                out[at] = source[i]
                at += 1
    return at
