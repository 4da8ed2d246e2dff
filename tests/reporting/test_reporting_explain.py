"""Attribution: damage is planted in normal sessions, and the planted line must be named with the right kind."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reporting_shop import N_KNOWN, Session, explain_sessions, normal_session, sequence_table

from ai_detect import artifacts
from ai_detect.reporting.explain import Explanation
from ai_detect.reporting.learning import fit_context
from ai_detect.reporting.reasons import Reason, ValueSurprise
from ai_detect.reporting.reference import ExplainContext
from ai_detect.tables import MAX_VALUES, SequenceTable

N_PLANTED = 60
ANY_ORDER = ({14, 15, 16}, {2, 3})  # normal sessions hold these in either order


def explain(context: ExplainContext, session: Session, surprise: list[float] | None = None) -> Explanation:
    table = sequence_table([session])
    told = None if surprise is None else np.array(surprise, np.float32)
    return explain_sessions(context, table, [0], surprise=told)[0]


def names(reason: Reason, kinds: set[str], places: set[int]) -> bool:
    return reason.kind in kinds and bool(places & set(reason.positions))


def foreign_unseen(ids: list[int], gaps: list[float], pick: random.Random) -> Callable[[Reason], bool]:
    at = pick.randrange(1, len(ids))
    ids.insert(at, N_KNOWN)
    gaps.insert(at, 0.3)
    return lambda reason: names(reason, {"unseen_event"}, {at})


def foreign_rare(ids: list[int], gaps: list[float], pick: random.Random) -> Callable[[Reason], bool]:
    at = pick.randrange(1, len(ids))
    ids.insert(at, 22)
    gaps.insert(at, 0.3)
    return lambda reason: names(reason, {"rare_event"}, {at})


def foreign_known(ids: list[int], gaps: list[float], pick: random.Random) -> Callable[[Reason], bool]:
    at = pick.randrange(1, len(ids))
    ids.insert(at, pick.choice([event for event in range(22) if event not in ids]))
    gaps.insert(at, 0.3)
    return lambda reason: names(reason, {"count", "order"}, {at})


def removed(ids: list[int], gaps: list[float], pick: random.Random) -> Callable[[Reason], bool]:
    at = pick.choice([at for at, event in enumerate(ids) if ids.count(event) == 1 and event not in (4, 22)])
    event = ids.pop(at)
    gaps.pop(at)
    return lambda reason: reason.kind == "missing" and event in [other for other, _ in reason.expected]


def swapped(ids: list[int], gaps: list[float], pick: random.Random) -> Callable[[Reason], bool]:
    pairs = [{*ids[at : at + 2]} for at in range(len(ids) - 1)]
    at = pick.choice(
        [
            at
            for at, pair in enumerate(pairs)
            if len(pair) == 2 and 22 not in pair and not any(pair <= free for free in ANY_ORDER)
        ]
    )
    ids[at], ids[at + 1] = ids[at + 1], ids[at]
    return lambda reason: names(reason, {"order"}, {at, at + 1})


def repeated_block(ids: list[int], gaps: list[float], pick: random.Random) -> Callable[[Reason], bool]:
    at, times = pick.randrange(len(ids) - 3), pick.randint(2, 3)
    ids[at + 3 : at + 3] = ids[at : at + 3] * times
    gaps[at + 3 : at + 3] = [0.2] * 3 * times
    return lambda reason: names(reason, {"count"}, set(range(at, at + 3 * (times + 1))))


def delayed(ids: list[int], gaps: list[float], pick: random.Random) -> Callable[[Reason], bool]:
    at = pick.randrange(1, len(ids))
    gaps[at] = 120.0
    return lambda reason: names(reason, {"gap"}, {at})


@pytest.mark.parametrize(
    "plant", [foreign_unseen, foreign_rare, foreign_known, removed, swapped, repeated_block, delayed]
)
def test_the_planted_line_is_among_the_first_three_reasons(context: ExplainContext, plant: Callable) -> None:
    pick = random.Random(plant.__name__)
    first = among_three = 0
    for _ in range(N_PLANTED):
        ids, gaps = normal_session(pick)
        is_it = plant(ids, gaps, pick)
        hits = [is_it(reason) for reason in explain(context, (ids, gaps)).reasons]
        first += hits[:1] == [True]
        among_three += any(hits[:3])
    assert among_three == N_PLANTED
    assert first >= 0.85 * N_PLANTED


BEGIN_JOB, DONE, CLOSE = 0, 1, 9
N_STATEMENTS = 10


def database_session(pick: random.Random) -> Session:
    """Statements in their order, each followed by the same message; by two of them in batch jobs."""
    is_batch = pick.random() < 0.2
    statements = [6, 7, 8] if is_batch else sorted(pick.choices([2, 3, 4, 5], k=pick.randint(2, 6)))
    ids = [BEGIN_JOB, *(each for event in statements for each in (event, *[DONE] * (2 if is_batch else 1))), CLOSE]
    return ids, [float("nan"), *(0.1 for _ in ids[1:])]


@pytest.fixture(scope="module")
def database() -> ExplainContext:
    pick = random.Random(4)
    sessions = [database_session(pick) for _ in range(800)]
    return fit_context(sequence_table(sessions), [str(index) for index in range(800)], N_STATEMENTS)


def a_missing(events: set[int], slots: set[int]) -> Callable[[Reason], bool]:
    return lambda reason: reason.kind == "missing" and reason.slot in slots and reason.event in events


@pytest.mark.parametrize("what", ["answer", "statement", "swap", "repetition"])
def test_faults_are_told_apart_where_one_message_follows_all_others(database: ExplainContext, what: str) -> None:
    pick = random.Random(what)
    hits = 0
    for _ in range(N_PLANTED):
        ids = [CLOSE]
        while 6 in ids or len(ids) < 6:
            ids = database_session(pick)[0]
        at = pick.randrange(1, len(ids) - 3, 2)  # a statement
        if what == "answer":
            del ids[at + 1]
            is_it = a_missing({DONE}, {at + 1})
        elif what == "statement":
            del ids[at]
            is_it = a_missing({2, 3, 4, 5}, {at})  # which one, nobody can tell
        elif what == "swap":
            ids[at], ids[at + 1] = ids[at + 1], ids[at]

            def is_it(reason: Reason, at: int = at) -> bool:
                return reason.kind == "order" and reason.positions[0] in (at, at + 1)
        else:
            ids[at + 3 : at + 3] = ids[at : at + 3] * 2

            def is_it(reason: Reason, at: int = at) -> bool:
                return reason.kind == "count" and reason.positions[0] in range(at, at + 9)

        reasons = explain(database, (ids, [float("nan")] + [0.1] * (len(ids) - 1))).reasons
        hits += any(map(is_it, reasons[:3]))
    assert hits >= 0.95 * N_PLANTED


def test_a_repetition_tells_its_lines_and_times(database: ExplainContext) -> None:
    ids = [BEGIN_JOB, 2, DONE, 3, 2, DONE, 3, 2, DONE, 3, DONE, CLOSE]
    reason = explain(database, (ids, [float("nan")] + [0.1] * 11)).reasons[0]
    assert (reason.kind, reason.positions) == ("count", (4, 5, 6, 7, 8, 9))
    assert reason.facts == {"n_lines": 3, "n_times": 3}


def test_two_lines_in_the_wrong_order_are_told_with_how_often_training_has_them(context: ExplainContext) -> None:
    ids = [0, 1, 7, 8, 9, 9, 11, 10, 6]
    reason = explain(context, (ids, [float("nan")] + [0.4] * 8)).reasons[0]
    assert (reason.kind, reason.event, reason.positions) == ("order", 11, (6, 7))
    assert reason.expected == ((10, 1.0),)
    assert reason.facts["n_so"] == 0
    assert reason.facts["n_reversed"] > 200


def named_log() -> tuple[SequenceTable, tuple[str, ...]]:
    """A login's template is a new one for each user: half of the sessions bring one that no other has."""
    sessions: list[Session] = []
    templates = ["start", "stop"]
    for index in range(200):
        ids = [0, 1]
        if index % 2:
            templates.append(f"login of user {chr(97 + index // 26)}{chr(97 + index % 26)} at console")
            ids.insert(1, len(templates) - 1)
        sessions.append((ids, [float("nan")] + [0.1] * (len(ids) - 1)))
    return sequence_table(sessions), tuple(templates)


