"""The donor's planned neurons, read block by block, and what they become inside the target."""

from __future__ import annotations

from contextlib import ExitStack
from typing import BinaryIO

import numpy as np

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.tensors import CheckpointIndex, open_weights, read_into
from cnt_pipeline.transplants.arithmetic import BIT_TYPES, Bits, transplanted
from cnt_pipeline.transplants.blocks import BUFFER, Block, read_row_values, sized
from cnt_pipeline.transplants.plan import TensorEdit


class DonorNeurons(ExitStack):
    """Open handles on a donor's weights, for as long as the context lasts."""

    def __init__(self, donor: CheckpointIndex) -> None:
        super().__init__()
        self.donor = donor
        self._streams: dict[str, BinaryIO] = {}
        self._buffer = bytearray(BUFFER)

    def transplanted(self, edit: TensorEdit, block: Block, old: Bits) -> Bits:
        """The bits that `block` of `edit` gets, given the `old` ones of the target; shape and type of `old`.

        Rows read only their own bytes of the donor, columns the donor's same range of rows. Raises
        `InputError` when the donor cannot be read or an amplified weight exceeds the target's dtype.
        """
        info = edit.donor
        stream = self._streams.get(info.file)
        if stream is None:
            stream = self._streams[info.file] = self.enter_context(open_weights(self.donor.path(info.file)))
        kind = BIT_TYPES[info.dtype]
        if block.axis == 0:
            given = np.empty(block.shape, kind)
            read_row_values(stream, info, block.positions, given)
            amplitudes = edit.amplitudes[np.searchsorted(edit.positions, block.positions), None]
        else:
            row_bytes = block.width * info.itemsize
            piece = sized(self._buffer, block.rows * row_bytes)
            read_into(stream, info.begin + block.first * row_bytes, piece)
            given = np.frombuffer(piece, kind).reshape(block.rows, block.width).take(block.positions, axis=1)
            amplitudes = edit.amplitudes
        try:
            return transplanted(old, given, edit.info.dtype, info.dtype, amplitudes)
        except OverflowError as error:
            raise InputError(
                f"the planned amplitude takes a weight of {info.name} {error}: lower eta or save the target as bfloat16"
            ) from None
