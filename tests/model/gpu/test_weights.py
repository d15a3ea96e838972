"""bf16 block matrices with fp32 masters train as autocast does, and checkpoints do not differ."""

from contextlib import AbstractContextManager
from copy import deepcopy

import pytest
import torch

from model import parameter_table
from model.gpu.enable import enable
from model.gpu.weights import MasterWeights
from model.optimizer import Optimizer, make_optimizer
from model.transformer import LoopedTransformer

TABLE = {"base_lr": 1e-2, "init_std": 0.2, "eps": 1e-8, "weight_decay": 0.1, "depth_multiplier": 1}


def optimizer_of(model: LoopedTransformer) -> Optimizer:
    kinds = {"block": model.config.block, "loop": model.config.loop, "parts": model.config.parts}
    applications = model.config.n_layers * model.config.n_loops
    return make_optimizer(model, parameter_table(**TABLE, applications=applications, **kinds), (0.9, 0.95))


def with_masters(model: LoopedTransformer) -> MasterWeights:
    enabled = enable(model, optimizer_of(model), compiled=False, fused_loss=False, bf16_weights=True)
    assert isinstance(enabled, MasterWeights)
    return enabled


def autocast() -> AbstractContextManager[None]:
    """Without its cache, in which the gradients of a cast matrix add up in bf16."""
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


def losses(model: LoopedTransformer, optimizer: Optimizer | MasterWeights, tokens: torch.Tensor, n: int) -> list[float]:
    found = []
    for _ in range(n):
        for part in tokens.split(1):  # two micro-batches
            with autocast():
                loss = model(part, part.roll(1))
            loss.backward()
            found.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return found


@pytest.mark.parametrize(
    "kinds",
    [{}, {"loop": "FLT"}, {"block": "sandwich"}, {"parts": "nanochat"}, {"loop": "parcae"}, {"recompute": True}],
    ids=str,
)
def test_training_is_that_of_autocast_bit_for_bit(make_model, tokens, kinds) -> None:
    one, other = make_model(n_loops=3, **kinds), make_model(n_loops=3, **kinds)
    assert losses(one, with_masters(one), tokens, 4) == losses(other, optimizer_of(other), tokens, 4)
    expected = other.state_dict()
    for name, weight in one.state_dict().items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)


def test_gradients_add_up_over_loops_in_fp32_and_leave_the_copies(make_model, tokens) -> None:
    """Each application's is rounded to bf16, their sum is not. A compiler would not take copies with gradients."""
    model = make_model(n_loops=8)
    optimizer = with_masters(model)
    with autocast():
        model(tokens, tokens).backward()
    gradients = [p.grad for p in optimizer.parameters if p.ndim == 2]
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    assert any((gradient != gradient.bfloat16().float()).any() for gradient in gradients[1:])
    copies = [p for p in model.blocks.parameters() if p.dtype == torch.bfloat16]
    assert len(copies) == 4 * model.config.n_layers
    assert all(p.grad is None for p in copies)


def test_a_checkpoint_goes_both_ways(make_model, tokens) -> None:
    first, second = make_model(), make_model(seed=1)
    trained, resumed = with_masters(first), with_masters(second)
    losses(first, trained, tokens, 2)
    weights, moments = deepcopy(first.state_dict()), deepcopy(trained.state_dict())
    second.load_state_dict(weights)
    resumed.load_state_dict(deepcopy(moments))
    plain = make_model(seed=2)
    plain.load_state_dict(weights)
    plain_optimizer = optimizer_of(plain)
    plain_optimizer.load_state_dict(moments)
    expected = losses(first, trained, tokens, 2)
    assert losses(second, resumed, tokens, 2) == expected
    assert losses(plain, plain_optimizer, tokens, 2) == expected
