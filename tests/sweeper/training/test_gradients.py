"""Gradients in one buffer are those that each parameter would have, on one rank and on two."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from sweeper.training.gradients import ALIGNMENT, FlatGradients, Gradients


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def gradients_of(kind: type[Gradients], network: nn.Module) -> Gradients:
    return kind(network, torch.optim.AdamW(network.parameters()))


def backward(network: nn.Module, rows: torch.Tensor) -> None:
    """Adds the gradients of some rows of a batch of four."""
    (network(rows).square().sum() / 4).backward()


ROWS = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))


def test_gradients_stay_parts_of_the_buffer_and_are_those_of_before() -> None:
    plain, flat = small_network(), small_network()
    gradients = gradients_of(FlatGradients, flat)
    for _ in range(2):
        gradients_of(Gradients, plain).zero_()
        gradients.zero_()
        for row in ROWS.split(1):
            backward(plain, row)
            backward(flat, row)
        for one, other in zip(plain.parameters(), flat.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)
            assert other.grad.untyped_storage().data_ptr() == gradients.buffer.data_ptr()
            assert other.grad.storage_offset() % ALIGNMENT == 0


@pytest.mark.parametrize("bound", [None, 1e-3, 1e3])
def test_norm_and_bound_are_those_of_the_parameters_bit_for_bit(bound) -> None:
    networks = small_network(), small_network()
    plain, flat = (gradients_of(kind, of) for kind, of in zip((Gradients, FlatGradients), networks, strict=True))
    for network in networks:
        backward(network, ROWS)
    assert plain.clip_(bound).item() == flat.clip_(bound).item()
    for one, other in zip(*(of.parameters() for of in networks), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_two_ranks_train_as_one_does(
    runs, reference_runs, run_config, execution, data_root, repository, tmp_path
) -> None:
    """To rounding: sums are in another order."""
    how = replace(execution, micro_batch=1)
    together = runs.write_config(run_config, how)
    command = [sys.executable, "-m", "tests.sweeper.training.one_of_two_ranks"]
    rest = [str(tmp_path / "rendezvous"), str(together.path), str(data_root)]
    both = [subprocess.Popen([*command, rank, *rest], cwd=repository) for rank in ("0", "1")]
    try:
        assert [process.wait(timeout=120) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()  # one would wait for the other that failed
    alone, _ = reference_runs.train(run_config, how)
    found, expected = (list(rundir.read_metrics()) for rundir in (together, alone))
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for line, other in zip(found, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-4)
