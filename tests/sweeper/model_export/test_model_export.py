"""Exported weights: `transformers` gives our logits from a folder that imports nothing of this project."""

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model import ModelConfig
from model.transformer import LoopedTransformer
from sweeper.__main__ import main
from sweeper.data import TokenData
from sweeper.data.tokenizer import load_tokenizer
from sweeper.errors import UserError
from sweeper.model_export.folder import Format, export_model
from sweeper.model_export.modeling import modeling_source
from sweeper.records.checkpoint import WEIGHTS, save_checkpoint
from sweeper.records.run_dir import RunDir
from sweeper.run.execution import Execution
from sweeper.run.spec import RunConfig

RESULT = {"state": "done", "val_loss": 3.25, "step": 12, "reason": "", "seconds": {"step": 1.5}}
RESULT |= {"provenance": {"commit": "0123abc", "diff": None, "python": "3.11", "packages": {}, "processor": "Some CPU"}}
KINDS: tuple[dict[str, str], ...] = (
    {},
    {"loop": "FLT"},
    {"loop": "parcae", "block": "sandwich"},
    {"loop": "boundary", "block": "rezero"},
    {"block": "deepnorm"},
    {"loop": "FLT_res", "parts": "nanochat"},
)
# Loads every folder as a stranger would, and compares with our logits at N and 2N. Argument: the folder of folders.
COMPARE = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder in sorted(Path(sys.argv[1]).iterdir()):
    ours = torch.load(folder / "logits.pt")
    for n_loops, logits in ours["logits"].items():
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, n_loops=n_loops)
        theirs = model(ours["tokens"]).logits
        print(folder.name, n_loops, (theirs - logits).abs().max().item())
        assert torch.allclose(theirs, logits, rtol=0, atol=1e-5)
        again = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        assert torch.allclose(again(ours["tokens"], n_loops=n_loops).logits, logits, rtol=0, atol=1e-5)
    text = "a few words"
    tokens = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)(text, return_tensors="pt")["input_ids"]
    assert ours["words"] in (None, tokens.tolist())
    longer = again.generate(tokens, max_new_tokens=3, do_sample=False)
    assert longer.shape == (1, tokens.shape[1] + 3)
    labels = again(tokens, labels=tokens)
    assert torch.isfinite(labels.loss)
    try:
        again(tokens, attention_mask=torch.zeros_like(tokens))
    except ValueError as error:
        assert "padding on the left" in str(error)
    else:
        raise AssertionError("left padding was not refused")
assert not {"model", "sweeper", "analysis"} & set(sys.modules)
"""


EXAMPLE = Path(__file__).resolve().parents[3] / "results" / "quick" / "model"


def read_safetensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """The parameters in a file, by the names of `LoopedTransformer`."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    assert header.pop("__metadata__")["format"] == "pt"
    assert start % 8 == 0
    found = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32"
        first, end = (start + place for place in entry["data_offsets"])
        found[name] = np.frombuffer(content[first:end], dtype="<f4").reshape(entry["shape"]).copy()
    return {name.removeprefix("model."): value for name, value in found.items() if "weight" in name}


Finished = Callable[..., tuple[RunDir, LoopedTransformer]]


@pytest.fixture
def finished(tmp_path: Path, run_config: RunConfig, execution: Execution) -> Finished:
    """`finished(block="deepnorm")`: a finished run of three loop steps with drawn weights, and its model."""

    def make(**kinds: str) -> tuple[RunDir, LoopedTransformer]:
        shape = replace(run_config.model, n_layers=2, n_loops=3, **kinds)  # type: ignore[arg-type]
        config = replace(run_config, model=shape)
        rundir, model = RunDir(tmp_path / "runs" / config.run_id), LoopedTransformer(shape)
        rundir.write_config(config, execution, {})
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=draw))
        save_checkpoint(rundir.checkpoints, 12, {"step": 12, "val_loss": 3.25, "model": model.state_dict()}, WEIGHTS)
        rundir.write_result(RESULT)
        return rundir, model

    return make


