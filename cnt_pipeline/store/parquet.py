"""One way to write Parquet through pyarrow: whole or not at all, and the same bytes for the same table."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(table: pa.Table, path: Path, byte_stream_split: list[str] | None = None) -> None:
    """Write `table` under a temporary name and rename it, so that a file under its own name is whole.

    Strings are dictionary-encoded; `byte_stream_split` names the float columns for which that layout pays.
    """
    temporary = path.with_suffix(".tmp")
    pq.write_table(
        table,
        temporary,
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in table.column_names if pa.types.is_string(table.schema.field(name).type)],
        use_byte_stream_split=byte_stream_split or False,
        write_statistics=False,
    )
    temporary.replace(path)
