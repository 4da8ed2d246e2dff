"""The peers' own ways from a raw HDFS log to a score for every session, each as its documentation calls it.

    PEERS_PYTHON tests/benchmarks/peer_programs.py {drain3,loglead-tip,...} hdfs.log scores.csv

`peers.py` runs this by the interpreter of the peers' own environment, where ai_detect need not be, so that nothing of
ours is imported here. Of the peers only the one that runs is imported. No labels are read. Scores are written as rows
`session,score`, the higher the odder.

drain3     one `TemplateMiner().add_log_message` a line: no masks, default settings, no snapshots, no parameters
logparser  `LogParser(...).parse` with the log format, expressions and settings of its own HDFS demo, but with
           `keep_para=False` (that only leaves the parameters of each line out)
loglead    `HDFSLoader`, `EventLogEnhancer.mask`, `parse_tip` or `parse_drain`, `SequenceEnhancer.events`,
           `AnomalyDetector.train_IsolationForest`, as its demos do; its loader joins labels, which is left out
PyOD       drain3 and logparser stop at events: a matrix of their counts by session goes to PyOD's IForest or KNN
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

_BLOCK = re.compile(r"blk_-?\d+")

Scores = tuple[Sequence[str], Sequence[float]]


def _pyod(detector: str) -> Any:
    """An unfitted detector of PyOD's, defaults otherwise."""
    if detector == "knn":
        from pyod.models.knn import KNN

        return KNN()
    from pyod.models.iforest import IForest

    return IForest(random_state=0)


def _scores_of_counts(sessions: Any, events: Any, keys: Sequence[str], detector: Any) -> Scores:
    """PyOD's scores of the counts of events; `sessions` and `events` are the numbers of each line's."""
    import numpy as np

    width = int(np.max(events)) + 1
    counts = np.bincount(np.asarray(sessions) * width + np.asarray(events), minlength=len(keys) * width)
    detector.fit(counts.reshape(len(keys), width).astype(np.float64))
    return keys, detector.decision_scores_


def drain3(log: str, detector: str) -> Scores:
    """Plain Drain3 without masks, event counts, a detector of PyOD's."""
    from drain3 import TemplateMiner
    from drain3.template_miner_config import TemplateMinerConfig

    model = _pyod(detector)
    add, numbers = TemplateMiner(config=TemplateMinerConfig()).add_log_message, dict[str, int]()
    sessions, events = [], []
    with open(log) as lines:
        for line in lines:
            text = line.rstrip("\n").split(" ", 5)[5]
            found = _BLOCK.search(text)
            if found is not None:
                sessions.append(numbers.setdefault(found[0], len(numbers)))
                events.append(add(text)["cluster_id"])
    return _scores_of_counts(sessions, events, list(numbers), model)


def logparser(log: str, detector: str) -> Scores:
    """logparser's Drain as in its demo, event counts, a detector of PyOD's."""
    import pandas
    from logparser.Drain import LogParser

    model = _pyod(detector)
    expressions = [
        r"blk_(|-)[0-9]+",
        r"(/|)([0-9]+\.){3}[0-9]+(:[0-9]+|)(:|)",
        r"(?<=[^A-Za-z0-9])(\-?\+?\d+)(?=[^A-Za-z0-9])|[0-9]+$",
    ]
    layout = "<Date> <Time> <Pid> <Level> <Component>: <Content>"
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(None):
        folder, name = os.path.split(log)
        parser = LogParser(layout, indir=folder, outdir=out, depth=4, st=0.5, rex=expressions, keep_para=False)
        parser.parse(name)
        table = parser.df_log  # what it has written to a file, too, and need not be read again
    sessions, keys = pandas.factorize(table["Content"].str.extract(f"({_BLOCK.pattern})", expand=False))
    events, _ = pandas.factorize(table["EventId"])
    return _scores_of_counts(sessions, events, list(keys), model)


def loglead(log: str, parser: str) -> Scores:
    """LogLead from its loader to its isolation forest."""
    import polars
    from loglead import AnomalyDetector
    from loglead.enhancers import EventLogEnhancer, SequenceEnhancer
    from loglead.loaders import HDFSLoader

    class WithoutLabels(HDFSLoader):
        def preprocess(self) -> None:
            self._split_and_unnest(["date", "time", "id", "level", "component", "m_message"])
            self._extract_seq_id()
            self._parse_datetimes()
            self.df_seq = self.df.select(polars.col("seq_id")).unique()

    loader = WithoutLabels(filename=log)
    enhancer = EventLogEnhancer(loader.execute())
    enhancer.mask()
    if parser == "pliplom":
        enhancer.words(column="e_message_normalized")
    column = f"e_event_{parser}_id"
    events = getattr(enhancer, f"parse_{parser}")()
    sequences = SequenceEnhancer(df=events, df_seq=loader.df_seq).events(column)
    detector = AnomalyDetector(item_list_col=column, print_scores=False, auc_roc=True)
    detector.train_df = detector.test_df = sequences
    detector.prepare_train_test_data()
    detector.train_IsolationForest()
    scored = detector.predict()
    return scored["seq_id"].to_list(), scored["pred_ano_proba"].to_list()


PROGRAMS: dict[str, Callable[[str], Scores]] = {
    "drain3-iforest": partial(drain3, detector="iforest"),
    "drain3-knn": partial(drain3, detector="knn"),
    "logparser-iforest": partial(logparser, detector="iforest"),
    **{f"loglead-{parser}": partial(loglead, parser=parser) for parser in ("tip", "pliplom", "drain")},
}


def main(name: str, log: str, scores: str) -> None:
    """Score a log by a peer and write what it says."""
    keys, values = PROGRAMS[name](log)
    with open(scores, "w", newline="") as file:
        csv.writer(file).writerows(zip(keys, values, strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
