"""The command `llm4msr`: one subcommand per stage, and the ones that bind them together."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from core import Settings, configure, logger
from core.errors import Llm4msrError, SettingsError
from pipeline.commands.knowledge_cli import knowledge_app
from pipeline.commands.options import DEFAULT_FILE, CatchUp, End, SettingsFile, Start, settings_of, window_of
from pipeline.commands.quarantine_cli import quarantine_app
from pipeline.graph import GRAPH

LOG = logger("cli")
Url = Annotated[str | None, typer.Option(help="service to ask [default: serving.host and port]")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on a terminal, too")]
app = typer.Typer(
    name="llm4msr",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Multi-scenario ranking with language-model knowledge: from a raw log to a ranked answer.\n\n"
    "First steps:  llm4msr demo  |  llm4msr init  then  llm4msr doctor, llm4msr run  and  llm4msr serve\n\n"
    "Exit codes: 0 done; 2 something for you to mend, the message says what; 3 an empty window was skipped; 1 a fault of "
    "ours; 130 after Ctrl-C. Answers go to stdout, the log and progress to stderr.",
)


def _print_version(wanted: bool) -> None:
    """Versions from the packages' metadata: nothing heavy is imported."""
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    def said(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"no {name}"

    python = ".".join(map(str, sys.version_info[:3]))
    typer.echo(
        f"{said('llm4msr')} (Python {python}, {said('torch')}, {said('torchrec')}, {said('feast')}, {said('bentoml')})"
    )
    raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print versions and stop")
    ] = False,
    log_format: Annotated[
        str, typer.Option(envvar="LLM4MSR_LOG_FORMAT", help="human or json (one object a line)")
    ] = "human",
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR")] = "INFO",
) -> None:
    """Set up logging before any command."""
    if log_format not in ("human", "json"):
        raise typer.BadParameter("choose human or json", param_hint="--log-format")
    if log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise typer.BadParameter("choose DEBUG, INFO, WARNING or ERROR", param_hint="--log-level")
    os.environ["LLM4MSR_LOG_FORMAT"] = log_format  # a service that is started writes alike
    configure(log_format, log_level.upper())


def _stage(name: str, help_text: str) -> None:
    def command(settings: SettingsFile = None, start: Start = None, end: End = None, catch_up: CatchUp = False) -> None:
        from pipeline.run import run_stage

        chosen = settings_of(settings)
        manifest = run_stage(chosen, window_of(chosen, start, end, catch_up), name)
        typer.echo(f"{manifest.path}\t{manifest.digest}")

    text = f"{help_text}\n\nPrints the artifact's folder and digest.\n\nExample:  llm4msr {name} --end 2026-11-15"
    app.command(name, help=text)(command)


for _name, _declared in GRAPH.items():
    if _name == "knowledge":  # it and `report` have options of their own
        app.add_typer(knowledge_app)
        app.add_typer(quarantine_app)
    elif _name != "report" and not _declared.within:
        _stage(_name, _declared.does)


@app.command()
def report(
    settings: SettingsFile = None,
    start: Start = None,
    end: End = None,
    catch_up: CatchUp = False,
    open_it: Annotated[bool, typer.Option("--open", help="open it in a browser, too")] = False,
) -> None:
    """Write one HTML report that opens offline, and print its path.

    Example:  llm4msr report --open
    """
    from pipeline.run import run_stage

    chosen = settings_of(settings)
    page = run_stage(chosen, window_of(chosen, start, end, catch_up), "report").file("report.html")
    typer.echo(page)
    if open_it:
        typer.launch(str(page))


@app.command()
def run(
    settings: SettingsFile = None,
    start: Start = None,
    end: End = None,
    catch_up: CatchUp = False,
    until: Annotated[str | None, typer.Option(help="stop after this stage")] = None,
) -> None:
    """Run all stages for a window, in order; what is up to date is left alone. Ends with what came of it.

    Example:  llm4msr run --end 2026-11-15  then a day at a time  llm4msr run --start 2026-11-15 --end 2026-11-16

    Exit codes: 0 done, 1 failed, 2 input or settings must change, 3 skipped because the window holds no row.
    """
    from pipeline.commands.outcome import console, print_outcome
    from pipeline.run import run_all

    chosen = settings_of(settings)
    window = window_of(chosen, start, end, catch_up)
    print_outcome(console(), chosen, window, run_all(chosen, window, until=until))


@app.command()
def rollback(settings: SettingsFile = None) -> None:
    """Make the previous champion current again; running services swap to it within a poll. Twice is back again."""
    from pipeline.learning import roll_back

    release = roll_back(settings_of(settings))
    typer.echo(f"version {release.version} ({release.bundle}) is current again")