def test_transformers_gives_our_logits_at_n_and_2n_for_every_kind(
    finished: Finished, tmp_path: Path, run_data: TokenData, data_root: Path
) -> None:
    if importlib.util.find_spec("transformers") is None:
        missing = "transformers is not installed: pip install -e '.[dev]'"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    tokens = torch.randint(0, 300, (2, 32), generator=torch.Generator().manual_seed(1))
    words = load_tokenizer("bpe", data_root / run_data.manifest.directory / "tokenizer.json").encode(["a few words"])
    for number, kinds in enumerate(KINDS):
        rundir, model = finished(**kinds)
        folder = tmp_path / "folders" / f"kind{number}"
        export_model(rundir, folder, Format.HF, data_root)
        with torch.no_grad():
            logits = {n_loops: model(tokens, n_loops=n_loops) for n_loops in (3, 6)}
        torch.save({"tokens": tokens, "logits": logits, "words": words}, folder / "logits.pt")
    shutil.copytree(EXAMPLE, tmp_path / "folders" / "shipped")
    shipped = LoopedTransformer(ModelConfig(**json.loads((EXAMPLE / "config.json").read_text())["shape"]))
    shipped.load_state_dict(
        {name: torch.from_numpy(values) for name, values in read_safetensors(EXAMPLE / "model.safetensors").items()}
    )
    with torch.no_grad():
        logits = {n_loops: shipped(tokens, n_loops=n_loops) for n_loops in (4, 8)}
    torch.save({"tokens": tokens, "logits": logits, "words": None}, tmp_path / "folders" / "shipped" / "logits.pt")
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, str(tmp_path / "folders")],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 2 * (len(KINDS) + 1)


def test_the_modeling_file_is_python_that_imports_nothing_of_ours_and_has_no_cost_of_a_run() -> None:
    source = modeling_source()
    tree = ast.parse(source)
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name.split(".")[0] for name in modules} == {
        "collections",
        "dataclasses",
        "functools",
        "torch",
        "transformers",
        "typing",
    }
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert len(defined) == len(set(defined))
    names = {getattr(node, "name", getattr(node, "attr", getattr(node, "id", ""))) for node in ast.walk(tree)}
    costs = ("flops_per_token", "activation_bytes", "compiled_activation_bytes", "parameter_rows", "n_params")
    assert names.isdisjoint(costs)
    assert "onednn" not in source
    assert source == modeling_source()


def test_safetensors_holds_the_weights_under_our_names(finished: Finished, tmp_path: Path) -> None:
    rundir, model = finished(loop="FLT")
    written = export_model(rundir, tmp_path / "out", Format.SAFETENSORS, tmp_path)
    assert [path.name for path in written] == ["config.json", "model.safetensors"]
    stored, weights = read_safetensors(written[1]), model.state_dict()
    assert list(stored) == list(weights)
    for name, values in stored.items():
        assert np.array_equal(values, weights[name].numpy())
    assert ModelConfig(**json.loads(written[0].read_text())) == model.config


def test_the_command_finds_a_run_by_its_beginning_and_says_what_is_missing(
    finished: Finished, tmp_path: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rundir, _ = finished()
    places = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    main(["export", "--model", rundir.path.name[:6], *places, "--data", str(data_root)])
    assert "modeling_looped.py" in capsys.readouterr().out
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    for name, reason in {"L9": "no run in", "L": "several runs begin so"}.items():
        finished(loop="FLT")
        with pytest.raises(SystemExit) as end:
            main(["export", "--model", name, *places])
        assert end.value.code == 2
        assert reason in capsys.readouterr().err


def test_a_run_without_weights_or_without_an_end_is_refused(finished: Finished, tmp_path: Path) -> None:
    rundir, _ = finished()
    for path in rundir.checkpoints.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="has no weights of its last step"):
        export_model(rundir, tmp_path / "out", Format.HF, tmp_path)
    (rundir.path / "result.json").unlink()
    with pytest.raises(UserError, match="is not finished"):
        export_model(rundir, tmp_path / "out", Format.HF, tmp_path)


def test_the_shipped_example_is_small() -> None:
    assert sum(path.stat().st_size for path in EXAMPLE.iterdir()) <= 2**20
    assert {"config.json", "model.safetensors", "modeling_looped.py", "tokenizer.json"} <= {
        path.name for path in EXAMPLE.iterdir()
    }