def test_a_truly_new_message_precedes_those_with_a_new_name() -> None:
    table, known = named_log()
    context = fit_context(table, [str(index) for index in range(200)], len(known), templates=known)
    names = [f"login of user z{name} at console" for name in "abcdef"]
    templates = (*known, *names, "disk failed: I/O error in sector <NUM>")
    session = sequence_table([([0, *range(len(known), len(templates)), 1], [float("nan")] + [0.1] * 8)])
    reasons = explain_sessions(context, session, [0], templates=templates)[0].reasons
    assert (reasons[0].kind, reasons[0].event) == ("unseen_event", len(templates) - 1)
    assert [reason.kind for reason in reasons].count("unseen_event") == 1  # a new name is what half of them have
    assert explain_sessions(context, session, [0])[0].reasons[0].event == len(known)  # without texts: in their order


def test_unseen_lines_between_others_are_no_fault_of_the_others(context: ExplainContext) -> None:
    ids = [0, 1, 7, 8, 9, N_KNOWN, 9, N_KNOWN, 9, N_KNOWN, 10, 11, 6]
    reasons = explain(context, (ids, [float("nan")] + [0.4] * 12)).reasons
    assert {reason.kind for reason in reasons} == {"unseen_event", "length"}


def test_what_leads_back_to_a_session_of_training_is_preferred() -> None:
    kinds = [[3, 0, 2, 4, 3, 3, 2], [2, 4, 1, 4, 1, 2, 1], [4, 2, 4, 5]]
    sessions: list[Session] = [(ids, [float("nan")] + [0.1] * (len(ids) - 1)) for ids in kinds * 100]
    context = fit_context(sequence_table(sessions), [str(index) for index in range(300)], 6)
    # by transitions alone an exchange of 4 and 2 is as good
    reasons = explain(context, ([2, 4, 1, 4, 2, 1], [float("nan")] + [0.1] * 5)).reasons
    assert [(reason.kind, reason.event, reason.slot) for reason in reasons] == [("missing", 1, 4)]


