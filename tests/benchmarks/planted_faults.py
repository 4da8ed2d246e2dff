"""Faults of many kinds, planted in sessions of any log without a label: what a log with them looks like, and where.

A session is a list of `Message`, an event with its level, values and the seconds since the one before. Most kinds come
in two strengths, mild and strong. Kinds:

unseen failure, unseen    messages of another log, whose words tell of a failure or do not
known                     a message that training has, but never together with one that this session has
dropped                   messages are lost
cut                       the session ends too early
exchanged                 two messages that training has in one order only, far apart, change places
reversed                  some neighbours in reverse order, with a transition that training does not have
storm                     one to three messages, over and over: more than training ever has
partner                   all messages of a kind that training always has beside another of the session
delay                     a time far beyond any that training has before this message
value                     a number far beyond those that training has there, or a new word where there are few
incident                  several at once: lost messages or an early end, a failure of another log, a delay or a storm

What training cannot tell from normal (the same sequence of events is there, or no rule of training is broken) is no
fault: None is returned. Windows of a number of lines keep that number: what is too much falls out, what is missing is
filled up with the lines that follow.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from ai_detect.tables import LEVELS

#: Sessions that must hold something before training is said to have a rule.
_ENOUGH = 20
#: Share of them in which the rule holds.
_ALWAYS = 0.98
#: A slot with as many distinct words, at most, is one of few words.
_FEW_WORDS = 20
_ERROR = LEVELS.index("error")


class Message(NamedTuple):
    """An event of a session: `values` are (number or NaN, hash of the text), `gap` is NaN where it is not known."""

    template: str
    level: int
    values: tuple[tuple[float, int], ...]
    gap: float


Session = list[Message]


class Normal:
    """What training says of events, their order, number, times and values; a window has `window` lines."""

    def __init__(self, training: Sequence[Session], window: int | None) -> None:
        self.window = window
        self.sequences = {_ids(session) for session in training}
        self.n_with: Counter[str] = Counter()
        self.together: dict[str, Counter[str]] = defaultdict(Counter)
        self.transitions: Counter[tuple[str, str]] = Counter()
        self.ordered: Counter[tuple[str, str]] = Counter()  # all of the one stand before all of the other
        self.most: Counter[str] = Counter()
        self.longest: dict[str, float] = {}
        self.ends: Counter[str] = Counter()
        self.largest: dict[tuple[str, int], float] = {}
        self.words: dict[tuple[str, int], Counter[int]] = defaultdict(Counter)
        self.examples: dict[str, list[Message]] = defaultdict(list)
        for session in training:
            self._learn(session)

    def _learn(self, session: Session) -> None:
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for at, message in enumerate(session):
            template = message.template
            first.setdefault(template, at)
            last[template] = at
            if message.gap == message.gap:
                self.longest[template] = max(self.longest.get(template, 0.0), message.gap)
            for slot, (number, key) in enumerate(message.values):
                if number == number:
                    self.largest[template, slot] = max(self.largest.get((template, slot), 0.0), abs(number))
                else:
                    self.words[template, slot][key] += 1
            if len(self.examples[template]) < _ENOUGH:
                self.examples[template].append(message)
        for template, n in Counter(_ids(session)).items():
            self.most[template] = max(self.most[template], n)
        self.n_with.update(first.keys())
        self.transitions.update(pairwise(_ids(session)))
        self.ends.update([session[-1].template])
        for template in first:
            self.together[template].update(first.keys())
        for left, end in last.items():
            self.ordered.update((left, right) for right, begin in first.items() if end < begin)

    def always_before(self, left: str, right: str) -> bool:
        """Whether training has these two in one order only."""
        n = self.together[left][right]
        return n >= _ENOUGH and self.ordered[left, right] >= _ALWAYS * n

    def never_together(self, template: str, session: Session) -> bool:
        """Whether training never has this event with some event of the session, though both are there often enough."""
        n = max(self.n_with.values())
        expected = ((self.n_with[template] * self.n_with[m.template] / n, m.template) for m in session)
        return any(many >= 3 and not self.together[template][other] for many, other in expected)


class Foreign(NamedTuple):
    """Messages of another log, whose words tell of a failure and do not."""

    failures: list[str]
    others: list[str]


class Pick(NamedTuple):
    """What a fault is made of."""

    normal: Normal
    foreign: Foreign
    random: random.Random
    strong: bool
    following: Session  # lines after the session, where it is a window


def _ids(session: Sequence[Message]) -> tuple[str, ...]:
    return tuple(message.template for message in session)


def _insert(session: Session, at: int, new: Session) -> Session:
    """With more messages, in the time that there is."""
    if at == len(session) or not new:
        return [*session, *new]
    gap = session[at].gap / (len(new) + 1)
    shared = [message._replace(gap=gap) for message in [*new, session[at]]]
    return [*session[:at], *shared, *session[at + 1 :]]


def _without(session: Session, gone: set[int]) -> Session:
    """The other messages, at the same times."""
    kept: Session = []
    waited = 0.0
    for at, message in enumerate(session):
        if at in gone:
            waited += 0.0 if message.gap != message.gap else message.gap
        else:
            kept.append(message._replace(gap=message.gap + waited if kept else float("nan")))
            waited = 0.0
    return kept


def _unseen(session: Session, pick: Pick, templates: list[str], level: int) -> Session | None:
    if not templates:
        return None
    new = [Message(pick.random.choice(templates), level, (), 0.0)]
    for _ in range(3 if pick.strong else 1):
        session = _insert(session, pick.random.randint(1, len(session)), new)
    return session


def _unseen_failure(session: Session, pick: Pick) -> Session | None:
    level = _ERROR if any(message.level for message in session) and pick.random.random() < 0.5 else session[0].level
    return _unseen(session, pick, pick.foreign.failures, level)


def _unseen_other(session: Session, pick: Pick) -> Session | None:
    return _unseen(session, pick, pick.foreign.others, session[0].level)


def _known(session: Session, pick: Pick) -> Session | None:
    here = set(_ids(session))
    strangers = [t for t in sorted(pick.normal.examples) if t not in here and pick.normal.never_together(t, session)]
    if not strangers:
        return None
    for template in pick.random.sample(strangers, min(len(strangers), 2 if pick.strong else 1)):
        at = pick.random.randint(1, len(session))
        session = _insert(session, at, [pick.random.choice(pick.normal.examples[template])])
    return session


def _dropped(session: Session, pick: Pick) -> Session | None:
    if pick.normal.window or len(session) < 4:
        return None
    n = max(1, round(len(session) * (0.3 if pick.strong else 0.1)))
    return _without(session, set(pick.random.sample(range(len(session)), n)))


def _cut(session: Session, pick: Pick) -> Session | None:
    if pick.normal.window or len(session) < 4:
        return None
    share = pick.random.uniform(0.2, 0.5) if pick.strong else pick.random.uniform(0.6, 0.9)
    kept = session[: max(1, min(round(len(session) * share), len(session) - 1))]
    usual = pick.normal.ends[kept[-1].template] > 0.01 * pick.normal.n_with[kept[-1].template]
    return None if usual else kept


def _exchanged(session: Session, pick: Pick) -> Session | None:
    ids = _ids(session)
    places = [
        (left, right)
        for left in range(len(ids) - 2)
        for right in range(left + 2, min(len(ids), left + 60))
        if ids[left] != ids[right] and pick.normal.always_before(ids[left], ids[right])
    ]
    result = list(session)
    for left, right in pick.random.sample(places, min(len(places), 2 if pick.strong else 1)):
        one, other = result[left], result[right]
        result[left], result[right] = other._replace(gap=one.gap), one._replace(gap=other.gap)
    return result if places and _ids(result) != ids else None


def _reversed(session: Session, pick: Pick) -> Session | None:
    n = min(8 if pick.strong else 4, len(session))
    at = pick.random.randint(0, len(session) - n)
    turned = [m._replace(gap=g.gap) for m, g in zip(session[at : at + n][::-1], session[at : at + n], strict=True)]
    seen = pick.normal
    broken = any(
        (left, right) not in seen.transitions and seen.always_before(right, left)
        for left, right in pairwise(_ids(turned))
    )
    return [*session[:at], *turned, *session[at + n :]] if broken else None


def _storm(session: Session, pick: Pick) -> Session | None:
    n = pick.random.randint(1, 3)
    if len(session) < n + 2:
        return None
    at = pick.random.randint(1, len(session) - n)
    block = [message._replace(gap=min(message.gap, 1.0)) for message in session[at : at + n]]
    result = [*session[: at + n], *(block * (10 if pick.strong else 3)), *session[at + n :]]
    counts = Counter(_ids(result[: pick.normal.window] if pick.normal.window else result))
    return result if any(n > pick.normal.most[event] for event, n in counts.items() if event in _ids(block)) else None


def _partner(session: Session, pick: Pick) -> Session | None:
    here, n_with, together = sorted(set(_ids(session))), pick.normal.n_with, pick.normal.together
    needed = [
        b for b in here for a in here if a != b and n_with[a] >= _ENOUGH and together[a][b] >= _ALWAYS * n_with[a]
    ]
    if not needed:
        return None
    gone = set(pick.random.sample(needed, min(len(needed), 3 if pick.strong else 1)))
    kept = _without(session, {at for at, message in enumerate(session) if message.template in gone})
    return kept or None


def _delay(session: Session, pick: Pick) -> Session | None:
    longest = pick.normal.longest
    places = [at for at, m in enumerate(session) if at and m.gap == m.gap and m.template in longest]
    if not places:
        return None
    result = list(session)
    at = pick.random.choice(places)
    most = longest[session[at].template]
    return [
        *result[:at],
        result[at]._replace(gap=max(30 * most, 60.0) if pick.strong else 4 * most + 2),
        *result[at + 1 :],
    ]


def _value(session: Session, pick: Pick) -> Session | None:
    places = []
    for at, message in enumerate(session):
        for slot, (number, _) in enumerate(message.values):
            where = message.template, slot
            if number == number:
                usable = pick.normal.largest.get(where, 0) > 0
            else:
                words = pick.normal.words[where]
                usable = 0 < len(words) <= _FEW_WORDS and words.total() >= 10 * len(words)
            if usable:
                places.append((at, slot))
    if not places:
        return None
    result = list(session)
    for at, slot in pick.random.sample(places, min(len(places), 3 if pick.strong else 1)):
        message = result[at]
        number, key = message.values[slot]
        if number == number:
            number = (300 if pick.strong else 10) * pick.normal.largest[message.template, slot]
        key = zlib.crc32(f"{key} {pick.random.random()}".encode()) & 0x7FFFFFFF
        result[at] = message._replace(values=(*message.values[:slot], (number, key), *message.values[slot + 1 :]))
    return result


#: Kinds that change what happened; all but `delay` and `value` make another sequence of events.
FAULTS: dict[str, Callable[[Session, Pick], Session | None]] = {
    "unseen failure": _unseen_failure,
    "unseen": _unseen_other,
    "known": _known,
    "dropped": _dropped,
    "cut": _cut,
    "exchanged": _exchanged,
    "reversed": _reversed,
    "storm": _storm,
    "partner": _partner,
    "delay": _delay,
    "value": _value,
}


def _as_window(session: Session, damaged: Session, pick: Pick) -> Session:
    size = pick.normal.window
    if size is None or len(session) != size:
        return damaged
    return [*damaged, *pick.following[: max(0, size - len(damaged))]][:size]


def plant(kind: str, session: Session, pick: Pick) -> Session | None:
    """The session with a fault, None where it cannot have one that training could tell."""
    damaged = FAULTS[kind](session, pick)
    if damaged is None:
        return None
    damaged = _as_window(session, damaged, pick)
    if damaged == session or (kind not in ("delay", "value") and _ids(damaged) in pick.normal.sequences):
        return None
    return damaged


@dataclass(frozen=True)
class Incident:
    """A fault of a system that comes the same way every time: where a session has the message `anchor`, the messages of
    `block` follow, and then what `consequences` say; all else about it is drawn from `name`.
    """

    name: str
    kind: str  # "failure" tells of itself in new messages, "known" in one that training has, "silent" not at all
    anchor: str
    block: tuple[Message, ...]
    consequences: tuple[str, ...]

    def __call__(self, session: Session, pick: Pick) -> Session | None:
        ids = _ids(session)
        if self.anchor not in ids:
            return None
        at = ids.index(self.anchor) + 1
        damaged = _insert(session, at, list(self.block))
        what = pick._replace(random=random.Random(self.name))
        for consequence in self.consequences:
            if consequence == "cut" and not pick.normal.window:
                damaged = damaged[: at + len(self.block)]
            elif consequence != "cut":
                damaged = FAULTS[consequence](damaged, what) or damaged
        return _as_window(session, damaged, pick) if _ids(damaged) not in pick.normal.sequences else None


def incidents(normal: Normal, foreign: Foreign, seed: str) -> list[Incident]:
    """The incidents of a system: five tell of themselves, one by a message in the wrong place, two are silent."""
    pick = random.Random(f"incidents {seed}")
    anchors = sorted(template for template, n in normal.n_with.items() if n >= _ENOUGH) or sorted(normal.n_with)
    weights = [normal.n_with[anchor] for anchor in anchors]
    found = []
    for number, kind in enumerate(["failure"] * 5 + ["known"] + ["silent"] * 2):
        anchor = pick.choices(anchors, weights)[0]
        block: list[Message] = []
        if kind == "failure":
            for _ in range(pick.randint(1, 4)):
                # the first message always names the trouble, others give the details
                tells = not block or pick.random() < 0.5
                text = pick.choice((foreign.failures if tells else foreign.others) or [f"trouble {number}"])
                block.append(Message(text, _ERROR if tells and pick.random() < 0.3 else 0, (), 0.0))
            if pick.random() < 0.3:
                block *= 3
        elif kind == "known":
            rare = sorted(normal.n_with, key=lambda t: (normal.n_with[t], t))[: max(1, len(normal.n_with) // 2)]
            block = [pick.choice(normal.examples[pick.choice(rare)])]
        consequence = ["cut", "partner", "storm", "delay", "dropped"]
        n = pick.choice((0, 1, 1, 2)) if kind == "failure" else pick.choice((1, 2))
        found.append(Incident(f"{seed} {number}", kind, anchor, tuple(block), tuple(pick.sample(consequence, n))))
    return found


def dirtied(
    training: Sequence[Session], normal: Normal, foreign: Foreign, happens: Sequence[Incident], share: float, seed: int
) -> list[Session]:
    """Training with faults in this share of its sessions: four fifths of them incidents, the first one most often, the
    others of any kind.
    """
    chooser = random.Random(f"dirty {seed}")
    numbers = chooser.sample(range(len(training)), len(training))
    result, left = list(training), round(share * len(training))
    often = [1 / (at + 1) for at in range(len(happens))]
    for number in numbers:
        if left == 0:
            break
        following = training[number + 1] if normal.window and number + 1 < len(training) else []
        pick = Pick(normal, foreign, chooser, chooser.random() < 0.5, following)
        if chooser.random() < 0.8:
            damaged = chooser.choices(happens, often)[0](training[number], pick)
        else:
            damaged = plant(chooser.choice(list(FAULTS)), training[number], pick)
        if damaged is not None:
            result[number] = damaged
            left -= 1
    return result
