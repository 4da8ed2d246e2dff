"""Drain's decisions, taken again without Drain where nothing that they rest on has changed.

Adding a text again to a leaf of Drain's tree that has not changed since finds the same cluster and changes nothing but
the number of its lines. So each distinct text keeps the cluster that Drain chose and the version of the leaf that was
searched; a cluster that is made or changed gives a new version to the leaf it was searched in and to the one it is in.
Every decision that is not such a repetition is Drain's own, made at that very line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ai_detect.ingest.byte_dictionary import ByteDictionary
from ai_detect.ingest.compiled import compiled
from ai_detect.parsing.masking import WILDCARD
from ai_detect.tables import Int32Array

_NO_LEAF = -1
#: Leaves of as many clusters are searched by compiled code.
MANY_CLUSTERS = 2
_WILDCARD = 0


class Decisions(NamedTuple):
    """What was decided, by number of the text; versions by leaf; lines not yet counted by cluster."""

    cluster: np.ndarray  # (texts,) int32
    leaf: np.ndarray  # (texts,) int32, _NO_LEAF where there is no decision to repeat
    version: np.ndarray  # (texts,) int64, of the leaf when it was searched
    current: np.ndarray  # (leaves,) int64, version of each leaf
    n_lines: np.ndarray  # (clusters + 1,) int64, by Drain's number


class DrainReplay:
    """Adds texts to a Drain as `add_log_message` would, line by line; `flush` brings the clusters' sizes up to date.

    Not for a Drain with max_clusters, which forgets by use.
    """

    def __init__(self, drain: Any, texts: ByteDictionary, on_growth: Callable[[int], None]) -> None:
        """`on_growth` is told how many clusters there were before those of a block were added."""
        if drain.max_clusters is not None:
            raise ValueError("a Drain that forgets clusters must see every line")
        self._drain = drain
        self._texts = texts
        self._on_growth = on_growth
        self._leaves: dict[int, int] = {}  # numbers by id of Drain's node, which the tree keeps alive
        self._templates: dict[int, _LeafTemplates] = {}  # of leaves with many clusters, in Drain's order
        self._decisions = Decisions(
            np.zeros(0, np.int32), np.full(0, _NO_LEAF, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64),
            np.zeros(0, np.int64),
        )  # fmt: skip

    def add(self, texts: Int32Array) -> Int32Array:
        """Add texts by their number in the dictionary; returns the cluster of each, numbered from 0."""
        clusters = np.empty(len(texts), np.int32)
        n_before = len(self._drain.id_to_cluster)
        self._make_room()
        at = 0
        while (at := int(_repeat(texts, at, *self._decisions, clusters))) < len(texts):
            clusters[at] = self._decide(int(texts[at]))
            at += 1
        self._on_growth(n_before)
        return clusters - np.int32(1)

    def flush(self) -> None:
        """Add the lines that were counted here to Drain's clusters."""
        n_lines = self._decisions.n_lines
        for number in np.flatnonzero(n_lines).tolist():
            self._drain.id_to_cluster[number].size += int(n_lines[number])
        n_lines[:] = 0

    def _decide(self, text: int) -> int:
        drain = self._drain
        content = self._texts[text].decode("utf-8", "surrogatepass")
        words = drain.get_content_as_tokens(content)
        node, searched = self._leaf(words)
        is_searched, found, is_unchanged = self._search(node, searched, words)
        if found is not None and is_unchanged:
            number, leaf = int(found.cluster_id), searched
            self._decisions.n_lines[number] += 1
        else:
            if is_searched:
                drain.fast_match = lambda *arguments: found
            try:
                cluster, change = drain.add_log_message(content)
            finally:
                drain.__dict__.pop("fast_match", None)
            number = cluster.cluster_id
            leaf = searched
            if change != "none":
                node, leaf = self._leaf(words)
                self._make_room()
                for changed in {searched, leaf} - {_NO_LEAF}:
                    self._decisions.current[changed] += 1
            if change == "cluster_template_changed" and leaf in self._templates:
                self._templates[leaf].replace(node.cluster_ids.index(number), cluster.log_template_tokens)
        decisions = self._decisions
        decisions.cluster[text], decisions.leaf[text] = number, leaf
        decisions.version[text] = decisions.current[leaf] if leaf >= 0 else 0
        return number

    def _search(self, node: Any, leaf: int, words: list[str]) -> tuple[bool, Any, bool]:
        """Whether compiled code has searched the leaf, the cluster that `Drain.fast_match` finds in it, and whether
        these words leave its template as it is. Of leaves with so few clusters that Drain is as fast, nothing.
        """
        drain = self._drain
        if leaf == _NO_LEAF or drain.max_node_depth > 2 or not words or len(node.cluster_ids) < MANY_CLUSTERS:
            return False, None, False
        templates = self._templates.get(leaf)
        if templates is None:
            templates = self._templates[leaf] = _LeafTemplates(len(words))
        for number in node.cluster_ids[len(templates) :]:
            templates.append(drain.id_to_cluster[number].log_template_tokens)
        row, n_equal, n_wildcards = templates.best(words)
        if n_equal / len(words) < drain.sim_th:
            return True, None, False
        return True, drain.id_to_cluster[node.cluster_ids[row]], n_equal + n_wildcards == len(words)

    def _leaf(self, words: list[str]) -> tuple[Any, int]:
        """Drain's node where it looks for a cluster of these words, and its number; _NO_LEAF where there is none.

        Of a tree with inner nodes below the first word it is the node of all messages of so many words: a new inner
        node could send messages of other leaves elsewhere.
        """
        drain = self._drain
        node = drain.root_node.key_to_child_node.get(str(len(words))) if words else None
        if node is not None and drain.max_node_depth == 2 and len(words) > 1:
            children = node.key_to_child_node
            node = children.get(words[0]) or children.get(drain.param_str)
        if node is None:
            return None, _NO_LEAF
        leaf = self._leaves.setdefault(id(node), len(self._leaves))
        if leaf >= len(self._decisions.current):
            self._decisions = self._decisions._replace(current=_longer(self._decisions.current, leaf + 1, 0))
        return node, leaf

    def _make_room(self) -> None:
        decisions = self._decisions
        n_texts, n_clusters = len(self._texts), self._drain.clusters_counter + 1
        if n_texts > len(decisions.cluster):
            decisions = decisions._replace(
                cluster=_longer(decisions.cluster, n_texts, 0),
                leaf=_longer(decisions.leaf, n_texts, _NO_LEAF),
                version=_longer(decisions.version, n_texts, 0),
            )
        if n_clusters > len(decisions.n_lines):
            decisions = decisions._replace(n_lines=_longer(decisions.n_lines, n_clusters, 0))
        self._decisions = decisions


