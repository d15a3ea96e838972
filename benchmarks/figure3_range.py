"""What moves the lower end of Figure 3b's off-diagonal cosines?

    python benchmarks/figure3_range.py [--d-model 128] [--out results/paper-init/figure3-range.csv] [--only NAME …]

The paper reports [0.027, 0.995] for twelve layers looped 64 times. One probe a variant, one thing changed in each; a
line of the CSV a variant, written as it is ready, and a variant that stands there is not run again.
"""

import argparse
import csv
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from options import output_file

from model import ModelConfig, ParameterRow, parameter_table
from model.transformer import LoopedTransformer
from sweeper.cli.options import count
from sweeper.data import DataSpec, TokenizerSpec, open_data, prepare_data
from sweeper.records.run_dir import RunDir
from sweeper.run.execution import Execution
from sweeper.run.spec import ProbeConfig
from sweeper.run.stop import StopFlag
from sweeper.training.probe import Probe
from sweeper.training.readouts import stream_readouts

LAYERS, LOOPS, TOKENS, VOCABULARY = 12, 64, 128, 1024
GPT2 = (2 * LAYERS) ** -0.5  # shrinks what writes into the residual stream, as GPT-2 does
FIELDS = ("variant", "d_model", "base_lr", "steps", "vectors", "when", "lowest", "highest", "mean", "residual_rms")


def table(d_model: int, *, lr: float, std: float = 1.0, embedding: float | None = None, out: float = 1.0) -> Any:
    """The paper's table with a rate of its own, matrices `std` times as wide, the embedding at a σ of its own, and
    output projections `out` times as wide as the other matrices."""
    sigma = std * 0.02 * (768 / d_model) ** 0.5
    rows = parameter_table(base_lr=lr, init_std=sigma, eps=1e-8, weight_decay=0.1, depth_multiplier=1.0)
    by_kind = {row.kind: row for row in rows}
    if embedding is not None:
        by_kind["embedding"] = dataclasses.replace(by_kind["embedding"], init_std=embedding)
    matrix = by_kind["block_matrix"]
    writers = ParameterRow(
        "writers", r"blocks\.\d+\.(attention\.out|mlp\.down)\.weight", out * sigma, lr, matrix.eps, matrix.weight_decay
    )
    return (writers, *by_kind.values())


VARIANTS: dict[str, dict[str, Any]] = {
    "as the paper says": {"lr": 1e-4},
    "rate 3e-4": {"lr": 3e-4},
    "rate 1e-3": {"lr": 1e-3},
    "embedding std 1": {"lr": 1e-4, "embedding": 1.0},
    "embedding std 1, rate 3e-4": {"lr": 3e-4, "embedding": 1.0},
    "matrices half as wide": {"lr": 1e-4, "std": 0.5},
    "matrices twice as wide": {"lr": 1e-4, "std": 2.0},
    "writers / sqrt(2L)": {"lr": 1e-4, "out": GPT2},
    "writers / sqrt(2L), embedding std 1": {"lr": 1e-4, "out": GPT2, "embedding": 1.0},
    "writers / sqrt(2L), embedding std 0.5": {"lr": 1e-4, "out": GPT2, "embedding": 0.5},
    "real text": {"lr": 1e-4, "text": True},
    "rotary base 10,000": {"lr": 1e-4, "theta": 1e4},
    "50 steps": {"lr": 1e-4, "steps": 50},
}


def carry_out(name: str, d_model: int, threads: int, vocabulary: int, text: Callable[[], torch.Tensor]) -> Any:
    """Ranges of one variant before and after its steps, per token and over all tokens as one vector."""
    changes = dict(VARIANTS[name])
    theta, steps, on_text = changes.pop("theta", 5e5), changes.pop("steps", 10), changes.pop("text", False)
    mlp_dim = -(-8 * d_model // 3 // 8) * 8
    shape = ModelConfig(vocabulary, d_model, d_model // 64, mlp_dim, LAYERS, LOOPS, 1.0, TOKENS, theta)
    config = ProbeConfig(shape, table(d_model, **changes), (0.9, 0.95), steps, 1, TOKENS, 0, LAYERS)
    execution = Execution("cpu", 1, True, True, threads, 1, 1, 1)
    with tempfile.TemporaryDirectory() as directory:
        rundir = RunDir(Path(directory))
        probe = Probe(rundir, config, execution)
        if on_text:
            probe.rows = text()
        for when in ("before", "after"):
            if when == "after":
                assert probe.run(StopFlag(), lambda progress: None) is not None
            rms = [line["residual_rms"] for line in rundir.read_metrics()] or [stream_rms(probe)]
            for vectors, cosines in (("per token", per_token(probe)), ("all tokens", flattened(probe))):
                pairs = cosines[~torch.eye(LOOPS, dtype=torch.bool)]
                yield {
                    "variant": name,
                    "d_model": d_model,
                    "base_lr": changes["lr"],
                    "steps": steps,
                    "vectors": vectors,
                    "when": when,
                    "lowest": round(float(pairs.min()), 4),
                    "highest": round(float(pairs.max()), 4),
                    "mean": round(float(pairs.mean()), 4),
                    "residual_rms": round(rms[-1], 3),
                }


@torch.no_grad()
def stream_states(model: LoopedTransformer, rows: torch.Tensor) -> list[torch.Tensor]:
    """The residual stream (B, T, D) after the embedding and every segment, for rows (B, T + 1)."""
    states: list[torch.Tensor] = []
    model(rows[:, :-1], rows[:, 1:], observe=lambda _, h: states.append(h))
    return states


def per_token(probe: Probe) -> torch.Tensor:
    return torch.tensor(stream_readouts(probe.model, probe.rows)["increment_cosine"]["mean"])


def flattened(probe: Probe) -> torch.Tensor:
    increments = torch.nn.functional.normalize(
        torch.stack(stream_states(probe.model, probe.rows)).diff(dim=0).flatten(1), dim=-1
    )
    return increments @ increments.T


def stream_rms(probe: Probe) -> float:
    return float(stream_states(probe.model, probe.rows)[-1].square().mean().sqrt())


def some_text(vocabulary: int) -> torch.Tensor:
    """The first window of the default text, under a BPE of this vocabulary (or the Llama 3 tokenizer)."""
    kind = "llama3" if vocabulary == 128_256 else "bpe"
    spec = DataSpec("wikipedia", None, "text", TokenizerSpec(kind, vocabulary), 2**24, 0.01)
    tokens = open_data(prepare_data(spec, Path("data"), print).hash, Path("data"))
    return torch.from_numpy(tokens.sequences(0, 1, TOKENS, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--d-model", type=count, default=128)
    parser.add_argument("--vocabulary", type=count, default=VOCABULARY)
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--out", type=output_file, default="results/paper-init/figure3-range.csv")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    args = parser.parse_args()
    known = list(csv.DictReader(args.out.open())) if args.out.is_file() else []
    done = {(row["variant"], int(row["d_model"])) for row in known}
    with args.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not known:
            writer.writeheader()
        for name in args.only:
            if (name, args.d_model) in done:
                continue
            rows = list(
                carry_out(name, args.d_model, args.threads, args.vocabulary, lambda: some_text(args.vocabulary))
            )
            writer.writerows(rows)
            file.flush()
            for row in rows:
                print(*row.values(), sep="  ", flush=True)


if __name__ == "__main__":
    main()
