"""Table 3 as numbers, and what reads it: initialisation and AdamW's groups."""

import math
import re
import statistics
from dataclasses import asdict, replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from model import ModelConfig, initialization, parameter_table
from model.initialization import initialize_, parameter_groups
from model.transformer import LoopedTransformer

# Table 3 with Table 4's values (η0 = 1.25e-3, σ0 = 0.02, ε0 = 1e-8, ω0 = 0.1), worked out by hand.
TABLE_3 = {
    1: {
        "embedding": (0.02, 1.25e-3, 1e-8, 0.0),
        "block_norm": (None, 1.25e-3, 1e-8, 0.0),
        "block_matrix": (0.02, 1.25e-3, 1e-8, 0.1),
        "final_norm": (None, 1.25e-3, 1e-8, 0.0),
    },
    2: {
        "embedding": (0.02, 1.25e-3, 1e-8, 0.0),
        "block_norm": (None, 8.838834764831845e-4, 7.071067811865475e-9, 0.0),
        "block_matrix": (0.02, 8.838834764831845e-4, 7.071067811865475e-9, 0.1),
        "final_norm": (None, 1.25e-3, 1e-8, 0.0),
    },
    4: {
        "embedding": (0.02, 1.25e-3, 1e-8, 0.0),
        "block_norm": (None, 6.25e-4, 5e-9, 0.0),
        "block_matrix": (0.02, 6.25e-4, 5e-9, 0.1),
        "final_norm": (None, 1.25e-3, 1e-8, 0.0),
    },
}
# A normal cut at ±3σ has 0.98658 of its standard deviation: sqrt(1 − 6 φ(3) / (2 Φ(3) − 1)).
NORMAL = statistics.NormalDist()
CUT_STD = math.sqrt(1 - 6 * NORMAL.pdf(3) / (2 * NORMAL.cdf(3) - 1))


def paper_table(depth_multiplier: float = 1.0):
    return parameter_table(
        base_lr=1.25e-3, init_std=0.02, eps=1e-8, weight_decay=0.1, depth_multiplier=depth_multiplier
    )


@pytest.mark.parametrize("depth_multiplier", TABLE_3)
@pytest.mark.parametrize("kind", TABLE_3[1])
def test_every_row_has_the_papers_numbers(depth_multiplier, kind) -> None:
    row = asdict(next(row for row in paper_table(depth_multiplier) if row.kind == kind))
    numbers = tuple(row[name] for name in ("init_std", "lr", "eps", "weight_decay"))
    expected = TABLE_3[depth_multiplier][kind]
    assert numbers[0] == expected[0]
    assert numbers[1:] == pytest.approx(expected[1:], rel=1e-12, abs=0)  # powers round


def test_the_table_has_no_row_beyond_the_papers() -> None:
    assert [row.kind for row in paper_table()] == list(TABLE_3[1])


def test_groups_carry_the_tables_numbers_into_adamw(make_model) -> None:
    model = make_model(n_layers=2)
    optimizer = torch.optim.AdamW(parameter_groups(model, paper_table(2)), betas=(0.9, 0.95))
    for group in optimizer.param_groups:
        _, lr, eps, decay = TABLE_3[2][group["kind"]]
        assert (group["lr"], group["eps"], group["weight_decay"]) == pytest.approx((lr, eps, decay), rel=1e-12)
        assert group["peak_lr"] == group["lr"]
        assert group["betas"] == (0.9, 0.95)


