"""The kinds of fault of a session, each measured in nats: -log p of what is seen, by training and like sessions."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ai_detect.reporting.neighbours import Neighbours
from ai_detect.reporting.reference import ExplainContext
from ai_detect.tables import Float32Array

Kind = Literal["unseen_event", "rare_event", "order", "count", "length", "missing", "gap"]

#: An event in fewer training sessions than this share is rare.
RARE_SHARE = 0.01
#: A reason is worth naming where training shows its like less often than this.
NOTABLE = 0.05


@dataclass(frozen=True)
class Reason:
    """One fault. Positions are events of the session, ascending; what is missing and a length have a `slot` instead."""

    kind: Kind
    event: int
    positions: tuple[int, ...]
    evidence: float  # nats
    slot: int | None = None  # events before the hole, or before the end
    expected: tuple[tuple[int, float], ...] = ()  # event ids with the share or probability of each
    facts: Mapping[str, float] = field(default_factory=dict)  # the numbers its sentence needs
    contribution: float = 0.0  # share of all named reasons; they sum to 1


def _nats(probability: float, n_tries: int = 1) -> float:
    """Surprise of the least likely of `n_tries` places; never below 0."""
    return max(0.0, -float(np.log(min(1.0, probability * n_tries))))


def is_novel(context: ExplainContext, event: int) -> bool:
    """Whether training never or hardly ever saw an event."""
    return event >= context.n_known or bool(context.document_frequency[event] < RARE_SHARE * context.n_sessions)


def novel_events(context: ExplainContext, ids: list[int]) -> list[Reason]:
    """Messages that training never or hardly ever saw, one reason each."""
    reasons = []
    for event in sorted(event for event in set(ids) if is_novel(context, event)):
        n_with = int(context.document_frequency[event]) if event < context.n_known else 0
        positions = tuple(position for position, other in enumerate(ids) if other == event)
        facts = {"seen_in": n_with, "of": context.n_sessions}
        evidence = _nats((n_with + 1) / (context.n_sessions + 2))
        if n_with:
            reasons.append(Reason("rare_event", event, positions, evidence, facts=facts))
        else:
            reasons.append(Reason("unseen_event", event, positions, evidence + 1, facts=facts))
    return reasons


def long_gaps(context: ExplainContext, ids: list[int], gap_s: Float32Array) -> list[Reason]:
    """Events that came much later after the one before them than training ever shows."""
    reasons = []
    for position in np.flatnonzero(gap_s > 0).tolist():
        if position == 0:
            continue
        gap = float(gap_s[position])
        probability, usual = context.gap_probability(ids[position - 1], ids[position], gap)
        if probability < 1:
            facts = {"gap_s": gap, "usual_s": usual}
            reasons.append(Reason("gap", ids[position], (position,), _nats(probability, len(ids)), facts=facts))
    return reasons


def odd_length(context: ExplainContext, ids: list[int]) -> list[Reason]:
    """A session shorter or longer than nearly all of training."""
    if not ids or not context.n_sessions:
        return []
    low, high = context.usual_lengths()
    if low <= len(ids) <= high:
        return []
    facts = {"length": len(ids), "usual_low": low, "usual_high": high}
    return [Reason("length", ids[-1], (), _nats(context.length_probability(len(ids))), slot=len(ids), facts=facts)]


def oddness(context: ExplainContext, ids: list[int], surprise: Float32Array | None) -> list[float]:
    """How unlikely each event is where it stands, in nats: by the events beside it and by the model's surprise."""
    chances = (
        [context.transition(*pair).probability for pair in zip([-1, *ids], [*ids, -1], strict=True)] if ids else []
    )
    odd = []
    for position, event in enumerate(ids):
        chance = min(chances[position], chances[position + 1])
        if surprise is not None:
            chance = min(chance, context.surprise_probability(event, float(surprise[position])))
        odd.append(_nats(chance, len(ids)))
    return odd


