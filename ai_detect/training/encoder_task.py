"""The encoder and its sessions as the task that the trainer works on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ai_detect.config import RunSettings
from ai_detect.encoder.batches import EncodedBatch, make_batch
from ai_detect.encoder.losses import training_loss
from ai_detect.encoder.model import SessionEncoder
from ai_detect.process_group import ALONE, ProcessGroup
from ai_detect.sequences.epoch_samples import EpochSamples
from ai_detect.sequences.windowing import distinct_sequences
from ai_detect.tables import Int64Array, SequenceTable

#: Sessions of a validation batch (its contrastive loss depends on how many there are) and at most in all.
_VALIDATION_BATCH = 128
_MAX_VALIDATION = 4096


class EncoderTask:
    """A `TrainingTask`: losses of the encoder on training sessions and, where there are any, validation sessions.

    `samples` says which of the training sessions are learned from; without it, all of them, each for itself.
    """

    def __init__(
        self,
        model: SessionEncoder,
        train: SequenceTable,
        validation: SequenceTable | None,
        settings: RunSettings,
        group: ProcessGroup = ALONE,
        samples: EpochSamples | None = None,
    ) -> None:
        self.model = model
        self.group = group
        self._train = train
        self._samples = samples or EpochSamples(np.arange(len(train)), np.ones(len(train), np.int64))
        self.n_samples = len(self._samples)
        self._validation = None if validation is None else _known_events(validation, model.n_events)
        self._settings = settings
        self._builder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._prepared: tuple[tuple[int, bytes], Future[EncodedBatch]] | None = None

    def training_loss(self, indices: Int64Array, epoch: int) -> tuple[Tensor, dict[str, float]]:
        """This process's share of the mean loss of these sessions: a function of weights, indices and epoch."""
        key, batch = (epoch, indices.tobytes()), None
        if self._prepared is not None and self._prepared[0] == key:
            batch = self._prepared[1].result()
        self._prepared = None
        return self._loss(batch or self._training_batch(indices, epoch), self.group)

    def prepare(self, indices: Int64Array, epoch: int) -> None:
        """Begin to build this batch in a thread of its own: backward passes leave Python idle."""
        if len(indices):
            made = self._builder.submit(self._training_batch, indices, epoch)
            self._prepared = (epoch, indices.tobytes()), made

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
                    batch = self._batch(self._validation, *_merged(self._validation, batches[at]), 0)
                    loss, _ = self._loss(batch, ALONE)
                    totals[at] = float(loss) * len(batches[at])
        finally:
            self.model.train(was_training)
        # Each number comes from one process and all are added in one order: so the loss does not depend on how many.
        return float(self.group.total(totals).sum()) / len(chosen)

    def _training_batch(self, indices: Int64Array, epoch: int) -> EncodedBatch:
        """This process's share of the batch of these samples."""
        own, samples = self.group.share(indices), self._samples
        return self._batch(self._train, samples.session[own], samples.copies[own], epoch)

    def _batch(self, sequences: SequenceTable, indices: Int64Array, copies: Int64Array, epoch: int) -> EncodedBatch:
        settings = self._settings
        return make_batch(
            sequences,
            indices,
            settings.seed,
            epoch,
            n_events=self.model.n_events,
            max_events=settings.max_events,
            contrastive=not settings.not_use_contrastive,
            augmentation=not settings.not_use_augmentation,
            copies=copies,
        )

    def _loss(self, batch: EncodedBatch, group: ProcessGroup) -> tuple[Tensor, dict[str, float]]:
        return training_loss(self.model, batch, contrastive=not self._settings.not_use_contrastive, group=group)


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
