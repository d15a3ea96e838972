"""Data prepared by a job array is what this machine prepares."""

import base64
import random
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.data import DataSpec, TokenizerSpec, find_data, prepare_data
from sweeper.data.text_files import UNIT_BYTES

from .lab import CHECKOUT, Lab, finished

pytestmark = pytest.mark.slurm
BYTES = b"\n".join(base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256))  # a tokenizer without merges


def test_job_array_prepares_what_this_machine_prepares(lab: Lab, tmp_path: Path) -> None:
    corpus, draw, tokenizer = tmp_path / "corpus", random.Random(0), tmp_path / "bytes.model"
    tokenizer.write_bytes(BYTES)
    corpus.mkdir()
    words = ["".join(draw.choices("abcdefghij", k=5)) for _ in range(1000)]
    for number in range(2):  # each file is one unit, so that there is an array
        lines = (f'{{"text": "{" ".join(draw.choices(words, k=400))}"}}\n' for _ in range(UNIT_BYTES // 2500))
        (corpus / f"{number}.jsonl").write_text("".join(lines))
    settings = [f"data.tokenizer.path={tokenizer}", "data.tokenizer.vocab_size=512", "data.val_fraction=0.1"]
    command = [sys.executable, "-m", "sweeper", "data", "preset=smoke", *settings, f"data.path={corpus}"]

    def typed() -> str:
        return finished(
            subprocess.Popen(
                [*command, f"paths.data={lab.root}/array", "hydra/launcher=slurm", "hydra.launcher.cpus_per_gpu=1"],
                cwd=CHECKOUT,
                env={**lab.cluster.environment, "PYTHONPATH": str(CHECKOUT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )

    assert "submitted 2 jobs" in typed()
    spec = DataSpec("wikipedia", str(corpus), "text", TokenizerSpec("bpe", 512, str(tokenizer)), 16777216, 0.1)
    lab.until(lambda: find_data(spec, lab.root / "array") is not None, "prepared data")
    assert find_data(spec, lab.root / "array") == prepare_data(spec, tmp_path / "here", print)
    assert "is ready, manifest" in typed()