class _LeafTemplates:
    """The templates of a leaf's clusters as numbers, one row each."""

    def __init__(self, n_words: int) -> None:
        self._numbers: dict[str, int] = {WILDCARD: _WILDCARD}
        self._rows = np.zeros((16, n_words), np.int64)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def append(self, template: Sequence[str]) -> None:
        """Add a cluster's template."""
        if self._n == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._n += 1
        self.replace(self._n - 1, template)

    def replace(self, row: int, template: Sequence[str]) -> None:
        """Put another template in a row, which may be one that is not there yet."""
        if row < self._n:
            self._rows[row] = [self._numbers.setdefault(word, len(self._numbers)) for word in template]

    def best(self, words: Sequence[str]) -> tuple[int, int, int]:
        """Row that `Drain.fast_match` finds, its words that are equal to these, and its wildcards."""
        get = self._numbers.get
        numbers = np.array([get(word, -1) for word in words], np.int64)
        row, n_equal, n_wildcards = _best_template(self._rows[: self._n], numbers)
        return int(row), int(n_equal), int(n_wildcards)


class LineByLine:
    """Adds every text through Drain, for one that forgets clusters by use."""

    def __init__(self, learn: Callable[[Sequence[str]], list[int]], texts: ByteDictionary) -> None:
        self._learn = learn
        self._texts = texts
        self._strings: list[str] = []

    def add(self, texts: Int32Array) -> Int32Array:
        """Add texts by their number in the dictionary; returns the cluster of each, numbered from 0."""
        new = range(len(self._strings), len(self._texts))
        self._strings += [self._texts[number].decode("utf-8", "surrogatepass") for number in new]
        return np.array(self._learn([self._strings[number] for number in texts.tolist()]), np.int32)

    def flush(self) -> None:
        """Nothing is left to do."""


def _longer(column: np.ndarray, length: int, fill: int) -> np.ndarray:
    """The column at least twice as long, so that it seldom grows."""
    longer = np.full(max(length, 2 * len(column), 1 << 10), fill, column.dtype)
    longer[: len(column)] = column
    return longer


@compiled
def _best_template(templates: np.ndarray, words: np.ndarray) -> tuple[int, int, int]:
    """The row with the most words equal to these, then the most wildcards, then the first; both numbers."""
    best, best_equal, best_wildcards = 0, -1, -1
    for row in range(len(templates)):
        n_equal, n_wildcards = 0, 0
        for i in range(len(words)):
            number = templates[row, i]
            n_equal += number == words[i]
            n_wildcards += number == _WILDCARD
        if n_equal > best_equal or (n_equal == best_equal and n_wildcards > best_wildcards):
            best, best_equal, best_wildcards = row, n_equal, n_wildcards
    return best, best_equal, best_wildcards


@compiled
def _repeat(
    texts: np.ndarray,
    begin: int,
    cluster: np.ndarray,
    leaf: np.ndarray,
    version: np.ndarray,
    current: np.ndarray,
    n_lines: np.ndarray,
    clusters: np.ndarray,
) -> int:
    """Repeat `Decisions` from `begin` on; returns the first row that Drain must decide, or the number of rows. A tuple
    of arrays would cost more than a decision to hand over.
    """
    for row in range(begin, len(texts)):
        text = texts[row]
        if leaf[text] < 0 or current[leaf[text]] != version[text]:
            return row
        clusters[row] = cluster[text]
        n_lines[cluster[text]] += 1
    return len(texts)
