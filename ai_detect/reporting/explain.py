"""Why a session is an anomaly: the lines at fault, the kind of each fault, what was expected, what is nearest to it.

All reasons are measured on one scale, so that an unseen message, a missing one, a delay and a wrong order can rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import numpy as np

from ai_detect.reporting.alignment import matching_pairs
from ai_detect.reporting.neighbours import Neighbours, find_neighbours
from ai_detect.reporting.novelty import KnownTemplates, Nearest
from ai_detect.reporting.reasons import (
    LIKELY,
    NOTABLE,
    Reason,
    ValueSurprise,
    changes,
    long_gaps,
    novel_events,
    odd_length,
    odd_places,
    odd_values,
    oddness,
)
from ai_detect.reporting.reference import ExplainContext
from ai_detect.tables import Float32Array, Float64Array, Int32Array, SequenceTable

#: Most likely events at a position, with their probabilities.
Expected = Callable[[int], Sequence[tuple[int, float]]]

MAX_REASONS = 8
#: What the model would expect is asked for so many of the strongest reasons, and so many events of its answer are kept.
N_ASKED = 3
N_EXPECTED = 3
#: Distinct sessions are kept in case they come again, until they have so many events together.
_MOST_KEPT = 1 << 15


@dataclass(frozen=True)
class DiffRow:
    """One row of the comparison with the nearest normal session; `position` is None for what only that one has."""

    mark: Literal["same", "extra", "missing"]
    event: int
    position: int | None


@dataclass(frozen=True)
class NearestNormal:
    """The training session that differs least, how often training holds it, and how alike it is (1 = equal)."""

    key: str
    n_seen: int
    similarity: float
    diff: tuple[DiffRow, ...]


@dataclass(frozen=True)
class Explanation:
    """Reasons, the strongest first (none where no single line stands out), and the share each event has in them."""

    reasons: tuple[Reason, ...]
    event_share: Float64Array  # (n_events,); what they lack to 1 belongs to missing events and the length
    nearest: NearestNormal | None


@dataclass(frozen=True)
class _Faults:
    """What is wrong with a session by its events alone, whatever the times and values of each."""

    novel: list[Reason]
    length: list[Reason]
    others: list[Reason]
    in_its_place: Mapping[int, tuple[tuple[int, float], ...]]
    nearest: NearestNormal | None
    expected: Expected | None


class Explainer:
    """Explains sessions; of identical ones only times and values are looked at again.

    `expected(ids, position)` is what the model would expect there. `templates` are the texts of all events: without
    them every unseen one counts as unlike all known ones.
    """

    def __init__(
        self,
        context: ExplainContext,
        expected: Callable[[Int32Array, int], Sequence[tuple[int, float]]] | None = None,
        templates: Sequence[str] = (),
    ) -> None:
        self._context, self._expected, self._templates = context, expected, templates
        self._known: dict[bytes, _Faults] = {}
        self._n_kept = 0
        self._known_templates = cache(lambda: KnownTemplates(templates[: context.n_known]))
        self._nearest_template = cache(self._find_template)

    def explain(
        self,
        sequences: SequenceTable,
        surprise: Float32Array | None = None,
        values: ValueSurprise | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[Explanation]:
        """The explanation of each session; `surprise` is -log p by event of the table, `values` tells of the values in
        these events. `check` is called between sessions.
        """
        for session in range(len(sequences)):
            check()
            ids = sequences.session(session)
            at = slice(int(sequences.offsets[session]), int(sequences.offsets[session + 1]))
            faults = self._faults(ids, None if surprise is None else surprise[at])
            by_values = [] if values is None else odd_values(self._context, ids.tolist(), values.take(at))
            yield _explanation(faults, long_gaps(self._context, ids.tolist(), sequences.gap_s[at]), by_values, len(ids))

    def _faults(self, ids: Int32Array, surprise: Float32Array | None) -> _Faults:
        key = ids.tobytes() + (b"" if surprise is None else surprise.tobytes())
        known = self._known.get(key)
        if known is None:
            self._n_kept += len(ids)
            if self._n_kept > _MOST_KEPT:
                self._known.clear()
                self._n_kept = len(ids)
            expected = None if self._expected is None else cache(partial(self._expected, ids))
            known = _find_faults(self._context, ids.tolist(), surprise, expected, self._nearest_template)
            self._known[key] = known
        return known

    def _find_template(self, event: int) -> Nearest | None:
        return self._known_templates().nearest(self._templates[event]) if self._templates else None


def _find_faults(
    context: ExplainContext,
    ids: list[int],
    surprise: Float32Array | None,
    expected: Expected | None,
    nearest_template: Callable[[int], Nearest | None],
) -> _Faults:
    novel, others = novel_events(context, ids, nearest_template), list[Reason]()
    odd = oddness(context, ids, surprise)
    nearest = None
    in_its_place: dict[int, tuple[tuple[int, float], ...]] = {}
    neighbours = find_neighbours(context, ids)
    if neighbours is not None:
        reference = context.references.session(neighbours.references[0]).tolist()
        pairs = matching_pairs(ids, reference)
        novel, others = _with_changes(novel, changes(context, ids, reference, pairs, neighbours, odd))
        in_its_place = _replacements(ids, reference, pairs, neighbours)
        nearest = NearestNormal(
            key=context.reference_keys[neighbours.references[0]],
            n_seen=int(context.reference_counts[neighbours.references[0]]),
            similarity=1 - neighbours.distance / max(len(ids) + len(reference), 1),
            diff=_diff_rows(ids, reference, pairs),
        )
    others += odd_places(ids, odd, _explained([*novel, *others]))
    return _Faults(novel, odd_length(context, ids), others, in_its_place, nearest, expected)


def _explanation(faults: _Faults, gaps: list[Reason], values: list[Reason], n_events: int) -> Explanation:
    reasons = [*faults.novel, *gaps, *faults.length, *values, *faults.others]
    notable = [reason for reason in reasons if reason.evidence >= NOTABLE]
    likely = [reason for reason in reasons if reason.evidence >= LIKELY]
    ranked = sorted(notable or likely, key=lambda reason: -reason.evidence)[: MAX_REASONS if notable else 1]
    total = sum(reason.evidence for reason in ranked)
    named = []
    for rank, reason in enumerate(ranked):
        likely_events = reason.expected
        if reason.positions and not reason.expected and reason.kind not in ("gap", "value"):
            told = faults.expected(reason.positions[0]) if faults.expected is not None and rank < N_ASKED else ()
            others = [(event, chance) for event, chance in told if event != reason.event]
            likely_events = tuple(others[:N_EXPECTED]) or faults.in_its_place.get(reason.positions[0], ())
        named.append(replace(reason, contribution=reason.evidence / total, expected=likely_events))
    share = np.zeros(n_events)
    for reason in named:
        if reason.positions:
            share[list(reason.positions)] += reason.contribution / len(reason.positions)
    return Explanation(tuple(named), share, faults.nearest)


def _with_changes(novel: list[Reason], changed: list[Reason]) -> tuple[list[Reason], list[Reason]]:
    """New messages, and the changes; where a rare one is surplus, too, that adds to the evidence of its being there."""
    rare = {reason.event: at for at, reason in enumerate(novel) if reason.kind == "rare_event"}
    novel, others = list(novel), []
    for change in changed:
        at = rare.get(change.event) if change.positions else None
        if at is None:
            others.append(change)
        elif change.evidence > novel[at].evidence:
            novel[at] = replace(novel[at], evidence=change.evidence)
    return novel, others


def _explained(reasons: list[Reason]) -> set[int]:
    """Places where a notable reason stands, and those beside it."""
    places: set[int] = set()
    for reason in reasons:
        if reason.evidence >= NOTABLE and reason.kind not in ("gap", "length", "value"):
            for place in reason.positions or (reason.slot or 0, (reason.slot or 0) - 1):
                places |= {place - 1, place, place + 1}
    return places


def _diff_rows(ids: list[int], reference: list[int], pairs: list[tuple[int, int]]) -> tuple[DiffRow, ...]:
    rows: list[DiffRow] = []
    i = j = 0
    for next_i, next_j in [*pairs, (len(ids), len(reference))]:
        rows += [DiffRow("extra", ids[k], k) for k in range(i, next_i)]
        rows += [DiffRow("missing", reference[k], None) for k in range(j, next_j)]
        if next_i < len(ids):
            rows.append(DiffRow("same", ids[next_i], next_i))
        i, j = next_i + 1, next_j + 1
    return tuple(rows)


def _replacements(
    ids: list[int], reference: list[int], pairs: list[tuple[int, int]], neighbours: Neighbours
) -> dict[int, tuple[tuple[int, float], ...]]:
    """What the nearest session has between the same two matches as events of this one, with the share of each."""
    replacements = {}
    i = j = 0
    for next_i, next_j in [*pairs, (len(ids), len(reference))]:
        there = dict.fromkeys(reference[j:next_j])
        for position in range(i, next_i):
            others = [event for event in there if event != ids[position]][:N_EXPECTED]
            replacements[position] = tuple((event, neighbours.share_with(event, 1)) for event in others)
        i, j = next_i + 1, next_j + 1
    return replacements
