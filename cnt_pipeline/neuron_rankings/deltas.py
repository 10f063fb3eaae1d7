"""How far each of the donor's neurons lies from the target's, read tensor by tensor from the checkpoints."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from cnt_pipeline.models.architecture import Architecture
from cnt_pipeline.models.tensors import CheckpointIndex, read_array
from cnt_pipeline.store.parquet import write_parquet

DELTAS = "deltas.parquet"


def write_deltas(target: CheckpointIndex, donor: CheckpointIndex, architecture: Architecture, folder: Path) -> None:
    """Write `deltas.parquet`: layer, family, neuron, norm `||D_n||` (its bias included) and parameters per neuron."""
    tables = []
    for matrix in architecture.matrices:
        difference = read_array(donor, matrix.tensor).float() - read_array(target, matrix.tensor).float()
        squares = difference.double().square().sum(1 - matrix.axis)
        if matrix.bias is not None:
            bias = read_array(donor, matrix.bias).double() - read_array(target, matrix.bias).double()
            squares = squares + bias.square()
        norms = squares.sqrt().numpy()[matrix.positions]
        tables.append(
            pa.table(
                {
                    "layer": np.full(matrix.neurons, matrix.layer, dtype=np.int32),
                    "family": [matrix.family] * matrix.neurons,
                    "neuron": np.arange(matrix.neurons, dtype=np.int32),
                    "norm": norms,
                    "parameters": np.full(matrix.neurons, matrix.parameters_per_neuron, dtype=np.int64),
                }
            )
        )
    write_parquet(pa.concat_tables(tables).combine_chunks(), folder / DELTAS)
