"""What mirroring to wandb costs the training: two workers, without, to files, and to a server that hangs.

    python benchmarks/tracking.py            some 15 minutes on two cores
    python benchmarks/tracking.py laptop     only this preset
    python benchmarks/tracking.py steps      only the mirror's processor time while one long run takes its steps

The modes take turns, so that whatever else the machine does falls on all of them. Where a machine's speed varies by
more than the mirror takes, its processor time is the sharper measure. Writes benchmarks/tracking.json and,
from what is measured so far, benchmarks/tracking.md.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from sweeper.records.provenance import provenance
from sweeper.records.run_dir import RunDir

HERE = Path(__file__).parent
ROUNDS = {"laptop": 2, "quick": 4}
SHAPE = ["experiment=tracking", "panel=b", "model.n_loops=1"]  # the shortest steps, so the mirror weighs most
RUNS, WORKERS = 6, 2
SEEDS = ",".join(map(str, range(RUNS)))
Sweep = dict[str, Any]


def main() -> None:
    """Measure the presets asked for and rewrite both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    of = f"{', '.join([*ROUNDS, 'steps'])}; default: all"
    parser.add_argument("parts", nargs="*", choices=[*ROUNDS, "steps", []], metavar="PART", help=of)
    target = HERE / "tracking.json"
    known = json.loads(target.read_text()) if target.exists() else {}
    for preset in parser.parse_args().parts or [*ROUNDS, "steps"]:
        figures = {"offline": while_stepping()} if preset == "steps" else measure(preset)
        date = datetime.now(UTC).date().isoformat()
        cores = len(os.sched_getaffinity(0))
        known[preset] = {
            "date": date,
            "cores": cores,
            **provenance(),
            "rounds": ROUNDS.get(preset, 1),
            "modes": figures,
        }
        print(json.dumps(figures, indent=1), flush=True)
        target.write_text(json.dumps(known, indent=1) + "\n")
        (HERE / "tracking.md").write_text(markdown(known))


def measure(preset: str) -> dict[str, Sweep]:
    """Figures of each mode, from `ROUNDS` sweeps of each."""
    sweeps: dict[str, list[Sweep]] = {"off": [], "offline": [], "hung": []}
    carry_out(preset, "off", "")  # compiles
    with silent_server() as url:
        for _ in range(ROUNDS[preset]):
            for mode, done in sweeps.items():
                done.append(carry_out(preset, mode, url))
                print(mode, done[-1], flush=True)
    plain = sweeps["off"]
    return {mode: summary(done, plain) for mode, done in sweeps.items()}


def carry_out(preset: str, mode: str, url: str) -> Sweep:
    """One sweep: what it took, as the clock and its records say."""
    tracking = ["tracking=online", f"tracking.base_url={url}"] if mode == "hung" else [f'tracking="{mode}"']
    with tempfile.TemporaryDirectory() as scratch:
        paths = [f"paths.runs={scratch}/runs", f"paths.sweeps={scratch}/sweeps", f"hydra.launcher.workers={WORKERS}"]
        command = [
            sys.executable,
            "-m",
            "sweeper.train",
            "--multirun",
            f"preset={preset}",
            *SHAPE,
            f"seed={SEEDS}",
            *paths,
        ]
        began, first, mirror_bytes = time.monotonic(), 0.0, 0
        mirror_cpu: dict[int, float] = {}
        process = subprocess.Popen(
            [*command, *tracking],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "WANDB_API_KEY": "local-" + "0" * 40},
        )
        while process.poll() is None:
            if not first and any(path.stat().st_size for path in Path(scratch).glob("runs/*/metrics.jsonl")):
                first = time.monotonic() - began
            mirror_bytes = max(mirror_bytes, mirror_usage(mirror_cpu))
            time.sleep(0.2)
        wall = time.monotonic() - began
        assert process.returncode == 0
        results = [RunDir(path).result() for path in Path(scratch).glob("runs/L*")]
        steps = [1e3 * result["seconds"]["step"] / result["steps"] for result in results if result]
        files = list(Path(scratch).glob("wandb/offline-run-*-L*"))
    assert (len(steps), len(files)) == (RUNS, 0 if mode == "off" else RUNS)
    return {
        "step_ms": steps,
        "wall_seconds": wall,
        "first_line_seconds": first,
        "mirror_bytes": mirror_bytes,
        "mirror_cpu": sum(mirror_cpu.values()),
    }


