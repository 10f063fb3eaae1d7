"""`cnt query`: DuckDB over what the store holds. It reads; it cannot change anything."""

import json
import sys
from typing import TYPE_CHECKING, Literal

from cnt_pipeline.commands import views
from cnt_pipeline.commands.console import err, out, table
from cnt_pipeline.errors import InputError
from cnt_pipeline.pipeline.project import store_url
from cnt_pipeline.store import Store

if TYPE_CHECKING:
    import duckdb

Form = Literal["table", "json", "csv"]
SHOWN_ROWS = 200


def run_query(sql: str | None, store: str | None, form: Form) -> None:
    """Print the answer to `sql`, or the list of views when there is none.

    Raises:
        InputError: the SQL is at fault, or is more than one question.
    """
    if sql is None:
        _list_views(form)
        return
    import duckdb

    opened = Store(store_url(store))
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    try:
        _refuse_changes(sql)
        for remark in views.create(connection, opened, views.used(sql)):
            err().print(f"left out: {remark}", markup=False)
        answer = connection.execute(sql)
        _print(answer, form)
    except duckdb.Error as error:
        raise InputError(_sentence(str(error), opened)) from None
    finally:
        connection.close()


def _refuse_changes(sql: str) -> None:
    import duckdb

    statements = duckdb.extract_statements(sql)
    if len(statements) != 1:
        raise InputError(f"give one SQL statement, not {len(statements)}")
    if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise InputError(
            f"`cnt query` only reads, and this is {statements[0].type.name}: ask with SELECT, SHOW or DESCRIBE"
        )


def _sentence(message: str, store: Store) -> str:
    """DuckDB's message as one line; an absent view is explained."""
    first = " ".join(message.split("\nLINE ")[0].split())
    missing = next((view for view in views.VIEWS if f"Table with name {view.name} does not exist" in first), None)
    if missing is not None:
        return f"the store {store.url} holds nothing for the view {missing.name} yet; run a study first"
    hint = "" if "Did you mean" in first else "; `cnt query` without SQL lists the views"
    return f"the SQL cannot be answered: {first}{hint}"


def _print(answer: "duckdb.DuckDBPyConnection", form: Form) -> None:
    columns = [column[0] for column in answer.description or ()]
    if form == "csv":
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        while rows := answer.fetchmany(10_000):
            writer.writerows(rows)
    elif form == "json":
        objects = [dict(zip(columns, row, strict=True)) for row in answer.fetchall()]
        sys.stdout.write(json.dumps(objects, default=str, ensure_ascii=False, indent=1) + "\n")
    else:
        rows = answer.fetchmany(SHOWN_ROWS + 1)
        cells = [[_cell(value) for value in row] for row in rows[:SHOWN_ROWS]]
        numbers = [name for place, name in enumerate(columns) if rows and isinstance(rows[0][place], int | float)]
        out().print(table(columns, cells, right=numbers))
        if len(rows) > SHOWN_ROWS:
            err().print(f"the first {SHOWN_ROWS} rows; LIMIT asks for fewer, --csv and --json give all")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _list_views(form: Form) -> None:
    rows = [views.ARTIFACTS, *((view.name, view.meaning) for view in views.VIEWS)]
    if form == "json":
        sys.stdout.write(json.dumps([{"view": name, "meaning": meaning} for name, meaning in rows], indent=1) + "\n")
    elif form == "csv":
        sys.stdout.writelines(["view,meaning\n", *(f'{name},"{meaning}"\n' for name, meaning in rows)])
    else:
        out().print(table(("view", "rows"), rows))
        out().print(
            "\nEvery view has the columns study and step; DESCRIBE a view for the others, for example\n"
            '  cnt query "select subject, metric, value, low, high from metrics"\n'
            '  cnt query "select layer, family, count(*) from plan group by all order by all"',
            markup=False,
        )
