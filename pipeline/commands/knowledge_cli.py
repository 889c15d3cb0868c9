"""`llm4msr knowledge`: the stage itself, and commands to look into it, to plan it and to go back in time with it."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from core import ArtifactStore, Manifest, Settings, Window, logger
from core.errors import MissingArtifactError, SettingsError
from pipeline.commands.options import CatchUp, End, SettingsFile, Start, settings_of, window_of

LOG = logger("knowledge")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
knowledge_app = typer.Typer(
    name="knowledge",
    invoke_without_command=True,
    rich_markup_mode=None,
    help="Let the reasoner read users, items and scenarios; write versioned vectors and texts.",
)
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object instead of a page for people")]


@knowledge_app.callback()
def stage(
    context: typer.Context,
    settings: SettingsFile = None,
    start: Start = None,
    end: End = None,
    catch_up: CatchUp = False,
    shard: Annotated[
        str | None,
        typer.Option(
            help="i/n, or job/n in a Kubernetes Job: only let the reasoner read this part; run the stage after all n"
        ),
    ] = None,
) -> None:
    """Run the stage, unless a subcommand is named."""
    context.obj = settings
    if context.invoked_subcommand is not None:
        return
    chosen = settings_of(settings)
    window = window_of(chosen, start, end, catch_up)
    if shard is not None:
        from pipeline.knowledge_run import knowledge_run

        part = parse_shard(shard)
        typer.echo(knowledge_run(chosen, window).read_part(*part))
        return
    from pipeline.run import run_stage

    manifest = run_stage(chosen, window, "knowledge")
    typer.echo(f"{manifest.path}\t{manifest.digest}")


@knowledge_app.command()
def show(
    context: typer.Context,
    user: Annotated[str | None, typer.Option(help="user id")] = None,
    scenario: Annotated[str | None, typer.Option(help="a scenario's name: its prompt, and what it leaves out")] = None,
    settings: SettingsFile = None,
    start: Start = None,
    end: End = None,
    as_json: AsJson = False,
) -> None:
    """Show what is known about a user (prompt, text, snapshots, vector norms, versions and neighbours), or a scenario's prompt.

    Example:  llm4msr knowledge show --user 42
    """
    from knowledge import user_state
    from pipeline.knowledge_run import knowledge_run

    if (user is None) == (scenario is None):
        raise SettingsError("name a --user or a --scenario, and not both")
    chosen, window = settings_of(settings or context.obj), Window.parse(start, end)
    if scenario is not None:
        told = knowledge_run(chosen, window).scenario_prompt(scenario)
        left_out = f"\n\nleft out: {told['left_out']}" if told["left_out"] else ""
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False) if as_json else told["prompt"] + left_out)
        return
    state = user_state(_artifact(chosen, window).path, str(user))
    state["prompt"], state["rows"] = knowledge_run(chosen, window).user_prompt(state["user_id"])
    typer.echo(json.dumps(state, indent=1, ensure_ascii=False) if as_json else _user_page(state))


@knowledge_app.command()
def diff(
    context: typer.Context,
    a: Annotated[str, typer.Argument(help="a knowledge artifact: folder, fingerprint, digest or window key")],
    b: Annotated[str, typer.Argument(help="another one")],
    settings: SettingsFile = None,
    most: Annotated[int, typer.Option(min=0, help="how many of those that moved most to name")] = 10,
    as_json: AsJson = False,
) -> None:
    """Say how far knowledge moved between two artifacts, and for whom most.

    Example:  llm4msr knowledge diff b9048535 20261114T000000000000Z_20261115T000000000000Z
    """
    from knowledge import difference

    chosen = settings_of(settings or context.obj)
    found = difference(_named(chosen, a), _named(chosen, b), most)
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else _difference_page(found))


@knowledge_app.command()
def backfill(
    context: typer.Context,
    every: Annotated[str, typer.Option(help="length of a period, e.g. 7d, 12h or P7D")],
    settings: SettingsFile = None,
    start: Start = None,
    end: End = None,
) -> None:
    """Write historical snapshots at calendar ticks beside the thresholds, as point-in-time joins read them.

    In each period a user's first row makes a snapshot. The versions stay what they are: the vectors lie in the same
    space, there are only more of them.
    """
    chosen, span = settings_of(settings or context.obj), duration(every)
    from pipeline.run import run_stage

    ticked = chosen.model_copy(update={"knowledge": chosen.knowledge.model_copy(update={"every": span})})
    manifest = run_stage(ticked, Window.parse(start, end), "knowledge")
    if chosen.knowledge.every != span:
        LOG.info("set knowledge.every to %s days in the settings to keep these ticks", span / dt.timedelta(days=1))
    typer.echo(f"{manifest.path}\t{manifest.digest}")


@knowledge_app.command()
def plan(
    context: typer.Context,
    settings: SettingsFile = None,
    start: Start = None,
    end: End = None,
    model: Annotated[str | None, typer.Option(help="a folder or a known shape [default: the settings' model]")] = None,
    device: Annotated[str | None, typer.Option(help="h200, h100, a100, l4 or here [default: here]")] = None,
    tflops: Annotated[
        float | None, typer.Option(help="the device's matrix-product limit, instead of a named one")
    ] = None,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="of the limit that is reached on a named device")] = 0.6,
    price: Annotated[float | None, typer.Option(help="money per device hour")] = None,
    measure: Annotated[bool, typer.Option(help="check the formula against a short run on this machine")] = True,
    as_json: AsJson = False,
) -> None:
    """Print users, tokens, floating-point operations, hours and money before anything runs.

    Example:  llm4msr knowledge plan --model qwen2.5-7b --device h100 --price 3
    """
    from pipeline.commands.knowledge_plan import make_plan
    from pipeline.knowledge_run import knowledge_run

    chosen, window = settings_of(settings or context.obj), Window.parse(start, end)
    found = make_plan(chosen, knowledge_run(chosen, window), model, device, tflops, share, price, measure)
    typer.echo(json.dumps(found, indent=1) if as_json else _plan_page(found))


def duration(text: str) -> dt.timedelta:
    """A length of time from `7d`, `12h`, `30m`, `2w` or ISO 8601 (`P7D`).

    Raises:
        SettingsError: it is none, or not longer than nothing.
    """
    from pydantic import TypeAdapter, ValidationError

    match = re.fullmatch(r"(\d+)([mhdw])", text)
    try:
        span = (
            dt.timedelta(**{_UNITS[match.group(2)]: int(match.group(1))})
            if match
            else TypeAdapter(dt.timedelta).validate_python(text)
        )
    except (ValidationError, OverflowError) as error:
        raise SettingsError(f"{text!r} is no length of time; write 7d, 12h, 30m or P7D") from error
    if span <= dt.timedelta(0):
        raise SettingsError(f"{text!r} must be longer than nothing")
    return span


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) from `i/n`, 1 <= i <= n, or from `job/n` in a pod of an indexed Kubernetes Job, which counts from 0.

    Raises:
        SettingsError: it is not of that form, or there is no such part.
    """
    match = re.fullmatch(r"(\d+|job)/(\d+)", text)
    index = os.environ.get("JOB_COMPLETION_INDEX", "")
    if match and match.group(1) == "job" and not index.isdigit():
        raise SettingsError(f"--shard {text!r}: JOB_COMPLETION_INDEX is not set; that is for pods of an indexed Job")
    number = 0 if not match else int(index) + 1 if match.group(1) == "job" else int(match.group(1))
    if not match or not 1 <= number <= int(match.group(2)):
        raise SettingsError(f"--shard {text!r} (part {number}): write i/n with i from 1 to n, e.g. 1/8")
    return number, int(match.group(2))


