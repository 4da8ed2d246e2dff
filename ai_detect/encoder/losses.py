"""The training objective: predict each next event; tell a session from damaged copies and from other sessions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ai_detect.encoder.batches import END, FIRST_EVENT, EncodedBatch
from ai_detect.encoder.model import SessionEncoder

_TEMPERATURE = 0.1
_IGNORED = -100


def nt_xent(anchor: Tensor, positive: Tensor, negatives: Tensor, same: Tensor, temperature: float) -> Tensor:
    """Mean -log share of the own positive among all positives and negatives, by cosine (NT-Xent, Chen et al. 2020).

    `anchor`, `positive` (n, dim), `negatives` (m, dim); `same` (n, n + m) bool marks pairs that are not to be repelled.
    """
    others = F.normalize(torch.cat([positive, negatives]).float(), dim=1)
    logits = F.normalize(anchor.float(), dim=1) @ others.T / temperature
    return F.cross_entropy(logits.masked_fill(same, float("-inf")), torch.arange(len(anchor), device=anchor.device))


def next_event_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of (m, n_classes) logits; targets of -100 do not count, and none at all give 0."""
    total = F.cross_entropy(logits.float(), targets, ignore_index=_IGNORED, reduction="sum")
    return total / (targets != _IGNORED).sum().clamp(min=1)


def training_loss(
    model: SessionEncoder, batch: EncodedBatch, *, contrastive: bool, words: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    """The objective of training and validation alike, and its parts.

    `words` (n_templates, max_words) int64 is needed where the batch holds event ids that the model does not know; such
    events are context and never targets.
    """
    device = model.words.device
    table = model.token_table(words)
    unseen = torch.from_numpy(batch.unseen).to(device)
    by_token = F.pad(unseen, (FIRST_EVENT, len(table.seen) - FIRST_EVENT - model.n_events))
    vectors, pieces, logits, targets = [], [], [], []
    for group in batch.groups:
        tokens = torch.from_numpy(group.tokens).to(device)
        piece = torch.from_numpy(group.pieces).to(device)
        sample = piece % batch.n
        states, encoded = model(tokens, table, by_token[sample].gather(1, tokens))
        vectors.append(encoded)
        pieces.append(piece)
        row, column = _predicted(group.tokens, group.pieces < batch.n)
        logits.append(model.next_logits(states[row, column], table, unseen[sample[row]]))
        targets.append(_classes(tokens[row, column + 1], model.n_events))
    loss = next_event_loss(torch.cat(logits), torch.cat(targets))
    parts = {"next_event": loss.detach()}
    if contrastive:
        in_order = torch.cat(vectors)[torch.argsort(torch.cat(pieces))]
        anchor, positive, negatives = in_order.tensor_split((batch.n, 2 * batch.n))
        same = _same_content(torch.from_numpy(batch.content).to(device), batch.n)
        dim = model.dim  # each half must do on its own: together, one would lean on the other
        halves = [slice(0, dim), slice(dim, 2 * dim)]
        contrast = [nt_xent(anchor[:, h], positive[:, h], negatives[:, h], same, _TEMPERATURE) for h in halves]
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


def _same_content(content: Tensor, n: int) -> Tensor:
    """Pairs of different samples with the same multiset of events, (n, 2 n or n) bool."""
    same = content[:n].unsqueeze(1) == content
    sample = torch.arange(len(content), device=content.device) % n
    return same & (sample != torch.arange(n, device=content.device).unsqueeze(1))
