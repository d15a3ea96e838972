"""How much memory training takes, estimated before it starts, and what of a run fits into a budget.

On a CPU the micro-batch is the configuration's, and activations are recomputed, a loop step at a time, if they exceed
the budget. On a GPU recomputation costs a fifth of a step and a smaller micro-batch next to nothing, so micro-batch and
recomputation are chosen together.
"""

from dataclasses import dataclass, replace

from model import BLOCKS, LOOPS, PART_SETS
from model.config import CHUNK_LOGITS, HEAD_ROWS
from sweeper.run.base import ModelRun
from sweeper.run.execution import Execution

GIB = 2**30


@dataclass(frozen=True)
class Fit:
    """A choice of what a step keeps.

    Attributes:
        micro_batch: sequences in one forward pass.
        recompute: activations are recomputed in the backward pass.
        recompute_layers: layers that are recomputed together; None for a loop step.
    """

    micro_batch: int
    recompute: bool = False
    recompute_layers: int | None = None


def training_bytes(config: ModelRun, micro_batch: int, *, recompute: bool) -> int:
    """Estimated peak bytes of one training step of an uncompiled model, the libraries' own half a gigabyte aside.

    Weights, their gradients and the moments (AdamW's two, or Muon's one) are fp32, with a bf16 copy of the weights
    under autocast; a tied embedding has two gradients for a moment, the head's and the lookup's, unless `model.cpu`
    makes them one.
    Activations are those that autograd keeps of an uncompiled model; a compiled one keeps fewer, attention's scores
    up to 512 tokens included, unless heads are narrower than 64. `benchmarks/memory.py` finds
    some peaks up to 6% above.

    Args:
        config: what is trained.
        micro_batch: sequences in one forward pass.
        recompute: only each loop step's input is kept, and one loop step's activations while it is recomputed.
    """
    shape, precision = config.model, "bf16" if config.uses_bf16 else "fp32"
    tokens = micro_batch * config.seq_len
    stack = shape.n_layers * BLOCKS[shape.block].activation_bytes(shape, precision)
    stack += LOOPS[shape.loop].activation_bytes(shape, precision)
    stack += LOOPS[shape.loop].n_norms(shape.n_layers) * PART_SETS[shape.parts].loop_norm_bytes(shape)
    stream = 4 * shape.d_model * shape.n_loops
    activations = tokens * (stream + stack if recompute else stack * shape.n_loops)
    # Under autocast the products are bf16, and the softmax is taken of a copy in fp32.
    logits = (6 if precision == "bf16" else 4) * min(CHUNK_LOGITS, tokens * shape.vocab_size)
    copies = (2 if precision == "bf16" else 0) * shape.n_params
    second_gradient = 4 * shape.vocab_size * shape.d_model if PART_SETS[shape.parts].has_tied_head else 0
    return config.state_bytes + copies + second_gradient + logits + activations


def gpu_bytes(config: ModelRun, fit: Fit, *, compiled: bool, bf16_weights: bool = True) -> int:
    """Estimated peak bytes of one training step on a GPU. Modelled, never run.

    Beside fp32 weights, gradients and moments: in bf16 copies of the matrices, what blocks keep, the logits of
    `HEAD_ROWS` tokens, the head's own gradient until it is added up, and the last state and its gradients.
    Left out: the driver's context, the libraries' workspaces, the allocator's gaps. `execution.memory_gib` is less than
    the device has, for these.

    Args:
        config: what is trained.
        fit: what a step keeps.
        compiled: blocks are compiled, so that they keep fewer activations in bf16.
        bf16_weights: matrices are cast once a step. A compiled block casts them in each application, and keeps them.
    """
    shape, precision = config.model, "bf16" if config.uses_bf16 else "fp32"
    kind, loop, layers = BLOCKS[shape.block], LOOPS[shape.loop], shape.n_layers
    if compiled and config.uses_bf16:
        block, of_loop = kind.compiled_activation_bytes(shape), loop.compiled_activation_bytes(shape)
    else:
        block, of_loop = kind.activation_bytes(shape, precision), loop.activation_bytes(shape, precision)
        of_loop += loop.n_norms(layers) * PART_SETS[shape.parts].loop_norm_bytes(shape)
    tokens, head, stream = fit.micro_batch * config.seq_len, shape.vocab_size * shape.d_model, 4 * shape.d_model
    kept, at_once = shape.n_loops * (layers * block + of_loop), fit.recompute_layers or layers
    if fit.recompute:
        kept = shape.n_loops * (layers // at_once * stream + of_loop) + at_once * block
    of_number = 2 if config.uses_bf16 else 4
    logits = of_number * min(HEAD_ROWS, tokens) * shape.vocab_size
    copies = 2 * shape.n_params if config.uses_bf16 else 0
    if compiled and config.uses_bf16 and not bf16_weights:
        copies = 2 * head + 2 * shape.block_params * (at_once if fit.recompute else layers * shape.n_loops)
    return config.state_bytes + copies + 4 * head + logits + tokens * (kept + 3 * stream)


def fit_memory(config: ModelRun, execution: Execution, memory_gib: float | None, recompute: bool | None) -> Execution:
    """How a run is executed within a budget; without one nothing is recomputed unless the configuration says so.

    Args:
        config: what is trained.
        execution: how. Its `micro_batch` is the upper limit.
        memory_gib: budget.
        recompute: what the configuration says of recomputation; None leaves it to the estimate.
    """
    if memory_gib is None:
        return replace(execution, recompute=bool(recompute))
    budget = memory_gib * GIB
    if execution.device == "cpu":
        if recompute is None:
            recompute = training_bytes(config, execution.micro_batch, recompute=False) > budget
        return replace(execution, recompute=recompute)
    fits = candidates(config, execution.micro_batch, recompute, config.n_parallel)
    how = {"compiled": execution.compile, "bf16_weights": execution.bf16_weights}
    fitting = (fit for fit in fits if gpu_bytes(config, fit, **how) <= budget)
    return replace(execution, **vars(next(fitting, fits[-1])))


def candidates(config: ModelRun, limit: int, recompute: bool | None, batch: int) -> list[Fit]:
    """What a step on a GPU may keep, from the fastest to the smallest.

    First smaller and smaller micro-batches, then one sequence that is recomputed, in the segments that take the least.

    Args:
        config: what is trained.
        limit: largest micro-batch. Smaller ones are powers of two.
        recompute: True for recomputation at every micro-batch, False for none.
        batch: sequences that each micro-batch divides.
    """
    smaller = (2**power for power in reversed(range((limit - 1).bit_length())))
    sizes = [size for size in (limit, *smaller) if batch % size == 0]
    kept = [] if recompute else [Fit(size) for size in sizes]
    if recompute is False:
        return kept
    layers = config.model.n_layers
    segments = [None, *(size for size in range(layers - 1, 0, -1) if layers % size == 0)]
    least = min(segments, key=lambda size: gpu_bytes(config, Fit(1, True, size), compiled=True))
    return kept + [Fit(size, True, least) for size in (sizes if recompute else sizes[-1:])]
