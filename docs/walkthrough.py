"""Write the worked example from a finished root: `python docs/walkthrough.py > docs/walkthrough.md`, after `make demo`.

Every number of the page is read from the raw files, the artifacts, the online store and a running service. What the raw files alone can tell is
counted there by plain Python, and an artifact that says something else stops the script.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from core import Manifest, Settings, Window, load_settings
from core.contracts.bundle_spec import BundleSpec
from core.matrix import open_matrix
from core.segments import segments, table_path
from core.training_table import read_rows
from feature_repo import OnlineReader
from pipeline.commands.serve import ask, running_service
from pipeline.windows import artifact_store, stage_clock

PAGE = Path(__file__).resolve().parent / "walkthrough.form.md"
USER, PLACE = 65, 12
SHOWN = 4


def by_line(answer: dict[str, Any]) -> str:
    """JSON with a line for each field and for each member of a list."""

    def told(value: Any) -> str:
        if isinstance(value, list) and value:
            return "[\n" + ",\n".join(f"  {json.dumps(one, ensure_ascii=False)}" for one in value) + "]"
        return json.dumps(value, ensure_ascii=False)

    return "{\n" + ",\n".join(f" {json.dumps(name)}: {told(value)}" for name, value in answer.items()) + "\n}"


def write(settings: Settings, user: int, place: int) -> str:
    """The page.

    Args:
        settings: of MovieLens data and a finished root.
        user: whom it follows.
        place: which of the user's rows becomes the training row, counted from 1.
    """
    store = artifact_store(settings)
    raw = raw_rows(settings.data.path / "ratings.csv", user)
    titles = raw_titles(settings.data.path / "movies.csv")
    row, before = raw[place - 1], raw[: place - 1]
    liked = [one for one in before if float(one["rating"]) > 3]
    moment = int(row["timestamp"])
    trained = training_rows(store.get("dataset"), user)
    mine = next(one for one in trained if one["item_id"] == int(row["movieId"]))
    rate = (len(liked) + 5) / (len(before) + 10)
    assert (mine["user_rows"], mine["user_positives"]) == (len(before), len(liked))
    assert abs(mine["user_rate"] - rate) < 1e-6

    snapshots = index(store.get("knowledge"), "user_pooled", user)
    snapshot = max((one for one in snapshots if one["event_timestamp"] <= at(moment)), key=lambda one: one["watermark"])
    assert mine["user_pooled_watermark"] == snapshot["watermark"]
    seen = [one for one in raw if at(int(one["timestamp"])) < snapshot["watermark"]]
    vector = open_matrix(store.get("knowledge").file("user_pooled/vectors.npy"))[snapshot["row"]]

    last = trained[-1]
    scores = {name: score(store.get("train"), name, last["row_id"]) for name in ("counting", "plain", "knowledge")}
    bundle = BundleSpec.read(store.get("train").file("bundle_knowledge"))
    online = OnlineReader(settings, stage_clock(settings, Window()), bundle.versions).read_user(user)
    with running_service(settings) as url:
        request = {"user_id": user, "scenario": mine["scenario"], "k": 3}
        answer = ask(settings, "/rank", request, url)
        best = answer["items"][0]["item_id"]
        why = ask(settings, "/explain", {"user_id": user, "scenario": mine["scenario"], "item_id": best}, url)
    values = {
        "user": user,
        "rows": len(raw),
        "place": ordinal(place),
        "raw": "\n".join(",".join(one.values()) for one in raw[place - SHOWN : place]),
        "film": titles[row["movieId"]],
        "movie": row["movieId"],
        "time": at(moment).strftime("%Y-%m-%d %H:%M:%S"),
        "canonical": table(
            ("user_id", "item_id", "scenario", "event_timestamp", "label"),
            [
                tuple(shown(one[name]) for name in ("user_id", "item_id", "scenario", "event_timestamp", "label"))
                for one in trained[place - SHOWN : place]
            ],
        ),
        "scenario": mine["scenario"],
        "before": len(before),
        "liked": len(liked),
        "rate": f"{rate:.4f}",
        "states": table(
            ("watermark", "user_rows", "user_positives", "user_rate"),
            [
                tuple(shown(one[name]) for name in ("watermark", "user_rows", "user_positives", "user_rate"))
                for one in states(store.get("features"), user)[place - 3 : place]
            ],
        ),
        "state": shown(mine["user_stats_watermark"]),
        "snapshots": len(snapshots),
        "watermark": shown(snapshot["watermark"]),
        "seen": len(seen),
        "seen_liked": sum(float(one["rating"]) > 3 for one in seen),
        "seen_titles": "; ".join(titles[one["movieId"]] for one in seen if float(one["rating"]) > 3),
        "version": snapshot["version"],
        "dim": len(vector),
        "vector": ", ".join(f"{number:.3f}" for number in vector[:5]),
        "length": f"{float(np.linalg.norm(vector)):.2f}",
        "matrix_row": snapshot["row"],
        "training": table(("column", "value", "where it comes from"), training_lines(mine)),
        "split": mine["split"],
        "last_film": titles[str(last["item_id"])],
        "last_scenario": last["scenario"],
        "last_split": last["split"],
        "last_label": last["label"],
        "scores": table(("system", "score"), [(name, f"{value:.4f}") for name, value in scores.items()]),
        "online": table(("view", "value"), online_lines(online, titles)),
        "request": json.dumps(request),
        "answer": json.dumps(short(answer), indent=1, ensure_ascii=False),
        "best": answer["items"][0]["title"],
        "why": by_line(short(why | {name: why[name][:3] for name in ("features", "history", "scenarios")})),
    }
    return PAGE.read_text(encoding="utf-8").format(**values)


def raw_rows(file: Path, user: int) -> list[dict[str, str]]:
    """A user's lines of ratings.csv, in order of time."""
    with file.open(encoding="utf-8") as stream:
        rows = [one for one in csv.DictReader(stream) if one["userId"] == str(user)]
    return sorted(rows, key=lambda one: (int(one["timestamp"]), int(one["movieId"])))