def while_stepping() -> Sweep:
    """The mirror's processor time between the first and the last line of a laptop run at N = 8."""
    steps, samples, cpu = 220, [], {}
    with tempfile.TemporaryDirectory() as scratch:
        paths = [f"paths.runs={scratch}/runs", f"paths.sweeps={scratch}/sweeps", "hydra.launcher.workers=1"]
        shape = ["experiment=tracking", "panel=b", "model.n_loops=8", f"schedule.steps={steps}", "tracking=offline"]
        command = [sys.executable, "-m", "sweeper.train", "--multirun", "preset=laptop", "validation.every=1000"]
        process = subprocess.Popen([*command, *shape, *paths], stdout=subprocess.DEVNULL)
        while process.poll() is None:
            mirror_usage(cpu)
            lines = [line for path in Path(scratch).glob("runs/*/metrics.jsonl") for line in path.open()]
            if lines:
                samples.append((time.monotonic(), sum(cpu.values()), json.loads(lines[-1])["step"]))
            time.sleep(1.0)
        assert process.returncode == 0
    first, last = samples[0], [sample for sample in samples if sample[2] < steps][-1]
    seconds, taken = last[0] - first[0], last[1] - first[1]
    return {
        "steps": last[2] - first[2],
        "seconds": round(seconds, 1),
        "mirror_cpu_seconds": round(taken, 2),
        "percent_of_one_core": round(100 * taken / seconds, 2),
        "mirror_cpu_seconds_before": round(first[1], 2),
    }


def mirror_usage(cpu: dict[int, float]) -> int:
    """Proportional memory, in bytes, of all follower processes and wandb's services. Their processor seconds so far go
    into `cpu`, by process id."""
    total = 0
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if "sweeper.tracking.follower" in command or "wandb-core" in command:
            try:
                total += process.memory_full_info().pss
                cpu[process.pid] = sum(process.cpu_times()[:2])
            except psutil.Error:
                continue  # it has just ended
    return total


def summary(done: list[Sweep], plain: list[Sweep]) -> Sweep:
    """Medians, and differences from `plain` as medians over rounds."""
    pairs = list(zip(done, plain, strict=True))
    ratios = [statistics.mean(a["step_ms"]) / statistics.mean(b["step_ms"]) - 1 for a, b in pairs]
    return {
        "step_ms": round(statistics.median(step for sweep in done for step in sweep["step_ms"]), 3),
        "step_time_percent": round(100 * statistics.median(ratios), 2),
        "wall_seconds": round(statistics.median(sweep["wall_seconds"] for sweep in done), 2),
        "wall_seconds_more": round(statistics.median(a["wall_seconds"] - b["wall_seconds"] for a, b in pairs), 2),
        "first_line_seconds": round(statistics.median(sweep["first_line_seconds"] for sweep in done), 2),
        "mirror_cpu_percent": round(
            100 * statistics.median(sweep["mirror_cpu"] / WORKERS / sweep["wall_seconds"] for sweep in done), 2
        ),
        "mirror_mib": round(max(sweep["mirror_bytes"] for sweep in done) / 2**20),
    }


@contextmanager
def silent_server() -> Iterator[str]:
    """A URL at which connections are accepted and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def markdown(known: dict[str, Any]) -> str:
    """Everything measured so far, as a page."""
    lines = [
        "# Mirroring to wandb",
        "",
        f"Written by `benchmarks/tracking.py`. Each sweep has {RUNS} runs on {WORKERS} workers, which keep both cores",
        "busy. Step time is from the runs' records. The first line of metrics is written after ten steps. The mirror's",
        "memory and share of the cores' time are those of all its processes, with their imports and wandb's service.",
        "`hung` is tracking=online with a server that never answers.",
    ]
    for preset, record in known.items():
        modes = record["modes"]
        columns = list(next(iter(modes.values())))
        lines += ["", f"## {preset}, N = 1" if preset in ROUNDS else "## While one laptop run at N = 8 takes steps", ""]
        lines += [f"{record['date']}, {record['cores']} cores of {record['processor']}, medians of {record['rounds']}"]
        lines += [f"interleaved rounds, commit {record['commit']}", ""]
        lines += [f"| mode | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        lines += [f"| {mode} | {' | '.join(str(values[c]) for c in columns)} |" for mode, values in modes.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
