"""Compiled programs are found again on disk."""

import os
import subprocess
import sys
from pathlib import Path

STEP = """
import logging
import torch
from torch._dynamo.utils import counters
from model import ModelConfig
from model.cpu.enable import enable
from model.transformer import LoopedTransformer

logging.basicConfig()
torch.manual_seed(0)
model = LoopedTransformer(ModelConfig(300, 32, 1, 88, 1, 2, 0.5, 16))
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.1)
enable(model, head=False)
tokens = torch.arange(2 * 17).reshape(2, 17)
loss = model(tokens[:, :-1], tokens[:, 1:])
loss.backward()
count = counters["inductor"]
print(loss.item(), count["fxgraph_cache_hit"], count["fxgraph_cache_miss"])
"""
PROGRAMS = 2  # the block's forward and backward pass


def step(cache: Path) -> tuple[float, list[int]]:
    """Loss of one step in a process of its own, and how many programs it found and made."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, check=True)
    assert "cannot compile" not in done.stderr
    loss, *counts = done.stdout.split()
    return float(loss), [int(count) for count in counts]


def test_another_process_compiles_nothing_again(tmp_path: Path) -> None:
    loss, programs = step(tmp_path)
    assert programs == [0, PROGRAMS]
    assert step(tmp_path) == (loss, [PROGRAMS, 0])
