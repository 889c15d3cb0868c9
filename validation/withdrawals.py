"""What a snapshot of users or items no longer has, against the window before it: a file that was cut short looks like a
sale of half the shop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.catalogues import Catalogues
from core.duck import quoted
from validation.database import one_row


def compare(connection: Any, table: str, previous: Path | None, now: Path, rejected: Path) -> dict[str, Any]:
    """Facts about a table of the window against the artifact of an earlier one.

    Args:
        connection: to DuckDB.
        table: users or items.
        previous: the earlier validate artifact; None: there is none.
        now: the window's sound rows.
        rejected: its rejected rows: a faulty row does not withdraw anything.

    Returns:
        `withdrawn`, `came` (counts of ids) and `withdrawn_share`; empty where the two are no snapshots to compare.
    """
    if previous is None or getattr(Catalogues.read(previous), table) == "log":
        return {}
    key = f"{table[:-1]}_id"
    before = _ids(key, previous / f"{table}.parquet", previous / f"quarantine_{table}.parquet")
    found = one_row(
        connection,
        f"""WITH old AS ({before}), new AS ({_ids(key, now, rejected)})
        SELECT (SELECT count(*) FROM old) AS known,
            (SELECT count(*) FROM (FROM old EXCEPT FROM new)) AS withdrawn,
            (SELECT count(*) FROM (FROM new EXCEPT FROM old)) AS came""",
    )
    known = found.pop("known")
    return found | {"withdrawn_share": found["withdrawn"] / known if known else None}


def view_of_known(connection: Any, table: str, out: Path, previous: Path | None) -> None:
    """Make `known_TABLE` readable: the ids of the window's catalogue and of the one before it, since a day's rows may be
    of what that day withdrew.
    """
    key = f"{table[:-1]}_id"
    files = [folder / f"{table}.parquet" for folder in (out, previous) if folder is not None]
    union = " UNION ".join(f"SELECT {key} FROM read_parquet({quoted(file)})" for file in files if file.is_file())
    connection.execute(f"CREATE VIEW known_{table} AS {union}")


def _ids(key: str, *files: Path) -> str:
    there = [file for file in files if file.is_file()]
    return " UNION ".join(
        f"SELECT {key}::VARCHAR AS id FROM read_parquet({quoted(file)}) WHERE {key} IS NOT NULL" for file in there
    )
