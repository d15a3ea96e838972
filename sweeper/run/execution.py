"""How a run is executed and where it is mirrored to; no part of what a run is."""

from dataclasses import dataclass, field
from typing import Any, Self

from sweeper.run.plain import from_plain

MODES = ("offline", "online", "off")


@dataclass(frozen=True)
class Tracking:
    """How a run is mirrored to wandb.

    Attributes:
        mode: "offline" (files, for `wandb sync`), "online" (a server; files where it does not answer) or "off".
        project: on the server.
        entity: its owner; None for the account's default.
        base_url: of the server.
        init_timeout: seconds for the server to answer when a run is opened.
        finish_timeout: seconds for the last uploads when it is closed.
    """

    mode: str = "off"
    project: str = "loopsweep"
    entity: str | None = None
    base_url: str = "https://api.wandb.ai"
    init_timeout: float = 10.0
    finish_timeout: float = 10.0


@dataclass(frozen=True)
class Execution:
    """How a run is executed. It may change speed and memory, never the result.

    Attributes:
        device: "cpu" or "cuda".
        micro_batch: sequences in one forward pass; gradients accumulate up to the run's batch. On a GPU with a budget
            the largest that fits, see `sweeper.run.memory`.
        compile: compile one block and reuse it for every layer and loop step.
        recompute: recompute activations in the backward pass instead of storing them.
        threads: CPU threads of one run.
        log_every: steps between lines in metrics.jsonl.
        validate_every: steps between validations on the way; the last step always validates.
        checkpoint_every: steps between checkpoints.
        tracking: where it is mirrored to.
        recompute_layers: layers that are recomputed together; None for a loop step.
        probe_memory: on a GPU, try a step before the first one, and a smaller micro-batch if memory runs out.
        fused_loss: on a GPU, take the loss in large chunks, each by one compiled pass (`model.gpu.head`).
        bf16_weights: on a GPU in bf16, cast the matrices of blocks once a step, and add to fp32 gradients where they
            are (`model.gpu.weights`).
        flat_gradients: on a GPU or several, keep gradients in one buffer.
        allow_uncompiled: on a GPU, train at half speed where the block cannot be compiled; otherwise that is an error.
        deterministic: on a GPU, use only operations that repeat bit for bit.
    """

    device: str
    micro_batch: int
    compile: bool
    recompute: bool
    threads: int
    log_every: int
    validate_every: int
    checkpoint_every: int
    tracking: Tracking = field(default_factory=Tracking)
    recompute_layers: int | None = None
    probe_memory: bool = True
    fused_loss: bool = True
    bf16_weights: bool = True
    flat_gradients: bool = True
    allow_uncompiled: bool = False
    deterministic: bool = False

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Inverse of `dataclasses.asdict`; records from before there was tracking have none.

        Raises:
            ValueError: for a field that is unknown or missing.
        """
        execution: Self = from_plain(cls, fields)
        return execution
