"""Peak memory of a training step against N and against the vocabulary, every point in a process of its own.

    python benchmarks/memory.py            some 10 minutes on two cores; up to 8 GiB
    python benchmarks/memory.py loops      only these parts: head, loops, vocabulary

L = 12, d = 768, one sequence of 128 tokens, fp32, uncompiled. Writes memory.json, memory.png and RESULTS.md.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from results_page import write_results
from train_step import run_config, trainer

from model.loss import head_cross_entropy
from sweeper.execution.worker_pool import worker_environment
from sweeper.records.provenance import provenance
from sweeper.run.memory import GIB, training_bytes

HERE = Path(__file__).parent
SEQ_LEN, VOCABULARY = 128, 128_256
LOOPS, VOCABULARIES = (1, 8, 64), (8_192, 32_768, 65_536, VOCABULARY)
KEPT_LOOPS = (1, 8)  # without recomputation; N = 64 would take 13 GiB


def main() -> None:
    """Measure the parts asked for, and redraw."""
    if len(sys.argv) > 1 and sys.argv[1] == "--point":
        print(json.dumps(measure(json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["head", "loops", "vocabulary", []], help="default: all")
    parts = parser.parse_args().parts or ["head", "loops", "vocabulary"]
    requests = {
        "head": [{"tokens": 2048}],
        "loops": [{"loops": n, "recompute": True} for n in LOOPS]
        + [{"loops": n, "recompute": False} for n in KEPT_LOOPS],
        "vocabulary": [{"loops": 1, "recompute": False, "vocabulary": v} for v in VOCABULARIES],
    }
    target = HERE / "memory.json"
    known = json.loads(target.read_text()) if target.exists() else {}
    for part in parts:
        known[part] = [point(request) for request in requests[part]]
        known |= {"date": datetime.now(UTC).date().isoformat(), **provenance()}
        target.write_text(json.dumps(known, indent=1) + "\n")
    draw(known)
    write_results(HERE)


def point(request: dict[str, Any]) -> dict[str, Any]:
    """One measurement in a fresh process, with a worker's allocator settings."""
    command = [sys.executable, __file__, "--point", json.dumps(request)]
    threads = len(os.sched_getaffinity(0))
    done = subprocess.run(command, env=worker_environment(threads), check=True, capture_output=True, text=True)
    print(done.stdout, end="", flush=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """The request and its `peak_gib`; of a whole step, the `estimated_gib` of `sweeper.run.memory` beside it."""
    if "tokens" in request:
        return {**request, "above_gib": head_above(request["tokens"])}
    config = run_config("paper", request["loops"], "cpu")
    shape = replace(config.model, vocab_size=request.get("vocabulary", VOCABULARY))
    config = replace(config, model=shape, seq_len=SEQ_LEN)
    before = _peak_rss()
    trainer(config, compile=False, recompute=request["recompute"]).train_step()
    estimate = training_bytes(config, 1, recompute=request["recompute"])
    return {**request, "peak_gib": (_peak_rss() - before) / GIB, "estimated_gib": estimate / GIB}


def head_above(tokens: int) -> float:
    """GiB that head and loss take above the head's weights and their gradient."""
    hidden = torch.randn(tokens, 768, requires_grad=True)
    weight = torch.randn(VOCABULARY, 768, requires_grad=True)
    head_cross_entropy(hidden[:1], weight[:16], torch.zeros(1, dtype=torch.int64)).backward()  # libraries loaded
    before = _peak_rss()
    head_cross_entropy(hidden, weight, torch.zeros(tokens, dtype=torch.int64)).backward()
    return (_peak_rss() - before - weight.numel() * 4) / GIB


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def draw(known: dict[str, Any]) -> None:
    """Peak memory against N and against the vocabulary."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
    for recompute, label in ((True, "recomputed"), (False, "kept")):
        points = [p for p in known.get("loops", []) if p["recompute"] == recompute]
        left.plot([p["loops"] for p in points], [p["peak_gib"] for p in points], "o-", label=f"activations {label}")
    points = known.get("vocabulary", [])
    right.plot([p["vocabulary"] / 1000 for p in points], [p["peak_gib"] for p in points], "o-", label="N = 1")
    left.set(xlabel="loop count N", ylabel="peak memory of a step (GiB)", xscale="log", ylim=(0, None))
    right.set(xlabel="vocabulary (thousands)")
    left.set_xticks(LOOPS, [str(n) for n in LOOPS], minor=False)
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(HERE / "memory.png", dpi=120)


if __name__ == "__main__":
    main()
