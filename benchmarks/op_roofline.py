"""What operations would take on a GPU, found by tracing them on tensors without memory (`torch.device("meta")`).

    with OpRoofline(GPUS["H100"]) as roofline:
        loss = head_cross_entropy(hidden, head, targets)
    roofline.seconds, roofline.bytes, roofline.by_operation

Each operation takes its FLOPs at the rate of products or its bytes at the bandwidth, whichever is longer. An operation
reads each of its tensors once and writes what it returns. `fused` counts a function as a compiler would run it.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from sweeper.hardware import Gpu

aten = torch.ops.aten
FREE = {aten.empty, aten.new_empty, aten.empty_like, aten.new_empty_strided, aten.empty_strided, aten.detach, aten.lift}
OVERWRITES = {aten.copy_, aten.fill_, aten.zero_}
LIKE = {aten.new_zeros, aten.new_ones, aten.new_full, aten.zeros_like, aten.ones_like, aten.full_like}
WRITES_ONLY = OVERWRITES | LIKE  # they do not read their first tensor
BY_INDEX = {
    aten.gather,
    aten.index,
    aten.index_select,
    aten.embedding,
    aten.scatter_add_,
    aten.index_put_,
    aten.index_add_,
}
REDUCTIONS = {aten.amax, aten.sum, aten.mean, aten.max, aten.logsumexp, aten.var, aten.any}


def nbytes(tensors: list[Tensor]) -> int:
    """Of distinct tensors."""
    return sum(one.numel() * one.element_size() for one in {id(one): one for one in tensors}.values())


class OpRoofline(TorchDispatchMode):
    """Counts FLOPs, bytes and seconds of every operation under it.

    Args:
        gpu: whose rates.
    """

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu
        self.flops = self.bytes = self.seconds = 0.0
        self.by_operation: dict[str, float] = defaultdict(float)
        """Seconds."""
        self._fused: _Fused | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        read = [one for one in tree_leaves((args, {k: v for k, v in kwargs.items() if k != "out"})) if _is_tensor(one)]
        written = [one for one in tree_leaves(out) if _is_tensor(one)] or _changed(func, args)
        packet = func.overloadpacket
        if self._fused is not None:
            self._fused.see(packet, func.is_view, read, written)
        elif not func.is_view and packet not in FREE:
            flops = flop_registry[packet](*args, **kwargs, out_val=out) if packet in flop_registry else 0
            self._count(str(packet), flops, _moved(packet, read, written), bf16=all(t.itemsize <= 2 for t in read))
        return out

    def fused(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as a compiler runs it: one kernel for every reduction in a row and one for what follows.

        A kernel reads each tensor from outside once, and writes the reduction, or what the function leaves.
        """

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._fused = fused = _Fused()
            try:
                out = function(*args, **kwargs)
            finally:
                self._fused = None
            left = [one for one in tree_leaves(out) if _is_tensor(one)]
            self._count(getattr(function, "__name__", "fused"), 0, fused.bytes(left), bf16=True)
            return out

        return counted

    def _count(self, name: str, flops: float, moved: float, *, bf16: bool) -> None:
        seconds = max(flops / (self.gpu.gemm if bf16 else self.gpu.fp32), moved / self.gpu.bandwidth)
        self.flops, self.bytes, self.seconds = self.flops + flops, self.bytes + moved, self.seconds + seconds
        self.by_operation[name] += seconds


class _Fused:
    """What the kernels of a fused function read: pairs of a tensor from outside and the number of the kernel."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, dict[int, Tensor]]] = {}  # of made tensors: kernel, and what they come from
        self._reads: dict[tuple[int, int], Tensor] = {}
        self._writes: list[Tensor] = []
        self._alive: list[Tensor] = []  # so that no id is used twice

    def see(self, packet: Any, is_view: bool, read: list[Tensor], written: list[Tensor]) -> None:
        self._alive += [*read, *written]
        if packet in FREE:
            return
        sources = read[1:] if packet in WRITES_ONLY else read
        known = [self._known.get(id(one), (0, {id(one): one})) for one in sources]
        kernel = max((number for number, _ in known), default=0)
        roots = {key: root for _, of in known for key, root in of.items()}
        if packet in BY_INDEX:  # reads no more than it returns
            roots = {id(one): one for one in written}
        elif not is_view:
            self._reads |= {(key, kernel): root for key, root in roots.items()}
        if packet in REDUCTIONS:
            self._writes += written
            kernel, roots = kernel + 1, {id(one): one for one in written}
        elif str(packet).endswith("_") and id(read[0]) not in self._known:  # left in a tensor from outside
            self._writes.append(read[0])
        self._known |= {id(one): (kernel, roots) for one in written}

    def bytes(self, left: list[Tensor]) -> int:
        """Moved, with what the function returns."""
        reads = sum(nbytes([root]) for root in self._reads.values())
        return reads + nbytes([*self._writes, *left])


def _is_tensor(one: Any) -> bool:
    return isinstance(one, Tensor)


def _changed(func: Any, args: Any) -> list[Tensor]:
    """What an operation that returns nothing writes to."""
    given = zip(func._schema.arguments, args, strict=False)
    return [one for of, one in given if of.alias_info is not None and of.alias_info.is_write]


def _moved(packet: Any, read: list[Tensor], written: list[Tensor]) -> float:
    if packet in BY_INDEX:
        small = min(nbytes([one]) for one in (*read, *written) if one.numel() > 1 and one.is_floating_point())
        return 3.0 * small
    sources = read[1:] if packet in WRITES_ONLY else read
    return float(nbytes(sources) + nbytes(written))
