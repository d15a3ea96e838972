"""Synthetic tables in the shape of the sweeps' records, with optima and growth planted where a test wants them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

PANELS = {"a": ("sqrt", 2), "b": ("linear", 2), "c": ("linear", 4), "d": ("linear", 8)}
RATES = (5e-4, 7.5e-4, 1e-3, 1.25e-3, 1.5e-3, 2e-3, 3e-3, 4e-3)


def planted_loss(rate: float, rule: str, n_layers: int, n_loops: int) -> float:
    """Nats per token: lower for more compute, steeper above the optimum than below it."""
    optimum = np.log2(1.25e-3) + (0.5 * np.log2(n_loops) if rule == "sqrt" else 0.0)
    octaves = np.log2(rate) - optimum
    return float(3.4 - 0.02 * np.log2(n_layers * n_loops) + 0.03 * octaves**2 + 0.006 * octaves**3)


def make_cells(seeds: tuple[int, ...] = (0,), loop_counts: tuple[int, ...] = (1, 2, 4, 8)) -> pd.DataFrame:
    """All done; sqrt's optimum moves half an octave per doubling of N, linear's stays at 1.25e-3."""
    rows = [
        {
            "sweep": "lr_transfer-quick-0123abcd",
            "experiment": "lr_transfer",
            "preset": "quick",
            "panel": panel,
            "rule": rule,
            "n_layers": n_layers,
            "ref_layers": 2,
            "depth_multiplier": n_layers / 2,
            "n_loops": n_loops,
            "base_lr": rate,
            "seed": seed,
            "run_id": f"{rule if n_loops > 1 else 'any'}-{n_layers}-{n_loops}-{rate:g}-{seed}",
            "state": "done",
            "val_loss": planted_loss(rate, rule, n_layers, n_loops) + 0.001 * seed,
            "step": 600,
            "steps": 600,
            "reason": "",
        }
        for panel, (rule, n_layers) in PANELS.items()
        for n_loops in loop_counts
        for rate in RATES
        for seed in seeds
    ]
    return pd.DataFrame(rows)


def set_state(cells: pd.DataFrame, query: str, state: str) -> pd.DataFrame:
    """A copy in which the cells that `query` selects are in `state` and, unless done, have no loss."""
    changed = cells.copy()
    chosen = changed.query(query).index
    assert len(chosen) > 0, f"no cell matches {query}"
    changed.loc[chosen, "state"] = state
    if state != "done":
        changed.loc[chosen, "val_loss"] = np.nan
    return changed


def cell(experiment: str, **axes: Any) -> dict[str, Any]:
    """A finished cell of one sweep of `experiment`."""
    untrained = {"val_loss": np.nan, "base_lr": 1e-4, "ref_layers": 1, "depth_multiplier": 1.0, "step": 10, "steps": 10}
    names = {"sweep": f"{experiment}-quick", "experiment": experiment, "preset": "quick", "state": "done", "reason": ""}
    kind = "theory" if experiment == "theory" else "probe"
    shown = "-".join(f"{key}={value}" for key, value in axes.items())
    return (
        names
        | untrained
        | {"n_layers": 1, "n_loops": 1, "seed": 0, "run_id": f"{kind}-{experiment}-{shown}", "d_model": 32}
        | axes
    )


PROBE_GROWTH = {"none": 1.0, "sqrt": 0.5, "linear": 0.0}


def make_probes(
    seeds: tuple[int, ...] = (0, 1, 2), counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cells and curves of `init_probe`: R and its change grow as N^1, N^(1/2), N^0, in L with half the exponent."""
    cells, curves = [], []
    for letter, (axis, rule) in zip(
        "abcdef", [(a, r) for a in ("n_layers", "n_loops") for r in PROBE_GROWTH], strict=True
    ):
        power = PROBE_GROWTH[rule] * (1.0 if axis == "n_loops" else 0.5)
        for count in counts:
            for seed in seeds:
                row = cell("init_probe", panel=f"fig2{letter}", rule=rule, seed=seed, **{axis: count})
                cells.append(row)
                size = count**power * (1 + 0.1 * seed)
                for step in range(11):
                    line = {"residual_rms": size * (1 + 0.05 * step), "update_rms": 1e-3 * size * 0.9**step}
                    curves.append({"run_id": row["run_id"], "step": step, "loss": 5.0, **line})
    table = pd.DataFrame(curves)
    table.loc[table["step"] == 0, "update_rms"] = np.nan
    return pd.DataFrame(cells), table


