"""What a run has before its first step: a device, an initialised model, its optimizer."""

import torch

from model.cpu.tied_embedding import tied
from model.initialization import initialize_
from model.optimizer import Optimizer, make_optimizer
from model.transformer import LoopedTransformer
from sweeper.errors import UserError
from sweeper.run.base import ModelRun
from sweeper.run.execution import Execution


def prepare_device(execution: Execution, precision: str) -> torch.device:
    """The device of this process's runs, with threads and the precision of products set.

    Raises:
        UserError: if it is missing.
    """
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise UserError("execution.device=cuda but no GPU is visible; use a GPU node or execution.device=cpu")
    torch.set_num_threads(execution.threads)
    torch.set_float32_matmul_precision("high" if precision == "bf16" else "highest")
    return torch.device(execution.device)


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
        execution: how; `compile` compiles the block.
        device: where.
        segment_layers: layers of a segment that is observed; None for a loop step.
        compile_head: compile the head too. A few steps would not earn it back.
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
        model.look_up = tied  # elsewhere rows would be added in any order
    if execution.compile:
        _compile(model, device, head=compile_head)
    return model, make_optimizer(model, config.table, config.betas)


def _compile(model: LoopedTransformer, device: torch.device, *, head: bool) -> None:
    """Compile one block for every layer, loop step, N and rule; on a CPU by `model.cpu`, and the head if asked for."""
    if device.type == "cpu":
        from model.cpu.enable import enable  # imports torch's compiler, which takes two seconds

        enable(model, head=head)
        return
    for block in model.blocks:
        block.compile(dynamic=False)