def test_lines_do_not_count_as_neighbours_over_an_unseen_one(database: ExplainContext) -> None:
    ids = [BEGIN_JOB, 2, N_STATEMENTS, 2, N_STATEMENTS, 2, N_STATEMENTS, 2, DONE, CLOSE]
    reasons = explain(database, (ids, [float("nan")] + [0.1] * 9)).reasons
    assert reasons[0].kind == "unseen_event"
    assert not any("n_times" in reason.facts for reason in reasons)


def test_a_new_message_precedes_whatever_surprises_the_model(training: SequenceTable) -> None:
    calm = np.full(len(training.event_id), 0.1, np.float32)
    context = fit_context(training, [str(index) for index in range(len(training))], N_KNOWN, surprise=calm)
    ids = [0, 1, 7, 8, 9, N_KNOWN, 9, 10, 11, 6]
    surprise = [0.1, 300.0, 0.1, 0.1, 0.1, 20.0, 0.1, 0.1, 200.0, 0.1]
    reasons = explain(context, (ids, [float("nan")] + [0.4] * 9), surprise).reasons
    assert [(reason.kind, reason.positions) for reason in reasons[:3]] == [
        ("unseen_event", (5,)),
        ("order", (1,)),
        ("order", (8,)),
    ]


def test_a_message_of_suspicious_sessions_alone_is_rare_and_not_new() -> None:
    pick = random.Random(3)
    usual = [session for session in (normal_session(pick) for _ in range(300)) if 22 not in session[0]]
    broken: Session = ([0, 1, 7, 22, 6], [float("nan")] + [0.4] * 4)
    sessions = [*usual, *[broken] * 4]
    keys = [str(index) for index in range(len(sessions))]
    normal = np.arange(len(sessions)) < len(usual)
    context = fit_context(sequence_table(sessions), keys, N_KNOWN, normal=normal)
    reason = explain(context, ([0, 1, 7, 8, 9, 9, 22, 10, 11, 6], [float("nan")] + [0.4] * 9)).reasons[0]
    assert (reason.kind, reason.event, reason.positions) == ("rare_event", 22, (6,))
    assert reason.facts == {"seen_in": 4, "of": len(sessions), "seen_in_normal": 0}


