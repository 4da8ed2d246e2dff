"""Drain's decisions, taken again without Drain where they change nothing.

Adding a text again to a leaf of Drain's tree that has not changed since finds the same cluster and changes nothing but
the number of its lines. So each distinct text keeps the cluster that was chosen and the version of the leaf that was
searched; a cluster that is made or changed gives a new version to the leaf it was searched in and to the one it is in.
Other texts are looked for in the leaf by compiled code (drain_tree.py). Where that finds a cluster whose template stays
as it is, nothing but the number of lines changes either. Every other decision is Drain's own, made at that very line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ai_detect.ingest.byte_dictionary import ByteDictionary
from ai_detect.ingest.compiled import compiled
from ai_detect.parsing.drain_tree import NO_CLUSTER, NO_NODE, DrainTree, TreeArrays, best_cluster, find_leaf, longer
from ai_detect.parsing.text_words import WILDCARD_NUMBER, TextWords, WordArrays
from ai_detect.tables import Int32Array


class Decisions(NamedTuple):
    """What was decided, by number of the text; versions by node of the tree; lines not yet counted by cluster."""

    cluster: np.ndarray  # (texts,) int32
    node: np.ndarray  # (texts,) int32, NO_NODE where there is no decision to repeat
    version: np.ndarray  # (texts,) int64, of the node when the decision was taken
    current: np.ndarray  # (nodes,) int64, version of each node
    n_lines: np.ndarray  # (clusters + 1,) int64, by Drain's number


class DrainReplay:
    """Adds texts to a Drain as `add_log_message` would, line by line; `flush` brings the clusters' sizes up to date.

    Not for a Drain with max_clusters, which forgets by use.
    """

    def __init__(self, drain: Any, words: TextWords, on_growth: Callable[[int], None]) -> None:
        """`on_growth` is told how many clusters there were before those of a block were added."""
        if drain.max_clusters is not None:
            raise ValueError("a Drain that forgets clusters must see every line")
        self._drain = drain
        self._words = words
        self._on_growth = on_growth
        self._tree = DrainTree(drain, words)
        texts, versions, lines = np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._decisions = Decisions(texts, texts, versions, versions, lines)
        self._make_room(0)

    def add(self, texts: Int32Array) -> Int32Array:
        """Add texts by their number in the dictionary; returns the cluster of each, numbered from 0."""
        clusters = np.empty(len(texts), np.int32)
        n_before = len(self._drain.id_to_cluster)
        words = self._words.numbered()
        self._make_room(len(self._words.texts))
        at, found = 0, np.zeros(2, np.int64)
        while True:
            at = _repeat(
                texts, at, self._decisions, words, self._tree.arrays, self._tree.depth, self._drain.sim_th, found,
                clusters,
            )  # fmt: skip
            if at == len(texts):
                break
            node, cluster = found.tolist()
            clusters[at] = self._ask(int(texts[at]), node, cluster)
            at += 1
        self._on_growth(n_before)
        return clusters - np.int32(1)

    def flush(self) -> None:
        """Add the lines that were counted here to Drain's clusters."""
        n_lines = self._decisions.n_lines
        for number in np.flatnonzero(n_lines).tolist():
            self._drain.id_to_cluster[number].size += int(n_lines[number])
        n_lines[:] = 0

    def _ask(self, text: int, searched: int, found: int) -> int:
        """Add a text to Drain, where compiled code has searched a node and found a cluster; returns Drain's cluster."""
        drain, tree = self._drain, self._tree
        content, words = self._words.of_text(text)
        drain.fast_match = lambda *arguments: drain.id_to_cluster[found] if found != NO_CLUSTER else None
        try:
            cluster, change = drain.add_log_message(content)
        finally:
            del drain.fast_match
        number = int(cluster.cluster_id)
        node = searched
        if change == "cluster_created":
            node = tree.add(number, words)
        elif change == "cluster_template_changed":
            tree.generalise(number, words)
        self._make_room(text + 1)
        decisions = self._decisions
        for changed in {searched, node} - {NO_NODE}:
            decisions.current[changed] += 1
        if (words == WILDCARD_NUMBER).any():
            node = NO_NODE  # is like no wildcard of a template, not even of its own
        decisions.cluster[text], decisions.node[text] = number, node
        decisions.version[text] = decisions.current[node] if node != NO_NODE else 0
        return number

    def _make_room(self, n_texts: int) -> None:
        cluster, node, version, current, n_lines = self._decisions
        self._decisions = Decisions(
            longer(cluster, n_texts, NO_CLUSTER), longer(node, n_texts, NO_NODE), longer(version, n_texts, 0),
            longer(current, len(self._tree), 0), longer(n_lines, self._drain.clusters_counter + 1, 0),
        )  # fmt: skip


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


@compiled
def _repeat(
    texts: np.ndarray,
    begin: int,
    decisions: Decisions,
    words: WordArrays,
    tree: TreeArrays,
    depth: int,
    similarity: float,
    found: np.ndarray,
    clusters: np.ndarray,
) -> int:
    """Decide from `begin` on; returns the first row that Drain must decide, or the number of rows.

    In `found` are then the node that its decision will rest on, and the cluster that Drain will find.
    """
    cluster_of, node_of, version_of, current, n_lines = decisions
    offsets, numbers = words
    for row in range(begin, len(texts)):
        text = texts[row]
        if node_of[text] == NO_NODE or current[node_of[text]] != version_of[text]:
            own = numbers[offsets[text] : offsets[text + 1]]
            leaf, node = find_leaf(tree, depth, own)
            cluster, is_unchanged = NO_CLUSTER, False
            if leaf != NO_NODE:
                cluster, is_unchanged = best_cluster(tree, leaf, own, similarity)
            if not is_unchanged:
                found[0], found[1] = node, cluster
                return row
            cluster_of[text], node_of[text], version_of[text] = cluster, node, current[node]
        clusters[row] = cluster_of[text]
        n_lines[cluster_of[text]] += 1
    return len(texts)
