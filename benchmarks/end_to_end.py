"""What a user waits for and what it takes: the quick sweep, a second time, plans, memory, a kill.

    python benchmarks/end_to_end.py            everything, some 25 minutes on two cores
    python benchmarks/end_to_end.py plan kill  only these parts

Runs the commands of the Makefile in a scratch directory and writes benchmarks/end_to_end.json and, from all parts
measured so far, benchmarks/end_to_end.md.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweeper.records.provenance import provenance
from sweeper.records.run_dir import RunDir

HERE = Path(__file__).parent
CORES = len(os.sched_getaffinity(0))
TRAIN = [sys.executable, "-m", "sweeper.train"]
GRID = [*TRAIN, "--multirun", "+sweep=lr_transfer"]


def main() -> None:
    """Measure the parts asked for and rewrite both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=f"{', '.join(PARTS)}; default: all"
    )
    chosen = parser.parse_args().parts or list(PARTS)
    target = HERE / "end_to_end.json"
    known = json.loads(target.read_text()) if target.exists() else {}
    for name in chosen:
        print(f"measuring: {name}", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            figures = PARTS[name](Path(scratch))
        date = datetime.now(UTC).date().isoformat()
        known[name] = {"date": date, "cores": CORES, **provenance(), "figures": figures}
        print(json.dumps(figures, indent=1), flush=True)
        target.write_text(json.dumps(known, indent=1) + "\n")
        (HERE / "end_to_end.md").write_text(_markdown(known))


def quick_sweep(scratch: Path) -> dict[str, Any]:
    """The whole quick grid on a fresh clone, without downloads (with data preparation and compilation), then again."""
    if Path("data/wheels").exists():
        shutil.copytree("data/wheels", scratch / "data" / "wheels")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch / "compiled")
    command = [*GRID, "preset=quick", *_paths(scratch, f"{scratch}/data")]
    wall = _timed(command)
    results = [RunDir(path).result() for path in (scratch / "runs").glob("L*")]
    finished = [result for result in results if result is not None]
    in_loop = sum(result["seconds"]["step"] for result in finished)
    figures = {
        "runs": len(results),
        "finished": len(finished),
        "wall_minutes": round(wall / 60, 2),
        "overhead": round(wall * CORES / in_loop, 3),
        "seconds": {
            part: round(sum(result["seconds"][part] for result in finished), 1) for part in finished[0]["seconds"]
        },
        "peak_worker_gib": round(max(result["peak_rss_bytes"] for result in finished) / 2**30, 3),
        "idle_seconds_at_the_end": round(_idle_at_the_end(scratch / "runs"), 1),
        "second_time_seconds": round(_timed(command), 2),
    }
    after = [RunDir(path).result() for path in (scratch / "runs").glob("L*")]
    figures["second_time_trained"] = sum(a != b for a, b in zip(results, after, strict=True))
    del os.environ["TORCHINDUCTOR_CACHE_DIR"]
    return figures


def plan(scratch: Path) -> dict[str, Any]:
    """`loopsweep plan` for 120 and for 600 runs of `paper`, without downloads."""
    command = [sys.executable, "-m", "sweeper", "plan", "+sweep=lr_transfer", "preset=paper", *_paths(scratch, "none")]
    few, many = (
        statistics.median(_timed([*command, f"grid.seeds={seeds}"]) for _ in range(3))
        for seeds in ("[0]", "[0,1,2,3,4]")
    )
    return {
        "paper_seconds_median": round(few, 2),
        "600_runs_seconds_median": round(many, 2),
        "files_written": len(list(scratch.rglob("*"))),
    }


def laptop(scratch: Path) -> dict[str, Any]:
    """Expected time of the laptop grid, from steps measured on this machine."""
    command = [sys.executable, "-m", "sweeper", "plan", "+sweep=lr_transfer", "preset=laptop", *_paths(scratch)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("time on this machine"))
    return {"plan": line}


