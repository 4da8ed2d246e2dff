"""The encoder and its sessions as the task that the trainer works on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ai_detect.config import RunSettings
from ai_detect.encoder.batches import make_batch
from ai_detect.encoder.losses import training_loss
from ai_detect.encoder.model import SessionEncoder
from ai_detect.process_group import ALONE, ProcessGroup
from ai_detect.sequences.windowing import distinct_sequences
from ai_detect.tables import BoolArray, Int64Array, SequenceTable

#: Sessions of a validation batch (its contrastive loss depends on how many there are) and at most in all.
_VALIDATION_BATCH = 128
_MAX_VALIDATION = 4096


class EncoderTask:
    """A `TrainingTask`: losses of the encoder on training sessions and, where there are any, validation sessions.

    Of the training sessions only those `trusted` (n_sessions,) are learned from.
    """

    def __init__(
        self,
        model: SessionEncoder,
        train: SequenceTable,
        validation: SequenceTable | None,
        settings: RunSettings,
        group: ProcessGroup = ALONE,
        *,
        trusted: BoolArray | None = None,
    ) -> None:
        self.model = model
        self.group = group
        self.n_samples = len(train)
        self._train = train
        # each place in an epoch keeps its number: that of a session not to be learned from goes to the next trusted one
        self._learned = np.arange(len(train))
        if trusted is not None and trusted.any():
            normal = np.flatnonzero(trusted)
            self._learned = normal[np.searchsorted(normal, self._learned) % len(normal)]
        self._validation = None if validation is None else _known_events(validation, model.n_events)
        self._settings = settings

    def training_loss(self, indices: Int64Array, epoch: int) -> tuple[Tensor, dict[str, float]]:
        """This process's share of the mean loss of these sessions: a function of weights, indices and epoch."""
        return self._loss(self._train, self._learned[indices], np.ones(len(indices), np.int64), epoch, self.group)

    def validation_loss(self) -> float | None:
        """Mean loss of the validation sessions (evenly spaced ones of a large set), None without any; the same
        views every time.
        """
        if self._validation is None or len(self._validation) == 0:
            return None
        n = len(self._validation)
        chosen = np.unique(np.linspace(0, n - 1, min(n, _MAX_VALIDATION)).astype(np.int64))
        batches = np.split(chosen, range(_VALIDATION_BATCH, len(chosen), _VALIDATION_BATCH))
        totals = torch.zeros(len(batches), dtype=torch.float64)
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                for at in self.group.share(np.arange(len(batches))).tolist():
                    loss, _ = self._loss(self._validation, *_merged(self._validation, batches[at]), 0, ALONE)
                    totals[at] = float(loss) * len(batches[at])
        finally:
            self.model.train(was_training)
        # Each number comes from one process and all are added in one order: so the loss does not depend on how many.
        return float(self.group.total(totals).sum()) / len(chosen)

    def _loss(
        self, sequences: SequenceTable, indices: Int64Array, copies: Int64Array, epoch: int, group: ProcessGroup
    ) -> tuple[Tensor, dict[str, float]]:
        """The group's share of the mean loss of sessions that each stand for so many copies."""
        settings = self._settings
        contrastive = not settings.not_use_contrastive
        batch = make_batch(
            sequences,
            group.share(indices),
            settings.seed,
            epoch,
            n_events=self.model.n_events,
            max_events=settings.max_events,
            contrastive=contrastive,
            augmentation=not settings.not_use_augmentation,
            copies=group.share(copies),
        )
        return training_loss(self.model, batch, contrastive=contrastive, group=group)


def _merged(sequences: SequenceTable, indices: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The first of each of these sessions that are equal, and how many are: real logs repeat themselves."""
    first, _, copies = distinct_sequences(sequences.take(indices))
    return indices[first], copies


def _known_events(sequences: SequenceTable, n_events: int) -> SequenceTable:
    """The sessions without the events that training never saw: there is no target for them, and a loss that rises with
    their number would stop training for what it cannot learn."""
    known = sequences.event_id < n_events
    n_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(known)])
    return SequenceTable(n_before[sequences.offsets], sequences.event_id[known], sequences.gap_s[known])
