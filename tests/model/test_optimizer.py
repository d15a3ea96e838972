"""Muon and AdamW as one optimizer: one matrix at a time, a momentum that rises, a state that comes back bit for bit."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from model import parameter_table
from model.initialization import initialize_
from model.optimizer import MuonAdamW, make_optimizer
from model.transformer import LoopedTransformer

BASE = {"base_lr": 0.02, "init_std": 24**-0.5, "eps": 1e-10, "weight_decay": 0.0, "depth_multiplier": 1.0}
BETAS = (0.8, 0.95)


def made(make_model, **fields) -> tuple[LoopedTransformer, MuonAdamW]:
    model = make_model(parts="nanochat", **fields)
    table = parameter_table(**BASE, parts="nanochat", optimizer="muon", d_model=24)
    initialize_(model, table, seed=0)
    optimizer = make_optimizer(model, table, BETAS)
    assert isinstance(optimizer, MuonAdamW)
    return model, optimizer


def with_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_a_table_without_muon_is_adamw(make_model) -> None:
    optimizer = make_optimizer(make_model(), parameter_table(**BASE), BETAS)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["kind"] for group in optimizer.param_groups] == [
        "embedding",
        "block_norm",
        "block_matrix",
        "final_norm",
    ]


def test_groups_have_their_optimizer_and_numbers(make_model) -> None:
    _, optimizer = made(make_model)
    share = (24 / 768) ** -0.5
    adamw = {g["kind"]: (g["lr"], g["betas"], g["eps"], g["weight_decay"]) for g in optimizer.adamw.param_groups}
    assert adamw == {
        "embedding": (pytest.approx(0.2 * share), BETAS, 1e-10, 0.0),
        "head": (pytest.approx(0.004 * share), BETAS, 1e-10, 0.0),
    }
    for group in optimizer.muon.param_groups:
        assert (group["lr"], group["peak_lr"], group["weight_decay"]) == (0.02, 0.02, 0.0)
        assert (group["nesterov"], group["ns_steps"], group["eps"]) == (True, 5, 1e-7)
    counts = {group["kind"]: len(group["params"]) for group in optimizer.muon.param_groups}
    assert counts == {"block_qkv": 2 * 3, "block_up": 2, "block_out": 2 * 2}
    assert len(optimizer.param_groups) == 5


def orthogonal(update: Tensor) -> Tensor:
    """Five quintic steps towards U Vᵀ, written out in fp64."""
    x = update.double() / update.double().norm()
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def test_every_matrix_gets_its_own_orthogonal_update(make_model) -> None:
    """Queries, keys and values apart, although they are one parameter. Three steps, momentum and Nesterov included."""
    model, optimizer = made(make_model)
    before = deepcopy(model.state_dict())
    averages = dict.fromkeys(before, 0.0)
    for step in range(3):
        with_gradients(model, seed=step)
        momentum = 0.85 + 0.1 * step / 300
        for name, parameter in model.named_parameters():
            if "blocks" not in name:
                continue
            assert parameter.grad is not None
            averages[name] = momentum * averages[name] + (1 - momentum) * parameter.grad
            update = momentum * averages[name] + (1 - momentum) * parameter.grad
            rows, columns = parameter.shape
            parts = update.chunk(3) if "qkv" in name else (update,)
            scale = max(1, rows / len(parts) / columns) ** 0.5
            before[name] -= 0.02 * scale * torch.cat([orthogonal(part) for part in parts]).float()
        optimizer.step()
    for name, parameter in model.named_parameters():
        if "blocks" in name:  # torch's iteration is in bf16: an update is off by some percent
            assert (parameter - before[name]).norm() < 0.05 * 3 * 0.02 * parameter.shape[1] ** 0.5, name
    whole = orthogonal(torch.cat([torch.eye(24), torch.eye(24), torch.eye(24)]))
    assert whole[:24].norm() < 0.7 * 24**0.5  # as one matrix, each part would move by 1/√3 of this


def test_fused_matrices_move_as_parameters_of_their_own_would(make_model) -> None:
    model, optimizer = made(make_model)
    weight = model.blocks[0].attention.qkv.weight
    parts = [nn.Parameter(part.clone()) for part in weight.detach().chunk(3)]
    apart = torch.optim.Muon(parts, lr=0.02, weight_decay=0.0, momentum=0.85)
    with_gradients(model, seed=1)
    for part, gradient in zip(parts, weight.grad.chunk(3), strict=True):
        part.grad = gradient.clone()
    apart.step()
    optimizer.step()
    assert torch.equal(weight, torch.cat(parts))


def test_momentum_rises_over_three_hundred_steps(make_model) -> None:
    model, optimizer = made(make_model)

    def momentum_of_next() -> float:
        with_gradients(model, seed=0)
        optimizer.step()
        [momentum] = {group["momentum"] for group in optimizer.muon.param_groups}
        return float(momentum)

    assert momentum_of_next() == pytest.approx(0.85)
    for steps, expected in ((150, 0.90), (300, 0.95), (1000, 0.95)):
        for group in optimizer.muon.param_groups:
            group["steps"] = steps
        assert momentum_of_next() == pytest.approx(expected)


def test_no_gradient_outlives_the_step(make_model) -> None:
    model, optimizer = made(make_model)
    with_gradients(model, seed=0)
    optimizer.step()
    optimizer.zero_grad()
    parts = [part for group in optimizer.muon.param_groups for part in group["params"]]
    assert all(tensor.grad is None for tensor in (*model.parameters(), *parts))


def test_a_matrix_without_a_gradient_stays(make_model) -> None:
    """At the first step the output projections are 0, and so is the gradient of all that is before them."""
    model, optimizer = made(make_model)
    first = deepcopy(model.state_dict())
    tokens = torch.arange(32).reshape(2, 16)
    model(tokens, tokens).backward()
    optimizer.step()
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, first[name])}
    assert moved == {"head.weight", "embedding.weight"} | {
        f"blocks.{i}.{name}.weight" for i in range(2) for name in ("attention.out", "mlp.down")
    }


def test_the_state_comes_back_bit_for_bit(make_model) -> None:
    model, optimizer = made(make_model)
    for step in range(2):
        with_gradients(model, seed=step)
        optimizer.step()
    other, resumed = made(make_model)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    for one, its in ((model, optimizer), (other, resumed)):
        for group in its.param_groups:
            group["lr"] = group["peak_lr"] / 2
        with_gradients(one, seed=2)
        its.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert {group["steps"] for group in resumed.muon.param_groups} == {3}
