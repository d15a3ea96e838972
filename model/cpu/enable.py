"""Switches a model to the fast path of a CPU."""

from model.cpu.head import loss_of
from model.cpu.segment import CompiledStack
from model.cpu.tied_embedding import tied
from model.transformer import LoopedTransformer


def enable(model: LoopedTransformer, *, head: bool = True) -> None:
    """Have a model train on its fast path: same passes, equal up to rounding, compiled on their first use.

    What cannot be compiled, or is not fp32 on a CPU, runs as before.

    Args:
        model: changed in place.
        head: compile final norm, head and loss as well. Some hundred training steps earn it back.
    """
    model.look_up = tied
    model.open_stack = CompiledStack
    if head:
        model.loss_of = loss_of