def test_of_rare_messages_that_come_together_one_is_told() -> None:
    ids = [0, 1, 5, 6]
    rare = [0, 1, 20, 21, 22, 5, 6]
    sessions: list[Session] = [(each, [float("nan")] + [0.1] * (len(each) - 1)) for each in [ids] * 990 + [rare] * 6]
    context = fit_context(sequence_table(sessions), [str(index) for index in range(996)], N_KNOWN)
    reasons = explain(context, (rare, [float("nan")] + [0.1] * 6)).reasons
    assert [reason.kind for reason in reasons] == ["rare_event"]


def test_an_odd_value_is_told_with_its_place_and_a_usual_one_is_not(context: ExplainContext) -> None:
    ids = [0, 1, 7, 8, 9, 9, 10, 11, 6]
    table = sequence_table([(ids, [float("nan")] + [0.4] * 8)])
    surprise, slot = np.full(9, 1.0, np.float32), np.zeros(9, np.int32)
    surprise[3], slot[3] = 9.0, 1
    surprise[4], slot[4] = 9.0, MAX_VALUES  # a time, not a value
    reasons = explain_sessions(context, table, [0], values=ValueSurprise(surprise, slot))[0].reasons
    assert [(reason.kind, reason.event, reason.positions) for reason in reasons] == [("value", 8, (3,))]
    assert reasons[0].facts == {"value": 2, "share": 0}  # of 800 sessions none can be as odd
    surprise[3] = 5.0
    reasons = explain_sessions(context, table, [0], values=ValueSurprise(surprise, slot))[0].reasons
    assert reasons[0].facts == {"value": 2, "share": pytest.approx(np.exp(-5))}


def test_a_gap_longer_than_any_of_training_tells_where_its_own_transition_is_rare() -> None:
    pick = random.Random(6)
    sessions = [(ids, [float("nan"), *(pick.uniform(0.1, 1) for _ in ids[1:])]) for ids in [[0, 1, 5, 6]] * 400]
    sessions += [([0, 7, 6], [float("nan"), 0.5, 0.5])] * 25
    context = fit_context(sequence_table(sessions), [str(index) for index in range(425)], N_KNOWN)
    reasons = explain(context, ([0, 7, 6], [float("nan"), 0.5, 5.0])).reasons
    assert [(reason.kind, reason.positions) for reason in reasons] == [("gap", (2,))]
    assert reasons[0].evidence > np.log(425)


def test_normal_sessions_have_no_strong_reason(context: ExplainContext) -> None:
    pick = random.Random(5)
    sessions = [session for session in (normal_session(pick) for _ in range(150)) if 22 not in session[0]]
    named = sum(bool(explain(context, session).reasons) for session in sessions)
    assert named <= 0.1 * len(sessions)


def test_what_a_missing_line_says(context: ExplainContext) -> None:
    explanation = explain(context, ([0, 1, 7, 8, 9, 9, 11, 6], [float("nan")] + [0.4] * 7))
    reason = explanation.reasons[0]
    assert (reason.kind, reason.event, reason.slot, reason.positions) == ("missing", 10, 6, ())
    assert reason.facts["count"] == 0
    assert reason.facts["share"] > 0.9
    assert explanation.nearest is not None
    assert [(row.mark, row.event) for row in explanation.nearest.diff if row.mark != "same"] == [("missing", 10)]
    assert [row.event for row in explanation.nearest.diff if row.mark != "missing"] == [0, 1, 7, 8, 9, 9, 11, 6]


