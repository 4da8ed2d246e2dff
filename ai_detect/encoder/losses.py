"""The training objective: predict each next event; tell a session from damaged copies and from other sessions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ai_detect.encoder.batches import END, FIRST_EVENT, EncodedBatch, TokenGroup
from ai_detect.encoder.dropout import dropout_masks
from ai_detect.encoder.model import SessionEncoder
from ai_detect.process_group import ALONE, ProcessGroup

_TEMPERATURE = 0.1
_IGNORED = -100


def nt_xent(
    anchor: Tensor, others: Tensor, positive: Tensor, weights: Tensor, copies: Tensor, temperature: float
) -> Tensor:
    """Sum of -log share of the own positive among all others, by cosine (NT-Xent, Chen et al. 2020).

    `anchor` (n, dim), each `copies` (n,) float32 times; `others` (m, dim), `positive` (n,) int64 index into them;
    `weights` (n, m) float32 tells as how many equal ones each of the others counts, 0 where it is not to be repelled.
    """
    logits = F.normalize(anchor.float(), dim=1) @ F.normalize(others.float(), dim=1).T / temperature
    return F.cross_entropy(logits + weights.log(), positive, reduction="none") @ copies


def next_event_loss(logits: Tensor, targets: Tensor, copies: Tensor) -> Tensor:
    """Sum of the cross-entropy of (m, n_classes) logits, each row `copies` (m,) float32 times; targets of -100 do not
    count.
    """
    return F.cross_entropy(logits.float(), targets, ignore_index=_IGNORED, reduction="none") @ copies


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
    # Of no rows where a process has no share of a short batch: it takes part in what the others add up.
    groups = batch.groups or (TokenGroup(np.zeros((0, 1), np.int64), np.zeros(0, np.int64)),)
    tokens = np.concatenate([rows.tokens.ravel() for rows in groups])
    sample = np.concatenate([np.repeat(rows.pieces, rows.tokens.shape[1]) for rows in groups])
    is_session, sample = sample < batch.n, sample % max(1, batch.n)
    shown = np.zeros((batch.n, len(table.seen)), np.bool_)
    shown[:, FIRST_EVENT : FIRST_EVENT + model.n_events] = batch.unseen
    kept = None
    if model.training and model.dropout:
        seeds = [batch.seeds.take(rows.pieces, mode="wrap") for rows in groups]  # of padding it does not matter which
        lengths = [rows.tokens.shape[1] for rows in groups]
        masks = [dropout_masks(*row, model.dim, model.dropout) for row in zip(seeds, lengths, strict=True)]
        kept = torch.from_numpy(np.concatenate([mask.reshape(-1, model.dim) for mask in masks])).to(device)
    states, vectors = model(
        [torch.from_numpy(rows.tokens).to(device) for rows in groups],
        table,
        torch.from_numpy(shown[sample, tokens]).to(device),
        kept,
    )
    # All tokens of the sessions themselves are predicted but each row's first, which is neither event nor end.
    at = np.flatnonzero(((tokens >= FIRST_EVENT) | (tokens == END)) & is_session)
    targets = np.where(tokens[at] == END, model.n_events, tokens[at] - FIRST_EVENT)
    targets[tokens[at] >= FIRST_EVENT + model.n_events] = _IGNORED
    before, unseen = (torch.from_numpy(part).to(device) for part in (at - 1, batch.unseen[sample[at]]))
    logits = model.next_logits(states[before], table, unseen)
    copies = batch.copies[sample[at]]
    counts = group.total(torch.tensor([int(copies[targets != _IGNORED].sum()), int(batch.copies.sum())]))
    n_targets, n_samples = (max(1, int(count)) for count in counts)
    expected, times = torch.from_numpy(targets).to(device), torch.from_numpy(copies.astype(np.float32)).to(device)
    loss = next_event_loss(logits, expected, times) / n_targets
    parts = {"next_event": loss.detach()}
    if contrastive:
        order = np.argsort(np.concatenate([rows.pieces for rows in groups]))[: 2 * batch.n + batch.n_negatives]
        in_order = vectors[torch.from_numpy(order).to(device)]
        others, start = group.gather_rows(in_order[batch.n :])
        positive = start + torch.arange(batch.n, device=device)
        weights = _weights(batch, group).to(device)
        own = torch.from_numpy(batch.copies).to(device).float()
        dim = model.dim  # each half must do on its own: together, one would lean on the other
        halves = [slice(0, dim), slice(dim, 2 * dim)]
        contrast = [
            nt_xent(in_order[: batch.n, h], others[:, h], positive, weights, own, _TEMPERATURE) / n_samples
            for h in halves
        ]
        parts["contrastive"] = (contrast[0].detach() + contrast[1].detach()) / 2
        loss = loss + (contrast[0] + contrast[1]) / 2
    return loss, {name: float(part) for name, part in parts.items()}


def _weights(batch: EncodedBatch, group: ProcessGroup) -> Tensor:
    """As how many each view and each damaged copy of all processes counts for each sample, (n, m) float32.

    A different sample with the same multiset of events is not repelled, nor what is made of it with this multiset; the
    same holds between the copies that a sample stands for.
    """
    content, copies = torch.from_numpy(batch.content), torch.from_numpy(batch.copies)
    sample = (torch.arange(len(content)) % max(1, batch.n)) * group.world_size + group.rank
    times = copies.repeat(len(content) // max(1, batch.n))
    others = group.gather_rows(torch.stack([content, sample, times], 1))[0]
    alike = content[: batch.n].unsqueeze(1) == others[:, 0]
    is_own = sample[: batch.n].unsqueeze(1) == others[:, 1]
    return torch.where(alike, is_own, others[:, 2]).float()
