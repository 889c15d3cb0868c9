"""A service's answers: a page on a terminal, JSON for other programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.commands.outcome import console

Page = Callable[[Console, dict[str, Any]], None]
_TITLE = 240


def show(answer: dict[str, Any], page: Page, as_json: bool) -> None:
    """Print an answer to stdout: as JSON unless it is a terminal, or where that is asked for."""
    if as_json or not sys.stdout.isatty():
        print(json.dumps(answer, indent=1, ensure_ascii=False))
    else:
        page(console(), answer)


def rank_page(out: Console, answer: dict[str, Any]) -> None:
    """An answer of `/rank`, best first."""
    told = answer["versions"]
    out.print(
        f"[bold]user {escape(str(answer['user_id']))} in {escape(answer['scenario'])}[/bold]: the best "
        f"{len(answer['items'])} of {answer['candidates']:,} candidates, by model {escape(told['model'])} version {told['version']}"
    )
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name, side in (("", "right"), ("score", "right"), ("item", "left"), ("title", "left")):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for place, item in enumerate(answer["items"], start=1):
        table.add_row(str(place), f"{item['score']:.4f}", escape(str(item["item_id"])), escape(item["title"] or ""))
    out.print(table)
    if answer["unknown_candidates"]:
        out.print("not in the catalogue: " + ", ".join(map(str, answer["unknown_candidates"])), markup=False)
    _degraded(out, answer)


def explain_page(out: Console, answer: dict[str, Any]) -> None:
    """An answer of `/explain`."""
    out.print(
        f"[bold]{escape(answer['title'] or str(answer['item_id']))}[/bold] for user {escape(str(answer['user_id']))}"
    )
    parts = ", ".join(f"{one['logit']:+.2f} {one['part'].replace('_', ' ')}" for one in answer["parts"])
    elsewhere = ", ".join(
        f"{one['scenario']} {one['score']:.3f}{'' if one['shown'] else ' (not shown)'}" for one in answer["scenarios"]
    )
    near = ", ".join(f"{n['title'] or n['item_id']} ({n['similarity']:.2f})" for n in answer["nearest_history"])
    for line in (
        f"score {answer['score']:.4f} = sigmoid({answer['logit']:+.3f}); {answer['neutral_score']:.4f} if nothing were known of "
        "user and scenario",
        f"made of: {parts}",
        answer["knowledge"],
        f"in every scenario: {elsewhere}",
        f"user ({answer['user_text_source'] or 'unknown'}): {_short(answer['user_text'])}",
        f"scenario {answer['scenario']}: {_short(answer['scenario_text'])}",
        f"nearest in the user's history: {near or 'none'}",
    ):
        out.print(f"  {line}", markup=False, soft_wrap=True)
    _degraded(out, answer)


def _degraded(out: Console, answer: dict[str, Any]) -> None:
    if answer["degraded"]:
        out.print("not known, or not as it should be: " + ", ".join(answer["degraded"]), markup=False, style="yellow")


def _short(text: str | None) -> str:
    text = " ".join((text or "none").split())
    return text if len(text) <= _TITLE else text[: _TITLE - 1] + "…"
