"""RESULTS.md, from the JSON files that the benchmarks beside it write."""

import json
from pathlib import Path
from typing import Any


def write_results(directory: Path) -> None:
    """Rewrite RESULTS.md from `train_step.json` and `memory.json`, as far as they exist."""
    lines = ["# Speed and memory", "", "Written by `benchmarks/train_step.py --json` and `benchmarks/memory.py`."]
    for name, section in (("train_step.json", _train_step), ("memory.json", _memory)):
        if (directory / name).exists():
            lines += ["", *section(json.loads((directory / name).read_text()))]
    (directory / "RESULTS.md").write_text("\n".join(lines) + "\n")


def _train_step(points: dict[str, Any]) -> list[str]:
    lines = [
        "## One optimizer step",
        "",
        "Times in seconds. `floor` is the time of the step's matrix products alone, with the fastest method of torch",
        "(at commits 58f9dae74 and af7d0d148: MKL). `HF` is Hugging Face's Llama with the same layers repeated.",
        "`HF compiled` is the same with every block compiled. Where `HF / ours` is above 1, ours is faster. All values",
        "are medians. A ratio is the median over rounds, and in each round every candidate runs once.",
    ]
    columns = ("shape", "N", "threads", "ours", "floor", "ours / floor", "HF / ours", "HF compiled / ours", "turns")
    lines += ["", f"| {' | '.join(columns)} | measured |", "|---" * (len(columns) + 1) + "|"]
    for shape, point in sorted(points.items(), key=lambda item: item[1]["device"]):
        seconds = [_cell(point, key, ".3g") for key in ("step_s", "floor_s")]
        ratios = [_cell(point, key, ".2f") for key in ("vs_floor", "vs_hf", "vs_hf_compiled")]
        origin = f"{point['date']}, {point['device']}, torch {point['torch']}, {str(point['commit'])[:9]}"
        cells = [shape.split()[0], str(point["loops"]), str(point["threads"]), *seconds, *ratios]
        lines.append(f"| {' | '.join([*cells, str(point['turns']), origin])} |")
    return lines


def _memory(known: dict[str, Any]) -> list[str]:
    lines = ["## Peak memory", "", "![Peak memory against N and vocabulary](memory.png)", ""]
    lines += [f"{known['date']}, {known['processor']}, torch {known['packages']['torch']}, {known['commit']}.", ""]
    for head in known.get("head", []):
        above = f"{head['above_gib']:.2f} GiB more than the weights and their gradient."
        lines += [f"Head and loss for {head['tokens']} tokens × 128,256: {above}", ""]
    lines += ["| N | vocabulary | recomputed | peak, GiB | estimated, GiB |", "|---|---|---|---|---|"]
    for p in [*known.get("loops", []), *known.get("vocabulary", [])]:
        cells = [p["loops"], p.get("vocabulary", 128_256), "yes" if p["recompute"] else "no"]
        lines.append(f"| {' | '.join(map(str, cells))} | {p['peak_gib']:.2f} | {p['estimated_gib']:.2f} |")
    return lines


def _cell(point: dict[str, Any], key: str, form: str) -> str:
    return format(point[key], form) if key in point else ""
