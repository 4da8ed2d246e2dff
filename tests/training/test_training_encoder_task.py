"""The encoder's task: what its losses are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from encoder.encoder_made import encoder, table_of

from ai_detect.config import RunSettings
from ai_detect.encoder import batches
from ai_detect.encoder.batches import EncodedBatch, make_batch
from ai_detect.training import encoder_task
from ai_detect.training.encoder_task import EncoderTask

KINDS = [[0, 1, 2, 3, 4], [0, 1, 1, 5, 6, 7], [0, 2, 2, 3]]


def test_equal_sessions_of_a_validation_batch_are_computed_once_and_weigh_as_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = table_of([KINDS[i % 7 % 3] for i in range(300)])
    settings = RunSettings(dim=32, n_heads=2, n_word_buckets=512, max_events=24, not_use_contrastive=True)
    task = EncoderTask(encoder(), table, table, settings)
    made: list[EncodedBatch] = []

    def noting(*given: Any, **options: Any) -> EncodedBatch:
        made.append(make_batch(*given, **options))
        return made[-1]

    monkeypatch.setattr(encoder_task, "make_batch", noting)
    monkeypatch.setattr(batches, "_UNSEEN_SHARE", 0)  # else equal sessions draw other events to show by words alone
    found = task.validation_loss()
    assert [batch.n for batch in made] == [3, 3, 3]
    assert [int(batch.copies.sum()) for batch in made] == [128, 128, 44]
    assert made[0].copies.tolist() == [sum(i % 7 % 3 == kind for i in range(128)) for kind in range(3)]
    monkeypatch.setattr(encoder_task, "_merged", lambda _, indices: (indices, np.ones(len(indices), np.int64)))
    assert found == pytest.approx(task.validation_loss(), rel=1e-5)
    assert [batch.n for batch in made[3:]] == [128, 128, 44]
