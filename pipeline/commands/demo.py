"""`llm4msr demo`: every stage on MovieLens latest-small, then one ranked answer over HTTP."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from core import Settings, Window, load_settings, logger
from core.digest import REPOSITORY
from core.pace import duration
from pipeline.commands import outcome
from pipeline.commands.answers import explain_page, rank_page
from pipeline.commands.serve import ask, curl_lines, example_request, running_service
from pipeline.run import run_all

LOG = logger("demo")
DEMO_FILE = REPOSITORY / "config" / "demo.yaml"


def run_demo(settings_file: Path | None, port: int | None) -> None:
    """Run all stages, serve, ask once, and print what a new user wants to see."""
    begin = time.monotonic()
    settings = load_settings(settings_file or DEMO_FILE)
    done = run_all(settings, Window())
    console = outcome.console()
    outcome.print_outcome(console, settings, Window(), done)
    LOG.info("starting a service for one request; this takes some seconds")
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
    answer = ask(settings, "/rank", {"user_id": user, "scenario": scenario, "k": 5}, url)
    console.print("\n[bold]POST /rank[/bold]  ", end="")
    rank_page(console, answer)
    best = answer["items"][0]["item_id"]
    why = ask(settings, "/explain", {"user_id": user, "scenario": scenario, "item_id": best}, url)
    console.print("[bold]POST /explain[/bold]  ", end="")
    explain_page(console, why)
    show = outcome.command(settings, "knowledge", "show", "--user", str(user))
    console.print(f"  prompt, vectors and neighbours: {show}", markup=False, soft_wrap=True)
