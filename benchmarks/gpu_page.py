"""GPU.md and the table of hours in docs/cluster.md: what the paper's trainings would take on GPUs, modelled.

    python benchmarks/gpu_page.py            writes both
    python benchmarks/gpu_page.py --check    says whether they are what it would write

`gpu_day_one.json` beside it, as `gpu_day_one.py --json` writes it, fills the measured columns.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from omegaconf import open_dict

from sweeper.config.compose import compose_config
from sweeper.config.resolve import ResolvedRun, resolve
from sweeper.grid.gpu_times import GpuTimes
from sweeper.hardware import GPUS
from sweeper.run.memory import GIB, Fit, gpu_bytes, training_bytes
from sweeper.run.roofline import EAGER_LOSS, Settings, StepTime, elementwise_bytes, step_time
from sweeper.run.spec import RunConfig

HERE = Path(__file__).resolve().parent
PAGE, CLUSTER, MEASURED = HERE / "GPU.md", HERE.parent / "docs" / "cluster.md", HERE / "gpu_day_one.json"
COMPILED = HERE / "compiled_bytes.json"  # of compiled_bytes.py
BEGIN, END = "<!-- begin: python benchmarks/gpu_page.py -->", "<!-- end: python benchmarks/gpu_page.py -->"
LOOPS, PANELS = (1, 2, 4, 8), "abcd"
H100 = GPUS["H100"]


@dataclass(frozen=True)
class Paper:
    """The sweep of Figure 5 at one rate: distinct runs by (L, N) and panel; `rates` of each."""

    runs: dict[tuple[int, int, str], ResolvedRun]
    rates: int

    @classmethod
    def compose(cls) -> "Paper":
        """From conf/."""
        found: dict[str, tuple[tuple[int, int, str], ResolvedRun]] = {}
        for panel in PANELS:
            for loops in LOOPS:
                config = compose_config(["preset=paper", f"panel=lr_transfer/{panel}", f"model.n_loops={loops}"])
                with open_dict(config):
                    del config["hydra"]
                run = resolve(config, "")
                shape = cast(RunConfig, run.config).model
                found.setdefault(run.config.run_id, ((shape.n_layers, shape.n_loops, panel), run))
        return cls(dict(found.values()), len(config.grid.base_lr))

    @property
    def cells(self) -> dict[tuple[int, int], ResolvedRun]:
        """One run of each shape."""
        return {(layers, loops): run for (layers, loops, _), run in self.runs.items()}

    def hours(self, of: Callable[[ResolvedRun], float]) -> float:
        """Of all runs, from those of each."""
        return self.rates * sum(map(of, self.runs.values()))


def kept_before(run: ResolvedRun) -> Settings:
    """As the paper's preset was executed before GPUs had a path of their own."""
    full = training_bytes(cast(RunConfig, run.config), 16, recompute=False)
    return Settings(16, full > 70 * GIB, loss=EAGER_LOSS, bf16_weights=False)


def stage_hours(paper: Paper) -> Iterable[tuple[str, float]]:
    """What the sweep takes on H100s as settings come one after the other."""
    now = Settings.of

    def hours(settings: Callable[[ResolvedRun], Settings]) -> float:
        return paper.hours(lambda run: _step(run, settings(run)).seconds * run.config.steps / 3600)

    yield "micro-batches of 16, recomputation, eager loss, autocast", hours(kept_before)
    yield "the loss in one pass a chunk", hours(lambda run: replace(kept_before(run), loss=now(run.execution).loss))
    without = {"bf16_weights": False}
    yield "micro-batch and recomputation chosen together", hours(lambda run: replace(now(run.execution), **without))
    yield (
        "bf16 weights once a step, gradients added where they are: all by default",
        hours(lambda run: now(run.execution)),
    )


def by_the_compiler(paper: Paper) -> Iterable[str]:
    """What the sweep takes if a GPU's kernels move what the compiler counts on a CPU."""
    counted = json.loads(COMPILED.read_text())
    run = cast(RunConfig, paper.cells[12, 1].config)
    modelled = sum(elementwise_bytes(run)) / run.applications / run.model.d_model
    share = (counted["forward"] + counted["backward"]) / modelled

    def hours(run: ResolvedRun) -> float:
        step = _step(run, Settings.of(run.execution))
        return (step.seconds + (share - 1) * step.elementwise) * run.config.steps / 3600

    counts = f"{counted['forward']:.0f} forward and {counted['backward']:.0f} backward"
    yield f"In this model the elementwise kernels of a block move {modelled:.0f} bytes a channel and token. torch"
    yield f"counts {counts} in what it compiles for a CPU (`python benchmarks/compiled_bytes.py`)."
    yield f"If that is a GPU's too, the 120 trainings take {paper.hours(hours):,.0f} H100-hours."


