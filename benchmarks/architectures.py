"""Tokens per second of every kind of loop and block against the plain model at the same L and N, on the CPU fast path.

    python benchmarks/architectures.py                 laptop, N = 8, two minutes; writes architectures.md
    python benchmarks/architectures.py --preset quick --rounds 40

All models train in this process, in turns, on one thread: plain, a kind, plain, the next kind. A ratio is the median of
the rounds' ratios, and time is processor time, because a shared machine's speed may change between two rounds.
"""

import argparse
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from model import BLOCKS, LOOPS, ModelConfig, parameter_table
from model.cpu.enable import enable
from model.initialization import initialize_, parameter_groups
from model.transformer import LoopedTransformer
from sweeper.config.compose import compose_config
from sweeper.records.provenance import provenance

STEPS = 3  # in one turn
Kind = tuple[str, str]  # of loop and block
PLAIN: Kind = ("plain", "pre_norm")


class Candidate:
    """A model that trains on one batch of random tokens."""

    def __init__(self, kind: Kind, preset: str, n_loops: int) -> None:
        tree = compose_config([f"preset={preset}", f"model.n_loops={n_loops}"])
        names = ("vocab_size", "d_model", "n_heads", "mlp_dim")
        shape = {name: int(tree.model[name]) for name in names}
        layers, (loop, block) = int(tree.architectures.n_layers), kind
        batch, seq_len = int(tree.batch.sequences), int(tree.batch.seq_len)
        config = ModelConfig(
            **shape,
            n_layers=layers,
            n_loops=n_loops,
            residual_scale=1 / n_loops,
            max_seq_len=seq_len,
            loop=loop,
            block=block,
        )
        base = {name: float(tree.optimizer[name]) for name in ("base_lr", "init_std", "eps", "weight_decay")}
        table = parameter_table(**base, depth_multiplier=1, applications=layers * n_loops, loop=loop, block=block)
        self.model = LoopedTransformer(config)
        initialize_(self.model, table, seed=0)
        enable(self.model)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, table), fused=True)
        self.rows = torch.randint(shape["vocab_size"], (batch, seq_len + 1))
        self.seconds()  # compiles

    def seconds(self) -> float:
        """Processor time of a turn."""
        began = time.process_time()
        for _ in range(STEPS):
            self.model(self.rows[:, :-1], self.rows[:, 1:]).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return time.process_time() - began


def main() -> None:
    """Measure, print, and write the table beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--loops", type=int, default=8, metavar="N")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    kinds: list[Kind] = [(loop, "pre_norm") for loop in LOOPS] + [("plain", b) for b in BLOCKS if b != "pre_norm"]
    candidates = {kind: Candidate(kind, args.preset, args.loops) for kind in kinds}
    ratios: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    plain: list[float] = []
    for _ in range(args.rounds):
        before = candidates[PLAIN].seconds()
        for kind in kinds:
            of_kind, after = candidates[kind].seconds(), candidates[PLAIN].seconds()
            ratios[kind].append((before + after) / 2 / of_kind)
            plain.append(after)
            before = after
    rows = [f"| `{loop}` | `{block}` | {statistics.median(ratios[loop, block]):.3f} |" for loop, block in kinds]
    step = 1e3 * statistics.median(plain) / STEPS
    text = "\n".join(
        [
            "# Architectures on the CPU fast path",
            "",
            f"Tokens per second against plain at `{args.preset}`, N = {args.loops}, on one thread, median of",
            f"{args.rounds} rounds, by `benchmarks/architectures.py`. A step of plain takes {step:.1f} ms.",
            f"{provenance()['processor']}, {datetime.now(UTC):%Y-%m-%d}.",
            "",
            "| loop | block | tokens/s, plain = 1 |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )
    print(text)
    Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
