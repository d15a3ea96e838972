"""Seconds of one optimizer step on a GPU by its parts: each takes its FLOPs or its bytes at a rate of `hardware.GPUS`.

Modelled, never run. Rates and bytes give three published steps to 6% and no other measurement (tests). Whatever the
table does not know is counted too high rather than too low:

- kinds of block and loop cost what `flops_per_token` and `attention_flops` say. Their elementwise work is that of the
  first paper's block, which no kind falls below, and one pass more for every norm and every sum beyond it;
- an uncompiled block takes its elementwise passes one by one, three times as many bytes;
- fp32 runs have fp32's rate for every product, attention's too, and twice the bytes;
- parts do not overlap, and a step takes at least the time in which a CPU launches it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from model import BLOCKS, LOOPS
from model.blocks import PreNorm, part_params
from model.config import HEAD_ROWS
from sweeper.hardware import Gpu
from sweeper.run.base import ModelRun, Run
from sweeper.run.execution import Execution
from sweeper.run.flops import attention_flops

# Elementwise bytes of a compiled block with an fp32 stream. For each of the d numbers of a token: norm 6, rotary 8, sum
# and norm 12, sum 10; backward 6 + 10 + 17 + 15. For each number that the MLP's matrices have for each of its d inputs
# or outputs: 2, and backward 3.75 (SiLU times up 16 d and 30 d at the paper's f = 8/3 d).
FORWARD_BYTES, BACKWARD_BYTES = (36.0, 2.0), (48.0, 3.75)
PASS_BYTES = (12.0, 17.0)  # forward and backward, of one more norm or sum
UNCOMPILED = 3.0
# FLOPs of attention's passes as a share of 6 T d: two products forward, and five backward, which scores again.
ATTENTION_FORWARD, ATTENTION_BACKWARD = 1 / 3, 5 / 6
CAST_BYTES = 30.0  # a weight: to bf16 forward and backward, and its gradient to fp32 and added, in each application
SUM_BYTES = 8.0  # a weight: its fp32 gradient, to which a product adds, read and written in each application
COPY_BYTES = 6.0  # a weight of a block: its bf16 copy once a step
OPTIMIZER_BYTES = 44.0  # a weight: its gradient's norm, scaled by it, AdamW with two moments, and the gradient set to 0
NEWTON_SCHULZ = 30.0  # FLOPs of Muon for a weight of a matrix and each of its rows: five steps of three products
HOST_SECONDS = 0.35e-3  # in which a CPU launches one block, forward and backward


@dataclass(frozen=True)
class Loss:
    """How the head's cross entropy is computed.

    Attributes:
        rows: tokens of a chunk.
        logit_bytes: moved for each logit by the softmax and its gradient.
        gradient_bytes: moved for each weight of the head and chunk, to add up its gradient.
        passes: over a tensor in fp32 of the head's size, in each micro-batch. Casting the head takes 1.5, scaling its
            gradient 2, adding that up 3. One pass that scales and adds takes 3. The first chunk reads 1 less.
        thin: the products have few rows.
    """

    rows: int
    logit_bytes: float
    gradient_bytes: float
    passes: float
    thin: bool = False


# In fp32, operation by operation.
EAGER_LOSS = Loss(rows=521, logit_bytes=44.0, gradient_bytes=12.0, passes=5.5, thin=True)
# Compiled: two reads and a write of bf16 logits.
FUSED_LOSS = Loss(rows=HEAD_ROWS, logit_bytes=6.0, gradient_bytes=8.0, passes=3.5)
LOOKUP_PASSES = 4.0  # as `Loss.passes`, where autograd makes a gradient of the lookup and adds it up
LOOKUP_BYTES = 12.0  # a number of an embedded token, where its gradient is added to the embedding's


@dataclass(frozen=True)
class Settings:
    """What the time of a step depends on beside the run.

    Attributes:
        micro_batch: sequences in one forward pass.
        recompute: the forward pass of all blocks is computed again.
        compiled: the blocks are.
        loss: of the head.
        bf16_weights: weights are cast once a step, not in every application of a block, and products and lookups add
            to gradients where they are.
        sum_bytes: moved for each weight of a block to add up its gradient then, in each application.
        attention: its implementation, one of `Gpu.attention`; None for what PyTorch chooses.
        gpus: that train the run together.
    """

    micro_batch: int
    recompute: bool = False
    compiled: bool = True
    loss: Loss = FUSED_LOSS
    bf16_weights: bool = True
    sum_bytes: float = SUM_BYTES
    attention: str | None = None
    gpus: int = 1

    @classmethod
    def of(cls, execution: Execution, gpus: int = 1) -> "Settings":
        """As a run is executed."""
        return cls(
            micro_batch=execution.micro_batch,
            recompute=execution.recompute,
            compiled=execution.compile,
            loss=FUSED_LOSS if execution.fused_loss else EAGER_LOSS,
            bf16_weights=execution.bf16_weights,
            attention="flash" if execution.deterministic else None,
            gpus=gpus,
        )


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step by its parts, on each of its GPUs. `host` is what the launches take beyond them."""

    block_products: float
    attention_forward: float
    attention_backward: float
    elementwise: float
    recomputation: float
    casts: float
    head_products: float
    cross_entropy: float
    head_gradient: float
    embedding: float
    optimizer: float
    all_reduce: float
    host: float

    @property
    def seconds(self) -> float:
        """Of the step."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """Seconds by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def of_blocks(self) -> float:
        """What grows with L · N."""
        grows = ("block_products", "attention_forward", "attention_backward", "elementwise", "recomputation", "casts")
        return sum(seconds for name, seconds in self.parts().items() if name in grows)


