"""Masking over bytes in compiled code: masked texts go into a dictionary, what their masks stand for into columns.

The result is that of `Masks.mask` and `values.packed` for every text. The patterns are run as they are (byte_regex.py);
for our own masks, rules that a reader can check decide the usual cases at once: a plain word, a number, an address, a
path. A text that is not ASCII, spells a mask out, or holds a number that needs more than a double's arithmetic is left
to `Masks.mask`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from ai_detect.ingest.byte_dictionary import NO_ROOM, ByteDictionary, DictionaryArrays, number_of
from ai_detect.ingest.byte_regex import GAVE_UP, Program, UnknownPattern, byte_pattern, joined, match_at
from ai_detect.ingest.compiled import any_bits, compiled, copy_bytes
from ai_detect.parsing.masking import DEFAULT_MASKS, Masks
from ai_detect.parsing.values import PACKED, MaskedValues, packed
from ai_detect.tables import MAX_VALUES, Int32Array, Int64Array

#: Longer texts are left to `Masks.mask`.
_LONGEST_TEXT = 8_192
_MOST_PATTERNS = 63
_MOST_NEEDS = 63
_DONE, _LEFT, _FULL = range(3)
#: The mark of "<", which may begin a mask that a text spells out.
_OPENS = np.uint64(1)

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DIGITS = "0123456789"
_DIGIT, _ALNUM, _HEX_DIGIT, _ID_PART, _PATH_PART, _SCHEME_PART, _ENDS_WORD, _ENDS_NUMBER = (1 << i for i in range(8))


def _byte_kinds() -> np.ndarray:
    """What the rules for our own masks ask of a byte."""
    kinds = np.zeros(256, np.uint8)
    for byte in range(128):
        character = chr(byte)
        kinds[byte] |= _DIGIT * (character in _DIGITS)
        kinds[byte] |= _ALNUM * (character in _LETTERS + _DIGITS)
        kinds[byte] |= _HEX_DIGIT * (character in _DIGITS + "ABCDEFabcdef")
        kinds[byte] |= _SCHEME_PART * (character in _LETTERS + _DIGITS + "+.-")
        kinds[byte] |= _ID_PART * (character in _LETTERS + _DIGITS + "_-")
        kinds[byte] |= _PATH_PART * (character in _LETTERS + _DIGITS + "_.@%+=~$-")
        # No mask that begins with letters goes on with one of these, but for a date with "," or a blank.
        kinds[byte] |= _ENDS_WORD * (character not in _LETTERS + _DIGITS + "._%+@:/\\-")
        # No mask before NUM goes on with one of these after digits, and NUM itself ends there.
        kinds[byte] |= _ENDS_NUMBER * (character not in _LETTERS + _DIGITS + ".,:/-")
    return kinds


_KINDS = _byte_kinds()
_POWERS = 10.0 ** np.arange(23)


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0xEDB88320), table >> 1).astype(np.uint32)
    return table


_CRC = _crc_table()


class MaskArrays(NamedTuple):
    """The patterns of a `Masks` for compiled code; bit k of a uint64 stands for pattern k."""

    program: Program
    entries: np.ndarray  # (n,) int64: where each pattern begins in the program
    names: np.ndarray  # uint8: "<NAME>" of each, one after another
    name_offsets: np.ndarray  # (n + 1,) int64
    first: np.ndarray  # (256,) uint64: patterns that may begin with a byte
    marks: np.ndarray  # (256,) uint64: which needs a byte meets, and _OPENS
    needs: np.ndarray  # (n,) uint64: which needs each pattern has
    begins_mask: np.ndarray  # (256,) bool: what may follow "<" in a mask that a text spells out


class MaskedColumns(NamedTuple):
    """What comes out, text by text; `used` counts texts and values."""

    text: np.ndarray  # (n,) int32, number in the dictionary
    counts: np.ndarray  # (n,) int8
    number: np.ndarray  # (n * MAX_VALUES,) float64
    key: np.ndarray  # (n * MAX_VALUES,) uint32
    used: np.ndarray  # (2,) int64


class ByteMasker:
    """Masks texts given as bytes. Raises UnknownPattern where the masks are such that only `re` can apply them."""

    def __init__(self, masks: Masks) -> None:
        self._masks = masks
        self._is_default = masks == DEFAULT_MASKS
        self._arrays = _mask_arrays(masks)
        longest = int(np.diff(self._arrays.name_offsets).max())
        self._buffer = np.zeros(_LONGEST_TEXT * longest // 8 + 2, np.uint64)

    def mask(
        self, data: np.ndarray, begins: Int64Array, ends: Int64Array, texts: ByteDictionary
    ) -> tuple[Int32Array, MaskedValues]:
        """Numbers of the masked texts of `data[begins[i]:ends[i]]`, which are UTF-8 with surrogates passed, and what
        their first `MAX_VALUES` masks stand for.
        """
        n = len(begins)
        columns = MaskedColumns(
            np.empty(n, np.int32),
            np.empty(n, np.int8),
            np.empty(n * MAX_VALUES, np.float64),
            np.empty(n * MAX_VALUES, np.uint32),
            np.zeros(2, np.int64),
        )
        while True:
            status = mask_texts(
                self._arrays, self._is_default, data, begins, ends, texts.arrays, self._buffer,
                self._buffer.view(np.uint8), columns,
            )  # fmt: skip
            if status == _DONE:
                break
            if status == _FULL:
                texts.grow()
            else:
                self._mask_one(data, begins, ends, texts, columns)
        n_values = columns.used[1]
        values = MaskedValues.of_columns(columns.counts, columns.number[:n_values], columns.key[:n_values])
        return columns.text, values

    def _mask_one(
        self, data: np.ndarray, begins: Int64Array, ends: Int64Array, texts: ByteDictionary, columns: MaskedColumns
    ) -> None:
        """The text that compiled code left."""
        row, n_values = (int(used) for used in columns.used)
        text = data[begins[row] : ends[row]].tobytes().decode("utf-8", "surrogatepass")
        masked, originals = self._masks.mask(text)
        values = np.frombuffer(packed(originals[:MAX_VALUES]), PACKED)
        columns.text[row] = texts.number(masked.encode("utf-8", "surrogatepass"))
        columns.counts[row] = len(values)
        columns.number[n_values : n_values + len(values)] = values["number"]
        columns.key[n_values : n_values + len(values)] = values["key"]
        columns.used[:] += 1, len(values)


def _mask_arrays(masks: Masks) -> MaskArrays:
    if masks.in_turn or not 0 < len(masks.patterns) <= _MOST_PATTERNS:
        raise UnknownPattern("masks that are applied one after another, or too many, or none")
    patterns = [byte_pattern(re.compile(pattern), groups=False) for _, pattern in masks.patterns]
    if any(pattern.min_width == 0 for pattern in patterns):
        raise UnknownPattern("a mask that matches nothing at all")
    program, entries = joined(patterns)
    bits = np.uint64(1) << np.arange(len(patterns), dtype=np.uint64)
    first = np.zeros(256, np.uint64)
    for bit, pattern in zip(bits, patterns, strict=True):
        first[pattern.first] |= bit
    # Small sets tell most: a text without "@" holds no e-mail address.
    sets = sorted({need for pattern in patterns for need in pattern.needs}, key=lambda need: (len(need), sorted(need)))
    known = {need: np.uint64(2) << np.uint64(i) for i, need in enumerate(sets[:_MOST_NEEDS])}
    marks, needs = np.zeros(256, np.uint64), np.zeros(len(patterns), np.uint64)
    marks[ord("<")] = _OPENS
    for need, bit in known.items():
        marks[list(need)] |= bit
    for i, pattern in enumerate(patterns):
        for need in pattern.needs & known.keys():
            needs[i] |= known[need]
    written = [f"<{name}>".encode() for name, _ in masks.patterns]
    begins_mask = np.zeros(256, np.bool_)
    begins_mask[[ord("*"), *(name[1] for name in written)]] = True
    offsets = np.cumsum([0, *map(len, written)]).astype(np.int64)
    return MaskArrays(
        program, entries, np.frombuffer(b"".join(written), np.uint8).copy(), offsets, first, marks, needs, begins_mask
    )


@compiled
def _run_end(data: np.ndarray, begin: int, end: int, kind: int) -> int:
    """Where the bytes of this kind from here end."""
    while begin < end and _KINDS[data[np.uint64(begin)]] & kind:
        begin += 1
    return begin


@compiled
def _default_match(data: np.ndarray, at: int, end: int, live: int) -> tuple[int, int]:
    """Where the match of our own masks that begins here ends, and which pattern it is; (0, 0) where there is none, and
    (-1, patterns) where only these can match. Before `at` stands no letter nor digit.
    """
    byte = data[at]
    kind = _KINDS[byte]
    signed = byte == 43 or byte == 45  # + -
    if kind & _DIGIT or (signed and at + 1 < end and _KINDS[data[at + 1]] & _DIGIT):
        begin = at + 1 if signed else at
        last = _run_end(data, begin, end, _DIGIT)
        n_digits = last - begin
        if last == end:
            return last, _NUM
        after = data[last]
        if _KINDS[after] & _ENDS_NUMBER:
            return last, _NUM
        if after == 47 and (signed or n_digits != 2):  # / but of a date such as 01/Jan/2024
            return last, _NUM
        if after == 45 and (signed or n_digits not in (2, 4, 8)):  # - but of a MAC, a date, a UUID
            return last, _NUM
        if after == 46 or after == 44:  # . ,
            second = _run_end(data, last + 1, end, _DIGIT)
            if second == last + 1:
                return last, _NUM
            if second == end or _KINDS[data[second]] & _ENDS_NUMBER:
                return second, _NUM
            if after == 46 and data[second] == 46 and not signed:
                third = _run_end(data, second + 1, end, _DIGIT)
                if third < end and data[third] == 46:
                    fourth = _run_end(data, third + 1, end, _DIGIT)
                    short = n_digits < 4 and second - last < 5 and third - second < 5 and fourth - third < 5
                    if short and third > second + 1 and fourth > third + 1:
                        if fourth == end:
                            return fourth, _IP
                        if data[fourth] == 58:  # :
                            port = _run_end(data, fourth + 1, end, _DIGIT)
                            ends = port == end or not _KINDS[data[port]] & _ALNUM
                            if fourth + 1 < port < fourth + 7 and ends:
                                return port, _IP
                        elif not _KINDS[data[fourth]] & _ALNUM:
                            return fourth, _IP
        if signed:
            return -1, live
    if kind & _ALNUM:
        word = at
        while word < end and _KINDS[data[word]] & _ALNUM and not _KINDS[data[word]] & _DIGIT:
            word += 1
        if word > at and (word == end or _KINDS[data[word]] & _ENDS_WORD):
            return (-1, live & _DATE) if word == at + 3 and live & _DATE else (0, 0)
        possible = live
        hexadecimal = _run_end(data, at, end, _HEX_DIGIT)
        n_hex = hexadecimal - at
        after = data[hexadecimal] if hexadecimal < end else 0
        if n_hex != 8 or after != 45:
            possible &= ~_UUID
        if n_hex != 2 or (after != 45 and after != 58):
            possible &= ~_MAC
        if not 1 <= n_hex <= 4 or after != 58:
            possible &= ~_IPV6
        if n_hex < 8:
            possible &= ~_LONG_HEX
        if word > at:
            possible &= ~_DATE  # three letters and a comma or blank: told above
            if word != at + 1 or data[word] != 58:
                possible &= ~_DRIVE
            scheme = _run_end(data, at, end, _SCHEME_PART)
            if scheme - at > 16 or scheme + 2 >= end or data[scheme] != 58 or data[scheme + 1] != 47:
                possible &= ~_URL
        if possible & _ID and _run_end(data, at, end, _ID_PART) - at < 20:
            possible &= ~_ID
        return (-1, possible) if possible else (0, 0)
    if byte == 47:  # /
        parts = 0
        last = at
        while True:
            name = _run_end(data, last + 1, end, _PATH_PART)
            if name == last + 1:
                return (name, _PATH) if parts > 1 else (0, 0)
            parts += 1
            last = name
            if last == end or data[last] != 47:
                return (last, _PATH) if parts > 1 else (0, 0)
    if (byte == 45 or byte == 95) and not live & _EMAIL and _run_end(data, at, end, _ID_PART) - at < 20:  # - _
        return 0, 0
    return -1, live


def _pattern_number(name: str, nth: int = 0) -> int:
    return [i for i, (known, _) in enumerate(DEFAULT_MASKS.patterns) if known == name][nth]


_NUM, _IP, _PATH = _pattern_number("NUM"), _pattern_number("IP"), _pattern_number("PATH")
_DATE, _UUID, _MAC = 1 << _pattern_number("TIME", 2), 1 << _pattern_number("UUID"), 1 << _pattern_number("MAC")
_IPV6 = 1 << _pattern_number("IP", 1) | 1 << _pattern_number("IP", 2)
_LONG_HEX, _EMAIL, _URL = 1 << _pattern_number("HEX", 1), 1 << _pattern_number("EMAIL"), 1 << _pattern_number("URL")
_ID, _DRIVE = 1 << _pattern_number("ID"), 1 << _pattern_number("PATH", 1)


@compiled
def value_of(data: np.ndarray, begin: int, end: int) -> tuple[bool, float, int]:
    """`values.number_and_word` and `values.hash_of` of ASCII bytes: whether they can be told here, number, hash."""
    number = np.nan
    word_end = end
    colon = begin
    while colon < end and data[colon] != 58:
        colon += 1
    if colon < end:
        at, groups = begin, 0
        while groups < 4:
            last = _run_end(data, at, end, _DIGIT)
            if not 1 <= last - at <= 3 or last == end or data[last] != (46 if groups < 3 else 58):
                break
            groups += 1
            at = last + 1
        if groups == 4 and 1 <= end - at <= 5 and _run_end(data, at, end, _DIGIT) == end:
            number, word_end = 0.0, at - 1
            for i in range(at, end):
                number = number * 10 + (data[i] - 48)
        elif (
            1 <= colon - begin <= 2
            and end - colon >= 6
            and _run_end(data, begin, colon, _DIGIT) == colon
            and _run_end(data, colon + 1, end, _DIGIT) == colon + 3
            and data[colon + 3] == 58
        ):
            second = colon + 4
            last = _run_end(data, second, end, _DIGIT)
            fraction_end = last
            if last == second + 2 and last < end and (data[last] == 46 or data[last] == 44):
                fraction_end = _run_end(data, last + 1, end, _DIGIT)
            if last == second + 2 and fraction_end == end and (last == end or 1 <= end - last - 1 <= 9):
                hours = 0
                for i in range(begin, colon):
                    hours = hours * 10 + (data[i] - 48)
                minutes = (data[colon + 1] - 48) * 10 + (data[colon + 2] - 48)
                parts = 0
                for i in range(second, end):
                    if i != last:
                        parts = parts * 10 + (data[i] - 48)
                seconds = parts / _POWERS[max(0, end - last - 1)]
                number = np.float64(hours * 3600 + minutes * 60) + seconds
    else:
        at = begin
        negative = data[at] == 45
        if negative or data[at] == 43:
            at += 1
        last = _run_end(data, at, end, _DIGIT)
        if last > at:
            commas, dots, n_digits = 0, 0, 0
            digits = np.uint64(0)
            since, after_dot, even = 0, 0, True
            body = at
            while body < end:
                byte = data[body]
                if byte == 44:
                    even = even and (since == 3 if commas else 1 <= since <= 3) and dots == 0
                    commas += 1
                    since = 0
                elif byte == 46:
                    even = even and (commas == 0 or since == 3)
                    dots += 1
                    since = 0
                elif _KINDS[byte] & _DIGIT:
                    digits = digits * np.uint64(10) + np.uint64(byte - 48)
                    n_digits += 1
                    since += 1
                else:
                    break
                body += 1
            exponent = 0
            is_number = since > 0
            thousands = is_number and even and commas > 0 and dots <= 1 and body == end and data[at] != 48
            if thousands and dots == 0:
                thousands = since == 3
            if thousands:
                after_dot = since if dots else 0
            else:
                is_number = is_number and commas + dots <= 1
                after_dot = since if commas + dots else 0
                if is_number and body < end:
                    if data[body] == 69 or data[body] == 101:  # E e
                        power = body + 1
                        minus = power < end and data[power] == 45
                        if power < end and (minus or data[power] == 43):
                            power += 1
                        if 1 <= end - power <= 3 and _run_end(data, power, end, _DIGIT) == end:
                            for i in range(power, end):
                                exponent = exponent * 10 + (data[i] - 48)
                            if minus:
                                exponent = -exponent
                        else:
                            is_number = False
                    else:
                        is_number = False
            if is_number:
                exponent -= after_dot
                if n_digits > 19 or (n_digits == 19 and exponent != 0):
                    return False, 0.0, 0
                number = np.float64(digits)
                if exponent != 0 and digits != 0:
                    # one correctly rounded operation on exact numbers, as a decimal is read
                    if digits >= np.uint64(1 << 53) or not -22 <= exponent <= 22:
                        return False, 0.0, 0
                    number = number * _POWERS[exponent] if exponent > 0 else number / _POWERS[-exponent]
                if negative:
                    number = -number
    key = np.uint32(0xFFFFFFFF)
    for i in range(begin, word_end):
        key = _CRC[(key ^ np.uint32(data[i])) & np.uint32(255)] ^ (key >> np.uint32(8))
    return True, number, int(key ^ np.uint32(0xFFFFFFFF))


@compiled
def mask_texts(
    masks: MaskArrays,
    is_default: bool,
    data: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    texts: DictionaryArrays,
    out_words: np.ndarray,
    out: np.ndarray,
    columns: MaskedColumns,
) -> int:
    """Mask texts from the first on that is not yet in the columns; `out` is the bytes of `out_words`.

    Returns _DONE, _LEFT where the next text is for `Masks.mask`, or _FULL where the dictionary must grow before it.
    """
    (code, sets, captures, stack), entries, names, name_offsets, first, marks_of, needs, begins_mask = masks
    slots, hashes, text_begins, text_lengths, words, n_texts = texts
    out_text, out_counts, out_number, out_key, used = columns
    n_patterns = len(entries)
    for row in range(used[0], len(begins)):
        begin, end = begins[row], ends[row]
        if end - begin > _LONGEST_TEXT:
            return _LEFT
        text = data[begin:end]
        if any_bits(text) >= 128:
            return _LEFT
        marks = np.uint64(0)
        for i in range(len(text)):
            marks |= marks_of[text[i]]
        if marks & _OPENS:
            for i in range(len(text) - 1):
                if text[i] == 60 and begins_mask[text[i + 1]]:  # <
                    return _LEFT
        live = 0
        for k in range(n_patterns):
            if needs[k] & ~marks == 0:
                live |= 1 << k
        n_values, first_value = 0, used[1]
        at, copied, length = begin, begin, 0
        while at < end:
            byte = data[np.uint64(at)]
            is_word = _KINDS[byte] & _ALNUM
            candidates = int(first[byte]) & live
            if candidates == 0 or (at > begin and _KINDS[data[np.uint64(at - 1)]] & _ALNUM):
                at = _run_end(data, at, end, _ALNUM) if is_word else at + 1
                continue
            found, pattern = -1, candidates
            if is_default:
                found, pattern = _default_match(data, at, end, candidates)
            if found < 0:
                candidates = pattern
                found = 0
                for k in range(n_patterns):
                    if candidates >> k & 1:
                        found = match_at(code, sets, captures, stack, entries[k], data, begin, end, at, False)
                        if found == GAVE_UP:
                            return _LEFT
                        if found >= 0:
                            pattern = k
                            break
            if found <= 0:
                at = _run_end(data, at, end, _ALNUM) if is_word else at + 1
                continue
            length += copy_bytes(data[copied:at], out[length:])
            length += copy_bytes(names[name_offsets[pattern] : name_offsets[pattern + 1]], out[length:])
            if n_values < MAX_VALUES:
                is_known, number, key = value_of(data, at, found)
                if not is_known:
                    return _LEFT
                out_number[first_value + n_values] = number
                out_key[first_value + n_values] = key
                n_values += 1
            at = copied = found
        length += copy_bytes(data[copied:end], out[length:])
        for i in range(length, (length + 7) & ~7):
            out[i] = 0
        masked = number_of(slots, hashes, text_begins, text_lengths, words, n_texts, out_words, length)
        if masked == NO_ROOM:
            return _FULL
        out_text[row] = masked
        out_counts[row] = n_values
        used[0] += 1
        used[1] += n_values
    return _DONE