def make_increments(widths: tuple[int, int] = (16, 32)) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cells and read-outs of `increments`: 64 copies whose cosines are ±0.03, a loop whose cosines fall off slowly."""
    cells = [
        cell("increments", panel="fig3a", rule="none", n_layers=768, d_model=widths[0]),
        cell("increments", panel="fig3b", rule="none", n_layers=12, n_loops=64, d_model=widths[1]),
    ]
    i, j = np.indices((64, 64))
    copies = np.where(i == j, 1.0, 0.03 * (-1.0) ** (i + j))
    loop = 1.0 - abs(i - j) / 70
    return pd.DataFrame(cells), pd.concat(
        [cosine_rows(row["run_id"], matrix) for row, matrix in zip(cells, (copies, loop), strict=True)]
    )


def cosine_rows(run_id: str, matrix: Any) -> pd.DataFrame:
    i, j = np.indices(matrix.shape)
    rows = {"run_id": run_id, "readout": "increment_cosine", "i": i.ravel(), "j": j.ravel(), "mean": matrix.ravel()}
    return pd.DataFrame(rows | {"std": 0.1})


def make_readouts(cells: pd.DataFrame) -> pd.DataFrame:
    """Read-outs of trainings: norms from 10 to 10 L whatever N, cosines 0.5 but for the last increment's −0.1."""
    tables = []
    for row in cells.drop_duplicates("run_id").to_dict("records"):
        n, run_id = row["n_loops"], row["run_id"]
        steps = np.arange(n + 1)
        norms = 10.0 + (10.0 * row["n_layers"] - 10.0) * steps / n
        parts = {"run_id": run_id, "readout": "residual_norm", "i": steps, "j": -1, "mean": norms, "std": 1.0}
        matrix = np.full((n, n), 0.5)
        matrix[-1, :] = matrix[:, -1] = -0.1
        np.fill_diagonal(matrix, 1.0)
        tables += [pd.DataFrame(parts), cosine_rows(run_id, matrix)]
    return pd.concat(tables, ignore_index=True).astype({"i": "int32", "j": "int32"})


