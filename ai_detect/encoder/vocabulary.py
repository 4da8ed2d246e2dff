"""Words of event templates as hashed numbers, so that an event never seen in training still has a meaning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from ai_detect.tables import Int32Array

#: Placeholders, runs of letters, and digits that belong to the template; punctuation means nothing.
_WORDS = re.compile(r"<[^<>\s]*>|[^\W\d_]+|\d+")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def template_words(template: str, n_buckets: int) -> list[int]:
    """Bucket numbers in [1, n_buckets) of a template's words in order; camelCase is split, case is ignored."""
    words = (part for word in _WORDS.findall(template) for part in _CAMEL_CASE.split(word))
    return [_bucket(word.lower(), n_buckets) for word in words]


def _bucket(word: str, n_buckets: int) -> int:
    digest = blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % (n_buckets - 1)


def word_matrix(templates: Sequence[str], n_buckets: int, max_words: int = 32) -> Int32Array:
    """Words of each template, (n_templates, max_words) int32 padded with 0; words beyond `max_words` are left out."""
    matrix = np.zeros((len(templates), max_words), np.int32)
    for row, template in enumerate(templates):
        words = template_words(template, n_buckets)[:max_words]
        matrix[row, : len(words)] = words
    return matrix
