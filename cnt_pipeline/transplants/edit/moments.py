"""What the `moments` probe measured of a module's inputs, read from its file as far as it is asked for.

The second moment of a wide layer's inputs, `[in, in]`, takes more memory than the layer's weight. Most methods need its
diagonal alone; the others read it a block of rows at a time.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cnt_pipeline.models.tensors import CheckpointIndex, read_array, read_diagonal, read_entries, read_file_index


@dataclass(frozen=True)
class StoredRows:
    """A stored matrix `[rows, columns]` that is read, in float32, by slices of its rows."""

    file: CheckpointIndex
    name: str

    def __len__(self) -> int:
        return self.file[self.name].shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        begin, end, _ = rows.indices(len(self))
        width = self.file[self.name].shape[1]
        return read_entries(self.file, self.name, begin * width, end * width).float().reshape(-1, width)


@dataclass(frozen=True)
class Moments:
    """What a probe summed of one module's inputs over tokens, each example's answer counting the same; float32.

    A probe's file holds `<module>.mean` `[in]`, the mean of x, `<module>.second` `[in, in]`, that of x x^T, and
    `<module>.tokens`, how many were read. Every property reads the file again and keeps nothing.
    """

    file: CheckpointIndex
    module: str

    @property
    def mean(self) -> Tensor:
        """Mean of every input, `[in]`."""
        return read_array(self.file, f"{self.module}.mean").float()

    @property
    def tokens(self) -> int:
        """Over how many tokens the moments are."""
        return int(read_array(self.file, f"{self.module}.tokens"))

    @property
    def second(self) -> StoredRows:
        """Mean of x x^T, `[in, in]`, of which rows are read when they are asked for."""
        return StoredRows(self.file, f"{self.module}.second")

    @property
    def squares(self) -> Tensor:
        """Mean square of every input, `[in]`: the diagonal of `second`, which is not read for it."""
        return read_diagonal(self.file, f"{self.module}.second").float()

    @property
    def norms(self) -> Tensor:
        """Root mean square of every input, `[in]`: `||X_j||_2` up to the square root of the number of tokens."""
        return self.squares.clamp(min=0).sqrt()

    @property
    def variance(self) -> Tensor:
        """Variance of every input over tokens, `[in]`."""
        return (self.squares - self.mean.square()).clamp(min=0)


def read_moments(path: Path, module: str) -> Moments:
    """The moments of one module in a probe's file.

    Raises:
        InputError: the file is absent or not intact.
    """
    return Moments(read_file_index(path), module)
