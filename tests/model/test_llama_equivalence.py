"""At N = 1 and ε = 1 the model is Llama; N loops are the same stack N times.

The reference below shares no code and no style with `model`: a sequence and a head at a time, complex-number rotary
positions, separate q, k and v, softmax with an explicit mask, everything in fp64.
"""

import math

import pytest
import torch
from torch import Tensor

from model.transformer import LoopedTransformer

# The model is cast to fp64, but its rotary table is fp32: angles are off by up to T · 2⁻²⁴ ≈ 1e-6.
ROTARY_ATOL = 1e-5


def reference_logits(model: LoopedTransformer, sequence: list[int]) -> Tensor:
    """(T, vocab_size) logits from the model's weights alone."""
    c = model.config
    weights = {name: value.double() for name, value in model.state_dict().items()}
    stream = [weights["embedding.weight"][token] for token in sequence]
    for _ in range(c.n_loops):
        for layer in range(c.n_layers):
            block = {n.split(".", 2)[2]: w for n, w in weights.items() if n.startswith(f"blocks.{layer}.")}
            normed = [norm(x, block["attention_norm.weight"], c.norm_eps) for x in stream]
            attended = attention(normed, block["attention.qkv.weight"], c.n_heads, c.rope_theta)
            for t, a in enumerate(attended):
                stream[t] = stream[t] + c.residual_scale * block["attention.out.weight"] @ a
            for t, x in enumerate(stream):
                y = norm(x, block["mlp_norm.weight"], c.norm_eps)
                gate, up = block["mlp.gate_up.weight"][: c.mlp_dim] @ y, block["mlp.gate_up.weight"][c.mlp_dim :] @ y
                silu = gate / (1 + torch.exp(-gate))
                stream[t] = x + c.residual_scale * block["mlp.down.weight"] @ (silu * up)
    return torch.stack(
        [weights["embedding.weight"] @ norm(x, weights["final_norm.weight"], c.norm_eps) for x in stream]
    )


def norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return gain * x / math.sqrt(sum(v * v for v in x.tolist()) / len(x) + eps)


def attention(xs: list[Tensor], qkv: Tensor, n_heads: int, theta: float) -> list[Tensor]:
    d_model = qkv.shape[1]
    w_q, w_k, w_v = qkv[:d_model], qkv[d_model : 2 * d_model], qkv[2 * d_model :]
    head_dim, outputs = d_model // n_heads, []
    for head in range(n_heads):
        rows = slice(head * head_dim, (head + 1) * head_dim)
        queries = [rotary(w_q[rows] @ x, t, theta) for t, x in enumerate(xs)]
        keys = [rotary(w_k[rows] @ x, t, theta) for t, x in enumerate(xs)]
        values = torch.stack([w_v[rows] @ x for x in xs])
        scores = torch.tensor([[float(q @ k) for k in keys] for q in queries], dtype=torch.float64)
        mask = torch.ones(len(xs), len(xs)).triu(1).bool()
        scores = (scores / math.sqrt(head_dim)).masked_fill(mask, -math.inf).exp()
        outputs.append(scores / scores.sum(dim=1, keepdim=True) @ values)
    return list(torch.cat(outputs, dim=1))


def rotary(x: Tensor, position: int, theta: float) -> Tensor:
    """Component i and component i + D/2 are one complex number, turned by position · θ^(−2i/D)."""
    half = len(x) // 2
    turned = [
        complex(x[i], x[half + i]) * complex(math.cos(angle), math.sin(angle))
        for i in range(half)
        for angle in [position * theta ** (-2 * i / len(x))]
    ]
    return torch.tensor([z.real for z in turned] + [z.imag for z in turned], dtype=torch.float64)


def randomize_gains(model: LoopedTransformer) -> None:
    """Gains that start at 1 would hide a missing or swapped one."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.5 * torch.rand(parameter.shape, generator=generator))


@pytest.mark.parametrize(("n_loops", "residual_scale"), [(1, 1.0), (3, 0.37)], ids=["llama", "looped and scaled"])
@pytest.mark.parametrize("rope_theta", [500_000.0, 10.0])
def test_logits_equal_an_independent_implementation(make_model, tokens, n_loops, residual_scale, rope_theta) -> None:
    model = make_model(n_loops=n_loops, residual_scale=residual_scale, rope_theta=rope_theta).double()
    randomize_gains(model)
    with torch.no_grad():
        logits = model(tokens)
        assert logits.std() > 0.5  # else the tolerance would compare nothing
        for row, sequence in zip(logits, tokens.tolist(), strict=True):
            torch.testing.assert_close(row, reference_logits(model, sequence), atol=ROTARY_ATOL, rtol=0)


def unrolled(model: LoopedTransformer, make_model) -> LoopedTransformer:
    """L·N layers once, with a copy of the looped weights for every loop step."""
    c = model.config
    copy = make_model(n_layers=c.n_layers * c.n_loops, n_loops=1, residual_scale=c.residual_scale)
    state = model.state_dict()
    for layer in range(copy.config.n_layers):
        source = f"blocks.{layer % c.n_layers}."
        state |= {n.replace(source, f"blocks.{layer}.", 1): v for n, v in model.state_dict().items() if source in n}
    copy.load_state_dict(state)
    return copy


def test_n_loops_are_the_stack_n_times(make_model, tokens) -> None:
    """Same operations in the same order: equal to the last bit."""
    model = make_model(n_layers=2, n_loops=3, residual_scale=0.5)
    with torch.no_grad():
        assert torch.equal(model(tokens), unrolled(model, make_model)(tokens))


def test_a_shared_weights_gradient_is_the_sum_over_its_uses(make_model, tokens) -> None:
    model = make_model(n_layers=2, n_loops=3, residual_scale=0.5)
    copies = unrolled(model, make_model)
    for each in (model, copies):
        each(tokens[:, :-1], tokens[:, 1:]).backward()
    for layer, block in enumerate(model.blocks):
        for name, parameter in block.named_parameters():
            uses = [copies.get_parameter(f"blocks.{layer + 2 * n}.{name}").grad for n in range(3)]
            # fp32 sums in another order
            torch.testing.assert_close(parameter.grad, sum(uses), atol=1e-6, rtol=1e-4)
