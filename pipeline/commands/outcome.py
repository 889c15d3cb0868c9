"""What a run came to, as `run` and `demo` print it: rows, quality, verdict, what to look at, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core import Manifest, Settings, Window
from core.contracts.pointers import BundlePointer
from core.contracts.results import Controls, Lift, Metrics, Promotion
from pipeline.findings import Findings
from pipeline.ladder import worth

# What the numbers need, and a file gets; nothing is cut off where a terminal is narrower.
_WIDE, _NARROW = 124, 80


def console() -> Console:
    """Where answers to people go: stdout, wide enough for the tables."""
    plain = Console(highlight=False)
    return Console(width=max(plain.width, _NARROW) if plain.is_terminal else _WIDE, highlight=False)


def print_outcome(out: Console, settings: Settings, window: Window, done: dict[str, Manifest]) -> None:
    """Say what came of the stages that were run.

    Args:
        out: see `console`.
        settings: of the project.
        window: that was run.
        done: stage to manifest; without `report` the run was stopped before the end.
    """
    out.print()
    if all(manifest.reused for manifest in done.values()):
        _said(out, "Up to date", "nothing had to be done: data, settings and code are those of the run before")
    if "validate" in done:
        _print_rows(out, done["ingest"], done["validate"])
    if "evaluate" in done:
        _print_quality(out, settings, done["evaluate"])
    if "controls" in done:
        controls = Controls.read(done["controls"].path)
        _said(out, "Texts", worth(controls, bool(done["knowledge"].rows.get("item_text", 1))))
    if "promote" in done:
        _said(out, "Promotion", _promotion(settings, done["promote"], done["train"]))
    if "report" in done:
        _print_findings(out, done["report"])
        _said(out, "Report", str(done["report"].file("report.html")))
    _said(out, "Next", *_next(settings, window, list(done)))


def command(settings: Settings, *words: str) -> str:
    """A command line for this project as a user would type it here."""
    file = settings.file
    named = () if file == Path("llm4msr.yaml").resolve() else ("--settings", str(file))
    return shlex.join(("llm4msr", *words, *named))


def _said(out: Console, name: str, *lines: str, style: str = "") -> None:
    for line in lines:
        out.print(f"{name:<11}", style="bold", end="")
        out.print(line, markup=False, soft_wrap=True, style=style)
        name = ""


def _print_findings(out: Console, report: Manifest) -> None:
    """As the report has them, the most pressing first; an alarm looks like one."""
    found = Findings.read(report.path).findings
    name = "Look at"
    for finding in found:
        alarm = finding.level == "alarm"
        _said(out, name, f"{'ALARM: ' if alarm else ''}{finding.text}", style="red" if alarm else "")
        name = ""
    if not found:
        _said(out, name, "nothing stands out")


def _print_rows(out: Console, read: Manifest, clean: Manifest) -> None:
    rejected = {
        path.stem.removeprefix("quarantine_"): pq.read_table(path, columns=["rule"])["rule"].value_counts().to_pylist()
        for path in sorted(clean.path.glob("quarantine_*.parquet"))
    }
    lines = [f"{v['counts']:,} {table}: {v['values']}" for table, counts in rejected.items() for v in counts]
    _said(out, "Rows in", ", ".join(f"{count:,} {name}" for name, count in read.rows.items()))
    _said(out, "Quarantine", "; ".join(lines) if lines else "empty: every row passed its checks")


def _print_quality(out: Console, settings: Settings, scores: Manifest) -> None:
    metrics, lift = Metrics.read(scores.path), Lift.read(scores.path)
    drawn = metrics.knowledge.negatives
    against = f", against sampled negatives ({drawn.per_positive} per positive, {drawn.strategy})" if drawn else ""
    out.print(
        f"\n[bold]Quality[/bold]    on {_test_rows(settings)}{against}: rates counted from the log, the backbone alone, and the same "
        "backbone with knowledge",
        soft_wrap=True,
    )
    names = [
        "scenario",
        "rows",
        "counting",
        "plain",
        "knowledge",
        f"difference [{100 * lift.confidence:g} %]",
        "log loss",
        "AUC says",
    ]
    rows = list(_quality_rows(metrics, lift))
    if out.width < _WIDE:  # the report has them all
        keep = (0, 3, 4, 5, 7)
        names, rows = [names[i] for i in keep], [[row[i] for i in keep] for row in rows]
    table = Table(box=box.SIMPLE, pad_edge=False)
    for place, name in enumerate(names):
        left = name in ("scenario", "AUC says")
        # Names break, numbers do not.
        least = max(len(name), *(len(row[place]) for row in rows)) if name != "scenario" else len(name)
        table.add_column(escape(name), justify="left" if left else "right", min_width=least, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row), style="red" if row[-1] == "worse" else "")
    out.print(table)
    words = {"better": "better than", "worse": "worse than"}.get(lift.overall.auc.says, "not to be told from")
    counted, plain, knowing = (_number(one.overall.auc) for one in (metrics.counting, metrics.plain, metrics.knowledge))
    verdict = f"with knowledge the ranker is {words} the plain backbone: AUC {plain} -> {knowing}; counting alone has {counted}"
    _said(out, "Verdict", verdict)


def _quality_rows(metrics: Metrics, lift: Lift) -> Iterator[list[str]]:
    """Scenario, rows, three AUCs, their difference, log loss, what is told: of all rows, cold users, each scenario."""
    every = {"all": lift.overall, "cold users": lift.cold, **lift.scenarios}
    counting, plain, knowing = (
        {"all": one.overall, "cold users": one.cold, **one.scenarios}
        for one in (metrics.counting, metrics.plain, metrics.knowledge)
    )
    for label, change in every.items():
        auc, three = change.auc, (counting[label], plain[label], knowing[label])
        between = "" if auc.low is None else f"{auc.difference:+.4f} [{auc.low:+.4f}, {auc.high:+.4f}]"
        losses = f"{_number(plain[label].logloss)} -> {_number(knowing[label].logloss)}"
        numbers = [_number(one.auc) for one in three]
        yield [label, f"{plain[label].rows:,}", *numbers, between, losses, auc.says.removesuffix(" can be told")]


def _test_rows(settings: Settings) -> str:
    share = f"{settings.split.test:.0%}".replace("%", " %")
    return (
        f"each user's newest {share} of the rows"
        if settings.split.kind == "per_user_tail"
        else f"the newest {share} of the log"
    )


def _promotion(settings: Settings, made: Manifest, trained: Manifest) -> str:
    verdict = Promotion.read(made.path)
    live = BundlePointer.read(settings.root)
    state = "nothing is live"
    if live is not None:
        ours = live.digest == trained.digest
        kept = not verdict.promote
        whose = ", with these very weights" if kept else ", the model of this run"
        state = f"version {live.version} is live{whose if ours else ', an earlier model'}"
    return f"{verdict.choice.reason}; {verdict.reason}. {state[0].upper()}{state[1:]}."


def _next(settings: Settings, window: Window, done: list[str]) -> Iterator[str]:
    """What to type next, and what for."""
    if "report" not in done:
        yield f"{command(settings, *_run_words(window))}   goes on after {done[-1]}"
        return
    if BundlePointer.path(settings.root).is_file():
        yield f"{command(settings, 'serve')}   a running service takes a new model by itself within {settings.serving.poll_seconds:g} s"
        from pipeline.commands.serve import example_request

        user, scenario, _ = example_request(settings)
        yield f"{command(settings, 'rank', str(user), str(scenario))}   asks it, once it serves"
    if window.end is not None:
        yield f"{command(settings, 'run', '--start', window.end.isoformat(), '--end', '...')}   the window after this one"


def _run_words(window: Window) -> list[str]:
    words = ["run"]
    for option, value in (("--start", window.start), ("--end", window.end)):
        words += [option, value.isoformat()] if value is not None else []
    return words


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
