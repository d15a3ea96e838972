"""Embedding and head are one tensor: their gradients are summed into one buffer."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model import loss
from model.cpu.enable import enable
from model.cpu.tied_embedding import tied

REL = 1e-5  # of the norm, fp32: added in another order


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets (2, 15); many a token occurs several times."""
    tokens = torch.randint(9, (2, 16), generator=torch.Generator().manual_seed(7))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((found - expected).norm()) <= REL * float(expected.norm())


def reference(model, inputs, targets) -> torch.Tensor:
    """The gradient of one tensor used twice, by autograd alone."""
    weight = model.embedding.weight
    *_, h = model.states(F.embedding(inputs, weight))
    loss = F.cross_entropy((model.final_norm(h) @ weight.T).flatten(0, 1), targets.flatten())
    (grad,) = torch.autograd.grad(loss, weight)
    return grad


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_gradient_is_the_sum_of_both_uses(make_model, rows, compiled, recompute) -> None:
    model = make_model(recompute=recompute)
    expected = reference(model, *rows)
    if compiled:
        enable(model)
    else:
        model.look_up = tied
    for passes in (1, 2):  # the second is added, as a second micro-batch's
        model(*rows).backward()
        assert_close(model.embedding.weight.grad, passes * expected)


def test_of_logits_too(make_model, rows) -> None:
    model, (inputs, targets) = make_model(), rows
    model.look_up = tied
    expected = reference(model, inputs, targets)
    F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
    assert_close(model.embedding.weight.grad, expected)


def test_a_graph_that_is_kept_gives_the_same_again(make_model, rows) -> None:
    model = make_model()
    model.look_up = tied
    loss, weight = model(*rows), model.embedding.weight
    first, second = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, torch.autograd.grad(loss, weight)[0])


class OfSize(TorchDispatchMode):
    """Counts the operations that made a new tensor of so many elements."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements, self.made = elements, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        is_new = not any(returned.alias_info for returned in func._schema.returns)
        if is_new and isinstance(out, torch.Tensor) and out.numel() == self.elements:
            self.made += 1
        return out


def test_there_is_one_gradient(make_model, rows, monkeypatch) -> None:
    monkeypatch.setattr(loss, "ROWS_AT_ONCE", 100)
    model = make_model(vocab_size=997)
    model.look_up = tied
    with OfSize(model.embedding.weight.numel()) as counted:
        model(*rows).backward()
    assert counted.made == 1  # autograd would make the lookup's and the sum as well