def paper_shape(scratch: Path) -> dict[str, Any]:
    """Three steps at the paper's width, vocabulary and L = 12, N = 2, one sequence of 512, fp32 on the CPU."""
    shape = ["preset=paper", "data=wikipedia", "data.tokenizer={kind: llama3, vocab_size: 128256}", "model.n_loops=2"]
    steps = ["schedule.steps=3", "schedule.warmup=1", "schedule.decay=1", "batch.sequences=1", "batch.seq_len=512"]
    how = ["precision=fp32", "validation.tokens=512", "execution.device=cpu", f"execution.threads={CORES}"]
    how += ["execution.micro_batch=1", "execution.compile=false", "execution.recompute=false", "diverged_above=20"]
    how += ["execution.log_every=1"]
    wall = _timed([*TRAIN, *shape, *steps, *how, *_paths(scratch)])
    [path] = (scratch / "runs").glob("L*")
    result = RunDir(path).result()
    assert result is not None
    losses = [row["loss"] for row in RunDir(path).read_metrics() if "loss" in row]
    return {
        "state": result["state"],
        "losses": losses,
        "seconds_per_step": round(result["seconds"]["step"] / 3, 2),
        "peak_rss_gib": round(result["peak_rss_bytes"] / 2**30, 2),
        "wall_seconds": round(wall, 1),
    }


def kill(scratch: Path) -> dict[str, Any]:
    """Kill -9 the whole process tree at random moments, resume, and compare with an undisturbed sweep."""
    axes = ["preset=quick", "panel=a,b", "model.n_loops=1,2", "optimizer.base_lr=4e-3,8e-3"]
    undisturbed, disturbed = scratch / "undisturbed", scratch / "disturbed"
    wall = _timed([*GRID, *axes, *_paths(undisturbed)])
    generator, kills = random.Random(), 0
    for _ in range(3):
        process = subprocess.Popen(
            [*GRID, *axes, *_paths(disturbed)], start_new_session=True, stdout=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=generator.uniform(0.2, 0.8) * wall)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    _timed([*GRID, *axes, *_paths(disturbed)])
    curves = {path.name: _losses(path) for path in (undisturbed / "runs").glob("L*")}
    differing = sum(curve != _losses(disturbed / "runs" / name) for name, curve in curves.items())
    return {"kills": kills, "runs": len(curves), "differing_loss_curves": differing}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "quick_sweep": quick_sweep,
    "plan": plan,
    "laptop": laptop,
    "paper_shape": paper_shape,
    "kill": kill,
}


def _paths(scratch: Path, data: str = "data") -> list[str]:
    return [f"paths.runs={scratch}/runs", f"paths.sweeps={scratch}/sweeps", f"paths.data={data}"]


def _timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    return time.perf_counter() - began


def _idle_at_the_end(runs: Path) -> float:
    """Seconds that workers had nothing left to do while the last one worked.

    The last `CORES` runs to finish are the workers' last ones: whoever had finished earlier would have taken another.
    """
    finished = sorted(path.stat().st_mtime for path in runs.glob("*/result.json"))
    return sum(finished[-1] - moment for moment in finished[-CORES:])


def _losses(path: Path) -> list[tuple[int, float]]:
    return [(row["step"], row.get("loss", row.get("val_loss", math.nan))) for row in RunDir(path).read_metrics()]


def _markdown(known: dict[str, Any]) -> str:
    lines = ["# End to end", "", "Written by `benchmarks/end_to_end.py`.", ""]
    for name, record in known.items():
        lines += [f"## {name}", "", (PARTS[name].__doc__ or "").strip(), ""]
        lines += [f"{record['date']}, {record['cores']} cores of {record['processor']}, Python {record['python']},"]
        lines += [f"torch {record['packages']['torch']}, commit {record['commit']}", ""]
        lines += ["| figure | value |", "|---|---|"]
        lines += [f"| {key} | {value} |" for key, value in record["figures"].items()] + [""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
