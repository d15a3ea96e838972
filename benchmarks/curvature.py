"""Could the loop counts of one depth share a curvature? Asked of the shipped records.

    python benchmarks/curvature.py [RESULTS …]

A shared curvature would narrow the interval of every optimum. It holds only where the curves bend alike. The table
shows the curvature of each curve's parabola in nats an octave², its standard error by the pooled noise, and how
probable such differences are if the true curvatures are equal (χ² of homogeneity).
"""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import chi2

from analysis.stats import transfer
from analysis.stats.optimum import fit_parabola


def curvatures(cells: pd.DataFrame) -> pd.DataFrame:
    """Curvature and standard error of every curve with an optimum (fitted), by panel, L and N."""
    points = transfer.average_seeds(cells)
    noise = transfer.pooled_noise(cells, points)
    rows = []
    for (panel, _, n_layers, n_loops), curve in transfer.curves(points, noise).items():
        if curve.optimum.flag:
            continue
        fitted = curve.fitted
        z = np.log2(curve.rates[fitted] / curve.optimum.rate)
        parabola = fit_parabola(z, curve.losses[fitted], curve.seeds[fitted], curve.runs[fitted])
        error = noise[n_layers].within.sd * math.sqrt(parabola.covariance[2, 2])
        rows.append({"panel": panel, "L": n_layers, "N": n_loops, "curvature": parabola.curvature, "error": error})
    return pd.DataFrame(rows)


def homogeneity(found: pd.DataFrame) -> float:
    """Probability of curvatures that differ so much, or more, if they are equal. NaN without errors."""
    weights = 1 / found["error"] ** 2
    mean = (weights * found["curvature"]).sum() / weights.sum()
    return float(chi2.sf((weights * (found["curvature"] - mean) ** 2).sum(), len(found) - 1))


def main(names: list[str]) -> None:
    """Print the table of the sets of records in `names`."""
    print("| records | panel, L | curvature ± standard error at each N | p |\n|---|---|---|---|")
    for name in names:
        cells = pd.read_parquet(Path("results") / name / "cells.parquet")
        cells = cells[cells["sweep"].isin([f"lr_transfer-{preset}" for preset in set(cells["preset"])])]
        for (panel, n_layers), of_depth in curvatures(cells).groupby(["panel", "L"]):
            curves = (f"{row.N}: {row.curvature:.3f} ± {row.error:.3f}" for row in of_depth.itertuples())
            print(f"| {name} | {panel}, {n_layers} | {', '.join(curves)} | {homogeneity(of_depth):.3f} |")


if __name__ == "__main__":
    main(sys.argv[1:] or ["quick", "phop-quick"])
