"""What each process of test_process_group.py does: compare what the group adds up with the same thing done alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from encoder.encoder_made import N_EVENTS, SETTINGS, encoder, routines

from ai_detect.encoder.batches import make_batch
from ai_detect.encoder.losses import training_loss
from ai_detect.encoder.model import SessionEncoder
from ai_detect.errors import TrainingError
from ai_detect.process_group import ALONE, ProcessGroup, torchrun_processes
from ai_detect.tables import SequenceTable


def step(group: ProcessGroup, table: SequenceTable, n: int, contrastive: bool) -> tuple[SessionEncoder, list[float]]:
    """Gradients in the model, and loss and parts, of one batch of the first n sessions."""
    model = encoder().train()
    indices = group.share(np.arange(n))
    batch = make_batch(table, indices, 0, 0, n_events=N_EVENTS, max_events=SETTINGS.max_events)
    loss, parts = training_loss(model, batch, contrastive=contrastive, group=group)
    loss.backward()  # type: ignore[no-untyped-call]
    return model, group.total_gradients(list(model.parameters()), [float(loss.detach()), *parts.values()])


def main() -> None:
    folder = Path(sys.argv[1])
    with torchrun_processes() as group:
        parts = [group.share(np.arange(7))] if group.world_size > 1 else []
        table = routines(40)
        for n in (40, 7, 2, 1):  # fewer sessions than processes leave some without any
            for contrastive in (True, False):
                model, numbers = step(group, table, n, contrastive)
                alone, expected = step(ALONE, table, n, contrastive)
                np.testing.assert_allclose(numbers, expected, rtol=1e-5)
                for (name, a), (_, b) in zip(model.named_parameters(), alone.named_parameters(), strict=True):
                    assert (a.grad is None) == (b.grad is None), name
                    if a.grad is not None and b.grad is not None:
                        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6, msg=name)
        assert group.told_by(1, ["é", group.rank]) == ["é", 1]
        assert group.largest(group.rank, 5 - group.rank) == [group.world_size - 1, 5]
        rows, start = group.gather_rows(torch.full((group.rank, 2), group.rank))
        assert rows[:, 0].tolist() == [rank for rank in range(group.world_size) for _ in range(rank)]
        assert rows[start : start + group.rank, 0].tolist() == [group.rank] * group.rank
        with group.first_before_others():
            if group.is_first:
                (folder / "made").write_text("by the first")
            assert (folder / "made").exists()
        group.raise_together(None)
        try:
            group.raise_together("no" if group.rank == 1 else None)
        except TrainingError as error:
            assert str(error) == "process 1: no"
        else:
            raise AssertionError("all raise where one has a problem")
        everyone = group.total(torch.bincount(torch.from_numpy(parts[0]), minlength=7))
        assert everyone.tolist() == [1] * 7
        (folder / f"done-{group.rank}").write_text("")


if __name__ == "__main__":
    main()
