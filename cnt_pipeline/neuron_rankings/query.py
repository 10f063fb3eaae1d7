"""Run a scoring rule: bind Parquet files to the names its SQL uses, and write the ranking."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from cnt_pipeline.errors import BrokenArtifactError
from cnt_pipeline.store.parquet import write_parquet

SQL = Path(__file__).parent / "sql"
RANKING = "ranking.parquet"
"""File of the ranking: lookalike_weight, layer, family, neuron, score, its parts, standard_error,
sign_agreement, rank."""


def rank(rule: str, tables: Mapping[str, Path], parameters: Mapping[str, Any], folder: Path) -> int:
    """Write the ranking of `rule` (a file in `sql/`) over `tables` into `folder`; returns its number of rows.

    Ties are broken by layer, family and neuron, so equal statistics give equal bytes.

    Raises:
        BrokenArtifactError: a table that is not the Parquet it should be.
    """
    statement = (SQL / f"{rule}.sql").read_text(encoding="utf-8")
    connection = duckdb.connect()
    try:
        for name, path in tables.items():
            connection.execute(f"CREATE VIEW \"{name}\" AS SELECT * FROM read_parquet('{_quoted(path)}')")
        table: pa.Table = connection.sql(statement, params=dict(parameters)).to_arrow_table()
    except (duckdb.IOException, duckdb.InvalidInputException) as error:
        raise BrokenArtifactError(
            f"a cache cannot be read ({error}); run `cnt run` again, it rebuilds what is broken"
        ) from None
    finally:
        connection.close()
    write_parquet(table, folder / RANKING)
    return int(table.num_rows)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