def test_what_stands_in_the_place_of_a_new_line_was_expected(context: ExplainContext) -> None:
    reason = explain(context, ([0, 1, 7, 8, 9, 9, N_KNOWN, 11, 6], [float("nan")] + [0.4] * 8)).reasons[0]
    assert (reason.kind, reason.positions) == ("unseen_event", (6,))
    assert reason.expected[0][0] == 10


def test_a_long_session_of_the_right_lines_is_too_long_and_has_surplus_lines(context: ExplainContext) -> None:
    explanation = explain(context, ([0, 1] + [2, 3] * 40 + [5, 6], [float("nan")] + [0.4] * 83))
    assert {"length", "count"} <= {reason.kind for reason in explanation.reasons}


def test_the_model_speaks_where_nothing_else_does(training: SequenceTable) -> None:
    calm = np.full(len(training.event_id), 0.1, np.float32)
    context = fit_context(training, [str(index) for index in range(len(training))], N_KNOWN, surprise=calm)
    ids = [0, 1, 7, 8, 9, 9, 10, 11, 6]
    session = (ids, [float("nan")] + [0.4] * 8)
    assert explain(context, session, [0.1] * 9).reasons == ()
    reasons = explain(context, session, [0.1] * 4 + [9.0] + [0.1] * 4).reasons
    assert [(reason.kind, reason.positions) for reason in reasons] == [("order", (4,))]


def test_what_the_model_expects_is_asked_for_and_never_the_line_itself(context: ExplainContext) -> None:
    table = sequence_table([([0, 1, 12, 2, 3, 5, 6], [float("nan")] + [0.4] * 6)])
    asked = []

    def expected(ids: np.ndarray, position: int) -> list[tuple[int, float]]:
        asked.append(position)
        return [(int(ids[position]), 0.5), (2, 0.3), (7, 0.1)]

    explanation = explain_sessions(context, table, [0, 0], expected=expected)[0]
    reason = next(reason for reason in explanation.reasons if 2 in reason.positions)
    assert reason.expected == ((2, 0.3), (7, 0.1))
    assert len(asked) == len(set(asked))


def test_suspicious_training_sessions_do_not_excuse_their_like() -> None:
    pick = random.Random(3)
    sessions = [normal_session(pick) for _ in range(300)]
    broken: Session = ([0, 1, 7, N_KNOWN - 1, N_KNOWN - 1], [float("nan")] + [0.4] * 4)
    sessions += [broken] * 40
    keys = [str(index) for index in range(len(sessions))]
    normal = np.arange(len(sessions)) < 300
    dirty = fit_context(sequence_table(sessions), keys, N_KNOWN)
    trimmed = fit_context(sequence_table(sessions), keys, N_KNOWN, normal=normal)
    assert explain(dirty, broken).nearest.similarity == 1
    assert explain(trimmed, broken).nearest.similarity < 1
    assert trimmed.n_sessions == 300


IDS = st.lists(st.integers(0, N_KNOWN + 2), max_size=40)


@settings(max_examples=60, deadline=None)
@given(ids=IDS, gap=st.floats(0, 1e9, width=32) | st.just(float("nan")), surprise=st.floats(0, 1e6, width=32))
def test_any_session_is_explained_soundly(context: ExplainContext, ids: list[int], gap: float, surprise: float) -> None:
    explanation = explain(context, (ids, [gap] * len(ids)), [surprise] * len(ids))
    contributions = [reason.contribution for reason in explanation.reasons]
    assert contributions == sorted(contributions, reverse=True)
    assert not contributions or sum(contributions) == pytest.approx(1)
    assert explanation.event_share.shape == (len(ids),)
    assert np.all(np.isfinite(explanation.event_share))
    for reason in explanation.reasons:
        assert list(reason.positions) == sorted(reason.positions)
        assert all(0 <= position < len(ids) for position in reason.positions)
        assert bool(reason.positions) != (reason.slot is not None)
        assert reason.slot is None or 0 <= reason.slot <= len(ids)
    if explanation.nearest is not None:
        assert [row.event for row in explanation.nearest.diff if row.mark != "missing"] == ids


