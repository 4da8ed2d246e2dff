"""Frozen templates and the one that a masked text belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import compress

from ai_detect.parsing.masking import WILDCARD


def template_id(template: str) -> str:
    """Public id of a template: 16 hex digits that depend on its text alone."""
    return blake2b(template.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class TemplateMatcher:
    """Finds the most specific template of a message: a pure function of the set of templates.

    A template matches where every token but its wildcards is equal. Of several the one with the fewest wildcards is
    taken, then the one whose first wildcard comes later. Templates that have their wildcards at the same places share
    one dictionary, so a lookup costs one hash for each such arrangement of that token count, however many templates
    there are.
    """

    def __init__(self, templates: Sequence[str]) -> None:
        arrangements: dict[int, dict[tuple[bool, ...], dict[tuple[str, ...], int]]] = {}
        for index, template in enumerate(templates):
            tokens = template.split()
            literal = tuple(token != WILDCARD for token in tokens)
            lookup = arrangements.setdefault(len(tokens), {}).setdefault(literal, {})
            lookup.setdefault(tuple(compress(tokens, literal)), index)
        #: By number of tokens: which tokens are literal, and templates by these; in the order in which they are tried.
        self.by_length = {
            n_tokens: sorted(lookups.items(), key=lambda item: (sum(item[0]), item[0]), reverse=True)
            for n_tokens, lookups in arrangements.items()
        }

    def match(self, tokens: Sequence[str]) -> int:
        """Index of the template that these tokens belong to; -1 where none matches."""
        for literal, lookup in self.by_length.get(len(tokens), ()):
            index = lookup.get(tuple(compress(tokens, literal)))
            if index is not None:
                return index
        return -1
