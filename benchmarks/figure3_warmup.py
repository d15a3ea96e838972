"""Are Figure 3's cosines those of a model at initialisation, of ten steps at the full rate, or of ten steps of warmup?

    python benchmarks/figure3_warmup.py [--d-model 192] [--seeds 10] [--out results/paper-init/figure3-warmup.csv]

The paper reports off-diagonal cosines in [-0.037, 0.034] for 64 independent copies of twelve layers (Figure 3a) and in
[0.027, 0.995] for twelve layers looped 64 times (Figure 3b), after ten steps at base rate 1e-4. Its trainings warm up
over 500 steps. With that warmup the ten steps have rates of 2e-7 ... 2e-6. The CSV has a row for each seed, warmup and
moment, and rows with seed "mean" of the matrix averaged over seeds. Panels and warmups that are complete in it are
not run again.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from options import output_file

from model import ModelConfig, parameter_table
from sweeper.cli.options import count
from sweeper.records.run_dir import RunDir
from sweeper.run.execution import Execution
from sweeper.run.spec import ProbeConfig
from sweeper.run.stop import StopFlag
from sweeper.training.probe import Probe
from sweeper.training.readouts import stream_readouts

LAYERS, COPIES, TOKENS, VOCABULARY, STEPS, RATE = 12, 64, 128, 1024, 10, 1e-4
PANELS = {"3a, independent": (LAYERS * COPIES, 1), "3b, looped": (LAYERS, COPIES)}
WARMUPS = (0, 500)
FIELDS = ("panel", "d_model", "warmup", "seed", "when", "lowest", "highest", "mean", "residual_rms")

Matrix = NDArray[np.float64]


def probe_config(panel: str, d_model: int, warmup: int, seed: int) -> ProbeConfig:
    """Unscaled, with the paper's σ₀ · √d_model."""
    n_layers, n_loops = PANELS[panel]
    mlp_dim = -(-8 * d_model // 3 // 8) * 8
    shape = ModelConfig(VOCABULARY, d_model, max(1, d_model // 64), mlp_dim, n_layers, n_loops, 1.0, TOKENS)
    sigma = 0.02 * (768 / d_model) ** 0.5
    table = parameter_table(base_lr=RATE, init_std=sigma, eps=1e-8, weight_decay=0.1, depth_multiplier=1.0)
    return ProbeConfig(shape, table, (0.9, 0.95), STEPS, 1, TOKENS, seed, LAYERS, warmup)


def matrices(config: ProbeConfig) -> Iterator[tuple[str, Matrix, float]]:
    """The cosines, mean over tokens, and R, before and after the steps."""
    execution = Execution("cpu", 1, True, True, 1, 1, 1, 1)
    with tempfile.TemporaryDirectory() as directory:
        rundir = RunDir(Path(directory))
        probe = Probe(rundir, config, execution)
        before = cosines(probe)
        assert probe.run(StopFlag(), lambda progress: None) is not None
        rms = [line["residual_rms"] for line in rundir.read_metrics()]
        yield "before", before, rms[0]
        yield "after", cosines(probe), rms[-1]


def cosines(probe: Probe) -> Matrix:
    """(64, 64)."""
    return np.array(stream_readouts(probe.model, probe.rows)["increment_cosine"]["mean"])


def row_of(matrix: Matrix) -> dict[str, float]:
    """Range and mean off the diagonal."""
    pairs = matrix[~np.eye(len(matrix), dtype=bool)]
    found = {"lowest": pairs.min(), "highest": pairs.max(), "mean": pairs.mean()}
    return {name: round(float(value), 4) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--d-model", type=count, default=192)
    parser.add_argument("--seeds", type=count, default=10)
    parser.add_argument("--panels", nargs="+", choices=list(PANELS), default=list(PANELS))
    parser.add_argument("--out", type=output_file, default="results/paper-init/figure3-warmup.csv")
    args = parser.parse_args()
    known = list(csv.DictReader(args.out.open())) if args.out.is_file() else []
    done = {(row["panel"], int(row["d_model"]), int(row["warmup"])) for row in known if row["seed"] == "mean"}
    with args.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not known:
            writer.writeheader()
        for panel in args.panels:
            for warmup in WARMUPS:
                if (panel, args.d_model, warmup) in done:
                    continue
                of = {"panel": panel, "d_model": args.d_model, "warmup": warmup}
                sums: dict[str, list[tuple[Matrix, float]]] = {"before": [], "after": []}
                for seed in range(args.seeds):
                    for when, matrix, rms in matrices(probe_config(panel, args.d_model, warmup, seed)):
                        sums[when].append((matrix, rms))
                        row = {**of, "seed": seed, "when": when, **row_of(matrix), "residual_rms": round(rms, 3)}
                        writer.writerow(row)
                        print(*row.values(), sep="  ", flush=True)
                    file.flush()
                for when, found in sums.items():
                    mean = np.mean([matrix for matrix, _ in found], axis=0)
                    rms = float(np.mean([rms for _, rms in found]))
                    writer.writerow({**of, "seed": "mean", "when": when, **row_of(mean), "residual_rms": round(rms, 3)})
                file.flush()


if __name__ == "__main__":
    main()
