"""Six kinds of data to try the defaults on. Each is a folder with files and a settings file that says what the data is, and nothing else."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from benchmarks.shop_world import write_shop

SAMPLE = Path(__file__).parents[1] / "data" / "ml-latest-small"
_GENRES = {name.lower(): [name] for name in ("Comedy", "Action", "Drama", "Adventure", "Crime", "Horror")}
_SHELVES = {"light": ("Comedy", "Animation", "Children", "Musical", "Romance")}


@dataclass(frozen=True)
class World:
    """A kind of data.

    Args:
        title: in a few words.
        write: fills a folder; the best AUC there can be where the generator knows it, else None.
    """

    title: str
    write: Callable[[Path], float | None]


def worlds(movielens: Path | None) -> dict[str, World]:
    """The kinds by name; `ml_1m` only with a folder of MovieLens-1M."""
    found = {
        "latest_small": World("MovieLens latest-small, each user's newest rows", _films(SAMPLE, {})),
        "shop": World("invented shop, two rows an item, negatives as popular as positives", _shop),
        "shop_shuffled": World("the same shop, titles shuffled", partial(_shop, shuffled=True)),
        "stars": World("stars on two shelves, no text", _stars),
        "tiny": World("2,000 rows of such a shop", partial(_shop, users=120, items=900, positives=667)),
    }
    if movielens is not None:
        time = {"split": {"kind": "time", "validation": 0.1, "test": 0.1}}
        found["ml_1m"] = World("MovieLens-1M, split by time", _films(movielens.resolve(), time))
    return found


def _films(folder: Path, other: Mapping[str, object]) -> Callable[[Path], None]:
    def write(out: Path) -> None:
        scenarios = {**dict.fromkeys(_GENRES), "other": None}
        body = {
            "data": {
                "source": "movielens",
                "path": str(folder),
                "label": {"column": "rating", "op": ">", "value": 3},
                "scenario": {"rule": "first_genre", "groups": _GENRES, "other": "other"},
                "scenarios": {n: {"title": n.title(), "description": f"A shelf of films: {n}."} for n in scenarios},
                "item_categorical": ["first_genre"],
                "item_text": ["title"],
            },
            **other,
        }
        _settings(out, body)

    return write


def _shop(out: Path, *, shuffled: bool = False, users: int = 700, items: int = 12_000, positives: int = 8_000) -> float:
    return write_shop(out, shuffled=shuffled, users=users, items=items, positives=positives).best_auc


def _stars(out: Path) -> None:
    """The films' ratings as a table of its own: ids, stars and a shelf."""
    with (SAMPLE / "movies.csv").open(encoding="utf-8") as stream:
        light = {row["movieId"] for row in csv.DictReader(stream) if row["genres"].split("|")[0] in _SHELVES["light"]}
    with (SAMPLE / "ratings.csv").open() as stream:
        ratings = [(r["userId"], r["movieId"], r["rating"], r["timestamp"]) for r in csv.DictReader(stream)]
    with (out / "stars.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("who", "what", "stars", "at", "shelf"))
        writer.writerows((u, i, s, t, "light" if i in light else "serious") for u, i, s, t in ratings)
    body = {
        "data": {
            "source": "table",
            "path": ".",
            "files": {"interactions": "stars.csv"},
            "columns": {"user_id": "who", "item_id": "what", "event_timestamp": "at"},
            "timestamp_unit": "s",
            "label": {"column": "stars", "op": ">", "value": 3},
            "scenario": {"rule": "column", "column": "shelf"},
            "scenarios": {
                "light": {"title": "Light", "description": "Things to laugh and to relax with."},
                "serious": {"title": "Serious", "description": "Things that move and thrill."},
            },
            "item_text": [],
        }
    }
    _settings(out, body)


def _settings(out: Path, body: Mapping[str, object]) -> None:
    whole = {"project": "defaults", "root": "root", "clock": {"mode": "replay", "at": "log_end"}, **body}
    (out / "llm4msr.yaml").write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")


def halves(users: np.ndarray) -> np.ndarray:
    """Which of two halves each user is in, bool, by a fixed draw over the distinct users."""
    names, code = np.unique(users, return_inverse=True)
    return np.random.default_rng(11).permutation(len(names))[code] % 2 == 0
