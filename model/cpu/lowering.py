"""How compiled programs call oneDNN for `model.matmul.onednn_mm`: from C++, copying an operand only where oneDNN would.

torch's own lowering of the same call also copies a right side that is not transposed.
"""

from functools import cache
from typing import Any

import torch
from torch._inductor.ir import ExternKernel, FixedLayout, PermuteView, TensorBox
from torch._inductor.lowering import register_lowering
from torch._inductor.mkldnn_ir import LinearUnary
from torch._inductor.virtualized import V

from model import matmul  # noqa: F401  (defines the operation)


@cache
def register() -> None:
    """Tell torch's compiler. Idempotent."""

    def contiguous(x: Any) -> Any:
        return ExternKernel.require_contiguous(ExternKernel.realize_input(x))

    @register_lowering(torch.ops.loopsweep.onednn_mm.default, type_promotion_kind=None)
    def _(a: Any, b: Any) -> Any:
        (rows, _), (_, columns) = a.get_size(), b.get_size()
        layout = FixedLayout(a.get_device(), a.get_dtype(), [rows, columns])
        right: Any = V.graph.current_node.args[1]
        if right.meta["val"].is_contiguous():
            transposed = PermuteView.create(contiguous(b), [1, 0])
        else:
            transposed = contiguous(PermuteView.create(b.data, [1, 0]))
        return TensorBox.create(LinearUnary(layout, [contiguous(a), transposed], [None, "none", [-1], ""]))
