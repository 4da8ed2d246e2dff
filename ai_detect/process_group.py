"""The processes of one run, as torchrun starts them: what they add up, tell each other and wait for.

Numbers on the CPU travel by gloo, tensors on GPUs by nccl. A process that ends breaks the others' next call at once:
they end with one line instead of waiting.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ai_detect.errors import ConfigError, TrainingError
from ai_detect.tables import Int64Array

#: How long processes wait for one that is still at work (parsing the log, say); a dead one is noticed at once.
_PATIENCE = timedelta(hours=2)


class ProcessGroup:
    """`rank` of `world_size` processes; alone, every operation is the identity.

    Every process calls the same methods in the same order. All raise TrainingError where another process has ended.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and talks."""
        return self.rank == 0

    def share(self, indices: Int64Array) -> Int64Array:
        """This process's part of a global batch: fixed slots, so that all parts together are the batch."""
        return indices[self.rank :: self.world_size]

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bits for each; in place."""
        if self.world_size > 1:
            _connected(lambda: distributed.all_reduce(tensor))
        return tensor

    def total_gradients(self, parameters: Sequence[nn.Parameter], numbers: Sequence[float]) -> list[float]:
        """Add up the gradients over all processes, in place, and `numbers`, which are returned."""
        if self.world_size == 1:
            return list(numbers)
        has_gradient = [float(parameter.grad is not None) for parameter in parameters]
        totals = self.total(torch.tensor([*numbers, *has_gradient], dtype=torch.float64)).tolist()
        for parameter, n in zip(parameters, totals[len(numbers) :], strict=True):
            if n and parameter.grad is None:  # no sample of this process needed it
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.total(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        return totals[: len(numbers)]

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, int]:
        """The rows (n, ...) of all processes, by rank, and where the own ones begin; gradients flow back."""
        if self.world_size == 1:
            return rows, 0
        sizes = torch.zeros(self.world_size, dtype=torch.int64)
        sizes[self.rank] = len(rows)
        n_rows = self.total(sizes).tolist()
        gathered: Tensor = _GatheredRows.apply(rows, self, n_rows)  # type: ignore[no-untyped-call]
        return gathered, sum(n_rows[: self.rank])

    def largest(self, *numbers: int) -> list[int]:
        """The largest of each number over all processes."""
        if self.world_size == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.int64)
        _connected(lambda: distributed.all_reduce(values, distributed.ReduceOp.MAX))
        return [int(value) for value in values.tolist()]

    def told_by(self, rank: int, value: Any = None) -> Any:
        """The value, JSON, that the process of this rank gives."""
        if self.world_size == 1:
            return value
        content = json.dumps(value).encode() if self.rank == rank else b""
        size = torch.tensor([len(content)])
        _connected(lambda: distributed.broadcast(size, rank))
        buffer = torch.tensor(list(content.ljust(int(size))), dtype=torch.uint8)
        _connected(lambda: distributed.broadcast(buffer, rank))
        return json.loads(bytes(buffer.tolist()))

    def raise_together(self, problem: str | None) -> None:
        """Wait for all, and raise TrainingError in each of them where one has a problem."""
        if not self.largest(int(problem is not None))[0]:
            return
        for rank in range(self.world_size):
            if (found := self.told_by(rank, problem)) is not None:
                raise TrainingError(found if rank == 0 else f"process {rank}: {found}")

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The block is run by the first process, then by the others, who find what it left on disk."""
        if not self.is_first:
            self.told_by(0)
        yield
        if self.is_first:
            self.told_by(0)


ALONE = ProcessGroup()


class _GatheredRows(torch.autograd.Function):
    """Rows of all processes; backward gives each process the sum of what all of them want of its rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: ProcessGroup, sizes: list[int]) -> Tensor:
        start = sum(sizes[: group.rank])
        ctx.group, ctx.own = group, slice(start, start + len(rows))
        gathered = rows.new_zeros(sum(sizes), *rows.shape[1:])
        gathered[ctx.own] = rows
        return group.total(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.group.total(gradients[0].clone())[ctx.own], None, None


def _connected(call: Callable[[], Any]) -> None:
    try:
        call()
    except RuntimeError as error:
        reason = re.sub(r"\[[^]]*\] ?", "", str(error).strip().splitlines()[-1])[:80]
        raise TrainingError(
            f"another process of this run has ended, so this one ends too ({reason}); its own message says why; "
            "what was saved is safe: resume"
        ) from error


@contextmanager
def torchrun_processes() -> Iterator[ProcessGroup]:
    """The group that torchrun's environment describes, connected; without torchrun this process alone."""
    world_size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if world_size == 1:
        yield ALONE
        return
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ConfigError(f"RANK and WORLD_SIZE are set, {' and '.join(missing)} not: use torchrun, or unset them")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    _connected(lambda: distributed.init_process_group(backend, timeout=_PATIENCE))
    try:
        yield ProcessGroup(int(os.environ["RANK"]), world_size)
    finally:
        distributed.destroy_process_group()
