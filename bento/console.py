"""What the page for people shows: users to pick, a ranking with reasons, the user in every scenario, the prompt, health.

Read-only. The page itself holds nothing of anybody; what it shows it asks for, with the read token where one is set.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import models
from bento.explanation import plain, request_of
from bento.live import LiveModel
from bento.nearness import near
from bento.observed import TALLY
from bento.scorer import best_of, user_side
from core import Settings, from_micros
from core.digest import REPOSITORY

if TYPE_CHECKING:
    from feature_repo import UserState
    from models import Attribution

TEMPLATE = Path(__file__).parent / "templates" / "console.html"
MOST, MOST_USERS, MOST_SCENARIOS, SHORT = 20, 20, 30, 5
MOST_REASONS = 3
# Of the logit; less is no reason to name.
_WORTH_NAMING = 0.02
# Seconds for a prompt, and for one answer: BentoML ends a request after ten.
_PATIENCE, _ANSWER_WITHIN = 120.0, 5.0


def find_users(live: LiveModel, begins: str) -> list[Any]:
    """Ids of users whom the model was trained on that begin with some letters, in order, 20 at the most."""
    keys = live.bundle.encoder.vocabularies["user_id"].keys
    found = keys.filter(pc.starts_with(keys.cast(pa.string()), begins.strip()))
    order = sorted(found.slice(0, 5_000).to_pylist(), key=lambda one: (len(str(one)), one))
    return order[:MOST_USERS]


def ranking(live: LiveModel, user: UserState, scenario: str, k: int, knowledge: bool) -> dict[str, Any]:
    """The best `k` items for a user, each with its reasons, and the best few of every scenario.

    Args:
        live: the model that answers.
        user: the user's online state.
        scenario: one that the model and the catalogue know.
        k: 20 at the most.
        knowledge: whether what is known of user and scenario is read.
    """
    rows = live.catalogue.ascending[scenario]
    scores = {read: _scores(live, user, scenario, read) for read in (True, False)}
    best, values = best_of(rows, scores[knowledge], min(k, MOST))
    other = {int(row): n + 1 for n, row in enumerate(rows[np.lexsort((rows, -scores[not knowledge]))])}
    items = []
    for place, (row, score) in enumerate(zip(best.tolist(), values.tolist(), strict=True), start=1):
        found = models.attribute(live.bundle, request_of(live, user, scenario, row, neutral=not knowledge))
        about = {"item_id": plain(live.catalogue.columns["item_id"][row]), "title": live.catalogue.titles[row]}
        reasons = reasons_of(live, user, row, found)
        items.append({**about, "score": score, "place": place, "other_place": other[row], "reasons": reasons})
    return {
        "user_id": plain(user.user_id),
        "scenario": scenario,
        "knowledge": knowledge,
        "candidates": len(rows),
        "items": items,
        "elsewhere": [_short(live, user, one, knowledge) for one in live.scenarios[:MOST_SCENARIOS]],
        "history": [
            live.catalogue.titles[r] or str(i)
            for i in list(user.history)[::-1][:10]
            if (r := live.catalogue.rows.get(i)) is not None
        ],
        "versions": live.versions,
    }


def reasons_of(live: LiveModel, user: UserState, row: int, found: Attribution) -> list[dict[str, Any]]:
    """What sets an item apart for this user, strongest first, in words; what all items share is no reason.

    Args:
        live: the model that answers.
        user: the user's online state.
        row: of the item.
        found: its logit, taken apart.
    """
    columns = live.catalogue.columns
    near_by = near(live.catalogue, list(user.history), row, most=1)
    like = live.catalogue.titles[near_by.rows[0]] if near_by.rows else None
    rate = plain(columns["item_rate"][row]) if "item_rate" in columns else None
    seen = plain(columns["item_rows"][row]) if "item_rows" in columns else None
    counted = f": {100 * rate:.0f} % of {seen:,.0f} liked it" if rate is not None and seen else ""
    words: Mapping[str, tuple[str, str]] = {
        "item_numbers": (f"well liked{counted}", f"not much liked{counted}"),
        "item_text": (
            f"like “{like}”, which the user liked" if like else "what its text says",
            "what its text says speaks against it",
        ),
        "item": ("this item does well with this audience", "this item does poorly with this audience"),
        "user_knowledge": (
            "suits what is known of the user's taste",
            "does not suit what is known of the user's taste",
        ),
        "history": ("suits what the user liked lately", "unlike what the user liked lately"),
        "scenario_knowledge": ("suits this scenario", "does not suit this scenario"),
    }
    strongest = sorted(found.parts.items(), key=lambda one: -abs(one[1]))
    return [
        {"text": words[part][logit < 0], "logit": logit}
        for part, logit in strongest
        if part in words and abs(logit) >= _WORTH_NAMING
    ][:MOST_REASONS]


class Prompts:
    """What the language model is told about users, as the pipeline writes it; or why that cannot be had here.

    `llm4msr knowledge show` writes it, in a process of its own, one at a time: this one holds neither the log nor a tokenizer.
    """

    def __init__(self) -> None:
        self._user: Any = None
        self._writing: asyncio.Task[dict[str, Any]] | None = None

    async def of(self, settings: Settings, user_id: Any) -> dict[str, Any]:
        """The prompt of a user; `waiting` where it is not written yet: ask again."""
        if find_spec("pipeline") is None or find_spec("knowledge") is None:
            return {"prompt": None, "why": f"this image has no pipeline; where it runs: {_command(user_id)}"}
        if self._writing is None or (self._writing.done() and self._user != user_id):
            self._user, self._writing = user_id, asyncio.create_task(_written(settings, user_id))
        elif self._user != user_id:
            return {"prompt": None, "why": "another prompt is being written; try again in a while"}
        # The request is over before BentoML ends it; the writing goes on.
        done, _ = await asyncio.wait([self._writing], timeout=_ANSWER_WITHIN)
        if not done:
            return {"prompt": None, "why": None, "waiting": True}
        try:
            return self._writing.result()
        finally:
            self._writing = None


def _command(user_id: Any) -> str:
    return f"llm4msr knowledge show --user {user_id}"


async def _written(settings: Settings, user_id: Any) -> dict[str, Any]:
    code = "from pipeline.cli import main; main()"
    arguments = ["knowledge", "--settings", str(settings.file), "show", f"--user={user_id}", "--json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, cwd=REPOSITORY, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, "LLM4MSR_LOG_FORMAT": "human"},
    )  # fmt: skip
    try:
        told, failed = await asyncio.wait_for(process.communicate(), _PATIENCE)
    except TimeoutError:
        return {"prompt": None, "why": f"not written within {_PATIENCE:.0f} s; by hand: {_command(user_id)}"}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        last = failed.decode(errors="replace").strip().splitlines()[-1:] or [""]
        return {"prompt": None, "why": f"{last[0][:500]} ({_command(user_id)})"}
    found = json.loads(told).get("prompt")
    return {"prompt": found, "why": None if found else "nothing that this user liked has a text"}


def health(live: LiveModel | None, refused: str | None) -> dict[str, Any]:
    """How this process is: what is live, since when, and the share of answers that lacked something."""
    state = {"ready": live is not None and live.populated, "refused": refused, **TALLY.told()}
    if live is None:
        return {**state, "versions": None}
    made = from_micros(live.catalogue.as_of).isoformat(timespec="minutes")
    about = {"promoted_at": live.origin.promoted_at, "catalogue_as_of": made, "items": len(live.catalogue)}
    return {**state, "versions": live.versions, **about}


def _scores(live: LiveModel, user: UserState, scenario: str, knowledge: bool) -> np.ndarray:
    rows = live.catalogue.ascending[scenario]
    if not len(rows):
        return np.zeros(0)
    side = user_side(live, user, scenario, neutral=not knowledge)
    return live.bundle.score_items(live.items, rows, scenario, side).probability


def _short(live: LiveModel, user: UserState, one: Mapping[str, str], knowledge: bool) -> dict[str, Any]:
    scenario = one["scenario"]
    rows, scores = best_of(live.catalogue.ascending[scenario], _scores(live, user, scenario, knowledge), SHORT)
    ids, titles = live.catalogue.columns["item_id"], live.catalogue.titles
    best = [
        {"item_id": plain(ids[r]), "title": titles[r], "score": float(s)} for r, s in zip(rows, scores, strict=True)
    ]
    return {"scenario": scenario, "title": one["title"], "items": best}
