"""What a reader of the results should know about threshold, training log and input, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ai_detect import scratch
from ai_detect.reporting.findings import AnomalyTally
from ai_detect.reporting.novelty import one_word_apart
from ai_detect.reporting.wording import cut, p_text, percent, quoted, visible
from ai_detect.tables import NO_TIME, EventTable, SessionTable, rows_and_next

#: Where training lists the sessions of its log that look abnormal.
SUSPECTS_FILE = "training_suspects.csv"
#: Longest name of a session in a note.
MAX_NAME = 80
#: From so many new messages on that differ from a known one in one word, if they are half of them, masks are missing;
#: so many are compared.
MANY_UNMASKED, MAX_COMPARED = 20, 10_000
#: Anomalies of one kind are told of as drift from this share of the sessions and this number on; those of all other
#: kinds from this larger share on.
FREQUENT, MANY_ALIKE, MOSTLY = 0.05, 20, 0.2
#: What a rule was asked for: {share} or {n}, the number that was given, and {rate}, the false-alarm rate that it is.
_ASKED = {
    "false_alarm_rate": "{share} false alarms",
    "max_alerts_per_day": "{n:g} false alarms a day ({rate} of normal sessions)",
    "fdr": "{share} false alarms among all alarms",
    "contamination": "{share} anomalies in the training log",
    "threshold": "a score of {n:g}",
}
#: What ingest counted and people should know: {n} is the number.
_COUNTER_NOTES = {
    "n_undecodable": "{n} lines hold bytes that are not in the log's encoding; the bytes were kept",
    "n_truncated": "{n} lines were longer than the limit and were cut",
    "n_shortened": "{n} messages were too long to be compared in full length",
    "n_no_header": "{n} messages do not have the log's header",
    "n_no_session": "{n} messages have no session key and were not scored",
    "n_out_of_order": "{n} messages are earlier than the message before them",
}


def threshold_origin(detection: Mapping[str, Any]) -> str:
    """What the threshold is for, in a few words; `detection` as in summary.json."""
    rate = percent(detection["false_alarm_rate"])
    if detection["asked"] is None:
        return f"the model's own ({rate} of normal sessions)"
    return "for " + _asked(detection)


def _asked(detection: Mapping[str, Any]) -> str:
    asked, rate = detection["asked"], percent(detection["false_alarm_rate"])
    return _ASKED[detection["rule"]].format(share=percent(min(asked, 1)), n=asked, rate=rate)


def calibration_limit(detection: Mapping[str, Any]) -> str:
    """How small a false-alarm rate the calibration shows; `detection` as in summary.json."""
    n, least = detection["n_calibration_sessions"], detection["smallest_supported_rate"]
    return f"{n:,} calibration session{'' if n == 1 else 's'} can show {percent(least)} false alarms and more"


def detection_notes(detection: Mapping[str, Any]) -> list[str]:
    """What a reader should know about threshold and training log, one sentence each; empty where all is well."""
    notes = []
    rate = detection["false_alarm_rate"]
    if detection["rule"] in ("false_alarm_rate", "max_alerts_per_day", "fdr") and (
        rate < detection["smallest_supported_rate"]
    ):
        notes.append(
            f"{_asked(detection)}: this takes p-values of {p_text(rate)} and less, but {calibration_limit(detection)}; "
            "the rest is extrapolated by a fitted tail, so train on more sessions to be sure"
        )
    if (found := detection["training_suspects"]) is not None:
        n, n_suspected, n_kept = found["n_sessions"], found["n_suspected"], found["n_learned_from"]
        not_learned = "were not learned from" if n_kept == 0 else f"{n_suspected - n_kept:,} of them not learned from"
        names = ", ".join(cut(visible(name), MAX_NAME) for name in found["most_suspicious"])
        notes.append(
            f"the training log itself looks dirty: {n_suspected:,} of {n:,} sessions ({percent(n_suspected / n)}) are "
            f"suspected and {not_learned}; the most suspicious: {names} ({SUSPECTS_FILE} of the training)"
        )
    return notes


def drift_notes(tally: AnomalyTally, n_sessions: int) -> list[str]:
    """Whether the log as a whole, or one frequent kind of session, is what training hardly knew."""
    notes, n_others = [], tally.n
    for kind, n_alike in tally.alike.most_common(1):
        if n_alike < FREQUENT * n_sessions or n_alike < MANY_ALIKE:
            continue
        n_others -= n_alike
        notes.append(
            f"{n_alike:,} of {tally.n:,} anomalies, {percent(n_alike / n_sessions)} of the sessions, "
            f"are one kind, such as {cut(visible(tally.example[kind]), MAX_NAME)}: if this is normal by now, train "
            "again on a log that holds it"
        )
    if n_others > MOSTLY * n_sessions:
        notes.append(
            f"{percent(tally.n / n_sessions)} of the sessions are over the threshold: this log differs from the "
            "training log as a whole; if it is normal by now, train again on a newer log"
        )
    return notes


def data_quality_notes(events: EventTable, sessions: SessionTable) -> list[str]:
    """What a reader of the results should know about the input, one sentence each; empty where all is well."""
    notes = [
        text.format(n=f"{events.counters[name]:,}")
        for name, text in _COUNTER_NOTES.items()
        if events.counters.get(name)
    ]
    unseen = float(events.tally.counts[events.n_known :].sum() / max(len(events), 1))
    if unseen > 0.05:
        notes.append(
            f"{percent(unseen)} of the lines are messages that training never saw: retrain if the software changed"
        )
    new = events.templates[events.n_known : events.n_known + MAX_COMPARED]
    words = one_word_apart(events.templates[: events.n_known], new)
    if len(words) >= max(MANY_UNMASKED, len(new) / 2):
        examples = " and ".join(map(quoted, list(dict.fromkeys(words))[:2]))
        notes.append(
            f"{len(words):,} of {len(new):,} new messages are known ones but for one word, such as {examples}: a name "
            "or id that no mask covers; train with a mask for it (--drain_config), and what is truly new stands out"
        )
    n_untimed = sum(int(np.count_nonzero(events.timestamp[block] == NO_TIME)) for block in scratch.blocks(len(events)))
    without_time = n_untimed / max(len(events), 1)
    if without_time > 0:
        notes.append(f"{percent(without_time)} of the lines have no time: gaps before them are not judged")
    if len(sessions) and _median_length(sessions) < 2:
        notes.append("most sessions have a single line: a session key that groups more lines would tell more")
    return notes


def _median_length(sessions: SessionTable) -> float:
    """The median of the lengths of sessions, told apart up to 4."""
    parts = (np.minimum(np.diff(part), 4) for part in rows_and_next(sessions.offsets))
    up_to = np.cumsum(sum((np.bincount(part, minlength=5) for part in parts), np.zeros(5, np.int64)))
    middle = [(len(sessions) - 1) // 2, len(sessions) // 2]
    return float(np.searchsorted(up_to, middle, side="right").mean())