@app.command()
def prune(
    settings: SettingsFile = None,
    keep: Annotated[int, typer.Option(min=1, help="newest windows to keep of every stage")] = 3,
    min_age: Annotated[float, typer.Option(min=0, help="hours; younger artifacts stay")] = 24.0,
    yes: Annotated[bool, typer.Option("--yes", help="remove them; without it they are only listed")] = False,
) -> None:
    """List, or remove, artifacts that neither serving nor the next run needs; anything removed can be built again.

    Example:  llm4msr prune --keep 7 --min-age 48 --yes
    """
    import datetime as dt

    from pipeline.commands.prune import remove, unneeded

    chosen = settings_of(settings)
    found = unneeded(chosen, keep, dt.timedelta(hours=min_age))
    for one in found if not yes else ():
        typer.echo(f"{one.size / 2**20:>10,.1f} MiB  {one.stage:<16}  {one.window}  {one.path}")
    freed = remove(chosen, found) if yes else sum(one.size for one in found)
    said = "removed" if yes else "can go; add --yes to remove them" if found else "can go"
    typer.echo(f"{len(found)} artifacts, {freed / 2**20:,.1f} MiB, {said}")


@app.command()
def verify(
    stages: Annotated[
        list[str] | None, typer.Argument(metavar="[STAGE]...", help="whose artifacts [default: all]")
    ] = None,
    settings: SettingsFile = None,
) -> None:
    """Read every artifact again and compare it with what was published; follow every reference and pointer.

    Nothing is changed. Exit code 1 where something is damaged or gone, with a line for each.

    Example:  llm4msr verify  |  llm4msr verify train catalogue
    """
    from pipeline.commands.verify import verify as verify_artifacts

    found = verify_artifacts(settings_of(settings), stages or [])
    for fault in found.faults:
        typer.echo(fault)
    said = f"{len(found.faults)} faults" if found.faults else "all as they were published"
    typer.echo(f"{found.artifacts} artifacts, {found.bytes / 2**20:,.1f} MiB: {said}")
    if found.faults:
        raise typer.Exit(1)


@app.command()
def forget(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="user ids")] = None,
    settings: SettingsFile = None,
    file: Annotated[Path | None, typer.Option(help="a file of user ids, one a line")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="remove them; without it the places are only counted")] = False,
    lift: Annotated[
        bool, typer.Option("--lift", help="take them off the list: rows that come again count again")
    ] = False,
) -> None:
    """Remove people from everything below the root and the online store, keep a proof without their ids, and drop what
    comes of them later.
    """
    from pipeline.commands.forget_cli import forget_users, lift_users

    chosen = settings_of(settings)
    typer.echo(lift_users(chosen, ids or [], file) if lift else forget_users(chosen, ids or [], file, yes))


@app.command()
def serve(
    settings: SettingsFile = None,
    host: Annotated[str | None, typer.Option(help="address to listen on [default: serving.host]")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="port to listen on [default: serving.port]")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes [default: serving.workers]")] = None,
    ssl_certfile: Annotated[
        Path | None, typer.Option(help="speak TLS with this certificate, PEM [default: serving.ssl_certfile]")
    ] = None,
    ssl_keyfile: Annotated[
        Path | None, typer.Option(help="the certificate's key, PEM [default: serving.ssl_keyfile]")
    ] = None,
) -> None:
    """Serve /rank and /explain over HTTP until interrupted; new champions are picked up without a restart.

    Says `serving on` with requests to try once it answers; a page to try it on is at /.

    Example:  llm4msr serve --port 3111
    """
    from pipeline.commands.serve import serve_forever

    files = {"ssl_certfile": ssl_certfile, "ssl_keyfile": ssl_keyfile}
    absolute = {name: path and path.resolve() for name, path in files.items()}
    serve_forever(settings_of(settings), host=host, port=port, workers=workers, **absolute)


