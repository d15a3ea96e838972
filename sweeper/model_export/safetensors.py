"""The safetensors format, written: a length, a JSON header, and the tensors' bytes.

https://github.com/huggingface/safetensors#format
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sweeper.files import replacing

_TYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
_ALIGNMENT = 8


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write tensors by name, in the order given. `about` goes into the header; equal arguments give equal bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **about}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(
                tensor.detach().cpu().contiguous().numpy().tobytes()
            )  # little-endian, as every supported machine