def test_sessions_are_explained_the_same_alone_and_together(context: ExplainContext) -> None:
    pick = random.Random(8)
    sessions = [normal_session(pick) for _ in range(6)] + [([0, 5, 5, N_KNOWN], [float("nan"), 0.1, 99.0, 0.1])] * 2
    table = sequence_table(sessions)
    together = explain_sessions(context, table, [7, 0, 6, 3])
    assert list(together) == [7, 0, 6, 3]
    for session, explanation in together.items():
        alone = explain(context, sessions[session])
        assert explanation.reasons == alone.reasons
        assert explanation.nearest == alone.nearest


def test_state_survives_a_model_folder(context: ExplainContext, tmp_path) -> None:
    values, arrays = context.state()
    artifacts.write_arrays(tmp_path / "normal.safetensors", arrays)
    again = ExplainContext.from_state(
        json.loads(json.dumps(values)), artifacts.parse_arrays((tmp_path / "normal.safetensors").read_bytes())
    )
    session = ([0, 1, 7, N_KNOWN, 9, 9, 10, 6], [float("nan"), 0.1, 0.1, 0.1, 300.0, 0.1, 0.1, 0.1])
    assert explain(again, session).reasons == explain(context, session).reasons
    assert explain(again, session).nearest == explain(context, session).nearest


def test_broken_state_is_refused(context: ExplainContext) -> None:
    values, arrays = context.state()
    with pytest.raises(KeyError):
        ExplainContext.from_state(values, {name: array for name, array in arrays.items() if name != "gaps_n"})
    with pytest.raises(ValueError, match="reference"):
        ExplainContext.from_state({**values, "reference_keys": []}, arrays)


def test_references_are_the_commonest_sessions_within_the_limits(training: SequenceTable) -> None:
    keys = [str(index) for index in range(len(training))]
    small = fit_context(training, keys, N_KNOWN, max_references=5)
    full = fit_context(training, keys, N_KNOWN)
    assert len(small.references) == 5
    assert small.reference_counts.tolist() == full.reference_counts[:5].tolist()
    assert small.n_sessions == full.n_sessions == len(training)
    short = fit_context(training, keys, N_KNOWN, max_reference_events=30)
    assert len(short.references.event_id) <= 30


@pytest.mark.parametrize("sessions", [[], [([], [])], [([0], [float("nan")])]])
def test_hardly_any_training_is_no_crash(sessions: list[Session]) -> None:
    context = fit_context(sequence_table(sessions), [str(index) for index in range(len(sessions))], N_KNOWN)
    explanation = explain(context, ([0, 1, N_KNOWN], [float("nan"), 1.0, float("nan")]))
    assert sum(reason.contribution for reason in explanation.reasons) == pytest.approx(1)


def test_gaps_within_what_the_clock_can_tell_are_no_reason() -> None:
    ids = [0, 1, 5, 6]
    sessions: list[Session] = [(ids, [float("nan"), 0.0, float(index % 2), 0.0]) for index in range(200)]
    context = fit_context(sequence_table(sessions), [str(index) for index in range(200)], N_KNOWN)
    assert explain(context, (ids, [float("nan"), 1.0, 2.0, 0.0])).reasons == ()
    late = explain(context, (ids, [float("nan"), 0.0, 0.0, 60.0])).reasons
    assert [(reason.kind, reason.positions) for reason in late] == [("gap", (3,))]
    assert late[0].facts == {"gap_s": 60.0, "usual_s": 0.0}
