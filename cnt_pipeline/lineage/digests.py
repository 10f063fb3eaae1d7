"""SHA-256 of files and of the tensors in them, every file read once."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.tensors import CheckpointIndex, open_weights, read_file_index, read_into
from cnt_pipeline.store.digests import hash_file

_BLOCK = 16 << 20


class Digests:
    """What one verification has read. The weights of the checkpoint are hashed whole and tensor by tensor in one pass;
    whoever asks for either again gets what was found then."""

    def __init__(self) -> None:
        self._tensors: dict[Path, dict[str, str]] = {}

    def of_file(self, path: Path, weights: bool = False) -> str:
        """SHA-256 of a file, read now; with `weights` a safetensors file's tensors are hashed on the way.

        Raises:
            InputError: it cannot be read.
        """
        try:
            if not weights:
                return hash_file(path)
            sha256, self._tensors[path] = file_and_tensor_digests(path)
            return sha256
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}): mend its permissions, then verify again"
            ) from None

    def of_tensors(self, checkpoint: CheckpointIndex) -> dict[str, str]:
        """SHA-256 of the stored bytes of every tensor; only files that `of_file` has not hashed are read.

        Raises:
            InputError: a file cannot be read.
        """
        found: dict[str, str] = {}
        for path in map(checkpoint.path, checkpoint.files):
            if path not in self._tensors:
                self.of_file(path, weights=True)
            found |= self._tensors[path]
        return found


def file_and_tensor_digests(path: Path) -> tuple[str, dict[str, str]]:
    """SHA-256 of a file, and by name that of the stored bytes of every tensor in it; in one pass over its bytes.

    A file without a readable header has no tensors: whoever needs them reads the header and says what is wrong.

    Raises:
        OSError: the file cannot be read.
        InputError: it was cut while it was read.
    """
    try:
        tensors = list(read_file_index(path).tensors.values())  # in the order of their bytes, without holes
    except InputError:
        return hash_file(path), {}
    whole, found = hashlib.sha256(), dict[str, str]()
    with open_weights(path) as stream:
        for block in _blocks(stream, 0, tensors[0].begin if tensors else path.stat().st_size):
            whole.update(block)
        for info in tensors:
            digest = hashlib.sha256()
            for block in _blocks(stream, info.begin, info.end):
                whole.update(block)
                digest.update(block)
            found[info.name] = digest.hexdigest()
    return whole.hexdigest(), found


def tensor_digests(index: CheckpointIndex) -> dict[str, str]:
    """SHA-256 of the stored bytes of every tensor of a checkpoint.

    Raises:
        InputError: a file cannot be read.
    """
    return Digests().of_tensors(index)


def _blocks(stream: BinaryIO, begin: int, end: int) -> Iterator[bytearray]:
    for at in range(begin, end, _BLOCK):
        block = bytearray(min(_BLOCK, end - at))
        read_into(stream, at, block)
        yield block
