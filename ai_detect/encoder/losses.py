"""The training objective: predict each next event; tell a session from damaged copies and from other sessions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ai_detect.encoder.batches import END, FIRST_EVENT, EncodedBatch
from ai_detect.encoder.dropout import dropout_masks
from ai_detect.encoder.model import SessionEncoder
from ai_detect.process_group import ALONE, ProcessGroup

_TEMPERATURE = 0.1
_IGNORED = -100


def nt_xent(anchor: Tensor, others: Tensor, positive: Tensor, same: Tensor, temperature: float) -> Tensor:
    """Sum of -log share of the own positive among all others, by cosine (NT-Xent, Chen et al. 2020).

    `anchor` (n, dim), `others` (m, dim), `positive` (n,) int64 index into them; `same` (n, m) bool marks pairs that are
    not to be repelled.
    """
    logits = F.normalize(anchor.float(), dim=1) @ F.normalize(others.float(), dim=1).T / temperature
    return F.cross_entropy(logits.masked_fill(same, float("-inf")), positive, reduction="sum")


def next_event_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropy of (m, n_classes) logits; targets of -100 do not count."""
    return F.cross_entropy(logits.float(), targets, ignore_index=_IGNORED, reduction="sum")


def training_loss(
    model: SessionEncoder,
    batch: EncodedBatch,
    *,
    contrastive: bool,
    words: Tensor | None = None,
    group: ProcessGroup = ALONE,
) -> tuple[Tensor, dict[str, float]]:
    """The objective of training and validation alike, and its parts: means over the batches of all processes.

    What is returned is this process's share; the sum over `group` is the mean, and its gradient the mean's. `words`
    (n_templates, max_words) int64 is needed where the batch holds event ids that the model does not know; such events
    are context and never targets.
    """
    device = model.words.device
    table = model.token_table(words)
    unseen = torch.from_numpy(batch.unseen).to(device)
    by_token = F.pad(unseen, (FIRST_EVENT, len(table.seen) - FIRST_EVENT - model.n_events))
    # Of no rows, so that a process whose share of a short batch is empty takes part in what the others add up.
    nothing, none = table.seen[:0], torch.zeros(0, dtype=torch.int64, device=device)
    vectors, pieces = [torch.cat([nothing, nothing], 1).float()], [none]
    logits, targets = [model.next_logits(nothing, table)], [none]
    for rows in batch.groups:
        tokens = torch.from_numpy(rows.tokens).to(device)
        piece = torch.from_numpy(rows.pieces).to(device)
        sample = piece % batch.n
        kept = None
        if model.training and model.dropout:
            masks = dropout_masks(batch.seeds[rows.pieces], tokens.shape[1], model.dim, model.dropout)
            kept = torch.from_numpy(masks).to(device)
        states, encoded = model(tokens, table, by_token[sample].gather(1, tokens), kept)
        vectors.append(encoded)
        pieces.append(piece)
        row, column = _predicted(rows.tokens, rows.pieces < batch.n)
        logits.append(model.next_logits(states[row, column], table, unseen[sample[row]]))
        targets.append(_classes(tokens[row, column + 1], model.n_events))
    predicted = torch.cat(targets)
    counts = group.total(torch.tensor([int((predicted != _IGNORED).sum()), batch.n]))
    n_targets, n_samples = (max(1, int(count)) for count in counts)
    loss = next_event_loss(torch.cat(logits), predicted) / n_targets
    parts = {"next_event": loss.detach()}
    if contrastive:
        in_order = torch.cat(vectors)[torch.argsort(torch.cat(pieces))]
        others, start = group.gather_rows(in_order[batch.n :])
        positive = start + torch.arange(batch.n, device=device)
        same = _same_content(torch.from_numpy(batch.content).to(device), batch.n, group)
        dim = model.dim  # each half must do on its own: together, one would lean on the other
        halves = [slice(0, dim), slice(dim, 2 * dim)]
        contrast = [
            nt_xent(in_order[: batch.n, h], others[:, h], positive, same, _TEMPERATURE) / n_samples for h in halves
        ]
        parts["contrastive"] = (contrast[0].detach() + contrast[1].detach()) / 2
        loss = loss + (contrast[0] + contrast[1]) / 2
    return loss, {name: float(part) for name, part in parts.items()}


def _predicted(tokens: np.ndarray, is_session: np.ndarray) -> tuple[Tensor, Tensor]:
    """Row and column of the tokens whose successor is to be predicted: all of the sessions themselves."""
    after = tokens[:, 1:]
    row, column = np.nonzero(((after >= FIRST_EVENT) | (after == END)) & is_session[:, None])
    return torch.from_numpy(row), torch.from_numpy(column)


def _classes(tokens: Tensor, n_events: int) -> Tensor:
    classes = torch.where(tokens == END, n_events, tokens - FIRST_EVENT)
    return classes.masked_fill(tokens >= FIRST_EVENT + n_events, _IGNORED)


def _same_content(content: Tensor, n: int, group: ProcessGroup) -> Tensor:
    """Pairs of different samples with the same multiset of events, (n, as many as all processes contrast with) bool."""
    sample = torch.arange(len(content), device=content.device) % max(1, n) * group.world_size + group.rank
    others = group.gather_rows(torch.stack([content, sample], 1))[0]
    return (content[:n].unsqueeze(1) == others[:, 0]) & (sample[:n].unsqueeze(1) != others[:, 1])
