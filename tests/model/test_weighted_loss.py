"""A loss on some targets only: eager, through the compiled head, and at several loop counts."""

import pytest
import torch
import torch.nn.functional as F

from model.cpu.enable import enable

REL = 1e-5  # fp32 sums in another order
PARTS = pytest.mark.parametrize("parts", ["llama", "nanochat"])  # the second: no gain, a cap on the logits
FAST = pytest.mark.parametrize("fast", [False, True], ids=["eager", "compiled"])


@pytest.fixture(scope="module")
def weights() -> torch.Tensor:
    """(2, 16): nothing for the first half of each row, unequal weights for the rest."""
    found = torch.zeros(2, 16)
    found[:, 8:] = torch.rand(2, 8, generator=torch.Generator().manual_seed(3))
    return found


def loss_and_gradients(model, tokens, targets, weights):
    loss = model(tokens, targets, weights=weights)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


@PARTS
@FAST
def test_it_is_the_weighted_sum_of_the_losses_of_the_tokens(make_model, tokens, weights, parts, fast) -> None:
    model, plain = (make_model(parts=parts) for _ in range(2))
    if fast:
        enable(model)
    losses = F.cross_entropy(plain(tokens).flatten(0, 1), tokens.flatten(), reduction="none")
    (losses * weights.flatten()).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in plain.parameters()])
    loss, gradients = loss_and_gradients(model, tokens, tokens, weights)
    assert loss == pytest.approx((losses * weights.flatten()).sum().item(), rel=REL)
    assert torch.allclose(gradients, expected, rtol=1e-4, atol=1e-6 * expected.abs().max().item())


@FAST
def test_targets_of_no_weight_change_nothing(make_model, tokens, weights, fast) -> None:
    models = [make_model() for _ in range(2)]
    if fast:
        [enable(model) for model in models]
    others = torch.where(weights > 0, tokens, (tokens + 7) % 61)
    found = [loss_and_gradients(*pair, weights) for pair in ((models[0], tokens, tokens), (models[1], tokens, others))]
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@FAST
def test_equal_weights_give_the_mean(make_model, tokens, fast) -> None:
    model = make_model()
    if fast:
        enable(model)
    equal = torch.full(tokens.shape, 1 / tokens.numel())
    assert model(tokens, tokens, weights=equal).item() == pytest.approx(model(tokens, tokens).item(), rel=REL)


def test_losses_and_answers_at_other_loop_counts_are_those_of_a_model_with_that_count(
    make_model, tokens, weights
) -> None:
    model, loops = make_model(), [1, 2, 5]
    losses = model.losses_by_loops(tokens, tokens, loops, weights)
    answers = model.answers_by_loops(tokens, loops)
    for n, loss, of_count in zip(loops, losses, answers, strict=True):
        assert loss.item() == pytest.approx(model(tokens, tokens, weights=weights, n_loops=n).item(), rel=REL)
        assert torch.equal(of_count, model(tokens, n_loops=n).argmax(-1))
