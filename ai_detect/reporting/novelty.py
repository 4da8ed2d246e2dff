"""How new a message is: the distance of its words from the nearest template that training has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ai_detect.tables import Float32Array, Float64Array, Int64Array

#: A word, or what a mask or Drain's wildcard put in its place.
_WORD = re.compile(r"<[A-Z_*]+>|\w+")
#: Longer templates are not compared word by word.
MAX_WORDS = 64


def words_of(template: str) -> frozenset[str]:
    """The different words of a template; what differs from line to line counts as a word by its kind."""
    return frozenset(_WORD.findall(template))


class Nearest(NamedTuple):
    """A known template and how much of its words and another's are not in both (0 the same words, 1 none shared)."""

    event: int
    distance: float


class KnownTemplates:
    """The words of the known templates, for finding the nearest one (Jaccard distance of sets of words)."""

    def __init__(self, templates: Sequence[str]) -> None:
        self._n_words = np.zeros(len(templates), np.int64)
        holders: dict[str, list[int]] = {}
        for event, template in enumerate(templates):
            words = words_of(template)
            self._n_words[event] = len(words)
            for word in words:
                holders.setdefault(word, []).append(event)
        self._holders = {word: np.array(events, np.int64) for word, events in holders.items()}
        self._templates = templates

    def nearest(self, template: str) -> Nearest | None:
        """The known template nearest to a text; None where training has no template at all."""
        distances = self._distances(template)
        if not len(distances):
            return None
        event = int(np.argmin(distances))
        return Nearest(event, float(distances[event]))

    def distances_to_others(self, events: Iterable[int] | Int64Array) -> Float32Array:
        """The distance of each of these known templates to the nearest other one."""
        found = []
        for event in events:
            distances = self._distances(self._templates[event])
            distances[event] = 1.0
            found.append(distances.min())
        return np.array(found, np.float32)

    def _distances(self, template: str) -> Float64Array:
        words = words_of(template)
        holders = [self._holders[word] for word in words if word in self._holders]
        shared = np.bincount(np.concatenate([np.zeros(0, np.int64), *holders]), minlength=len(self._n_words))
        return np.asarray(1 - shared / np.maximum(self._n_words + len(words) - shared, 1), np.float64)


def one_word_apart(known: Iterable[str], new: Iterable[str]) -> list[str]:
    """The word of each new template that alone tells it from a known one; those without such a word are left out."""
    holes = {hole for template in known for hole, _ in _holes(template)}
    found = (next((word for hole, word in _holes(template) if hole in holes), None) for template in new)
    return [word for word in found if word is not None]


def _holes(template: str) -> Iterator[tuple[tuple[str, str], str]]:
    """What stands before and behind each word, and the word; a template of one word has none."""
    words = template.split(" ")
    if 1 < len(words) <= MAX_WORDS:
        for at, word in enumerate(words):
            yield (" ".join(words[:at]), " ".join(words[at + 1 :])), word
