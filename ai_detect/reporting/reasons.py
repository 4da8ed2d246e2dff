"""The kinds of fault of a session, each measured in nats: -log p of what is seen, by training and like sessions."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np

from ai_detect.reporting.neighbours import Neighbours
from ai_detect.reporting.novelty import Nearest
from ai_detect.reporting.reference import ExplainContext
from ai_detect.reporting.repairs import Path, Repair
from ai_detect.tables import MAX_VALUES, Float32Array, Int32Array

Kind = Literal["unseen_event", "rare_event", "order", "count", "length", "missing", "gap", "value"]

#: An event in fewer training sessions than this share is rare.
RARE_SHARE = 0.01
#: A reason is worth naming where training shows its like less often than `NOTABLE`, and the strongest where there is
#: none such, if less often than `LIKELY`; in nats.
NOTABLE, LIKELY = -math.log(0.05), -math.log(0.2)


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


class ValueSurprise(NamedTuple):
    """The oddest value of each event: -log of the share of training sessions with one as odd, and its place.

    `surprise` (n_events,) in nats; `slot` (n_events,) counts the values of the event from 0, negative for none.
    """

    surprise: Float32Array
    slot: Int32Array

    def take(self, events: slice) -> ValueSurprise:
        """That of some neighbouring events."""
        return ValueSurprise(self.surprise[events], self.slot[events])


def _nats(probability: float, n_tries: int = 1) -> float:
    """Surprise of the least likely of `n_tries` places; never below 0."""
    return max(0.0, -float(np.log(min(1.0, probability * n_tries))))


def is_novel(context: ExplainContext, event: int) -> bool:
    """Whether training never or hardly ever saw an event."""
    return event >= context.n_known or bool(context.document_frequency[event] < RARE_SHARE * context.n_sessions)


def is_unseen(context: ExplainContext, event: int) -> bool:
    """Whether no normal training session holds an event."""
    return event >= context.n_known or not context.document_frequency[event]


def novel_events(
    context: ExplainContext, ids: list[int], distance: Callable[[int], Nearest | None] = lambda event: None
) -> list[Reason]:
    """Messages that training never or hardly ever saw, one reason each; `distance` tells of the nearest known template.

    Of rare messages that come together in training the first is the news: the others are what is expected then.
    """
    places: dict[int, list[int]] = {}
    for position, event in enumerate(ids):
        places.setdefault(event, []).append(position)
    reasons, rare = [], []
    for event in sorted(event for event in places if is_novel(context, event)):
        n_with = 0 if is_unseen(context, event) else int(context.document_frequency[event])
        seen_in = int(context.seen_in[event]) if event < context.n_known else 0
        facts: dict[str, float] = {"seen_in": seen_in, "of": context.n_training, "seen_in_normal": n_with}
        if n_with or seen_in:
            evidence = _nats((n_with + 1) / (context.n_sessions + 2))
            rare.append(Reason("rare_event", event, tuple(places[event]), evidence, facts=facts))
            continue
        nearest = distance(event)
        evidence = _nats(context.novelty_probability(1.0 if nearest is None else nearest.distance)) + 1
        if nearest is not None:
            facts |= {"nearest": nearest.event, "distance": nearest.distance}
        reasons.append(Reason("unseen_event", event, tuple(places[event]), evidence, facts=facts))
    told: list[int] = []
    for reason in sorted(rare, key=lambda reason: -reason.evidence):
        given = [_nats(context.share_together(other, reason.event)) for other in told]
        reasons.append(replace(reason, evidence=min([reason.evidence, *given])))
        told.append(reason.event)
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
            evidence = context.bounded(_nats(probability, len(ids)))
            reasons.append(Reason("gap", ids[position], (position,), evidence, facts=facts))
    return reasons


def odd_values(context: ExplainContext, ids: list[int], values: ValueSurprise) -> list[Reason]:
    """Events with a value that training hardly ever has in its place; times between events are not among them."""
    reasons = []
    evidence_of = values.surprise.astype(np.float64) - np.log(max(len(ids), 1))
    odd = (evidence_of >= LIKELY) & (values.slot >= 0) & (values.slot < MAX_VALUES)  # no weaker reason is ever named
    for position in np.flatnonzero(odd).tolist():
        nats = float(values.surprise[position])
        evidence = context.bounded(float(evidence_of[position]))
        share = float(np.exp(-nats)) if nats < np.log(context.n_sessions + 1) else 0.0
        facts = {"value": int(values.slot[position]) + 1, "share": share}
        reasons.append(Reason("value", ids[position], (position,), evidence, facts=facts))
    return reasons


def odd_length(context: ExplainContext, ids: list[int]) -> list[Reason]:
    """A session shorter or longer than nearly all of training."""
    if not ids or not context.n_sessions:
        return []
    low, high = context.usual_lengths
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
        odd.append(context.bounded(_nats(chance, len(ids))))
    return odd


def odd_places(ids: list[int], odd: list[float], explained: set[int]) -> list[Reason]:
    """Events out of place where and beside which nothing else is wrong."""
    return [
        Reason("order", ids[position], (position,), odd[position])
        for position in range(len(ids))
        if position not in explained and odd[position] >= NOTABLE
    ]


@dataclass(frozen=True)
class _Change:
    """A reason with what undoing it gains, how unlikely the transitions are that this does away with, and which."""

    reason: Reason
    gain: float
    doubt: float
    transitions: range


def changes(
    context: ExplainContext,
    ids: list[int],
    reference: list[int],
    pairs: list[tuple[int, int]],
    neighbours: Neighbours,
    odd: list[float],
) -> list[Reason]:
    """Lines that are surplus, missing or in the wrong place, by those beside them and by the nearest normal session.

    Of changes that would mend the same transition the one that gains most is told. Its evidence is the strongest of
    what the counts of similar sessions say, the transitions that it mends, and the oddness of the events there.
    """
    kept = [position for position, event in enumerate(ids) if not is_unseen(context, event)]
    bridges = np.flatnonzero(np.diff([-1, *kept, len(ids)]) > 1).tolist()
    path = Path(context, [ids[position] for position in kept], bridges, neighbours)
    found = [_repaired(context, repair, ids, kept, neighbours) for repair in path.repairs()]
    found += _differences(context, path, ids, kept, reference, pairs, neighbours)
    told: list[Reason] = []
    taken: set[int] = set()
    for change in sorted(found, key=lambda change: -change.gain):
        reason = change.reason
        if change.gain <= 0:
            if not any(_alike(reason, other) for other in told):
                told.append(reason)
        elif taken.isdisjoint(change.transitions):
            taken.update(change.transitions)
            doubt = context.bounded(max(0.0, change.doubt - float(np.log(len(ids) + 1))))
            oddest = max((odd[kept[at]] for at in change.transitions if at < len(kept)), default=0.0)
            told.append(replace(reason, evidence=max(reason.evidence, doubt, oddest)))
        else:
            told = [_stronger(other, reason) if _alike(reason, other) else other for other in told]
    return told


def _repaired(
    context: ExplainContext, repair: Repair, ids: list[int], kept: list[int], neighbours: Neighbours
) -> _Change:
    """A repair as a reason, in positions of the session; its evidence is still to be weighed."""
    at, here = repair.at, Counter(ids)
    if repair.kind == "missing":
        event, share = repair.candidates[0]
        facts = {"share": neighbours.share_with(event, here[event] + 1), "count": here[event], "share_here": share}
        slot = kept[at - 1] + 1 if at else 0
        reason = Reason("missing", event, (), 0.0, slot, repair.candidates, facts)
    elif repair.kind == "swapped":
        left, right = kept[at], kept[at + 1]
        here_, usual = (context.transition(*pair).n_pair for pair in ((ids[left], ids[right]), (ids[right], ids[left])))
        facts = {"n_so": here_, "n_reversed": usual}
        reason = Reason("order", ids[left], (left, right), 0.0, expected=((ids[right], 1.0),), facts=facts)
    elif repair.kind == "repeated":
        run = kept[at : repair.transitions.stop - 1]
        facts = {"n_lines": repair.period, "n_times": len(run) // repair.period + 1}
        reason = Reason("count", ids[run[0]], tuple(run), 0.0, facts=facts)
    else:
        reason = _surplus(ids[kept[at]], (kept[at],), here, neighbours)
    return _Change(reason, repair.gain, repair.doubt, repair.transitions)


def _surplus(event: int, positions: tuple[int, ...], here: Counter[int], neighbours: Neighbours) -> Reason:
    """Too many of an event, or, where like sessions have as many, one in the wrong place."""
    low, high = neighbours.usual_count(event)
    if here[event] > high:
        facts = {"count": here[event], "usual_low": low, "usual_high": high}
        return Reason("count", event, positions, 0.0, facts=facts)
    return Reason("order", event, positions, 0.0)


def _differences(
    context: ExplainContext,
    path: Path,
    ids: list[int],
    kept: list[int],
    reference: list[int],
    pairs: list[tuple[int, int]],
    neighbours: Neighbours,
) -> list[_Change]:
    """What the nearest normal session has more, less, or elsewhere; a run of neighbouring events is one reason."""
    matched, matched_there = [i for i, _ in pairs], [j for _, j in pairs]
    extra = sorted({*range(len(ids))} - {*matched})
    missing = sorted({*range(len(reference))} - {*matched_there})
    moved, moved_from = _moved(ids, reference, extra, missing)
    here = Counter(ids)

    reasons: list[Reason] = []
    for i in extra:
        event = ids[i]
        if is_novel(context, event):  # has a reason of its own
            continue
        reason = Reason("order", event, (i,), 0.0)
        if i not in moved:
            chance = min(
                (context.sessions_with(event, here[event]) + 1) / (context.n_sessions + 2),
                neighbours.smoothed(neighbours.share_with(event, here[event])),
            )
            reason = _surplus(event, (i,), here, neighbours)
            if reason.kind == "count":
                reason = replace(reason, evidence=_nats(chance))
        reasons.append(reason)
    for j in missing:
        if j in moved_from:
            continue
        event, count = reference[j], here[reference[j]]
        share = neighbours.share_with(event, count + 1)
        chance = min(
            (context.n_sessions - context.sessions_with(event, count + 1) + 1) / (context.n_sessions + 2),
            neighbours.smoothed(1 - share),
        )
        n_before = bisect_left(matched_there, j)  # it belongs behind the match before it
        slot = matched[n_before - 1] + 1 if n_before else 0
        facts: dict[str, float] = {"share": share, "count": count}
        reasons.append(Reason("missing", event, (), _nats(chance), slot, ((event, share),), facts))
    return [_Change(reason, *_undone(path, kept, reason)) for reason in _joined(reasons)]


def _undone(path: Path, kept: list[int], reason: Reason) -> tuple[float, float, range]:
    """What undoing a difference gains, how doubtful the transitions are that this does away with, and which."""
    if reason.positions:
        first, last = bisect_left(kept, reason.positions[0]), bisect_left(kept, reason.positions[-1])
        return *path.without(first, last), range(first, last + 2)
    slot = bisect_left(kept, reason.slot or 0)
    return *path.with_events(slot, [event for event, _ in reason.expected]), range(slot, slot + 1)


def _alike(reason: Reason, other: Reason) -> bool:
    """Whether two reasons say the same of the same place."""
    if (reason.kind == "missing") != (other.kind == "missing"):
        return False
    if reason.slot is not None and other.slot is not None:
        return abs(reason.slot - other.slot) <= 1
    return not {*reason.positions}.isdisjoint(other.positions)


def _stronger(reason: Reason, other: Reason) -> Reason:
    """The first reason, with the evidence of the stronger."""
    return replace(reason, evidence=max(reason.evidence, other.evidence))


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
