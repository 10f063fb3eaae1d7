"""Linear layers through oneDNN on processors where torch's own choice is slow.

Torch multiplies float32 matrices on a CPU by MKL, which takes its fast kernels on Intel's processors alone. oneDNN,
which comes with torch as well, takes them wherever the processor has the instructions: on AMD's with AVX-512 answers
take a sixth less time (`benchmarks/linear_layers.py`), more on a busy machine. It is for reading alone: it has no
gradient. Sums are added in another order, so results differ as two machines' do.
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

_PROCESSORS = Path("/proc/cpuinfo")


class FastLinear(nn.Linear):
    """A linear layer that multiplies by oneDNN where no gradient is asked, float32 on the CPU; else torch's own."""

    def forward(self, input: Tensor) -> Tensor:
        """`input` `[..., in]` to `[..., out]`."""
        if torch.is_grad_enabled() or input.dtype != torch.float32 or self.weight.dtype != torch.float32:
            return super().forward(input)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return result


def hasten(model: nn.Module) -> None:
    """Let a model on the CPU multiply by oneDNN, where that pays; its parameters stay the same objects."""
    if not pays():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear


@cache
def pays() -> bool:
    """Whether MKL would be slow here (a processor of AMD's) and oneDNN has the operation."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    if not _PROCESSORS.exists() or "AuthenticAMD" not in _PROCESSORS.read_text(encoding="utf-8"):
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")
