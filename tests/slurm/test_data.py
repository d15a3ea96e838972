"""Data prepared by a job array is what this machine prepares."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.data import DataSpec, TokenizerSpec, find_data, prepare_data
from sweeper.data.local import UNIT_BYTES

from .lab import CHECKOUT, Lab, finished

pytestmark = pytest.mark.slurm


def test_job_array_prepares_what_this_machine_prepares(lab: Lab, tmp_path: Path) -> None:
    corpus, draw = tmp_path / "corpus", random.Random(0)
    corpus.mkdir()
    words = ["".join(draw.choices("abcdefghij", k=5)) for _ in range(1000)]
    for number in range(3):  # units of their own, so that there is an array
        lines = (f'{{"text": "{" ".join(draw.choices(words, k=400))}"}}\n' for _ in range(UNIT_BYTES // 2400))
        (corpus / f"{number}.jsonl").write_text("".join(lines))
    settings = ["preset=smoke", "data.val_fraction=0.1", "data.tokenizer={kind: bpe, vocab_size: 300}"]
    command = [
        sys.executable,
        "-m",
        "sweeper",
        "data",
        *settings,
        f"data.path={corpus}",
        f"paths.data={lab.data}/array",
    ]

    def typed() -> str:
        return finished(
            subprocess.Popen(
                [*command, "hydra/launcher=slurm", "hydra.launcher.cpus_per_gpu=1"],
                cwd=CHECKOUT,
                env={**lab.cluster.environment, "PYTHONPATH": str(CHECKOUT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )

    assert "submitted 3 jobs" in typed()
    spec = DataSpec("wikipedia", str(corpus), "text", TokenizerSpec("bpe", 300), 16777216, 0.1)
    lab.until(lambda: find_data(spec, lab.data / "array") is not None, "prepared data")
    assert find_data(spec, lab.data / "array") == prepare_data(spec, tmp_path / "here", print)
    assert "is ready, manifest" in typed()
