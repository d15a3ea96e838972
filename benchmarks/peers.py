"""What a training step is compared with: its matrix products alone, and Hugging Face's Llama.

Every one takes a whole optimizer step a call, at the same shapes as `sweeper.training.trainer.Trainer`.
"""

import timeit
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.matmul import by_onednn
from sweeper.run.spec import RunConfig

QUERIES_AT_ONCE = 256  # rows of the causal square that are multiplied with every key up to their last

Way = Callable[[], object]


def _fastest(ways: list[Way]) -> Way:
    """Of several ways to the same product, the one that takes the least time."""
    if len(ways) == 1:
        return ways[0]

    def seconds(way: Way) -> float:
        way()
        return min(timeit.repeat(way, number=1, repeat=5))

    return min(ways, key=seconds)


class GemmFloor:
    """The matrix products of one step, forward and backward, and nothing else.

    Linear maps take the fastest way that torch has on this machine, timed once at the start. Attention's six products
    leave out what the causal mask hides, as far as whole blocks go, and no score is computed twice.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        shape, tokens = config.model, config.batch_tokens
        self.dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.device = device
        d, f = shape.d_model, shape.mlp_dim
        attention = self._attention(config)
        layers = [
            (
                *(self._linear(tokens, d, 3 * d), attention, self._linear(tokens, d, d)),  # qkv, out
                *(self._linear(tokens, d, 2 * f), self._linear(tokens, f, d)),  # gate and up, down
            )
            for _ in range(shape.n_layers)
        ]
        self.products = [product for layer in layers for product in layer] * shape.n_loops
        self.products.append(self._linear(tokens, d, shape.vocab_size))

    def __call__(self) -> None:
        for product in self.products:
            product()

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=self.dtype, device=self.device)

    def _linear(self, tokens: int, fan_in: int, fan_out: int) -> Callable[[], None]:
        x, weight, y = self._random(tokens, fan_in), self._random(fan_out, fan_in), self._random(tokens, fan_out)
        grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
        forward: list[Way] = [lambda: torch.mm(x, weight.T, out=y)]
        of_x: list[Way] = [lambda: torch.mm(y, weight, out=grad_x)]  # y stands in for its gradient
        of_weight: list[Way] = [lambda: torch.mm(y.T, x, out=grad_weight)]
        if self.device.type == "cpu" and self.dtype == torch.float32:
            forward.append(lambda: by_onednn(x, weight.T))
            of_x.append(lambda: by_onednn(y, weight))
            of_weight += [lambda: by_onednn(y.T, x), lambda: by_onednn(x.T, y)]
        ways = [_fastest(ways) for ways in (forward, of_x, of_weight)]

        def products() -> None:
            for way in ways:
                way()

        return products

    def _attention(self, config: RunConfig) -> Callable[[], None]:
        heads, seq_len = config.batch_sequences * config.model.n_heads, config.seq_len
        q, k, v = (self._random(heads, seq_len, config.model.head_dim) for _ in range(3))
        rows = [(start, min(start + QUERIES_AT_ONCE, seq_len)) for start in range(0, seq_len, QUERIES_AT_ONCE)]
        scores = [self._random(heads, end - start, end) for start, end in rows]
        by_query = [torch.empty_like(q[:, start:end]) for start, end in rows]
        by_key = [torch.empty_like(k[:, :end]) for _, end in rows]

        def products() -> None:
            for (start, end), s, a, b in zip(rows, scores, by_query, by_key, strict=True):
                torch.bmm(q[:, start:end], k[:, :end].mT, out=s)
                torch.bmm(s, v[:, :end], out=a)
                torch.bmm(q[:, start:end], v[:, :end].mT, out=s)  # of the scores' gradient
                torch.bmm(s.mT, q[:, start:end], out=b)  # of values
                torch.bmm(s, k[:, :end], out=a)  # of queries
                torch.bmm(s.mT, q[:, start:end], out=b)  # of keys

        return products


class HuggingFace:
    """`transformers`' Llama whose layer list repeats the same L modules N times; SDPA, torch's AdamW, same clipping.

    Args:
        config: the shape, batch and precision.
        rows: (batch, T + 1) token ids.
        device: to train on.
        compiled: `torch.compile` every unique block.
    """

    def __init__(self, config: RunConfig, rows: Tensor, device: torch.device, *, compiled: bool) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        shape = config.model
        self.config, self.device = config, device
        self.tokens, self.targets = (rows.to(device)[:, cut].contiguous() for cut in (slice(None, -1), slice(1, None)))
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=shape.vocab_size,
                hidden_size=shape.d_model,
                intermediate_size=shape.mlp_dim,
                num_hidden_layers=shape.n_layers,
                num_attention_heads=shape.n_heads,
                max_position_embeddings=config.seq_len,
                rms_norm_eps=shape.norm_eps,
                rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
                tie_word_embeddings=True,
                use_cache=False,
                attn_implementation="sdpa",
            )
        ).to(device)
        decoder = self.model.model
        layers = [torch.compile(layer) if compiled else layer for layer in decoder.layers]
        decoder.layers = nn.ModuleList(layers * shape.n_loops)
        decoder.config.num_hidden_layers = len(decoder.layers)
        rate = config.table[0].lr
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, betas=config.betas, fused=True)

    def __call__(self) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            loss = self.model(input_ids=self.tokens, labels=self.targets, shift_labels=self.targets).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad()
