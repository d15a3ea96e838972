"""Bytes that the elementwise kernels of a compiled block move, by the compiler's own count.

    python benchmarks/compiled_bytes.py      a minute; writes compiled_bytes.json, which gpu_page.py reads

torch.compile fuses the norms, rotations, sums and activations of a block. Its scheduler counts what each fused kernel
reads and writes. It schedules for a CPU here, whose fusion is not quite a GPU's. Products and attention are left out,
and casts of weights cancel in the difference of two batches.
"""

import json
from pathlib import Path

import torch
from torch._inductor import config
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import ExternKernelSchedulerNode

from model import ModelConfig
from model.layers import rotary_table
from model.transformer import Block

SHAPE = ModelConfig(vocab_size=128_256, d_model=768, n_heads=12, mlp_dim=2048, n_layers=1, n_loops=1)  # the paper's
SEQ_LEN = 256
OUT = Path(__file__).resolve().parent / "compiled_bytes.json"


def elementwise_bytes(sequences: int) -> list[int]:
    """Of a block's forward and backward pass under bf16 autocast."""
    found: list[int] = []
    counted = GraphLowering.codegen

    def count(graph: GraphLowering) -> object:
        code = counted(graph)
        fused = [node for node in graph.scheduler.nodes if not isinstance(node, ExternKernelSchedulerNode)]
        found.append(sum(node.get_read_write_buffers_sizes() for node in fused))
        return code

    GraphLowering.codegen = count
    try:
        torch._dynamo.reset()
        block = Block(SHAPE)
        block.compile(dynamic=False)
        x = torch.randn(sequences, SEQ_LEN, SHAPE.d_model, requires_grad=True)
        with config.patch(force_disable_caches=True), torch.autocast("cpu", torch.bfloat16):
            block(x, rotary_table(SEQ_LEN, SHAPE.head_dim, SHAPE.rope_theta)).sum().backward()
    finally:
        GraphLowering.codegen = counted
    return found


def main() -> None:
    """Write and print bytes a channel of the stream and token, forward and backward."""
    few, many = elementwise_bytes(4), elementwise_bytes(8)
    a_channel = [(more - less) / (4 * SEQ_LEN * SHAPE.d_model) for less, more in zip(few, many, strict=True)]
    OUT.write_text(json.dumps(dict(zip(("forward", "backward"), a_channel, strict=True))) + "\n")
    print(OUT.read_text(), end="")


if __name__ == "__main__":
    main()
