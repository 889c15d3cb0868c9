"""The command `llm4msr quarantine list | show | replay`."""

from __future__ import annotations

from typing import Annotated

import typer

from core import Window
from pipeline.options import End, SettingsFile, Start, settings_of

quarantine_app = typer.Typer(
    name="quarantine", no_args_is_help=True, help="Rows that a gate rejected: list them, show them, try them again."
)


@quarantine_app.command("list")
def list_counts(settings: SettingsFile = None) -> None:
    """Count the rows that wait, by window, table and rule."""
    from pipeline.quarantine import counts

    found = counts(settings_of(settings))
    for entry in found:
        typer.echo(f"{entry['rows']:>10,}  {entry['table']}  {entry['rule']}  {entry['window']}")
    if not found:
        typer.echo("nothing is in quarantine")


@quarantine_app.command()
def show(
    table: Annotated[str, typer.Argument(help="interactions, users or items")] = "interactions",
    rule: Annotated[str | None, typer.Option(help="only rows that this rule rejected")] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many rows at the most")] = 20,
    settings: SettingsFile = None,
) -> None:
    """Print rows that wait, one JSON object a line."""
    from pipeline.quarantine import as_text, rejected

    found = rejected(settings_of(settings), table, rule, limit)
    if found:
        typer.echo(as_text(found))
    else:
        typer.echo(f"no row of {table} waits" + (f" by rule {rule}" if rule else ""), err=True)


@quarantine_app.command("replay")
def replay_window(settings: SettingsFile = None, start: Start = None, end: End = None) -> None:
    """Judge a window's rejected rows by today's settings; what passes joins the window. Then `llm4msr run`."""
    from pipeline.quarantine import replay

    part = replay(settings_of(settings), Window.parse(start, end))
    passed = part.rows["interactions"] + part.rows["users"] + part.rows["items"]
    typer.echo(f"{passed:,} rows pass now, {part.rows['quarantined']:,} stay in quarantine\t{part.digest}")
