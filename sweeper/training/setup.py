"""What a run has before its first step: an initialised model and its optimizer."""

import logging
from collections.abc import Callable

import torch

from model.cpu.tied_embedding import tied
from model.gpu.enable import enable
from model.initialization import initialize_
from model.optimizer import Optimizer, make_optimizer
from model.transformer import LoopedTransformer
from sweeper.errors import UserError
from sweeper.run.base import ModelRun
from sweeper.run.execution import Execution
from sweeper.training.fit import is_out_of_memory

log = logging.getLogger(__name__)


def initialized(
    config: ModelRun,
    execution: Execution,
    device: torch.device,
    segment_layers: int | None = None,
    *,
    compile_head: bool = False,
) -> tuple[LoopedTransformer, Optimizer]:
    """The run's model before its first step, and the optimizer of its per-tensor table.

    Args:
        config: what is trained.
        execution: how; `compile` compiles one block for every layer, loop step, N and rule.
        device: where.
        segment_layers: layers of a segment that is observed; None for a loop step.
        compile_head: on a CPU, compile the head too. A few steps would not earn it back.
    """
    model = LoopedTransformer(
        config.model,
        recompute=execution.recompute,
        segment_layers=segment_layers,
        recompute_layers=execution.recompute_layers,
    )
    initialize_(model, config.table, config.seed)
    model = model.to(device)
    if device.type == "cpu":
        model.look_up = tied  # `model.gpu.weights` has one for GPUs, which add rows in any order
    optimizer = make_optimizer(model, config.table, config.betas)
    if device.type == "cuda":
        bf16_weights = execution.bf16_weights and config.uses_bf16
        how = {"compiled": execution.compile, "fused_loss": execution.fused_loss, "bf16_weights": bf16_weights}
        enable(model, optimizer, **how)
    elif execution.compile:
        from model.cpu import enable as on_cpu  # imports torch's compiler, which takes two seconds

        on_cpu.enable(model, head=compile_head)
    return model, optimizer


def compiled_by(passes: Callable[[], None], execution: Execution) -> bool:
    """Make the first passes, which compile; whether the model is compiled then.

    Where the compiler is missing or fails on a CPU the run continues uncompiled: slower, and equal up to rounding.

    Raises:
        UserError: if it fails on a GPU, where days would take twice as long, unless `execution.allow_uncompiled`.
        torch.OutOfMemoryError: or an error with it as its cause.
    """
    try:
        passes()
        return execution.compile
    except Exception as error:
        if is_out_of_memory(error) or not execution.compile:
            raise
        reason, on_gpu = str(error).splitlines()[0], execution.device == "cuda"
        if on_gpu and not execution.allow_uncompiled:
            raise UserError(
                f"execution.compile=true: the block cannot be compiled ({reason}); repair the compiler, or train at "
                "half the speed with execution.allow_uncompiled=true"
            ) from error
        log.warning("cannot compile the block (%s); running it uncompiled", reason)
    torch.compiler.set_stance("force_eager")
    if on_gpu:
        passes()  # they show what fits
    return False
