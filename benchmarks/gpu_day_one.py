"""The first hour on a GPU: is the fast path right, how fast is each of its parts, and what should be switched on?

    python benchmarks/gpu_day_one.py --json day_one.json          from a checkout, on a machine with a GPU
    python benchmarks/gpu_day_one.py --smoke                      all of it on a CPU, at tiny shapes
    python benchmarks/gpu_day_one.py --freeze                     rewrite the CPU's numbers that parity compares with

Needs neither data, network nor SLURM. It never ran on a GPU. In this order, as far as `--minutes` reach:

1. GPU and versions. The attention that PyTorch chooses is with every time.
2. Parity of every stage: losses and gradient of a small model against fp32 on a CPU.
3. Two runs resumed from one checkpoint, compared bit for bit, as it is and with deterministic operations.
4. Time, memory and utilisation of a step of the paper at (L, N) = (12, 1), (12, 8) and (48, 8), the last stage first.

A stage is one more setting than the stage before. The end names the fastest stage that passed parity, by the first of
these shapes. The exit status is 1 if the last stage fails parity or is slower than 0.8 of the model's speed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import open_dict
from options import output_file

from sweeper.config.compose import compose_config
from sweeper.config.resolve import ResolvedRun, resolve
from sweeper.files import write_json
from sweeper.records.provenance import provenance
from sweeper.run.execution import Execution
from sweeper.run.spec import RunConfig
from sweeper.training.gpu_check import FROZEN, environment, measured, parity, repeats, timed

# Settings of `execution` that the stages turn on, one after the other. Before the first, all of them are off.
SWITCHES = ("compile", "fused_loss", "bf16_weights", "flat_gradients")
CELLS = {(12, 1): ("b", 12, 1), (12, 8): ("b", 12, 8), (48, 8): ("d", 48, 8)}
MINUTES_EACH = 3.0  # that a measurement may take, its compilation included


@dataclass(frozen=True)
class Stage:
    """The first so many switches on."""

    number: int

    @property
    def on(self) -> dict[str, bool]:
        """Whether each switch is on."""
        return {name: place < self.number for place, name in enumerate(SWITCHES)}

    @property
    def name(self) -> str:
        """The switch that is new."""
        return f"+ {SWITCHES[self.number - 1]}" if self.number else "plain"

    @property
    def settings(self) -> str:
        """To type."""
        return " ".join(f"execution.{name}={str(value).lower()}" for name, value in self.on.items())


STAGES = tuple(map(Stage, range(len(SWITCHES) + 1)))


class DayOne:
    """What is found, written to a file after every measurement.

    Args:
        smoke: on a CPU, at tiny shapes.
        minutes: no measurement starts later.
        file: for the findings; None for none.
    """

    def __init__(self, *, smoke: bool, minutes: float, file: Path | None) -> None:
        self.smoke, self.file = smoke, file
        self.began, self.end = time.monotonic(), time.monotonic() + 60 * minutes
        self.device = "cpu" if smoke else "cuda"
        self.found: dict[str, Any] = {
            "date": datetime.now(UTC).date().isoformat(),
            "commit": provenance()["commit"],
            "device": self.device,
            "environment": environment(),
            "parity": {},
            "repeats": {},
            "steps": {},
            "skipped": [],
        }

    def run(self) -> bool:
        """Measure all there is time for. Whether the last stage is right, and fast enough where that is known."""
        self.say(f"environment: {json.dumps(self.found['environment'])}")
        for stage in STAGES:
            execution = self.execution(stage)
            self.measure("parity", stage.name, lambda execution=execution: parity(execution, "bf16"))
        last = self.execution(STAGES[-1])
        self.measure("repeats", "as it is", lambda: repeats(last, "bf16"))
        self.measure("repeats", "deterministic", lambda: repeats(replace(last, deterministic=True), "bf16"))
        for cell, stage in self.order():
            run = self.run_of(cell, stage)
            self.measure("steps", self.step_name(cell, stage), lambda run=run: timed(run.config, run.execution))
        return self.conclude()

    def order(self) -> Iterator[tuple[tuple[int, int], Stage]]:
        """The last stage of every cell, then the others from the cheapest cell on."""
        for stages in (STAGES[-1:], STAGES[-2::-1]):
            for cell in CELLS:
                for stage in stages:
                    yield cell, stage

    def step_name(self, cell: tuple[int, int], stage: Stage) -> str:
        """Of a measurement; the shapes of a smoke test have other depths."""
        shape = cast(RunConfig, self.run_of(cell, stage).config).model
        return f"L={shape.n_layers} N={shape.n_loops} {stage.name}"

    def execution(self, stage: Stage) -> Execution:
        """Of the small model. On a CPU nothing is compiled, which would take longer than all the rest."""
        base = self.run_of((12, 1), stage).execution
        return replace(base, device=self.device, **self.switches(stage))

    def switches(self, stage: Stage) -> dict[str, bool]:
        """Of a stage, as they are set here."""
        return {name: value and not (self.smoke and name == "compile") for name, value in stage.on.items()}

    def run_of(self, cell: tuple[int, int], stage: Stage) -> ResolvedRun:
        """A run of the paper's sweep, with memory fitted to the stage."""
        panel, _, loops = CELLS[cell]
        preset = ["preset=smoke", "precision=bf16"] if self.smoke else ["preset=paper"]
        switches = [f"execution.{name}={str(value).lower()}" for name, value in self.switches(stage).items()]
        where = [f"panel=lr_transfer/{panel}", f"model.n_loops={loops}", f"execution.device={self.device}"]
        config = compose_config([*preset, *where, *switches])
        with open_dict(config), suppress(KeyError):
            del config["hydra"]
        return resolve(config, "")

    def measure(self, kind: str, name: str, function: Callable[[], dict[str, Any]]) -> None:
        """Note what the function finds, or its error, or that there was no time for it."""
        left = self.end - time.monotonic()
        if left < (0 if self.smoke else 60 * MINUTES_EACH):
            self.found["skipped"].append(f"{kind}: {name}")
            return
        self.say(f"{kind}: {name} …")
        try:
            self.found[kind][name] = function()
        except Exception as error:
            self.found[kind][name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        self.say(f"  {json.dumps(self.found[kind][name])}")
        if self.file:
            write_json(self.file, self.found)

    def conclude(self) -> bool:
        """Name the fastest stage that passed parity."""
        right = [stage for stage in STAGES if self.found["parity"].get(stage.name, {}).get("passed")]
        speeds = {}
        for stage in right:
            one = self.found["steps"].get(self.step_name(next(iter(CELLS)), stage), {})
            if "tokens_per_second" in one:
                speeds[stage] = one["tokens_per_second"]
        best = max(speeds, key=lambda stage: speeds[stage], default=None)
        slow = [name for name, one in self.found["steps"].items() if not one.get("fast_enough", True)]
        passed = STAGES[-1] in right and not any(name.endswith(STAGES[-1].name) for name in slow)
        self.found |= {"passed": passed, "settings": best.settings if best else None}
        for name in slow:
            self.say(f"slower than 0.8 of the model: {name}")
        self.say(f"not measured, for lack of time: {', '.join(self.found['skipped']) or 'nothing'}")
        self.say(f"fastest that passed parity: {best.settings if best else 'none'}")
        self.say("passed" if passed else "not passed")
        if self.file:
            write_json(self.file, self.found)
        return passed

    def say(self, line: str) -> None:
        """A line of progress, with the minutes since the start."""
        print(f"[{(time.monotonic() - self.began) / 60:5.1f} min] {line}", flush=True)


def freeze() -> None:
    """Write what a CPU computes in fp32, without any switch."""
    off = dict.fromkeys(SWITCHES, False)
    execution = replace(DayOne(smoke=True, minutes=1, file=None).execution(STAGES[0]), threads=1, **off)
    FROZEN.write_text(json.dumps(measured(execution, "fp32"), indent=None) + "\n")


def main() -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=55.0, help="no measurement starts later (55)")
    parser.add_argument("--json", type=output_file, help="write what was found to this file")
    parser.add_argument("--smoke", action="store_true", help="on a CPU, at tiny shapes")
    parser.add_argument("--freeze", action="store_true", help="rewrite the CPU's numbers of the parity check")
    args = parser.parse_args()
    if args.freeze:
        freeze()
        return
    if not args.smoke and not torch.cuda.is_available():
        sys.exit("no GPU is visible; run it on a GPU node, or try it with --smoke")
    sys.exit(not DayOne(smoke=args.smoke, minutes=args.minutes, file=args.json).run())


if __name__ == "__main__":
    main()
