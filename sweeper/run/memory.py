"""How much memory training takes, estimated before it starts, and whether activations have to be recomputed."""

from model import BLOCKS, LOOPS, PART_SETS
from model.config import CHUNK_LOGITS
from sweeper.run.base import ModelRun

GIB = 2**30


def training_bytes(config: ModelRun, micro_batch: int, *, recompute: bool) -> int:
    """Estimated peak bytes of one training step, the libraries' own half a gigabyte aside.

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


def needs_recompute(config: ModelRun, micro_batch: int, memory_gib: float | None) -> bool:
    """Whether a step that keeps every activation would exceed the budget; without a budget it never does."""
    return memory_gib is not None and training_bytes(config, micro_batch, recompute=False) > memory_gib * GIB
