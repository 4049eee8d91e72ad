"""The processes of one training: who this one is, and what they do together. Without a launcher there is one.

`torchrun --nproc_per_node 8 --no-python rushes train-vae CONFIG` starts several; their environment says so.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

WAITING = datetime.timedelta(days=1)  # the others wait while the first one decodes, and while it measures


@dataclass(frozen=True)
class Ranks:
    """rank: of this process, from 0; size: how many there are; device: what this one computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of them."""
        if self.size == 1:
            return flag
        found = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def largest(self, value: float) -> float:
        """Of all of theirs."""
        if self.size == 1:
            return value
        found = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return float(found)

    def average(self, tensors: Iterable[torch.Tensor | None]) -> None:
        """Each tensor becomes its mean over the processes, in place."""
        present = [tensor for tensor in tensors if tensor is not None]
        if self.size == 1 or not present:
            return
        flat = torch.cat([tensor.flatten() for tensor in present])
        dist.all_reduce(flat)
        parts = flat.div_(self.size).split([tensor.numel() for tensor in present])
        for tensor, part in zip(present, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


@contextlib.contextmanager
def ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that a launcher started. device: cpu, cuda, or auto: a GPU where there is one."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    if size > 1:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=WAITING)
    try:
        yield Ranks(rank, size, place)
    finally:
        if size > 1:
            dist.destroy_process_group()