def _step(run: ResolvedRun, settings: Settings) -> StepTime:
    return step_time(cast(RunConfig, run.config), H100, settings)


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """In Markdown."""
    heads = list(heads)
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def page(paper: Paper, measured: dict[str, Any]) -> str:
    """GPU.md."""
    times = GpuTimes.learned("H100", {}, {})
    steps: dict[str, Any] = measured.get("steps", {})
    state = f"Modelled. Measured on {measured['environment']['gpu']}, {measured['date']}." if steps else ""
    lines = [
        "# GPUs",
        "",
        state or "Modelled, never run.",
        "",
        "Written by `python benchmarks/gpu_page.py` from `sweeper/run/roofline.py`, `sweeper/run/memory.py` and the",
        "rates in `sweeper/hardware.py`, which say where each number comes from. The model gives three steps that",
        "others measured (GPT-2 124M: modded-nanogpt and llm.c on H100, llm.c on A100) to 6%. Hours may be 15% off.",
        "",
        "`python benchmarks/gpu_day_one.py --json benchmarks/gpu_day_one.json` measures the steps on a GPU in an hour,",
        "and this page then has them. `hydra.launcher.check_gpu=true` measures some minutes before a sweep starts.",
        "",
        "## A step of the `paper` preset on one H100",
        "",
        "256 × 2,048 tokens. MFU is a share of 989 TFLOP/s, once by 6 FLOPs a weight and token (6N), and once with",
        "causal attention. GiB is the estimate of memory. A run may take 70. Measured is what `gpu_day_one.py` found.",
        "",
    ]
    heads = (
        "L, N",
        "micro-batch",
        "recomputed",
        "seconds",
        "MFU 6N",
        "6N + attention",
        "hours of a run",
        "GiB",
        "measured",
    )
    rows = []
    for (layers, loops), run in sorted(paper.cells.items()):
        fit = Fit(run.execution.micro_batch, run.execution.recompute, run.execution.recompute_layers)
        memory = gpu_bytes(cast(RunConfig, run.config), fit, compiled=run.execution.compile) / GIB
        shares, hours = times.utilisation([run]), times.run_hours(run)
        of_cell = {name: one for name, one in steps.items() if name.startswith(f"L={layers} N={loops} ")}
        found = next((one for one in of_cell.values() if "step_seconds" in one), None)
        rows.append(
            (
                f"{layers}, {loops}",
                str(run.execution.micro_batch),
                "yes" if run.execution.recompute else "no",
                f"{3600 * hours / run.config.steps:.2f}",
                f"{shares['6N']:.0%}",
                f"{shares['6N + attention']:.0%}",
                f"{hours:.1f}",
                f"{memory:.1f}",
                f"{found['step_seconds']:.2f} s, {found['peak_bytes'] / GIB:.1f} GiB" if found else "",
            )
        )
    lines += [*table(heads, rows), "", "## The 120 trainings", ""]
    rows = []
    for name in GPUS:
        of_kind = GpuTimes.learned(name, {}, {})
        shares = of_kind.utilisation(paper.runs.values())
        total = paper.hours(of_kind.run_hours)
        rows.append((name, f"{total:,.0f}", f"{shares['6N']:.0%}", f"{shares['6N + attention']:.0%}"))
    lines += table(("GPU", "hours", "MFU 6N", "6N + attention"), rows)
    lines += ["", "On H100, as the settings of the fast path come one after the other:", ""]
    lines += table(("settings", "hours"), ((name, f"{hours:,.0f}") for name, hours in stage_hours(paper)))
    lines += ["", *by_the_compiler(paper), "", "## Where a step goes, in milliseconds", ""]
    shown = [(12, 1), (12, 8), (48, 8)]
    parts = [_step(paper.cells[cell], Settings.of(paper.cells[cell].execution)) for cell in shown]
    names = parts[0].parts()
    of_parts = ((name.replace("_", " "), *(f"{1e3 * one.parts()[name]:,.0f}" for one in parts)) for name in names)
    lines += table(("part", *(f"L = {layers}, N = {loops}" for layers, loops in shown)), of_parts)
    eight = [step_time(cast(RunConfig, paper.cells[cell].config), H100, Settings(4, gpus=8)) for cell in shown]
    shares_8 = ", ".join(f"{one.all_reduce / one.seconds:.1%}" for one in eight)
    lines += ["", f"With eight GPUs a run the all-reduce takes {shares_8} of the step."]
    return "\n".join(lines) + "\n"


def hours_table(paper: Paper) -> list[str]:
    """That of docs/cluster.md."""
    times = GpuTimes.learned("H100", {}, {})
    cells = {cell: times.run_hours(run) for cell, run in paper.cells.items()}
    layers = sorted({layers for layers, _ in cells})
    rows = [(f"{one}", *(f"{cells[one, loops]:.1f}" for loops in LOOPS)) for one in layers]
    totals = {name: paper.hours(GpuTimes.learned(name, {}, {}).run_hours) for name in GPUS}
    shares = times.utilisation(paper.runs.values())
    of_d = paper.rates * sum(times.run_hours(run) for (_, _, panel), run in paper.runs.items() if panel == "d")
    n_runs = paper.rates * len(paper.runs)
    all_hours = " or ".join(f"{hours:,.0f} {name}-hours" for name, hours in totals.items())
    return [
        *table(("L", *(f"N = {loops}" for loops in LOOPS)), rows),
        "",
        f"There are {paper.rates} rates a cell, and panels a and b share N = 1. These {n_runs} runs take",
        f"{all_hours}. Panel d takes {of_d:,.0f} of the H100-hours.",
        f"The utilisation of an H100 is {shares['6N']:.0%}, or {shares['6N + attention']:.0%} with attention counted.",
    ]


def texts() -> dict[Path, str]:
    """What the pages should be."""
    paper = Paper.compose()
    measured = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    before, _, rest = CLUSTER.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    table_of_hours = "\n".join([BEGIN, "", *hours_table(paper), "", END])
    return {PAGE: page(paper, measured), CLUSTER: before + table_of_hours + after}


def main() -> None:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; the exit status is 1 if a page differs")
    args = parser.parse_args()
    found = texts()
    if args.check:
        stale = [path.name for path, text in found.items() if not path.exists() or path.read_text() != text]
        sys.exit(f"not up to date: {', '.join(stale)}; run python benchmarks/gpu_page.py" if stale else 0)
    for path, text in found.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