def _artifact(settings: Settings, window: Window) -> Manifest:
    from pipeline.windows import artifact_store

    return artifact_store(settings).get("knowledge", window)


def _named(settings: Settings, name: str) -> Path:
    """A knowledge artifact by folder, fingerprint or digest (or a beginning of one), or window key."""
    if (Path(name) / "versions.json").is_file():
        return Path(name)
    store = ArtifactStore(settings.root)
    reference = settings.root / "refs" / "knowledge" / f"{name}.json"
    if (place := store.refs("knowledge").get(reference)) is not None:
        return place
    every = store.find("knowledge")
    found = [m.path for m in every if m.path.name.startswith(name) or m.digest.startswith(name)]
    if len(found) != 1:
        known = ", ".join(m.path.name for m in every) or "none"
        raise MissingArtifactError(
            f"{name!r} names {len(found)} knowledge artifacts below {settings.root}; there are: {known}"
        )
    return found[0]


def _user_page(state: dict[str, Any]) -> str:
    lines = [f"user {state['user_id']}"]
    for kind, told in state["kinds"].items():
        lines.append(f"\n{kind}, version {told['version']}: {len(told['snapshots'])} snapshots")
        lines += [
            f"  watermark {s['watermark']}  readable {s['readable_from']}  norm {s['norm']:.3f}  {s['prompt_sha256'][:12]}"
            for s in told["snapshots"]
        ]
        near = ", ".join(f"{n['user_id']} ({n['cosine']:.2f})" for n in told["neighbours"])
        lines.append(f"  nearest users: {near or 'none'}")
    text = state["text"]
    if text:
        lines.append(f"\ntext ({text['text_source']}, version {text['version']}):\n{text['text']}")
    elif not state["rows"]:
        lines.append("\nno text: the log has no row of this user, who gets no vector")
    else:
        lines.append(f"\nno text: with {state['rows']:,} rows no snapshot is due yet, and the user gets no vector")
    lines.append(f"\nprompt:\n{state['prompt'] or 'none'}")
    return "\n".join(lines)


