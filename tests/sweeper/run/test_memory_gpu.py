"""What fits a GPU: the estimate against traces of the model on meta tensors, and the choice that follows from it."""

from dataclasses import replace

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from model import BLOCKS, ModelConfig
from model.gpu.weights import use_bf16_copies
from model.transformer import LoopedTransformer
from sweeper.run.memory import GIB, Fit, candidates, fit_memory, gpu_bytes
from sweeper.training.gradients import FlatGradients

from .gpu_trace import Programs, Step, compile_blocks
from .test_memory import LiveStorages


@pytest.fixture
def paper_cell(literal_run):
    """`paper_cell(L, N)`: a training of the paper's grid, as far as memory depends on it."""

    def make(n_layers: int, n_loops: int):
        shape = ModelConfig(128_256, 768, 12, 2048, n_layers, n_loops)
        return replace(literal_run, model=shape, batch_sequences=256, seq_len=2048, precision="bf16")

    return make


def kept_bytes(shape: ModelConfig, *, bf16_weights: bool = True) -> int:
    """Bytes of distinct storages, the model's own aside, that autograd keeps of compiled blocks for one sequence."""
    with torch.device("meta"):
        model = LoopedTransformer(shape)
        optimizer = torch.optim.AdamW(model.parameters())
    if bf16_weights:
        use_bf16_copies(model, optimizer)
    gradients = FlatGradients(model, optimizer)
    compile_blocks(model, {})
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers(), gradients.buffer)}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.detach()
        return tensor.detach()

    x = torch.empty(1, shape.max_seq_len, shape.d_model, device="meta", requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        *_, last = model.states(x)
        model.final_norm(last)
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)


@pytest.mark.parametrize(
    ("block", "loop", "parts"),
    [
        *((block, "plain", "llama") for block in BLOCKS),
        *(("pre_norm", loop, "llama") for loop in ("LT_i", "FLT", "FLT_res")),
        *((block, "plain", "nanochat") for block in ("pre_norm", "sandwich", "rezero")),
    ],
)
def test_one_more_loop_costs_what_a_compiled_block_keeps(literal_run, block, loop, parts) -> None:
    """Within 2%: positions and attention's sums, a few numbers a token, are left out."""
    shapes = [
        ModelConfig(300, 768, 12, 2048, 2, n, max_seq_len=2048, block=block, loop=loop, parts=parts) for n in (2, 3)
    ]
    runs = [replace(literal_run, model=shape, seq_len=2048, precision="bf16") for shape in shapes]
    fewer, more = (gpu_bytes(run, Fit(1), compiled=True) for run in runs)
    kept_fewer, kept_more = (kept_bytes(shape) for shape in shapes)
    assert more - fewer == pytest.approx(kept_more - kept_fewer, rel=0.02)


def test_blocks_that_cast_their_matrices_keep_them_in_every_application(literal_run) -> None:
    """Within 2%. For one sequence of the paper they are half as large as the activations."""
    shapes = [ModelConfig(300, 768, 12, 2048, 1, n, max_seq_len=2048) for n in (2, 3)]
    runs = [replace(literal_run, model=shape, seq_len=2048, precision="bf16") for shape in shapes]
    fewer, more = (gpu_bytes(run, Fit(1), compiled=True, bf16_weights=False) for run in runs)
    kept_fewer, kept_more = (kept_bytes(shape, bf16_weights=False) for shape in shapes)
    assert more - fewer == pytest.approx(kept_more - kept_fewer, rel=0.02)


def test_no_cell_of_the_paper_recomputes_on_80_gib(paper_cell, execution) -> None:
    on_gpu = replace(execution, device="cuda", compile=True, micro_batch=32)
    for n_layers in (12, 24, 48):
        for n_loops in (1, 2, 4, 8):
            run = paper_cell(n_layers, n_loops)
            how = fit_memory(run, on_gpu, 70, None)
            assert not how.recompute
            assert gpu_bytes(run, Fit(how.micro_batch), compiled=True) <= 70 * GIB
            larger = 2 * how.micro_batch
            assert larger > 32 or gpu_bytes(run, Fit(larger), compiled=True) > 70 * GIB


