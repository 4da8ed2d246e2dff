"""The words of distinct masked texts by number, split as Drain splits them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ai_detect import scratch
from ai_detect.ingest.byte_dictionary import NO_ROOM, ByteDictionary, DictionaryArrays, number_of
from ai_detect.ingest.byte_texts import IS_SPACE
from ai_detect.ingest.compiled import any_bits, compiled
from ai_detect.parsing.masking import WILDCARD

#: The number of the word that stands for any other.
WILDCARD_NUMBER = 0
_DONE, _LEFT, _FULL, _WORDS_FULL = range(4)


class WordArrays(NamedTuple):
    """Text i has the words `numbers[offsets[i]:offsets[i + 1]]`."""

    offsets: np.ndarray  # (at least texts + 1,) int64
    numbers: np.ndarray  # int32


class TextWords:
    """The words of the texts of a dictionary; both may grow."""

    def __init__(self, texts: ByteDictionary, split: Callable[[str], Sequence[str]], is_by_blanks: bool) -> None:
        """`split` gives the words of a text; `is_by_blanks` says that it is no more than `str.split`."""
        self.texts = texts
        self.words = ByteDictionary()
        self.is_by_blanks = is_by_blanks
        self._split = split
        self._arrays = WordArrays(scratch.zeros(1 << 10, np.int64), scratch.zeros(1 << 13, np.int32))
        self._n_texts = 0
        self._known: dict[str, int] = {}
        self.number(WILDCARD)

    def number(self, word: str) -> int:
        """The number of a word of a template."""
        number = self._known.get(word)
        if number is None:
            number = self._known[word] = self._new_number(word)
        return number

    def of_text(self, text: int) -> tuple[str, np.ndarray]:
        """A text that `numbered` has seen, and the numbers of its words."""
        offsets, numbers = self._arrays
        return self._text(text), numbers[offsets[text] : offsets[text + 1]]

    def numbered(self) -> WordArrays:
        """The words of all texts that there are by now."""
        n_texts, at = len(self.texts), np.array([self._n_texts], np.int64)
        self._arrays = self._arrays._replace(offsets=_grown(self._arrays.offsets, n_texts + 1))
        while at[0] < n_texts:
            status = _LEFT
            if self.is_by_blanks:
                _, _, spans, content, _ = self.texts.arrays
                status = _split_texts(n_texts, spans, content.view(np.uint8), self._arrays, self.words.arrays, at)
            if status == _WORDS_FULL:
                self.words.grow()
            elif status == _FULL:
                self._make_room(int(at[0]), int(self.texts.arrays.spans[at[0], 1]))
            elif status == _LEFT:
                self._put(int(at[0]))
                at[0] += 1
        self._n_texts = n_texts
        return self._arrays

    def _put(self, text: int) -> None:
        """Put the words of the next text by Python."""
        numbers = [self._new_number(word) for word in self._split(self._text(text))]
        self._make_room(text, len(numbers))
        begin = self._arrays.offsets[text]
        self._arrays.numbers[begin : begin + len(numbers)] = numbers
        self._arrays.offsets[text + 1] = begin + len(numbers)

    def _new_number(self, word: str) -> int:
        return self.words.number(word.encode("utf-8", "surrogatepass"))

    def _text(self, number: int) -> str:
        return self.texts[number].decode("utf-8", "surrogatepass")

    def _make_room(self, text: int, n_words: int) -> None:
        offsets, numbers = self._arrays
        self._arrays = WordArrays(offsets, _grown(numbers, int(offsets[text]) + n_words))


def _grown(column: np.ndarray, n: int) -> np.ndarray:
    """The column where it is n long, or a longer one that begins with it."""
    if n <= len(column):
        return column
    longer = scratch.zeros(max(n, 2 * len(column)), column.dtype)
    longer[: len(column)] = column
    return longer


@compiled
def _split_texts(
    n_texts: int,
    text_spans: np.ndarray,
    content: np.ndarray,
    arrays: WordArrays,
    dictionary: DictionaryArrays,
    at: np.ndarray,
) -> int:
    """Number the words of texts from `at` on.

    Returns _DONE, _LEFT where the next text is for Python, _FULL where the arrays or _WORDS_FULL where the dictionary
    must grow before it.
    """
    offsets, numbers = arrays
    slots, hashes, spans, words, used = dictionary
    for text in range(at[0], n_texts):
        begin, length = 8 * text_spans[text, 0], text_spans[text, 1]
        end = begin + length
        if any_bits(content[begin:end]) >= 128:
            return _LEFT
        n = offsets[text]
        if n + length > len(numbers):
            return _FULL
        while True:
            while begin < end and IS_SPACE[content[np.uint64(begin)]]:
                begin += 1
            if begin == end:
                break
            last = begin
            while last < end and not IS_SPACE[content[np.uint64(last)]]:
                last += 1
            number = number_of(slots, hashes, spans, words, used, content, begin, last - begin)
            if number == NO_ROOM:
                return _WORDS_FULL
            numbers[n] = number
            n += 1
            begin = last
        offsets[text + 1] = n
        at[0] = text + 1
    return _DONE