def _difference_page(found: dict[str, Any]) -> str:
    lines = []
    for kind, told in found.items():
        old, new = told["versions"]
        lines.append(f"{kind}: {told['in_both']} in both, {told['added']} added, {told['removed']} removed")
        if old != new:
            kept = told.get("same_neighbours")
            shown = "too few to compare"
            if kept is not None:
                shown = f"of the {told['neighbours']} nearest {kept:.0%} are the same (sample of {told['compared']})"
            lines.append(f"  versions {old} and {new} are different spaces; {shown}")
            if told.get("most"):
                lines.append("  fewest the same: " + ", ".join(f"{m['id']} ({m['same']:.0%})" for m in told["most"]))
        elif "distance" in told:
            d = told["distance"]
            lines.append(
                f"  version {old}: {told['moved']} moved, {told['prompt_changed']} were read anew; cosine distance "
                f"mean {d['mean']:.4f}, median {d['median']:.4f}, p95 {d['p95']:.4f}, most {d['max']:.4f}"
            )
            if told["most"]:
                lines.append("  most: " + ", ".join(f"{m['id']} ({m['distance']:.3f})" for m in told["most"]))
    return "\n".join(lines)


def _plan_page(found: dict[str, Any]) -> str:
    lines = [
        f"{found['model']} on {found['device']}: {found['tflops']:.3g} TFLOP/s, {found['share']:.0%} of it expected"
    ]
    lines.append(f"{'kind':<10} {'texts':>11} {'to read':>8} {'tokens':>14} {'PFLOP':>10} {'hours':>9} {'money':>9}")
    for row in [*found["costs"], found["total"]]:
        money = "" if row["money"] is None else f"{row['money']:.2f}"
        lines.append(
            f"{row['kind']:<10} {row['texts']:>11,} {row['new_share']:>8.0%} {row['tokens']:>14,} "
            f"{row['flops'] / 1e15:>10.4g} {row['hours']:>9.4f} {money:>9}"
        )
    lines.append(
        f"users with prompts: {found['users']:,}"
        if found["users"]
        else "no user prompts: the wanted kinds of user vectors read none"
    )
    lines += [
        f"{row['cut']:.0%} of {row['kind']} texts are longer than knowledge.max_tokens and lose their end"
        for row in found["costs"]
        if row["cut"]
    ]
    lines += [row["note"] for row in found["costs"] if row["note"]]
    if check := found["check"]:
        lines.append(
            f"checked here with {check['model']}: {check['texts']} texts of {check['tokens']} tokens took {check['seconds']:.2f} s; the formula "
            f"at this machine's {check['tflops']:.3g} TFLOP/s says {check['formula_seconds']:.2f} s at full rate "
            f"({check['share']:.0%} of the limit reached); its first half foretold {check['factor']:.2f} x the second's time"
        )
    return "\n".join(lines)
