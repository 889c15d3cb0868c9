"""`llm4msr demo`: every stage on MovieLens latest-small, then one ranked answer over HTTP."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from core import Settings, Window, load_settings
from core.digest import REPOSITORY
from core.pace import duration
from pipeline import outcome
from pipeline.run import run_all
from pipeline.serve import ask, curl_lines, example_request, running_service

DEMO_FILE = REPOSITORY / "config" / "demo.yaml"


def run_demo(settings_file: Path | None, port: int | None) -> None:
    """Run all stages, serve, ask once, and print what a new user wants to see."""
    begin = time.monotonic()
    settings = load_settings(settings_file or DEMO_FILE)
    done = run_all(settings, Window())
    console = outcome.console()
    outcome.print_outcome(console, settings, Window(), done)
    with running_service(settings, port) as url:
        _print_answer(console, settings, url)
    console.print(
        f"\n[bold]By hand[/bold]    once `{outcome.command(settings, 'serve')}` serves, for example:", soft_wrap=True
    )
    for line in curl_lines(settings, f"http://127.0.0.1:{settings.serving.port}")[:2]:
        console.print(f"  {line}", soft_wrap=True, markup=False)
    console.print(f"\nDone in {duration(time.monotonic() - begin)}.")


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


def _short(text: str | None, width: int = 240) -> str:
    text = " ".join((text or "none").split())
    return text if len(text) <= width else text[: width - 1] + "…"