def odd_places(ids: list[int], odd: list[float], explained: set[int]) -> list[Reason]:
    """Events out of place beside which no difference to the nearest normal session was found."""
    return [
        Reason("order", ids[position], (position,), odd[position])
        for position in range(len(ids))
        if position not in explained and odd[position] >= -np.log(NOTABLE)
    ]


def differences(
    context: ExplainContext,
    ids: list[int],
    reference: list[int],
    pairs: list[tuple[int, int]],
    neighbours: Neighbours,
    odd: list[float],
) -> list[Reason]:
    """What the nearest normal session has more, less, or elsewhere; a run of neighbouring events is one reason."""
    matched, matched_there = [i for i, _ in pairs], [j for _, j in pairs]
    extra = sorted({*range(len(ids))} - {*matched})
    missing = sorted({*range(len(reference))} - {*matched_there})
    novel = {i for i, event in enumerate(ids) if is_novel(context, event)}
    moved, moved_from = _moved(ids, reference, extra, missing)
    slots = {}  # each missing event belongs behind the match before it
    for j in missing:
        n_before = bisect_left(matched_there, j)
        slots[j] = matched[n_before - 1] + 1 if n_before else 0
    here = Counter(ids)

    reasons: list[Reason] = []
    for i in extra:
        event = ids[i]
        if i in novel:  # has a reason of its own
            continue
        if i in moved:
            reasons.append(Reason("order", event, (i,), odd[i]))
            continue
        low, high = neighbours.usual_count(event)
        chance = min(
            (context.sessions_with(event, here[event]) + 1) / (context.n_sessions + 2),
            neighbours.smoothed(neighbours.share_with(event, here[event])),
        )
        if here[event] > high:
            usual = {"count": here[event], "usual_low": low, "usual_high": high}
            reasons.append(Reason("count", event, (i,), max(_nats(chance), odd[i]), facts=usual))
        else:
            reasons.append(Reason("order", event, (i,), odd[i]))
    across = list(zip([-1, *ids], [*ids, -1], strict=True))  # what stands on both sides of a slot
    for j in missing:
        if j in moved_from:
            continue
        event, count = reference[j], here[reference[j]]
        share = neighbours.share_with(event, count + 1)
        chance = min(
            (context.n_sessions - context.sessions_with(event, count + 1) + 1) / (context.n_sessions + 2),
            neighbours.smoothed(1 - share),
            context.transition(*across[slots[j]]).probability * (len(ids) + 1),
        )
        facts: dict[str, float] = {"share": share, "count": count}
        reasons.append(Reason("missing", event, (), _nats(chance), slots[j], ((event, share),), facts))
    beside = {place for i in [*extra, *slots.values()] for place in (i - 1, i, i + 1)}
    return [*_joined(reasons), *odd_places(ids, odd, beside | novel)]


def _moved(ids: list[int], reference: list[int], extra: list[int], missing: list[int]) -> tuple[set[int], set[int]]:
    """Surplus places in both whose event the other side lacks: the same event in another place."""
    places: dict[int, list[int]] = {}
    for j in missing:
        places.setdefault(reference[j], []).append(j)
    moved, moved_from = set(), set()
    for i in extra:
        if places.get(ids[i]):
            moved.add(i)
            moved_from.add(places[ids[i]].pop(0))
    return moved, moved_from


def _joined(reasons: list[Reason]) -> list[Reason]:
    """Neighbouring events at fault for the same kind of reason become one, as strong as its strongest."""
    joined: list[Reason] = []
    for reason in reasons:
        last = joined[-1] if joined else None
        adjacent = (
            last is not None
            and last.kind == reason.kind
            and (last.slot == reason.slot if reason.slot is not None else last.positions[-1] + 1 == reason.positions[0])
        )
        if last is None or not adjacent:
            joined.append(reason)
            continue
        strongest = max(last, reason, key=lambda part: part.evidence)
        expected = dict([*last.expected, *reason.expected])
        joined[-1] = replace(strongest, positions=last.positions + reason.positions, expected=tuple(expected.items()))
    return joined