def make_theory(draws: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cells and curves of `theory`: energies N² and N, R = N^(1 − α), and R = 1, N and √L by the factor left out."""
    loops, factors = (8, 16, 32, 64, 128, 256, 512), (1, 2, 4, 8, 16)
    cells = [cell("theory", panel="shared", rule="linear", n_loops=n) for n in loops]
    cells += [cell("theory", panel="independent", rule="sqrt", n_loops=n) for n in loops]
    for alpha in (0, 0.25, 0.5, 0.75, 1, 1.25):
        cells += [cell("theory", panel="alpha", rule=f"alpha={alpha:g}", n_loops=n) for n in loops]
    for panel, rule in {"factored": "linear", "no_loop_factor": "alpha=0", "no_depth_factor": "beta=0"}.items():
        cells += [cell("theory", panel=panel, rule=rule, n_layers=k, n_loops=n) for k in factors for n in factors]
    curves = []
    for row in cells:
        n, panel = row["n_loops"], row["panel"]
        size = {"no_loop_factor": n, "no_depth_factor": row["n_layers"] ** 0.5}.get(panel, 1.0)
        if panel == "alpha":
            size = n ** (1 - float(row["rule"].removeprefix("alpha=")))
        energy = n ** {"shared": 2, "independent": 1}.get(panel, 0)
        for step in range(1, draws + 1):
            line = {"residual_rms": size, "branch_energy": energy * (1 + 0.1 * step)}
            curves.append({"run_id": row["run_id"], "step": step, **line})
    return pd.DataFrame(cells), pd.DataFrame(curves)


def make_exponents(zero: float = 1.0, seeds: tuple[int, ...] = (0,)) -> pd.DataFrame:
    """Cells of `exponent` whose optimum moves by `zero` − α octaves per doubling of N."""
    rates = 1e-3 * 2.0 ** np.arange(9)
    cells = []
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25):
        for n_loops in (1, 2, 4, 8):
            best = np.log2(1.6e-2) + (zero - alpha) * np.log2(n_loops)
            for rate in rates:
                loss = 3.4 - 0.02 * np.log2(n_loops) + 0.03 * (np.log2(rate) - best) ** 2 + 0.02 * (alpha - 1) ** 2
                axes = {"panel": "b", "rule": f"alpha={alpha:g}", "n_loops": n_loops, "base_lr": rate}
                cells += [cell("exponent", **axes, seed=seed, val_loss=loss) for seed in seeds]
    return pd.DataFrame(cells)


ENTROPY = 4.26  # of the unigrams, nats per token
# Per stabiliser: gain of loss and octaves of the optimum per doubling of N, and the first N at which it collapses.
STABILISERS: dict[tuple[str, str], tuple[float, float, float]] = {
    ("plain", "none"): (-0.14, -0.6, np.inf),
    ("plain", "linear"): (0.03, 0.0, np.inf),
    ("LT", "none"): (-0.05, -0.5, 9),
    ("FLT", "none"): (0.025, -0.1, np.inf),
    ("FLT", "linear"): (0.035, 0.0, np.inf),
    ("deepnorm", "none"): (0.01, 0.2, 12),
}


def make_architectures(
    stabilisers: dict[tuple[str, str], tuple[float, float, float]] | None = None,
    loop_counts: tuple[int, ...] = (1, 3, 6, 9, 12),
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    seeds: tuple[int, ...] = (0,),
    steps: int = 40,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Cells, curves and read-outs of `architectures`: a collapsed run ends at the unigram entropy, its norms grow."""
    draw, log_every = np.random.default_rng(0), max(steps // 40, 4)
    cells, curves, readouts = [], [], []
    for (architecture, rule), (gain, shift, collapses_at) in (stabilisers or STABILISERS).items():
        for n, rate, seed in [(n, rate, seed) for n in loop_counts for rate in rates for seed in seeds]:
            octaves = np.log2(rate / 4e-3) - shift * np.log2(n)
            collapsed = n >= collapses_at or octaves > 2.5
            loss = 2.75 - gain * np.log2(n) + 0.03 * octaves**2 + 0.004 * draw.normal() + 0.004 * seed
            loss = ENTROPY + 0.01 * abs(draw.normal()) if collapsed else loss
            axes = {"panel": f"{architecture}-{rule}", "n_layers": 2, "ref_layers": 2, "n_loops": n, "base_lr": rate}
            measured = {"val_loss": loss, "unigram_entropy": ENTROPY, "flops": 1e12 * (n + 1), "step_seconds": n + 0.5}
            row = cell("architectures", rule=rule, seed=seed, **axes, **measured, step=steps, steps=steps)
            row |= {"run_id": f"{architecture}-{rule}-{n}-{rate:g}-{seed}", "architecture": architecture}
            cells.append(row)
            curves.append(_diagnostics(row, draw, collapsed, steps, log_every))
            tested = sorted({1, max(n // 2, 1), n, 2 * n, *loop_counts})
            losses = [loss if i == n or collapsed else loss + 0.2 * abs(np.log2(i / n)) ** 2 for i in tested]
            readouts.append(pd.DataFrame({"run_id": row["run_id"], "i": tested, "j": -1, "mean": losses, "std": 0.0}))
    loops = pd.concat(readouts, ignore_index=True).assign(readout="test_loss").astype({"i": "int32", "j": "int32"})
    return pd.DataFrame(cells), pd.concat(curves, ignore_index=True), loops


def _diagnostics(
    row: dict[str, Any], draw: np.random.Generator, collapsed: bool, steps: int, log_every: int
) -> pd.DataFrame:
    """Every step's loss and gradient norm, and every few steps the norm of the stream at the end of each loop."""
    step, n = np.arange(steps + 1), row["n_loops"]
    loss = row["val_loss"] + (5.7 - row["val_loss"]) * np.exp(-10 * step / steps) + 0.04 * draw.normal(size=steps + 1)
    spread = (1.0 if collapsed else 0.25) * (0.3 if row["rule"] == "linear" else 1.0)
    grad_norm = np.exp(spread * draw.normal(size=steps + 1) - 1.0 * (step / steps) ** 0.5)
    rate = row["base_lr"] * np.minimum(1.0, 5 * (step + 1) / steps)  # after a warmup
    table = pd.DataFrame({"run_id": row["run_id"], "step": step, "loss": loss, "grad_norm": grad_norm, "base_lr": rate})
    growth = (3.0 if collapsed else 1.0 if row["rule"] == "none" else 0.3) * step / steps
    for i in range(1, n + 1):
        norm = 8.0 * np.exp(growth * (0.4 + 0.6 * i / n)) * (1 + 0.02 * draw.normal(size=steps + 1))
        table[f"stream_norm_{i}"] = np.where(step % log_every == 0, norm, np.nan)
    return table


def write_tables(
    folder: Path, cells: pd.DataFrame, curves: pd.DataFrame | None = None, readouts: pd.DataFrame | None = None
) -> Path:
    """Stored results, as `loopsweep export` leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in [("cells", cells), ("curves", curves), ("readouts", readouts)]:
        if table is not None:
            table.to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="session")
def probe_tables() -> Callable[..., tuple[pd.DataFrame, pd.DataFrame]]:
    """`make_probes`."""
    return make_probes


@pytest.fixture(scope="session")
def increment_tables() -> Callable[..., tuple[pd.DataFrame, pd.DataFrame]]:
    """`make_increments`."""
    return make_increments


@pytest.fixture(scope="session")
def readout_table() -> Callable[[pd.DataFrame], pd.DataFrame]:
    """`make_readouts`."""
    return make_readouts


@pytest.fixture(scope="session")
def theory_tables() -> Callable[..., tuple[pd.DataFrame, pd.DataFrame]]:
    """`make_theory`."""
    return make_theory


@pytest.fixture(scope="session")
def exponent_table() -> Callable[..., pd.DataFrame]:
    """`make_exponents`."""
    return make_exponents


@pytest.fixture(scope="session")
def architecture_tables() -> Callable[..., tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
    """`make_architectures`."""
    return make_architectures


@pytest.fixture(scope="session")
def store() -> Callable[..., Path]:
    """`write_tables`."""
    return write_tables


@pytest.fixture(scope="session")
def cell_table() -> Callable[..., pd.DataFrame]:
    """`make_cells`: builds a fresh table at every call."""
    return make_cells


@pytest.fixture(scope="session")
def with_state() -> Callable[[pd.DataFrame, str, str], pd.DataFrame]:
    """`set_state`, for tables of which some cells are not done."""
    return set_state


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored results of every experiment in one directory."""
    (probes, probe_curves), (increments, cosines) = make_probes(seeds=(0, 1)), make_increments()
    (theory, draws), trained = make_theory(), make_cells().assign(preset="paper")
    readouts = make_readouts(trained[trained["base_lr"] == 1.25e-3])
    kinds, diagnostics, test_losses = make_architectures(loop_counts=(1, 6))
    return write_tables(
        tmp_path_factory.mktemp("results"),
        pd.concat([probes, increments, theory, make_exponents(), trained, kinds]),
        pd.concat([probe_curves, draws, diagnostics]),
        pd.concat([cosines, readouts, test_losses]),
    )
