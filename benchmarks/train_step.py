"""One optimizer step against its matrix products alone and against Hugging Face's Llama, side by side.

    python benchmarks/train_step.py                                  the points of the bars, some 15 minutes
    python benchmarks/train_step.py quick laptop --loops 1,2,8 --threads 1,2
    python benchmarks/train_step.py paper --device cuda              on a GPU, with the share of its peak rate

Candidates take turns (A B C D, A B C D, …), each in a process of its own. A ratio is the median of the rounds' ratios,
because a shared machine's speed may change between two rounds, but less within one.
`ours` is what a worker of a sweep does and the floor has a worker's environment; the others have torch's defaults.
`--json benchmarks/train_step.json` adds the points measured to that file, beside those of other machines, and rewrites
RESULTS.md next to it. Takes up to 20 GiB at the paper's shape. Needs the `bench` extra: pip install -e '.[bench]'
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from options import counts, output_file
from peers import GemmFloor, HuggingFace
from results_page import write_results
from rich.console import Console
from rich.table import Table

from model import ModelConfig, parameter_table
from sweeper.cli.options import count
from sweeper.config.compose import compose_config
from sweeper.execution.worker_pool import worker_environment
from sweeper.hardware import peak_flops
from sweeper.records.provenance import provenance
from sweeper.records.run_dir import RunDir
from sweeper.run.execution import Execution
from sweeper.run.schedule import Schedule
from sweeper.run.spec import RunConfig
from sweeper.training.trainer import Trainer

# Preset, batch, and what differs from the preset's shape; depth is the preset's L_ref.
SHAPES: dict[str, dict[str, Any]] = {
    "quick": {"preset": "quick"},
    "laptop": {"preset": "laptop"},
    "wide": {"preset": "laptop", "d_model": 128, "n_heads": 4, "mlp_dim": 344, "n_layers": 4},
    "paper-512": {"preset": "paper", "sequences": 1, "seq_len": 512},
    "paper": {"preset": "paper", "sequences": 1},
}
BAR_LOOPS = {"paper": 2, "paper-512": 2}  # 8 elsewhere
CANDIDATES = ("floor", "ours", "hf", "hf_compiled")
TURN_SECONDS = 0.2


def main() -> None:
    """Measure the points asked for."""
    if len(sys.argv) > 1 and sys.argv[1] == "--serve":
        serve(sys.argv[2], json.loads(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    of = f"{', '.join(SHAPES)}; default: quick laptop paper"
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []], metavar="SHAPE", help=of)
    parser.add_argument("--loops", type=counts, help="loop counts N; default: the bar's")
    parser.add_argument("--threads", type=counts, default=[2], help="CPU threads")
    parser.add_argument("--turns", type=count, default=7, help="times every candidate is measured")
    parser.add_argument("--candidates", type=candidates, default=list(CANDIDATES), help="which to measure")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=output_file, help="add the points to this file and rewrite RESULTS.md beside it")
    args = parser.parse_args()
    known = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    points: list[tuple[str, dict[str, Any]]] = []
    for name in args.shapes or ["quick", "laptop", "paper"]:
        for loops in args.loops or [BAR_LOOPS.get(name, 8)]:
            for threads in args.threads:
                point = measure(name, loops, threads, args.device, args.turns, args.candidates)
                points.append((name, point))
                print_table(points[-1:])
                key = name if (loops, threads) == (BAR_LOOPS.get(name, 8), 2) else f"{name} N={loops} threads={threads}"
                if key in known and known[key]["device"] != point["device"]:
                    known[f"{key} on {known[key]['device']}"] = known.pop(key)
                known[key] = {**known.get(key, {}), **point}
                if args.json:
                    args.json.write_text(json.dumps(known, indent=1) + "\n")
                    write_results(args.json.parent)
    print_table(points)


def candidates(text: str) -> list[str]:
    """A comma list of them, as an option."""
    if unknown := set(text.split(",")) - set(CANDIDATES):
        raise argparse.ArgumentTypeError(f"{min(unknown)} is unknown; allowed: {', '.join(CANDIDATES)}")
    return text.split(",")


def measure(shape: str, loops: int, threads: int, device: str, turns: int, candidates: list[str]) -> dict[str, Any]:
    """Step times in seconds and their ratios: medians over `turns` rounds."""
    request = json.dumps({"shape": shape, "loops": loops, "threads": threads, "device": device})
    config = run_config(shape, loops, device)
    flops = (config.flops + config.attention_flops) / config.schedule.steps
    point: dict[str, Any] = {"loops": loops, "threads": threads}
    # All four do not fit into 24 GiB at the paper's shape: there the last is compared with ours by itself.
    apart = [["ours", "hf_compiled"]] if shape == "paper" and "hf_compiled" in candidates else []
    for group in [[name for name in candidates if not apart or name != "hf_compiled"], *apart]:
        seconds = _rounds(request, threads, turns, group)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        if "ours" in median:
            step = median["ours"]
            rates = {"tokens_per_s": config.batch_tokens / step, "model_flops_per_s": flops / step}
            point = {"step_s": step, **rates, **point}  # the first group's stay
            for name in median.keys() - {"ours"}:
                ratios = [other / ours for ours, other in zip(seconds["ours"], seconds[name], strict=True)]
                ratio = statistics.median(ratios)
                point |= {f"{name}_s": median[name], f"vs_{name}": 1 / ratio if name == "floor" else ratio}
    name = torch.cuda.get_device_name() if device == "cuda" else provenance()["processor"]
    peak = peak_flops(name)
    if peak is not None and "model_flops_per_s" in point:
        point["mfu"] = point["model_flops_per_s"] / peak
    elif device == "cuda":
        print(f"no peak rate is known for {name}, so no MFU is shown")
    return {
        **point,
        "turns": turns,
        "device": name,
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": provenance()["commit"],
    }


def _rounds(request: str, threads: int, turns: int, candidates: list[str]) -> dict[str, list[float]]:
    """Each candidate's step times in seconds, one a round, all of them taking turns."""
    children: dict[str, subprocess.Popen[str]] = {}
    try:
        for name in candidates:
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            children[name] = subprocess.Popen(
                [sys.executable, __file__, "--serve", name, request],
                env=worker_environment(threads) if name in ("floor", "ours") else environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            _turn(children[name])  # one after the other: warm-up and compilation
        seconds: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(turns):
            for name, child in children.items():
                seconds[name].append(_turn(child))
    finally:
        for child in children.values():
            child.kill()
            child.wait()
    return seconds


def _turn(child: "subprocess.Popen[str]") -> float:
    """Let a candidate work for a turn; its mean step time in seconds."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    return float(child.stdout.readline())


def serve(candidate: str, request: dict[str, Any]) -> None:
    """As one candidate: for each line of standard input, take steps for a turn and print their mean time."""
    torch.set_num_threads(request["threads"])
    device = torch.device(request["device"])
    step = build(candidate, run_config(request["shape"], request["loops"], request["device"]), request, device)
    step()
    step()
    for _ in sys.stdin:
        steps, began = 0, time.perf_counter()
        while steps == 0 or time.perf_counter() - began < TURN_SECONDS:
            step()
            steps += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
        print((time.perf_counter() - began) / steps, flush=True)


def build(candidate: str, config: RunConfig, request: dict[str, Any], device: torch.device) -> Callable[[], Any]:
    """The candidate's optimizer step."""
    if candidate == "floor":
        return GemmFloor(config, device)
    if candidate == "ours":
        ours = trainer(config, device=request["device"], threads=request["threads"])
        ours.warm_up()
        return ours.train_step
    return HuggingFace(config, torch.from_numpy(_rows(config)), device, compiled=candidate == "hf_compiled")


def trainer(config: RunConfig, *, device: str = "cpu", threads: int = 2, **execution: bool) -> Trainer:
    """What a worker of a sweep trains with, on random tokens."""
    rows = _rows(config)
    tokens = SimpleNamespace(manifest=SimpleNamespace(vocab_size=config.model.vocab_size), sequences=lambda *_: rows)
    how = {"compile": True, "recompute": False, **execution}
    rare = {"log_every": 10, "validate_every": 1000, "checkpoint_every": 1000}
    return Trainer(
        RunDir(Path()),
        config,
        Execution(device=device, micro_batch=config.batch_sequences, threads=threads, **how, **rare),
        cast(Any, tokens),
    )


def _rows(config: RunConfig) -> np.ndarray:
    shape = (config.batch_sequences, config.seq_len + 1)
    return np.random.default_rng(0).integers(config.model.vocab_size, size=shape)


def run_config(shape: str, loops: int, device: str) -> RunConfig:
    """The preset's run at its reference depth; the linear rule, fp32 on a CPU."""
    changes = SHAPES[shape]
    preset = compose_config([f"preset={changes['preset']}"])
    sizes = {**preset.model, **preset.batch, "n_layers": preset.scaling.ref_layers, **changes}
    fields = ("vocab_size", "d_model", "n_heads", "mlp_dim", "n_layers")
    return RunConfig(
        model=ModelConfig(
            **{name: sizes[name] for name in fields},
            n_loops=loops,
            residual_scale=1 / loops,
            max_seq_len=sizes["seq_len"],
        ),
        table=parameter_table(
            base_lr=1e-4,
            init_std=preset.optimizer.init_std,
            eps=1e-8,
            weight_decay=0.1,
            depth_multiplier=1,
        ),
        betas=(0.9, 0.95),
        grad_clip=1.0,
        schedule=Schedule(steps=1_000_000, warmup=1, decay=1),
        batch_sequences=sizes["sequences"],
        seq_len=sizes["seq_len"],
        validation_tokens=sizes["seq_len"],
        diverged_above=100.0,
        data="",
        seed=0,
        precision="bf16" if device == "cuda" else "fp32",
    )


def print_table(points: list[tuple[str, dict[str, Any]]]) -> None:
    """The points for people: seconds of a step, ratios, rates."""
    table = Table(box=None)
    columns = ["shape", "N", "threads", "step s", "tokens/s", "GFLOP/s", "vs floor", "vs HF", "vs HF compiled", "MFU"]
    for name in columns:
        table.add_column(name, justify="left" if name == "shape" else "right")
    keys = {"step_s": ".4g", "tokens_per_s": ",.0f", "model_flops_per_s": ",.1f"}
    keys |= {"vs_floor": ".2f", "vs_hf": ".2f", "vs_hf_compiled": ".2f", "mfu": ".1%"}
    for shape, point in points:
        shown = {**point, "model_flops_per_s": point.get("model_flops_per_s", 0) / 1e9}
        cells = [format(shown[key], form) if key in shown else "" for key, form in keys.items()]
        table.add_row(shape, str(point["loops"]), str(point["threads"]), *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