@pytest.fixture(scope="module")
def programs() -> Programs:
    """Compiled blocks of the paper's width, for all traces."""
    return {}


def fitted(run, execution, memory_gib: float) -> Fit:
    how = fit_memory(run, replace(execution, device="cuda", compile=True, micro_batch=32), memory_gib, None)
    return Fit(how.micro_batch, how.recompute, how.recompute_layers)


@pytest.mark.parametrize("n_layers", [12, 24, 48])
@pytest.mark.parametrize("n_loops", [1, 2, 4, 8])
def test_the_estimate_of_a_cell_of_the_paper_is_the_peak_of_its_trace(
    paper_cell, execution, programs, n_layers, n_loops
) -> None:
    run = paper_cell(n_layers, n_loops)
    fit = fitted(run, execution, 70)
    step = Step(run, fit, programs)
    with LiveStorages(step.tensors) as live:
        step.run(whole=False)
    assert 0.98 * live.peak < gpu_bytes(run, fit, compiled=True) < 1.05 * live.peak


def test_the_peak_is_at_the_first_blocks_of_the_backward_pass(paper_cell, execution, programs) -> None:
    """Of the smallest cell, whole, by `MemTracker`. It counts in blocks of 512 bytes."""
    run = paper_cell(12, 1)
    step = Step(run, fitted(run, execution, 70), programs)
    with LiveStorages(step.tensors) as live:
        step.run(whole=False)
    tracker = MemTracker()
    tracker.track_external(*step.tensors)
    with tracker:
        step.run()
    assert tracker.get_tracker_snapshot("peak")[torch.device("meta")]["Total"] == pytest.approx(live.peak, rel=1e-4)


def test_the_estimate_of_a_recomputed_cell_is_the_peak_of_its_trace(paper_cell, execution, programs) -> None:
    run = paper_cell(12, 4)
    fit = Fit(1, True, 4)
    step = Step(run, fit, programs)
    with LiveStorages(step.tensors) as live:
        step.run()
    assert 0.95 * live.peak < gpu_bytes(run, fit, compiled=True) < 1.1 * live.peak


def test_recomputation_comes_after_the_smallest_micro_batch(paper_cell, execution) -> None:
    """And then in segments that take less memory than a whole loop step, and less than keeping everything."""
    run, on_gpu = paper_cell(48, 1), replace(execution, device="cuda", compile=True, micro_batch=16)
    needed = gpu_bytes(run, Fit(1), compiled=True) / GIB
    assert fit_memory(run, on_gpu, needed * 1.01, None) == replace(on_gpu, micro_batch=1)
    least = fit_memory(run, on_gpu, needed * 0.99, None)
    assert (least.micro_batch, least.recompute) == (1, True)
    assert least.recompute_layers is not None
    assert 48 % least.recompute_layers == 0
    recomputed, by_loop_steps = Fit(1, True, least.recompute_layers), Fit(1, True)
    assert gpu_bytes(run, recomputed, compiled=True) < gpu_bytes(run, by_loop_steps, compiled=True)
    assert gpu_bytes(run, recomputed, compiled=True) < needed * GIB


def test_micro_batches_divide_the_batch_and_stay_below_the_limit(literal_run) -> None:
    def found(limit: int, recompute: bool | None, batch: int) -> list[tuple[int, bool]]:
        return [(fit.micro_batch, fit.recompute) for fit in candidates(literal_run, limit, recompute, batch)]

    assert found(24, False, 24) == [(24, False), (8, False), (4, False), (2, False), (1, False)]
    assert found(3, None, 24) == [(3, False), (2, False), (1, False), (1, True)]
    assert found(4, True, 6) == [(2, True), (1, True)]


def test_on_a_cpu_the_micro_batch_is_the_configurations(literal_run, execution) -> None:
    assert fit_memory(literal_run, execution, 1e-6, None) == replace(execution, recompute=True)
    assert fit_memory(literal_run, execution, 1e-6, False) == execution
    assert fit_memory(literal_run, execution, 100, None) == execution
    assert fit_memory(literal_run, execution, None, None) == execution
    assert fit_memory(literal_run, execution, None, True) == replace(execution, recompute=True)
