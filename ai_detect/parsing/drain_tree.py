"""Drain's tree and templates as arrays, searched by compiled code as Drain searches them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ai_detect.ingest.byte_dictionary import ByteDictionary, DictionaryArrays, hash_of, number_of_hashed
from ai_detect.ingest.compiled import compiled
from ai_detect.parsing.text_words import WILDCARD_NUMBER, TextWords

#: Where there is no node to look for a cluster in, and the cluster where none fits.
NO_NODE, NO_CLUSTER = -1, 0
_KEY_BYTES = 8


class TreeArrays(NamedTuple):
    """Nodes are numbered as they come, clusters as Drain numbers them (from 1)."""

    nodes: DictionaryArrays  # the numbers of (node above + 1, number of words or of a word), two uint32
    first: np.ndarray  # (nodes,) int32: cluster, NO_CLUSTER where there is none
    last: np.ndarray  # (nodes,) int32
    following: np.ndarray  # (clusters + 1,) int32: the cluster after it in its node
    begins: np.ndarray  # (clusters + 1,) int64: where its template begins
    templates: np.ndarray  # int32, numbers of words
    key: np.ndarray  # (2,) uint32, where what is looked up in `nodes` is put
    key_bytes: np.ndarray  # uint8, the same


class DrainTree:
    """What `drain` holds, to be told of every new cluster and template."""

    def __init__(self, drain: Any, words: TextWords) -> None:
        self._drain = drain
        self._words = words
        self._nodes = ByteDictionary()
        self._known: dict[tuple[int, int], int] = {}  # the same, for Python
        self._n_words = 0
        key = np.zeros(_KEY_BYTES // 4, np.uint32)
        empty = [np.zeros(0, np.int32) for _ in range(3)]
        self._arrays = TreeArrays(
            self._nodes.arrays, empty[0], empty[1], empty[2], np.zeros(0, np.int64), np.zeros(0, np.int32),
            key, key.view(np.uint8),
        )  # fmt: skip
        for n_words, node in drain.root_node.key_to_child_node.items():
            self._add_node(node, self._node(NO_NODE, int(n_words)))
        first, last = (longer(column, len(self._nodes), NO_CLUSTER) for column in self._arrays[1:3])
        self._arrays = self._arrays._replace(first=first, last=last)

    def __len__(self) -> int:
        """How many nodes there are."""
        return len(self._nodes)

    @property
    def arrays(self) -> TreeArrays:
        """For compiled code, until the tree changes."""
        return self._arrays._replace(nodes=self._nodes.arrays)

    @property
    def depth(self) -> int:
        """Levels of nodes; one is of the numbers of words."""
        return int(self._drain.max_node_depth)

    def add(self, cluster: int, words: np.ndarray) -> int:
        """Add a cluster that Drain has made of a text of these words; returns the second node of `find_leaf`."""
        tokens = self._drain.id_to_cluster[cluster].log_template_tokens
        if not tokens:
            return NO_NODE
        node = self._drain.root_node.key_to_child_node[str(len(tokens))]
        number = by_length = self._node(NO_NODE, len(tokens))
        for token, word in zip(tokens[: min(self.depth, len(tokens)) - 1], words.tolist(), strict=False):
            children = node.key_to_child_node
            number = self._node(number, word if token in children else WILDCARD_NUMBER)
            node = children.get(token) or children[self._drain.param_str]
        self._add_cluster(number, cluster, words)
        return by_length if self.depth > 2 else number

    def generalise(self, cluster: int, words: np.ndarray) -> None:
        """Make wildcards of the words of a template that are not these, as Drain did."""
        begin = self._arrays.begins[cluster]
        template = self._arrays.templates[begin : begin + len(words)]
        template[template != words] = WILDCARD_NUMBER

    def _node(self, above: int, key: int) -> int:
        node = self._known.get((above, key))
        if node is None:
            node = self._known[above, key] = self._nodes.number(np.array([above + 1, key], np.uint32).tobytes())
        return node

    def _add_node(self, node: Any, number: int) -> None:
        """Add a node of a Drain that has learned before, and all below it."""
        for cluster in node.cluster_ids:
            template = self._drain.id_to_cluster[cluster].log_template_tokens
            self._add_cluster(number, cluster, np.array([self._words.number(word) for word in template], np.int32))
        for token, child in node.key_to_child_node.items():
            self._add_node(child, self._node(number, self._words.number(token)))

    def _add_cluster(self, node: int, cluster: int, words: np.ndarray) -> None:
        first, last, following, begins, templates = self._arrays[1:6]
        n_words = self._n_words + len(words)
        first, last = longer(first, len(self._nodes), NO_CLUSTER), longer(last, len(self._nodes), NO_CLUSTER)
        following, begins = longer(following, cluster + 1, NO_CLUSTER), longer(begins, cluster + 1, 0)
        templates = longer(templates, n_words, 0)
        templates[self._n_words : n_words] = words
        begins[cluster] = self._n_words
        following[last[node]] = cluster
        if first[node] == NO_CLUSTER:
            first[node] = cluster
        last[node] = cluster
        self._n_words = n_words
        self._arrays = self._arrays._replace(
            first=first, last=last, following=following, begins=begins, templates=templates
        )


def longer(column: np.ndarray, length: int, fill: int) -> np.ndarray:
    """The column where it is so long, or one at least twice as long, so that it seldom grows."""
    if length <= len(column):
        return column
    new = np.full(max(length, 2 * len(column), 1 << 10), fill, column.dtype)
    new[: len(column)] = column
    return new


@compiled
def _child(nodes: DictionaryArrays, key: np.ndarray, key_bytes: np.ndarray, above: int, word: int) -> int:
    """The node below another, or NO_NODE."""
    slots, hashes, spans, words, used = nodes
    key[0], key[1] = above + 1, word
    value = hash_of(key_bytes, 0, _KEY_BYTES)
    return number_of_hashed(slots, hashes, spans, words, used, key_bytes, 0, _KEY_BYTES, value, False)


@compiled
def find_leaf(tree: TreeArrays, depth: int, words: np.ndarray) -> tuple[int, int]:
    """The node where Drain looks for a cluster of these words, and the one that its decision rests on; NO_NODE twice
    where there is none.

    The second is the same one but in trees with inner nodes below the first word. There it is the node of all messages
    of so many words: a new inner node could send messages of other leaves elsewhere.
    """
    if len(words) == 0:
        return NO_NODE, NO_NODE
    node = _child(tree.nodes, tree.key, tree.key_bytes, NO_NODE, len(words))
    by_length = node
    for level in range(min(depth, len(words)) - 1):
        if node == NO_NODE:
            break
        above = node
        node = _child(tree.nodes, tree.key, tree.key_bytes, above, words[level])
        if node == NO_NODE:
            node = _child(tree.nodes, tree.key, tree.key_bytes, above, WILDCARD_NUMBER)
    if node == NO_NODE:
        return NO_NODE, NO_NODE
    return node, by_length if depth > 2 else node


@compiled
def best_cluster(tree: TreeArrays, leaf: int, words: np.ndarray, similarity: float) -> tuple[int, bool]:
    """The cluster that Drain finds for these words in a leaf, and whether they leave its template as it is."""
    best, best_equal, best_wildcards = NO_CLUSTER, -1, -1
    cluster = tree.first[leaf]
    while cluster != NO_CLUSTER:
        n_equal, n_wildcards = 0, 0
        begin = tree.begins[cluster]
        for i in range(len(words)):
            word = tree.templates[np.uint64(begin + i)]
            is_wildcard = word == WILDCARD_NUMBER
            n_wildcards += is_wildcard
            n_equal += not is_wildcard and word == words[np.uint64(i)]
        if n_equal > best_equal or (n_equal == best_equal and n_wildcards > best_wildcards):
            best, best_equal, best_wildcards = cluster, n_equal, n_wildcards
        cluster = tree.following[cluster]
    if best_equal / len(words) < similarity:
        return NO_CLUSTER, False
    return best, best_equal + best_wildcards == len(words)