def raw_titles(file: Path) -> dict[str, str]:
    """Film to title."""
    with file.open(encoding="utf-8") as stream:
        return {one["movieId"]: one["title"] for one in csv.DictReader(stream)}


def training_rows(dataset: Manifest, user: int) -> list[dict[str, Any]]:
    """A user's rows of the training table, in order of time."""
    rows = read_rows(dataset.path)
    found = rows.filter(pc.equal(rows["user_id"], user)).to_pylist()
    return sorted(found, key=lambda one: (one["event_timestamp"], one["item_id"]))


def states(features: Manifest, user: int) -> list[dict[str, Any]]:
    """A user's states, in order."""
    table = table_path(features.path, "user_stats")
    found = pq.read_table(table, filters=pc.field("user_id") == user).to_pylist()
    return sorted(found, key=lambda one: one["watermark"])


def index(knowledge: Manifest, kind: str, user: int) -> list[dict[str, Any]]:
    """The snapshots of a user."""
    return pq.read_table(
        segments(table_path(knowledge.file(kind), "index")), filters=pc.field("user_id") == user
    ).to_pylist()


def score(train: Manifest, name: str, row: int) -> float:
    """What a system gave a row."""
    found = pq.read_table(train.file(f"predictions_{name}.parquet"), filters=pc.field("row_id") == row)
    return float(found["score"][0].as_py())


def training_lines(row: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Some columns of a training row, and where each comes from."""
    homes = {
        "label": "the row itself",
        "first_genre": "its film's row in the catalogue",
        "year": "its film's row in the catalogue",
        "user_rows": "user_stats, newest state before the row",
        "user_positives": "the same",
        "user_rate": "the same",
        "item_rows": "item_stats, newest state that could be read, a day old or older",
        "item_rate": "the same",
        "history_end": "user_history: so many positives of user_log count",
        "user_pooled_row": "row of vectors/user_pooled.npy",
        "user_prompt_row": "row of vectors/user_prompt.npy; none: this user has no such vector",
        "scenario_row": "row of vectors/scenario.npy",
        "item_text_row": "row of vectors/item_text.npy",
        "split": "which part the row belongs to",
    }
    return [(f"`{name}`", shown(row[name]), home) for name, home in homes.items() if name in row]


def online_lines(state: Any, titles: dict[str, str]) -> list[tuple[str, str]]:
    """What the online store holds of a user."""
    lines = [("user_stats", ", ".join(f"{name} {shown(value)}" for name, value in state.values.items()))]
    newest = "; ".join(titles[str(item)] for item in state.history[-3:])
    lines.append(("user_history", f"{len(state.history)} films; the newest three: {newest}"))
    for name, vector in state.vectors.items():
        lines.append(
            (
                name,
                state.status[name]
                if vector is None
                else f"{len(vector)} numbers, length {float(np.linalg.norm(vector)):.2f}",
            )
        )
    return lines


def short(body: Any) -> Any:
    """An answer with long texts cut and numbers rounded."""
    if isinstance(body, dict):
        return {name: short(value) for name, value in body.items()}
    if isinstance(body, list):
        return [short(value) for value in body]
    if isinstance(body, float):
        return round(body, 4)
    return body[:157] + "..." if isinstance(body, str) and len(body) > 160 else body


def shown(value: Any) -> str:
    """A cell."""
    if value is None:
        return "none"
    if isinstance(value, dt.datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.%f").removesuffix(".000000")
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def at(seconds: int) -> dt.datetime:
    """Seconds since 1970 as a time."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def ordinal(number: int) -> str:
    """A number with its ending."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def main() -> int:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, default=REPOSITORY / "config" / "demo.yaml")
    parser.add_argument("--user", type=int, default=USER)
    parser.add_argument("--row", type=int, default=PLACE, help="which of the user's rows, from 1")
    given = parser.parse_args()
    sys.stdout.write(write(load_settings(given.settings), given.user, given.row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