def test_each_tensor_is_in_the_group_of_its_kind(make_model) -> None:
    model = make_model(n_layers=1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {g["kind"]: [names[id(p)] for p in g["params"]] for g in parameter_groups(model, paper_table())}
    assert groups == {
        "embedding": ["embedding.weight"],
        "block_norm": ["blocks.0.attention_norm.weight", "blocks.0.mlp_norm.weight"],
        "block_matrix": [
            "blocks.0.attention.qkv.weight",
            "blocks.0.attention.out.weight",
            "blocks.0.mlp.gate_up.weight",
            "blocks.0.mlp.down.weight",
        ],
        "final_norm": ["final_norm.weight"],
    }


def test_nothing_depends_on_the_loop_count(make_model) -> None:
    numbers = []
    for n_loops in (1, 8):
        groups = parameter_groups(make_model(n_loops=n_loops), paper_table())
        numbers.append([{**group, "params": len(group["params"])} for group in groups])
    assert numbers[0] == numbers[1]


def test_uncovered_parameter_raises(make_model) -> None:
    model = make_model()
    model.gate = nn.Linear(2, 2)
    for use in (lambda: parameter_groups(model, paper_table()), lambda: initialize_(model, paper_table(), 0)):
        with pytest.raises(ValueError, match=r"parameter 'gate\.weight' matches no row of the table \(embedding, "):
            use()


def test_row_without_parameter_raises(make_model) -> None:
    table = (*paper_table(), replace(paper_table()[0], kind="position", pattern=r"position\.weight"))
    for use in (lambda: parameter_groups(make_model(), table), lambda: initialize_(make_model(), table, 0)):
        with pytest.raises(ValueError, match="row 'position' of the table matches no parameter"):
            use()


def test_first_match_wins(make_model) -> None:
    query = replace(paper_table()[2], kind="qkv", pattern=r"blocks\.\d+\.attention\.qkv\.weight", lr=7.0)
    groups = parameter_groups(make_model(n_layers=3), (query, *paper_table()))
    assert {g["kind"]: len(g["params"]) for g in groups}["qkv"] == 3
    assert {g["kind"]: len(g["params"]) for g in groups}["block_matrix"] == 9
    with pytest.raises(ValueError, match="row 'qkv' of the table matches no parameter"):
        parameter_groups(make_model(), (*paper_table(), query))


def test_init_is_a_normal_cut_at_three_sigma(make_model) -> None:
    model = make_model(vocab_size=2048, d_model=64, n_heads=1, mlp_dim=176, n_layers=1, init_std=0.07)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert bool((parameter == 1).all())
            continue
        n = parameter.numel()
        # Five standard errors: σ/√n of the mean, about σ/√(2n) of the deviation.
        assert abs(parameter.mean()) < 5 * 0.07 / math.sqrt(n), name
        assert float(parameter.detach().std()) == pytest.approx(0.07 * CUT_STD, rel=5 / math.sqrt(2 * n)), name
        assert 2.5 * 0.07 < float(parameter.detach().abs().max()) <= 3 * 0.07 * (1 + 1e-6), name


def test_init_draws_what_it_always_drew(make_model, monkeypatch) -> None:
    """Whole tensors in turn, then what lies outside of them again, wherever tensors are looked through by parts."""
    monkeypatch.setattr(initialization, "ROWS_AT_ONCE", 7)
    model, generator, again = make_model(), torch.Generator().manual_seed(3), 0
    initialize_(model, paper_table(), seed=3)
    for name, found in model.named_parameters():
        if name.endswith("norm.weight"):
            continue
        expected = torch.randn(found.shape, generator=generator)
        while (outside := expected.abs() > 3).any():
            expected[outside] = torch.randn(int(outside.sum()), generator=generator)
            again += 1
        row = next(row for row in paper_table() if re.fullmatch(row.pattern, name))
        assert torch.equal(found, expected * row.init_std), name
    assert again > 0


def test_init_is_shared_across_loop_counts_and_a_prefix_across_depths(make_model) -> None:
    shallow, deep = make_model(n_layers=2, n_loops=1), make_model(n_layers=4, n_loops=8)
    for name, parameter in shallow.named_parameters():
        assert torch.equal(parameter, deep.get_parameter(name)), name
    blocks = [block.attention.qkv.weight for block in deep.blocks]
    assert not any(torch.equal(a, b) for a, b in pairwise(blocks))


def test_seeds_differ_and_repeat(make_model) -> None:
    a, b, again = (make_model(seed=seed).embedding.weight for seed in (0, 1, 0))
    assert torch.equal(a, again)
    assert not torch.equal(a, b)


@pytest.mark.parametrize(("n_layers", "millions"), [(12, 183.5), (24, 268.4), (48, 438.3)])
def test_parameter_counts_are_table_2s(n_layers, millions) -> None:
    config = ModelConfig(
        vocab_size=128_256, d_model=768, n_heads=12, mlp_dim=2048, n_layers=n_layers, n_loops=8, residual_scale=0.1
    )
    with torch.device("meta"):
        model = LoopedTransformer(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e6, 1) == millions
    assert count == config.n_params
    assert sum(len(group["params"]) for group in parameter_groups(model, paper_table())) == 2 + 6 * n_layers