@app.command()
def rank(
    user_id: str,
    scenario: str,
    settings: SettingsFile = None,
    k: Annotated[int, typer.Option(min=1, help="how many items")] = 10,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Ask a running service for a ranked answer: a table on a terminal, JSON elsewhere.

    Example:  llm4msr rank 42 feed --k 5 --url http://ranker.example:3000
    """
    from pipeline.commands.answers import rank_page, show
    from pipeline.commands.serve import ask

    answer = ask(settings_of(settings), "/rank", {"user_id": user_id, "scenario": scenario, "k": k}, url)
    show(answer, rank_page, as_json)


@app.command()
def explain(
    user_id: str,
    scenario: str,
    item_id: str,
    settings: SettingsFile = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Ask a running service why an item has its score: a page on a terminal, JSON elsewhere.

    Example:  llm4msr explain 42 feed sku-0027
    """
    from pipeline.commands.answers import explain_page, show
    from pipeline.commands.serve import ask

    body = {"user_id": user_id, "scenario": scenario, "item_id": item_id}
    show(ask(settings_of(settings), "/explain", body, url), explain_page, as_json)


@app.command()
def push(
    source: Annotated[str, typer.Argument(help="parquet or CSV file; with --follow a pipe of JSON lines, - for stdin")],
    settings: SettingsFile = None,
    follow: Annotated[bool, typer.Option("--follow", help="read JSON lines until the input ends")] = False,
    dead_letters: Annotated[
        Path | None, typer.Option(help="where rejected lines go [default: ROOT/live/rejected.jsonl]")
    ] = None,
) -> None:
    """Push fresh interactions (canonical columns) so that online state is new at once.

    Examples:  llm4msr push fresh.csv  |  some-consumer | llm4msr push --follow - > acks.jsonl
    """
    if not follow:
        from pipeline.commands.push import push_file

        typer.echo(push_file(settings_of(settings), Path(source)))
        return
    from pipeline.commands.follow import follow as follow_lines

    LOG.info("%s", follow_lines(settings_of(settings), source, sys.stdout, dead_letters))


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="where to write the settings file")] = DEFAULT_FILE,
    force: Annotated[bool, typer.Option("--force", help="overwrite an existing file")] = False,
    every: Annotated[bool, typer.Option("--all", help="write every field there is, with its default")] = False,
) -> None:
    """Write a commented settings file for your own data.

    Example:  llm4msr init my/llm4msr.yaml
    """
    from pipeline.commands.init import write_settings

    typer.echo(write_settings(path, force, every))


@app.command()
def doctor(
    settings: SettingsFile = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="read the log's first rows only, and do not profile it")
    ] = False,
) -> None:
    """Check versions, stores, disk and model, profile the data, and say what to do.

    Exit code 2 if something stands in the way of a run; what is only to be known of (`warn`) leaves it 0.
    """
    from pipeline.commands.doctor import diagnose

    if not diagnose(settings_of(settings) if settings or DEFAULT_FILE.is_file() else None, quick):
        raise typer.Exit(2)


@app.command()
def demo(
    settings: Annotated[
        Path | None, typer.Option("--settings", "-s", help="settings file [default: the demo's]")
    ] = None,
    port: Annotated[int | None, typer.Option(help="port of the short-lived service [default: a free one]")] = None,
) -> None:
    """Run everything on MovieLens latest-small and print what came out."""
    from pipeline.commands.demo import run_demo

    run_demo(settings, port)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bench(context: typer.Context, name: Annotated[str, typer.Argument()] = "--help") -> None:
    """Run a benchmark; its last line is one JSON object. Without a name: which there are."""
    import importlib.util
    import runpy

    if name == "--help":
        for line in _benchmarks():
            typer.echo(line)
        return
    module = f"benchmarks.{name}"
    if importlib.util.find_spec(module) is None:
        raise SettingsError(f"no benchmark {name!r}; see docs/rooms/benchmarks.md")
    sys.argv = [module, *context.args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _benchmarks() -> Iterator[str]:
    """What `llm4msr bench --help` says: the benchmarks, each with the first sentence of its module."""
    import ast
    import importlib.util

    yield "Usage: llm4msr bench NAME [OPTIONS]; what a benchmark's options are: llm4msr bench NAME --help\n"
    found = importlib.util.find_spec("benchmarks")
    for folder in found.submodule_search_locations or () if found else ():
        for file in sorted(Path(folder).glob("*.py")):
            text = file.read_text()
            if "__main__" in text:
                yield f"  {file.stem:<16} {(ast.get_docstring(ast.parse(text)) or '').splitlines()[0]}"


models_app = typer.Typer(no_args_is_help=True, help="The backbones there are.", rich_markup_mode=None)
app.add_typer(models_app, name="models")


@models_app.callback()
def models_group() -> None:
    """The backbones there are."""


@models_app.command("list")
def models_list(
    settings: SettingsFile = None,
    scenarios: Annotated[int | None, typer.Option(min=1, help="how many [default: as the settings name]")] = None,
) -> None:
    """Print every backbone with its source, options, parameters and FLOPs per row, for the settings' dimensions.

    Example:  llm4msr models list --scenarios 12
    """
    from pipeline.commands.models_list import listing

    typer.echo(listing(settings_of(settings) if settings or DEFAULT_FILE.is_file() else Settings(), scenarios))


def main() -> None:
    """Entry point: exit code 2 with one message for the user's mistakes, 3 for an empty window, 1 for ours."""
    try:
        app()
    except Llm4msrError as error:
        typer.echo(f"llm4msr: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
