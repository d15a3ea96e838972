"""What the forward pass promises: read-outs that agree with it, causality, recomputation, and errors."""

import pytest
import torch

from model import ModelConfig
from model.loop import apply_blocks
from model.transformer import LoopedTransformer


def gradients(model, tokens) -> dict[str, torch.Tensor]:
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("n_loops", [1, 2, 5])
def test_observe_sees_every_loop_step_of_the_model_that_answers(make_model, tokens, n_loops) -> None:
    model = make_model(n_loops=n_loops, residual_scale=0.5)
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        logits = model(tokens, observe=lambda n, h: seen.update({n: h}))
        assert list(seen) == list(range(n_loops + 1))
        assert torch.equal(seen[0], model.embedding(tokens))
        for n in range(n_loops):
            assert torch.equal(seen[n + 1], apply_blocks(model.blocks, range(2), seen[n], (model.rotary,)))
        assert torch.equal(logits, model.final_norm(seen[n_loops]) @ model.embedding.weight.T)


def test_observing_changes_nothing(make_model, tokens) -> None:
    model = make_model()
    assert torch.equal(model(tokens), model(tokens, observe=lambda n, h: None))


def test_loss_is_the_mean_negative_log_likelihood_of_the_logits(make_model, tokens) -> None:
    model = make_model()
    with torch.no_grad():
        log_p = model(tokens[:, :-1]).log_softmax(-1)
        expected = -log_p.gather(-1, tokens[:, 1:, None]).mean()
        torch.testing.assert_close(model(tokens[:, :-1], tokens[:, 1:]), expected, rtol=1e-5, atol=0)


def test_recomputation_gives_equal_gradients(make_model, tokens) -> None:
    """The same operations run twice: equal to the last bit."""
    kept, recomputed = (gradients(make_model(n_loops=3, recompute=r), tokens) for r in (False, True))
    for name, gradient in kept.items():
        assert torch.equal(gradient, recomputed[name]), name


@pytest.mark.parametrize("n_loops", [1, 3])
def test_future_tokens_change_nothing_before_them(make_model, tokens, n_loops) -> None:
    model = make_model(n_loops=n_loops)
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 61
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.isclose(before[:, 9:], after[:, 9:]).all(-1).any()


def test_order_of_earlier_tokens_matters(make_model, tokens) -> None:
    """Without rotary positions attention would see a set."""
    swapped = tokens.clone()
    swapped[:, [2, 5]] = tokens[:, [5, 2]]
    model = make_model(n_layers=1, n_loops=1)
    with torch.no_grad():
        assert not torch.allclose(model(tokens)[:, -1], model(swapped)[:, -1], atol=1e-3)


def test_a_shorter_sequence_is_a_prefix(make_model, tokens) -> None:
    model = make_model()
    with torch.no_grad():
        torch.testing.assert_close(model(tokens[:, :5]), model(tokens)[:, :5], rtol=1e-5, atol=1e-5)


def test_a_sequence_beyond_the_rotary_table_is_an_error(make_model) -> None:
    with pytest.raises(ValueError, match="sequence of 17 tokens exceeds max_seq_len=16"):
        make_model()(torch.zeros(1, 17, dtype=torch.int64))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 25}, "d_model=25 is not divisible by n_heads=3"),
        ({"d_model": 27}, "head dimension d_model/n_heads=9 is odd"),
        ({"residual_scale": 0.0}, "residual_scale=0.0 must be positive"),
        ({"residual_scale": float("nan")}, "residual_scale=nan must be positive"),
        ({"loop": "lopp"}, "loop=lopp is unknown; allowed: plain, add"),
        ({"block": "norm"}, "block=norm is unknown; allowed: pre_norm, post_norm"),
        *(
            ({name: 0}, f"{name}=0 must be at least 1")
            for name in ("vocab_size", "d_model", "n_heads", "mlp_dim", "n_layers", "n_loops", "max_seq_len")
        ),
    ],
)
def test_a_shape_that_cannot_be_is_an_error_that_names_the_field(fields, message) -> None:
    shape = {"vocab_size": 61, "d_model": 24, "n_heads": 3, "mlp_dim": 40, "n_layers": 2, "n_loops": 2}
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{**shape, **fields})


def test_segments_are_observed_in_the_order_the_data_flows(make_model, tokens) -> None:
    """Layers in segments of one: N · L of them, the last equal to the last loop step."""
    model = make_model(n_layers=2, n_loops=3)
    whole: dict[int, torch.Tensor] = {}
    model(tokens, observe=lambda n, h: whole.update({n: h}))
    model.segment_layers = 1
    parts: dict[int, torch.Tensor] = {}
    model(tokens, observe=lambda n, h: parts.update({n: h}))
    assert list(parts) == list(range(7))
    for n, h in whole.items():
        assert torch.equal(parts[2 * n], h)


def test_layers_that_do_not_divide_into_segments_are_refused() -> None:
    config = ModelConfig(vocab_size=8, d_model=4, n_heads=1, mlp_dim=8, n_layers=3, n_loops=1)
    with pytest.raises(ValueError, match="n_layers=3 is not a multiple of segment_layers=2"):
        LoopedTransformer(config, segment_layers=2)
