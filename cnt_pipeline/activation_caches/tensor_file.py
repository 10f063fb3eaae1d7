"""Write named tensors to a safetensors file one after the other, however many names share one tensor."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_STORED_AS = {torch.float32: "F32", torch.int64: "I64"}


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write float32 and int64 tensors under a temporary name and rename it: a file under its own name is whole.

    The safetensors library refuses names that share memory and wants copies of them; here each is written from where
    it lies, so that nothing but one tensor on its way from an accelerator is held beside `tensors`.
    """
    # Wide elements first, as the library orders them: every tensor then begins at a multiple of its element's size.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    header, end = {}, 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _STORED_AS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for _, tensor in ordered:
            file.write(tensor.detach().cpu().contiguous().numpy().data)
    temporary.replace(path)
