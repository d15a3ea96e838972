"""The weights of a finished run as a folder.

safetensors   model.safetensors, with the names of `LoopedTransformer`, and config.json, the fields of `ModelConfig`
hf            for Hugging Face `transformers`: config.json, model.safetensors, modeling_looped.py, a README.md, and the
              tokenizer where the run's data are at hand. Nothing in it imports this project
"""

import json
import shutil
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from model.transformer import LoopedTransformer
from sweeper.data.manifest import MANIFEST_FILE, Manifest
from sweeper.errors import UserError
from sweeper.files import write_json, write_text
from sweeper.model_export.modeling import modeling_source
from sweeper.model_export.safetensors import write_safetensors
from sweeper.records.checkpoint import load_checkpoint
from sweeper.records.run_dir import RunDir
from sweeper.run.identity import format_rate
from sweeper.run.spec import RunConfig

CODE = "modeling_looped"
TOKENIZER = "tokenizer.json"


class Format(StrEnum):
    """For whom the folder is."""

    SAFETENSORS = "safetensors"
    HF = "hf"


def export_model(rundir: RunDir, out: Path, kind: Format, data: Path) -> list[Path]:
    """Write the final weights of a run into folder `out`, which is made if it is missing.

    Args:
        rundir: of a finished training.
        out: the folder.
        kind: for whom.
        data: directory of prepared data, for the tokenizer. Without the run's data the folder has none.

    Returns:
        The files written.

    Raises:
        UserError: if the run is no training, is not finished, or has no weights of its last step.
    """
    config, model = _finished_model(rundir)
    shape = asdict(config.model)
    about = {"run": rundir.path.name}
    out.mkdir(parents=True, exist_ok=True)
    if kind is Format.SAFETENSORS:
        write_safetensors(out / "model.safetensors", model.state_dict(), about)
        write_json(out / "config.json", shape)
        return [out / "config.json", out / "model.safetensors"]
    # With the tables and scales that a model of this project computes when it is built.
    tensors = {f"model.{name}": tensor for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    write_safetensors(out / "model.safetensors", tensors, about)
    write_text(out / f"{CODE}.py", modeling_source())
    bos = _write_tokenizer(out, config, data)
    tokens = {} if bos is None else {"bos_token_id": bos, "eos_token_id": bos}
    write_json(out / "config.json", _hf_config(shape, tokens))
    write_json(out / "generation_config.json", {"use_cache": False, **tokens})
    write_text(out / "README.md", _card(rundir, config))
    return sorted(path for path in out.iterdir() if path.is_file())


def _finished_model(rundir: RunDir) -> tuple[RunConfig, LoopedTransformer]:
    result = rundir.result()
    if result is None:
        raise UserError(f"{rundir.path} is not finished; a model is exported after its last step")
    if rundir.is_restored:
        raise UserError(f"{rundir.path} was restored from records, which hold no weights; train it here")
    config, _ = rundir.load()
    if not isinstance(config, RunConfig):
        raise UserError(f"{rundir.path} is no training; only trainings have weights to export")
    state = load_checkpoint(rundir.checkpoints, torch.device("cpu"))
    if state is None or state["step"] != result["step"]:
        raise UserError(f"{rundir.path} has no weights of its last step; train it again with paths.runs=DIR")
    model = LoopedTransformer(config.model)
    model.load_state_dict(state["model"])
    return config, model


def _hf_config(shape: dict[str, Any], tokens: dict[str, int]) -> dict[str, Any]:
    return {
        "model_type": "looped_transformer",
        "architectures": ["LoopedForCausalLM"],
        "auto_map": {"AutoConfig": f"{CODE}.LoopedConfig", "AutoModelForCausalLM": f"{CODE}.LoopedForCausalLM"},
        "dtype": "float32",
        "shape": shape,
        "n_loops": shape["n_loops"],
        "use_cache": False,
        "tie_word_embeddings": False,  # one tensor in the file is both
        **tokens,
    }


def _write_tokenizer(out: Path, config: RunConfig, data: Path) -> int | None:
    """Copy the tokenizer of the run's data, if it is a tokenizer.json. Returns the token that begins a document."""
    for file in sorted(data.glob(f"*/{MANIFEST_FILE}")):
        manifest, source = Manifest.read(file.parent), file.with_name(TOKENIZER)
        if manifest.hash == config.data and source.is_file():
            bos = int(manifest.tokenizer["bos"])
            shutil.copyfile(source, out / TOKENIZER)
            text = _token(json.loads(source.read_text(encoding="utf-8")), bos)
            settings: dict[str, Any] = {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": text,
                "eos_token": text,
            }
            settings |= {"padding_side": "right", "clean_up_tokenization_spaces": False}
            write_json(out / "tokenizer_config.json", {**settings, "model_max_length": config.model.max_seq_len})
            return bos
    return None


def _token(tokenizer: dict[str, Any], number: int) -> str:
    added = {entry["id"]: entry["content"] for entry in tokenizer.get("added_tokens", [])}
    known = {n: text for text, n in tokenizer["model"]["vocab"].items()} | added
    return str(known[number])


def _card(rundir: RunDir, config: RunConfig) -> str:
    result, shape = rundir.result() or {}, config.model
    loss = "none" if result.get("val_loss") is None else f"{result['val_loss']:.4f}"
    load = 'AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True'
    return "\n".join(
        [
            f"# {rundir.path.name}",
            "",
            f"A looped Transformer: {shape.n_layers} layers applied {shape.n_loops} times, width {shape.d_model},",
            f"vocabulary {shape.vocab_size}, residual scale {shape.residual_scale:g}. Trained by loopsweep.",
            "",
            f"- base learning rate {format_rate(config.base_lr)}, seed {config.seed}, {config.steps} steps of "
            f"{config.batch_tokens} tokens, data {config.data}",
            f"- final validation loss {loss} nats per token, at commit {result['provenance']['commit']}",
            "",
            "```python",
            "from transformers import AutoModelForCausalLM",
            "",
            f"model = {load})  # {shape.n_loops} loop steps, as in training",
            f"model = {load}, n_loops={2 * shape.n_loops})  # more at test time",
            "```",
            "",
            "Every document begins with `bos_token`. Texts of a batch are padded on the right.",
            "",
        ]
    )
