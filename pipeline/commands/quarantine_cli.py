"""The command `llm4msr quarantine list | show | replay`."""

from __future__ import annotations

from typing import Annotated

import typer

from core import Window
from pipeline.commands.options import End, SettingsFile, Start, settings_of

quarantine_app = typer.Typer(
    name="quarantine", no_args_is_help=True, help="Rows that a gate rejected: list them, show them, try them again."
)


@quarantine_app.command("list")
def list_counts(settings: SettingsFile = None) -> None:
    """Count the rows that wait, by window, table and rule."""
    from pipeline.commands.quarantine import counts

    found = counts(settings_of(settings))
    for entry in found:
        typer.echo(f"{entry['rows']:>10,}  {entry['table']}  {entry['rule']}  {entry['window']}")
    if not found:
        typer.echo("nothing is in quarantine")


@quarantine_app.command()
def show(
    table: Annotated[
        str | None, typer.Argument(help="interactions, users or items [default: all that have rows]")
    ] = None,
    rule: Annotated[str | None, typer.Option(help="only rows that this rule rejected")] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many rows of a table at the most")] = 20,
    settings: SettingsFile = None,
) -> None:
    """Print rows that wait, one JSON object a line.

    Example:  llm4msr quarantine show items --rule title_unreadable --limit 5
    """
    from pipeline.commands.quarantine import as_text, counts, rejected

    chosen = settings_of(settings)
    found = rejected(chosen, table, rule, limit)
    if found:
        typer.echo(as_text(found))
        return
    others = ", ".join(f"{entry['rows']:,} of {entry['table']} by {entry['rule']}" for entry in counts(chosen))
    what = f"no row{f' of {table}' if table else ''} waits{f' by rule {rule}' if rule else ''}"
    typer.echo(f"{what}; there are {others}" if others else what, err=True)


@quarantine_app.command("replay")
def replay_window(settings: SettingsFile = None, start: Start = None, end: End = None) -> None:
    """Judge a window's rejected rows by today's settings; what passes joins the window. Then `llm4msr run`."""
    from pipeline.commands.quarantine import replay

    part = replay(settings_of(settings), Window.parse(start, end))
    passed = part.rows["interactions"] + part.rows["users"] + part.rows["items"]
    typer.echo(f"{passed:,} rows pass now, {part.rows['quarantined']:,} stay in quarantine\t{part.digest}")
