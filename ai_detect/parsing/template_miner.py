"""Event templates by Drain (He et al., ICWS 2017), with a state that is plain JSON.

The decisions are those of `drain3.drain.Drain`; this file adds the frozen vocabulary and what is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from drain3.drain import Drain, LogCluster, Node

from ai_detect.artifacts import sha256_json
from ai_detect.errors import NotFittedError
from ai_detect.parsing.drain_settings import check_setting, read_drain_ini
from ai_detect.parsing.masking import DEFAULT_MASKS, WILDCARD, Masks
from ai_detect.parsing.matching import TemplateMatcher
from ai_detect.parsing.values import MaskedValues, SlotPlan, packed
from ai_detect.tables import MAX_VALUES, Int32Array

if TYPE_CHECKING:
    from ai_detect.ingest.byte_dictionary import ByteDictionary
    from ai_detect.parsing.text_words import TextWords

logger = logging.getLogger(__name__)

_SCHEMA_VERSION = 1
_KEYS = {"schema_version", "frozen", "masks", "drain", "earlier", "n_created", "clusters", "tree"}
_MANY_TEMPLATES = 10_000
_NOT_FROZEN = "the templates are not frozen yet: call freeze() after learning"
# The caches hold short texts only and are cleared when full: 80 MB of ASCII at most, and never a change of results.
_CACHED_CHARACTERS = 1_000
_CACHED_TEXTS = 20_000


class ByteLearner(Protocol):
    """Shows texts to Drain by number."""

    def add(self, texts: Int32Array) -> Int32Array:
        """Show these texts, in this order; returns the cluster of each, as `TemplateMiner.learn` does."""
        ...

    def flush(self) -> None:
        """Bring the clusters up to date; to be called at the end."""
        ...


class TemplateMiner:
    """Learns templates line by line, then matches messages with the frozen ones.

    depth: levels of Drain's tree; similarity: share of equal tokens from which a line joins a template; max_children:
    branches of a tree node; max_clusters: templates kept, the least recently used is forgotten first; extra_delimiters:
    strings that separate words besides blanks; numeric_tokens_vary: words with a digit never branch the tree. Raises
    ValueError for a setting out of range.
    """

    def __init__(
        self,
        masks: Masks = DEFAULT_MASKS,
        *,
        depth: int = 4,
        similarity: float = 0.65,
        max_children: int = 100,
        max_clusters: int | None = None,
        extra_delimiters: Sequence[str] = (),
        numeric_tokens_vary: bool = True,
    ) -> None:
        self.masks = masks
        self._settings: dict[str, Any] = {
            "depth": depth,
            "similarity": similarity,
            "max_children": max_children,
            "max_clusters": max_clusters,
            "extra_delimiters": extra_delimiters,
            "numeric_tokens_vary": numeric_tokens_vary,
        }
        for name, value in self._settings.items():
            check_setting(name, value)
        self._settings["extra_delimiters"] = list(extra_delimiters)
        self._drain: Any = Drain(
            depth=depth,
            sim_th=similarity,
            max_children=max_children,
            max_clusters=max_clusters,
            extra_delimiters=list(extra_delimiters),
            profiler=None,
            parametrize_numeric_tokens=numeric_tokens_vary,
        )
        self._earlier: tuple[str, ...] = ()
        self._templates: tuple[str, ...] = ()
        self._matcher: TemplateMatcher | None = None
        self._masked: dict[str, tuple[str, bytes]] = {}
        self._matched: dict[str, int] = {}
        # Drain's cluster of a text, and the version that its number of words had then and has now
        self._decided: dict[str, tuple[Any, int, list[int]]] = {}
        self._versions: dict[int, list[int]] = {}

    @classmethod
    def from_drain_ini(cls, path: str | Path) -> TemplateMiner:
        """A miner set up by an existing drain3.ini; raises ConfigError naming the path and the key."""
        masks, settings = read_drain_ini(Path(path))
        return cls(masks, **settings)

    def mask(self, texts: Sequence[str]) -> tuple[list[str], MaskedValues]:
        """Masked texts, and what their first `MAX_VALUES` masks stand for; equal texts are masked once."""
        mask, known = self.masks.mask, self._masked
        found = []
        for text in texts:
            masked = known.get(text)
            if masked is None:
                masked_text, originals = mask(text)
                masked = masked_text, packed(originals[:MAX_VALUES])
                if len(text) <= _CACHED_CHARACTERS:
                    if len(known) >= _CACHED_TEXTS:
                        known.clear()
                    known[text] = masked
            found.append(masked)
        return [masked for masked, _ in found], MaskedValues.of([values for _, values in found])

    def learn(self, masked: Sequence[str]) -> list[int]:
        """Show masked texts to Drain, in this order; returns the cluster of each, numbered from 0 in order of creation.

        A cluster's template may still change: the events of a log are found by `match` after `freeze`.
        """
        if self._matcher is not None:
            raise ValueError("the templates are frozen: they cannot learn")
        n_before = len(self._drain.id_to_cluster)
        clusters = [self._learned(text).cluster_id - 1 for text in masked]
        self.warn_of_many(n_before)
        return clusters

    def _learned(self, text: str) -> Any:
        """Drain's cluster of one more text.

        Adding a text again finds the same cluster and changes nothing but its size, as long as no cluster of so many
        words was made or changed; without a limit of clusters, which are forgotten by use.
        """
        decided = self._decided.get(text)
        if decided is not None and decided[1] == decided[2][0]:
            decided[0].size += 1
            return decided[0]
        cluster, change = self._drain.add_log_message(text)
        version = self._versions.setdefault(len(cluster.log_template_tokens), [0])
        version[0] += change != "none"
        if self._settings["max_clusters"] is None and len(text) <= _CACHED_CHARACTERS and WILDCARD not in text:
            if len(self._decided) >= _CACHED_TEXTS:
                self._decided.clear()
            self._decided[text] = cluster, version[0], version
        return cluster

    def words_of(self, texts: ByteDictionary) -> TextWords:
        """The words that Drain makes of masked texts, by number."""
        from ai_detect.parsing.text_words import TextWords

        return TextWords(texts, self._drain.get_content_as_tokens, not self._settings["extra_delimiters"])

    def byte_learner(self, words: TextWords) -> ByteLearner:
        """What shows Drain masked texts by their number in the words' dictionary; its end state is that of `learn`."""
        if self._matcher is not None:
            raise ValueError("the templates are frozen: they cannot learn")
        from ai_detect.parsing.replay import DrainReplay, LineByLine

        self._decided.clear()  # Drain will learn elsewhere
        if self._settings["max_clusters"] is not None:
            return LineByLine(self.learn, words.texts)
        return DrainReplay(self._drain, words, self.warn_of_many)

    def warn_of_many(self, n_before: int) -> None:
        """Say so where the templates have become many since there were `n_before`."""
        if n_before < _MANY_TEMPLATES <= len(self._drain.id_to_cluster):
            logger.warning(
                "%d templates already: some variable part of the messages has no mask, and mining becomes slow",
                _MANY_TEMPLATES,
            )

    @property
    def clusters(self) -> list[tuple[int, int, str]]:
        """Drain's clusters as (number, lines, template), by number."""
        get = self._drain.id_to_cluster.get  # not values(): with max_clusters these count as uses
        clusters = [get(number) for number in sorted(self._drain.id_to_cluster)]
        return [(cluster.cluster_id - 1, cluster.size, cluster.get_template()) for cluster in clusters]

    def freeze(self) -> None:
        """Fix the vocabulary: the distinct templates in order of creation. Further calls change nothing."""
        if self._matcher is None:
            self._templates = tuple(dict.fromkeys([*self._earlier, *(template for _, _, template in self.clusters)]))
            self._matcher = TemplateMatcher(self._templates)
            self._decided.clear()

    def continued(self) -> TemplateMiner:
        """A miner that learns on from here: each frozen template keeps its event id, new ones come after them."""
        return TemplateMiner.from_json({**self.to_json(), "frozen": False, "earlier": list(self.templates)})

    @property
    def is_frozen(self) -> bool:
        """Whether the vocabulary is fixed."""
        return self._matcher is not None

    @property
    def templates(self) -> tuple[str, ...]:
        """Frozen templates by event id; raises NotFittedError before `freeze`."""
        if self._matcher is None:
            raise NotFittedError(_NOT_FROZEN)
        return self._templates

    def match(self, masked: str) -> int:
        """Event id of a masked text, -1 where no template matches; a pure function of the frozen templates.

        Every text that was learned matches, unless `max_clusters` made Drain forget its template.
        """
        event = self._matched.get(masked)
        if event is None:
            if self._matcher is None:
                raise NotFittedError(_NOT_FROZEN)
            event = self._matcher.match(self._drain.get_content_as_tokens(masked))
            if len(masked) <= _CACHED_CHARACTERS:
                if len(self._matched) >= _CACHED_TEXTS:
                    self._matched.clear()
                self._matched[masked] = event
        return event

    def slot_plan(self, texts: Sequence[str], events: Int32Array) -> SlotPlan:
        """Where in these masked texts the values of their events stand."""
        known = self.templates
        templates = (known[event] if event < len(known) else None for event in events.tolist())
        return SlotPlan.of(texts, templates, self._drain.get_content_as_tokens, self.masks.written)

    def events_of(self, words: TextWords) -> Int32Array:
        """`match` of all texts of a dictionary, by compiled code."""
        from ai_detect.parsing.text_events import events_of_texts

        if self._matcher is None:
            raise NotFittedError(_NOT_FROZEN)
        return events_of_texts(words, self._matcher)

    def slot_plan_of(self, words: TextWords, events: Int32Array) -> SlotPlan:
        """`slot_plan` of all texts of a dictionary, by compiled code where they are split by blanks alone."""
        from ai_detect.parsing.text_events import slot_plan

        if not words.is_by_blanks:
            return self.slot_plan(words.texts.strings(), events)
        return slot_plan(words, events, self.templates, self.masks.written)

    @property
    def content_hash(self) -> str:
        """Hex sha256 of all that events depend on: masks, settings and templates."""
        templates = self._templates or [*self._earlier, *(template for _, _, template in self.clusters)]
        return sha256_json([self.masks.as_json(), self._settings, self.is_frozen, list(templates)])

    def to_json(self) -> dict[str, Any]:
        """The whole state, Drain's tree included; learning goes on from it as if it had never stopped."""
        return {
            "schema_version": _SCHEMA_VERSION,
            "frozen": self.is_frozen,
            "masks": self.masks.as_json(),
            "drain": dict(self._settings),
            "earlier": list(self._earlier),
            "n_created": self._drain.clusters_counter,
            "clusters": [[c.cluster_id, c.size, c.get_template()] for c in self._clusters_by_use()],
            "tree": _node_as_json(self._drain.root_node),
        }

    def _clusters_by_use(self) -> list[Any]:
        """Clusters in the order in which Drain would forget them; without a limit by number."""
        if self._settings["max_clusters"] is None:
            return list(self._drain.id_to_cluster.values())
        cache = deepcopy(self._drain.id_to_cluster)
        return [cache.popitem()[1] for _ in range(len(cache))]

    @classmethod
    def from_json(cls, value: Any) -> TemplateMiner:
        """The miner of `to_json`; raises ValueError for anything else."""
        _check_keys("templates", value, _KEYS)
        if value["schema_version"] != _SCHEMA_VERSION:
            raise ValueError(f"templates have schema_version {value['schema_version']!r}, expected {_SCHEMA_VERSION}")
        if type(value["frozen"]) is not bool:
            raise ValueError("templates: frozen must be true or false")
        _check_keys("templates: drain", value["drain"], set(TemplateMiner()._settings))
        try:
            miner = cls(Masks.from_json(value["masks"]), **value["drain"])
        except RecursionError as error:
            raise ValueError("templates: the masks are nested too deeply") from error
        earlier = value["earlier"]
        if not isinstance(earlier, list) or not all(isinstance(template, str) for template in earlier):
            raise ValueError("templates: earlier must be a list of templates")
        miner._earlier = tuple(earlier)
        miner._restore(value["n_created"], value["clusters"], value["tree"])
        if value["frozen"]:
            miner.freeze()
        return miner

    def _restore(self, n_created: Any, clusters: Any, tree: Any) -> None:
        drain = self._drain
        if type(n_created) is not int or not isinstance(clusters, list):
            raise ValueError("templates: n_created must be a number and clusters a list")
        limit = self._settings["max_clusters"]
        if limit is not None and len(clusters) > limit:
            raise ValueError(f"templates: {len(clusters)} clusters, but max_clusters is {limit}")
        for entry in clusters:
            if not (isinstance(entry, list) and [type(part) for part in entry] == [int, int, str]):
                raise ValueError(f"templates: expected [number, lines, template], found {entry!r:.100}")
            number, size, template = entry
            if not 1 <= number <= n_created or number in drain.id_to_cluster or size < 1:
                raise ValueError(f"templates: cluster {number} is out of range, occurs twice or has no lines")
            cluster = LogCluster(template.split(), number)
            cluster.size = size
            drain.id_to_cluster[number] = cluster
        drain.clusters_counter = n_created
        drain.root_node = _node_from_json(tree, levels=self._settings["depth"] - 1)
        in_tree = set(drain.root_node.cluster_ids)
        for key, node in drain.root_node.key_to_child_node.items():
            for number in _cluster_ids(node):
                cluster = drain.id_to_cluster.get(number)
                if number in in_tree or not 1 <= number <= n_created or (cluster is None and limit is None):
                    raise ValueError(
                        f"templates: the tree names cluster {number}, which does not exist or occurs twice"
                    )
                if cluster is not None and str(len(cluster.log_template_tokens)) != key:
                    raise ValueError(f"templates: cluster {number} stands in the tree under {key} words")
                in_tree.add(number)
        if not in_tree.issuperset(drain.id_to_cluster):
            raise ValueError("templates: the tree does not hold every cluster")


def _check_keys(what: str, value: Any, keys: set[str]) -> None:
    if not isinstance(value, dict) or set(value) != keys:
        raise ValueError(f"{what} must hold exactly {', '.join(sorted(keys))}")


def _node_as_json(node: Any) -> list[Any]:
    return [{token: _node_as_json(child) for token, child in node.key_to_child_node.items()}, list(node.cluster_ids)]


def _node_from_json(value: Any, levels: int) -> Any:
    if levels < 0 or not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], dict)):
        raise ValueError("templates: the tree is too deep or a node is not [branches, clusters]")
    if not (isinstance(value[1], list) and all(type(number) is int for number in value[1])):
        raise ValueError("templates: a node's clusters must be whole numbers")
    node: Any = Node()
    node.key_to_child_node = {token: _node_from_json(child, levels - 1) for token, child in value[0].items()}
    node.cluster_ids = list(value[1])
    return node


def _cluster_ids(node: Any) -> list[int]:
    return list(node.cluster_ids) + [i for child in node.key_to_child_node.values() for i in _cluster_ids(child)]