def step_time(run: ModelRun, gpu: Gpu, settings: Settings) -> StepTime:
    """The parts of one step of a run.

    Args:
        run: a training, or a probe.
        gpu: on which it runs.
        settings: how.
    """
    shape, tokens = run.model, run.total_tokens / run.steps / settings.gpus  # of this GPU
    width, gemm = (1.0, gpu.gemm) if run.uses_bf16 else (2.0, gpu.fp32)
    thin_gemm = gpu.thin_gemm if run.uses_bf16 else gpu.fp32
    forward_rate, backward_rate = gpu.attention[settings.attention or next(iter(gpu.attention))]
    if not run.uses_bf16:
        forward_rate = backward_rate = gpu.fp32
    micro_tokens = min(settings.micro_batch * run.seq_len, tokens)
    micro_batches = tokens / micro_tokens
    applications = run.applications
    between = LOOPS[shape.loop].flops_per_token(shape, shape.n_loops)
    products = tokens * (applications * BLOCKS[shape.block].flops_per_token(shape) + between) / gemm
    attention = attention_flops(shape, int(tokens), run.seq_len)
    attention_forward = attention * ATTENTION_FORWARD / forward_rate
    forward, backward = (
        tokens * width * count * (1.0 if settings.compiled else UNCOMPILED) / gpu.bandwidth
        for count in elementwise_bytes(run)
    )
    has_copies = settings.bf16_weights and run.uses_bf16
    cast_bytes = (settings.sum_bytes if has_copies else CAST_BYTES) if run.uses_bf16 else 12.0
    of_head = float(shape.vocab_size * shape.d_model)
    loss, chunks = settings.loss, tokens / min(settings.loss.rows, micro_tokens)
    passes = loss.passes + (0.0 if has_copies else LOOKUP_PASSES)
    rows = LOOKUP_BYTES * shape.d_model * tokens if has_copies else 0.0
    once = COPY_BYTES * shape.n_layers * shape.block_params if has_copies else 0.0
    by_muon = any(row.optimizer == "muon" for row in run.table)
    muon = NEWTON_SCHULZ * shape.d_model * shape.n_layers * shape.block_params / gpu.thin_gemm if by_muon else 0.0
    rank_bytes = 4.0 * shape.n_params * 2 * (settings.gpus - 1) / settings.gpus
    parts = {
        "block_products": products,
        "attention_forward": attention_forward,
        "attention_backward": attention * ATTENTION_BACKWARD / backward_rate,
        "elementwise": forward + backward,
        "recomputation": (products / 3 + attention_forward + forward) if settings.recompute else 0.0,
        "casts": applications * micro_batches * cast_bytes * shape.block_params / gpu.bandwidth,
        "head_products": 6.0 * of_head * tokens / (thin_gemm if loss.thin else gemm),
        "cross_entropy": width * loss.logit_bytes * shape.vocab_size * tokens / gpu.bandwidth,
        "head_gradient": loss.gradient_bytes * of_head * chunks / gpu.bandwidth,
        "embedding": (passes * 4.0 * of_head * micro_batches + rows) / gpu.bandwidth,
        "optimizer": (OPTIMIZER_BYTES * shape.n_params + once) / gpu.bandwidth + muon,
        "all_reduce": rank_bytes / gpu.all_reduce,
    }
    host = micro_batches * applications * HOST_SECONDS * (1.0 if settings.compiled else UNCOMPILED)
    return StepTime(**parts, host=max(0.0, host - sum(parts.values())))


def elementwise_bytes(run: ModelRun) -> tuple[float, float]:
    """Of a token, forward and backward, in all blocks and in what the loop has between them, in bf16."""
    shape = run.model
    names = list(BLOCKS[shape.block].parts.values())
    norms = max(0, names.count("norm") - list(PreNorm.parts.values()).count("norm"))
    loop = LOOPS[shape.loop]
    # Queries and keys have norms in the second paper's parts. An injection is a sum in each loop step.
    per_block = norms + (shape.parts != "llama")
    per_loop = loop.n_norms(shape.n_layers) + (shape.loop != "plain") + len(loop.block_parts) * shape.n_layers
    passes = run.applications * per_block + shape.n_loops * per_loop
    counts = zip((FORWARD_BYTES, BACKWARD_BYTES), PASS_BYTES, strict=True)
    hidden = part_params("swiglu", shape) / shape.d_model  # 3 f with a gate, 2 f without
    forward, backward = (
        run.applications * (of_d * shape.d_model + of_f * hidden) + passes * of_pass * shape.d_model
        for (of_d, of_f), of_pass in counts
    )
    return forward, backward


def gpu_seconds(run: Run, gpu: Gpu, settings: Settings) -> float:
    """Of all steps of a run of any kind on its GPUs. The toy model's products read every weight for two FLOPs."""
    if isinstance(run, ModelRun):
        return step_time(run, gpu, settings).seconds * run.steps
    return 2.0 * run.flops / gpu.bandwidth


def utilisation(run: Run, gpu: Gpu, seconds: float, gpus: int = 1) -> Mapping[str, float]:
    """MFU both ways: `6N` leaves the products of attention out, `6N + attention` counts the causal half.

    Args:
        run: a run.
        gpu: on which it ran.
        seconds: of all its steps.
        gpus: that trained it together.
    """
    peak = gpu.peak * seconds * gpus
    return {"6N": run.flops / peak, "6N + attention": (run.flops + run.attention_flops) / peak}
