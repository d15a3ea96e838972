"""Switches a model to the fast path of a GPU."""

from model.gpu.head import compiled_loss_of, loss_of
from model.gpu.weights import use_bf16_copies
from model.optimizer import Optimizer
from model.transformer import LoopedTransformer


def enable(
    model: LoopedTransformer, optimizer: Optimizer, *, compiled: bool, fused_loss: bool, bf16_weights: bool
) -> None:
    """Have a model train on its fast path: same passes, equal up to rounding.

    Args:
        model: changed in place.
        optimizer: of its parameters.
        compiled: compile one block for every layer, loop step, N and rule, and the pass over the logits.
        fused_loss: take the loss by `model.gpu.head`.
        bf16_weights: use `model.gpu.weights`; for models that train in bf16.
    """
    if bf16_weights:
        use_bf16_copies(model, optimizer)
    if fused_loss:
        model.loss_of = compiled_loss_of() if compiled else loss_of
    if compiled:
        for block in model.blocks:
            block.compile(dynamic=False)
