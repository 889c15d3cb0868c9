"""`llm4msr demo`: every stage on MovieLens latest-small, then one ranked answer over HTTP."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table

from core import Manifest, Settings, Window, load_settings
from core.digest import REPOSITORY
from pipeline.run import run_all
from pipeline.serve import ask, curl_lines, example_request, running_service

DEMO_FILE = REPOSITORY / "config" / "demo.yaml"


def run_demo(settings_file: Path | None, port: int | None) -> None:
    """Run all stages, serve, ask once, and print what a new user wants to see."""
    begin = time.monotonic()
    settings = load_settings(settings_file or DEMO_FILE)
    done = run_all(settings, Window())
    console = Console(width=None if Console().is_terminal else 132, highlight=False)
    _print_rows(console, done)
    _print_quality(console, done["evaluate"])
    with running_service(settings, port) as url:
        _print_answer(console, settings, url)
    console.print(f"\n[bold]Report[/bold]   {done['report'].file('report.html')}")
    console.print("[bold]Service[/bold]  `make serve`, then for example:")
    for line in curl_lines(settings, f"http://127.0.0.1:{settings.serving.port}")[:2]:
        console.print(f"  {line}", soft_wrap=True, markup=False)
    console.print(f"\nDone in {time.monotonic() - begin:.0f} s.")


def _print_rows(console: Console, done: dict[str, Manifest]) -> None:
    rows, clean = done["ingest"].rows, done["validate"]
    console.print("\n[bold]Rows in[/bold]  " + ", ".join(f"{count:,} {name}" for name, count in rows.items()))
    rejected = {
        path.stem.removeprefix("quarantine_"): pq.read_table(path, columns=["rule"])["rule"].value_counts().to_pylist()
        for path in sorted(clean.path.glob("quarantine_*.parquet"))
    }
    lines = [f"{v['counts']:,} {table}: {v['values']}" for table, counts in rejected.items() for v in counts]
    console.print("[bold]Quarantined[/bold]  " + ("; ".join(lines) if lines else "none: every row passed its checks"))


def _print_quality(console: Console, scores: Manifest) -> None:
    metrics = json.loads(scores.file("metrics.json").read_text())
    lift = json.loads(scores.file("lift.json").read_text())
    title = "Held-out rows (each user's newest 20 %): the backbone alone, and the same backbone with knowledge"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for name in ("scenario", "rows", "AUC plain", "knowing", "difference [95 %]", "logloss", "AUC says"):
        table.add_column(name, justify="left" if name in ("scenario", "verdict") else "right")
    groups = {"all": ("overall", None), "cold users": ("cold", None)}
    groups |= {name: ("scenarios", name) for name in lift["scenarios"]}
    for label, (part, name) in groups.items():
        change = lift[part][name] if name else lift[part]
        plain, knowing = (metrics[s][part][name] if name else metrics[s][part] for s in ("plain", "knowledge"))
        auc = change["auc"]
        interval = "" if auc["low"] is None else f"{auc['difference']:+.4f} \\[{auc['low']:+.4f}, {auc['high']:+.4f}]"
        losses = f"{_number(plain['logloss'])} -> {_number(knowing['logloss'])}"
        table.add_row(
            label, f"{plain['rows']:,}", _number(plain["auc"]), _number(knowing["auc"]), interval, losses, auc["says"]
        )
    console.print()
    console.print(table)


def _print_answer(console: Console, settings: Settings, url: str) -> None:
    user, scenario, _ = example_request(settings)
    answer: dict[str, Any] = json.loads(ask(settings, "/rank", {"user_id": user, "scenario": scenario, "k": 5}, url))
    console.print(
        f"\n[bold]POST /rank[/bold]  user {user} in {scenario}: the best 5 of {answer['candidates']:,} candidates"
        f" (model version {answer['versions']['version']}, degraded: {answer['degraded'] or 'nothing'})"
    )
    for place, item in enumerate(answer["items"], start=1):
        console.print(f"  {place}. {item['score']:.3f}  {item['title']} ({item['item_id']})", markup=False)
    best = answer["items"][0]["item_id"]
    why = json.loads(ask(settings, "/explain", {"user_id": user, "scenario": scenario, "item_id": best}, url))
    console.print(f"\n[bold]POST /explain[/bold]  {why['title']}")
    console.print(
        f"  score {why['score']:.3f} = sigmoid({why['backbone_logit']:+.3f} backbone {why['scenario_logit']:+.3f} scenario);"
        f" with neutral knowledge {why['neutral_score']:.3f}",
        markup=False,
    )
    console.print(f"  user ({why['user_text_source']}): {_short(why['user_text'])}", markup=False)
    console.print(f"  scenario: {_short(why['scenario_text'])}", markup=False)
    near = ", ".join(f"{n['title']} ({n['similarity']:.2f})" for n in why["nearest_history"])
    console.print(f"  nearest in the user's history: {near or 'none'}", markup=False)
    show = f"llm4msr knowledge show --user {user} --settings {settings.file}"
    console.print(f"  prompt, vectors and neighbours: {show}", markup=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _short(text: str | None, width: int = 240) -> str:
    text = " ".join((text or "none").split())
    return text if len(text) <= width else text[: width - 1] + "…"
