"""Why a session is an anomaly: the lines at fault, the kind of each fault, what was expected, what is nearest to it.

All reasons are measured on one scale, so that an unseen message, a missing one, a delay and a wrong order can rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import numpy as np

from ai_detect.reporting.alignment import matching_pairs
from ai_detect.reporting.neighbours import Neighbours, find_neighbours
from ai_detect.reporting.novelty import KnownTemplates, Nearest
from ai_detect.reporting.reasons import (
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

#: Where there is no notable reason, the strongest is named if training shows its like less often than this.
LIKELY = 0.2
MAX_REASONS = 8
#: What the model would expect is asked for so many of the strongest reasons, and so many events of its answer are kept.
N_ASKED = 3
N_EXPECTED = 3
#: Distinct sessions whose neighbours are kept in case they come again.
_MOST_KNOWN = 1 << 9


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


class Explainer:
    """Explains sessions; identical ones share the search for their neighbours and the model's guesses.

    `expected(ids, position)` is such a guess. `templates` are the texts of all events: without them every unseen one
    counts as unlike all known ones.
    """

    def __init__(
        self,
        context: ExplainContext,
        expected: Callable[[Int32Array, int], Sequence[tuple[int, float]]] | None = None,
        templates: Sequence[str] = (),
    ) -> None:
        self._context, self._expected, self._templates = context, expected, templates
        self._known: dict[bytes, tuple[Neighbours | None, Expected | None]] = {}
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
            neighbours, expected = self._shared(ids)
            yield _explain(
                self._context,
                ids.tolist(),
                sequences.gap_s[at],
                None if surprise is None else surprise[at],
                expected,
                neighbours,
                self._nearest_template,
                None if values is None else values.take(at),
            )

    def _shared(self, ids: Int32Array) -> tuple[Neighbours | None, Expected | None]:
        key = ids.tobytes()
        if key not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            expected = None if self._expected is None else cache(partial(self._expected, ids))
            self._known[key] = find_neighbours(self._context, ids.tolist()), expected
        return self._known[key]

    def _find_template(self, event: int) -> Nearest | None:
        return self._known_templates().nearest(self._templates[event]) if self._templates else None


def _explain(
    context: ExplainContext,
    ids: list[int],
    gap_s: Float32Array,
    surprise: Float32Array | None,
    expected: Expected | None,
    neighbours: Neighbours | None,
    nearest_template: Callable[[int], Nearest | None],
    values: ValueSurprise | None,
) -> Explanation:
    reasons = [
        *novel_events(context, ids, nearest_template),
        *long_gaps(context, ids, gap_s),
        *odd_length(context, ids),
        *([] if values is None else odd_values(context, ids, values)),
    ]
    odd = oddness(context, ids, surprise)
    nearest = None
    in_its_place: dict[int, tuple[tuple[int, float], ...]] = {}
    if neighbours is not None:
        reference = context.references.session(neighbours.references[0]).tolist()
        pairs = matching_pairs(ids, reference)
        reasons = _with_changes(reasons, changes(context, ids, reference, pairs, neighbours, odd))
        in_its_place = _replacements(ids, reference, pairs, neighbours)
        nearest = NearestNormal(
            key=context.reference_keys[neighbours.references[0]],
            n_seen=int(context.reference_counts[neighbours.references[0]]),
            similarity=1 - neighbours.distance / max(len(ids) + len(reference), 1),
            diff=_diff_rows(ids, reference, pairs),
        )
    reasons += odd_places(ids, odd, _explained(reasons))
    notable = [reason for reason in reasons if reason.evidence >= -np.log(NOTABLE)]
    likely = [reason for reason in reasons if reason.evidence >= -np.log(LIKELY)]
    ranked = sorted(notable or likely, key=lambda reason: -reason.evidence)[: MAX_REASONS if notable else 1]
    total = sum(reason.evidence for reason in ranked)
    named = []
    for rank, reason in enumerate(ranked):
        likely_events = reason.expected
        if reason.positions and not reason.expected and reason.kind not in ("gap", "value"):
            told = expected(reason.positions[0]) if expected is not None and rank < N_ASKED else ()
            others = [(event, chance) for event, chance in told if event != reason.event]
            likely_events = tuple(others[:N_EXPECTED]) or in_its_place.get(reason.positions[0], ())
        named.append(replace(reason, contribution=reason.evidence / total, expected=likely_events))
    share = np.zeros(len(ids))
    for reason in named:
        if reason.positions:
            share[list(reason.positions)] += reason.contribution / len(reason.positions)
    return Explanation(tuple(named), share, nearest)


def _with_changes(reasons: list[Reason], changed: list[Reason]) -> list[Reason]:
    """Reasons and changes; where a rare message is surplus, too, that adds to the evidence of its being there."""
    rare = {reason.event: at for at, reason in enumerate(reasons) if reason.kind == "rare_event"}
    reasons = list(reasons)
    for change in changed:
        at = rare.get(change.event) if change.positions else None
        if at is None:
            reasons.append(change)
        elif change.evidence > reasons[at].evidence:
            reasons[at] = replace(reasons[at], evidence=change.evidence)
    return reasons


def _explained(reasons: list[Reason]) -> set[int]:
    """Places where a notable reason stands, and those beside it."""
    places: set[int] = set()
    for reason in reasons:
        if reason.evidence >= -np.log(NOTABLE) and reason.kind not in ("gap", "length", "value"):
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
