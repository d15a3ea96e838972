"""Gradients in one buffer are those that each parameter would have, on one rank and on two."""

import multiprocessing

import pytest
import torch
from torch import nn

from sweeper.run.stop import StopFlag
from sweeper.training.distributed import ALONE, RankInfo
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
def test_the_norm_and_the_bound_are_those_of_torch(bound) -> None:
    """To rounding: torch takes the norm of norms."""
    networks = small_network(), small_network()
    plain, flat = (gradients_of(kind, of) for kind, of in zip((Gradients, FlatGradients), networks, strict=True))
    for network in networks:
        backward(network, ROWS)
    assert plain.clip_(bound).item() == pytest.approx(flat.clip_(bound).item(), rel=1e-6)
    for one, other in zip(*(of.parameters() for of in networks), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=0)


def rank_of_two(rank: int, rendezvous: str, results) -> None:
    ranks = RankInfo(rank, 2, rendezvous_file=rendezvous).join("cpu", StopFlag())
    network = small_network()
    gradients = gradients_of(FlatGradients, network)
    first, count = ranks.part(len(ROWS))
    backward(network, ROWS[first : first + count])
    loss = torch.ones(())
    gradients.sum_over(ranks, [loss])
    results.put((rank, loss.item(), gradients.clip_(None).item(), gradients.buffer.tolist()))
    ranks.leave()


def test_two_ranks_have_the_gradients_of_the_whole_batch(tmp_path) -> None:
    processes = multiprocessing.get_context("fork")
    results = processes.Queue()
    rendezvous = str(tmp_path / "rendezvous")
    both = [processes.Process(target=rank_of_two, args=(rank, rendezvous, results)) for rank in range(2)]
    for process in both:
        process.start()
    found = sorted(results.get(timeout=60) for _ in both)
    for process in both:
        process.join()
    network = small_network()
    whole = gradients_of(FlatGradients, network)
    backward(network, ROWS)
    whole.sum_over(ALONE, [])
    for _, loss, norm, buffer in found:
        assert loss == 2
        assert buffer == found[0][3]
        assert buffer == pytest.approx(whole.buffer.tolist(), rel=1e-5, abs=1e-7)
        assert norm == pytest.approx(whole.clip_(None).item(), rel=1e-6)
