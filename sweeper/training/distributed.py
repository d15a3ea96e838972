"""The processes (ranks) that train one run together, one per GPU: their rank, rendezvous and communication.

Every rank computes gradients on its own part of each batch. They are summed over the ranks once per step, after all
micro-batches of the part. No computation could overlap with that communication, so it is a plain all-reduce, of one
buffer (`sweeper.training.gradients`).
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.files import read_json, write_json
from sweeper.run.stop import StopFlag

if TYPE_CHECKING:
    from torch import Tensor

POLL_SECONDS = 0.1
TIMEOUT = timedelta(hours=1)  # for a slow rank, which may be the only one that compiles


class RunCancelled(Exception):
    """Rank 0 decided not to train the run."""


@dataclass(frozen=True)
class Ranks:
    """The group of ranks, in the process with rank `rank` of `size`. With one rank nothing is communicated."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """True for the one rank that writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """True on every rank if `flag` is true on any rank, so that all of them stop at the same step."""
        if self.size == 1:
            return flag
        import torch
        import torch.distributed as dist

        flags = torch.tensor([flag], dtype=torch.uint8)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def from_first(self, value: int) -> int:
        """The `value` of rank 0, on every rank."""
        if self.size == 1:
            return value
        import torch
        import torch.distributed as dist

        number = torch.tensor([value])
        dist.broadcast(number, src=0)
        return int(number.item())

    def sum_(self, tensors: Iterable["Tensor"]) -> None:
        """Replace each tensor by its sum over all ranks, in place."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            dist.all_reduce(tensor)

    def part(self, sequences: int) -> tuple[int, int]:
        """First sequence and number of sequences of this rank's part of a batch."""
        count = sequences // self.size
        return self.rank * count, count

    def leave(self) -> None:
        """Destroy the process group, after a run that ended normally on every rank."""
        if self.size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()


ALONE = Ranks()


@dataclass(frozen=True)
class RankInfo:
    """A process's rank among the processes that train a run together.

    Attributes:
        rank: 0 … size − 1.
        size: number of processes of the run.
        host: address of rank 0's machine for the other ranks.
        rendezvous_file: file in a shared directory, for this attempt alone, in which rank 0 writes its port.
    """

    rank: int = 0
    size: int = 1
    host: str = "127.0.0.1"
    rendezvous_file: str = ""

    def join(self, device: str, stop: StopFlag) -> Ranks:
        """Join the other ranks. Blocks until all have joined.

        Args:
            device: "cpu" for gloo, or "cuda" for gloo and nccl.
            stop: ends the wait for rank 0.

        Raises:
            RunCancelled: on ranks above 0, if rank 0 cancelled the run or `stop` was set.
        """
        if self.size == 1:
            return ALONE
        import torch
        import torch.distributed as dist
        import torch.distributed.nn  # the compiler imports it. Its defaults keep a group that is there already for ever

        port = 0 if self.rank == 0 else self._port(stop)  # 0: the system picks a free one
        is_main = self.rank == 0
        store = dist.TCPStore(  # type: ignore[attr-defined]
            self.host, port, self.size, is_master=is_main, timeout=TIMEOUT, wait_for_workers=False
        )
        rendezvous_file = Path(self.rendezvous_file)
        if self.rank == 0:
            write_json(rendezvous_file, {"port": store.port})
        dist.init_process_group(
            "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl",
            store=store,
            rank=self.rank,
            world_size=self.size,
            timeout=TIMEOUT,
            device_id=None if device == "cpu" else torch.device("cuda", 0),  # a worker sees one GPU
        )
        if self.rank == 0:
            rendezvous_file.unlink()  # all have read it
        return Ranks(self.rank, self.size)

    def cancel(self) -> None:
        """Signal to the waiting ranks that there is nothing to train."""
        if self.size > 1:
            write_json(Path(self.rendezvous_file), {"port": None})

    def _port(self, stop: StopFlag) -> int:
        while (record := read_json(Path(self.rendezvous_file))) is None:
            if stop.is_set():
                raise RunCancelled("stopped before rank 0 joined")
            time.sleep(POLL_SECONDS)
        if record["port"] is None:
            raise RunCancelled("rank 0 has nothing to train")
        return int(record["port"])
