"""An invented shop whose best possible ranking is known, to try default settings on.

Three categories, each of eight kinds of goods; a title names the kind, a user likes some kinds. Positives are drawn by
popularity times liking, negatives by popularity alone, both within the row's category and at one time. So popularity
tells nothing, and the odds of a row are liking / its mean over the category: the best score there can be.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CATEGORIES = {
    "sports": {
        "camping": "tent, sleeping bag, camping stove, headlamp",
        "cycling": "bicycle helmet, cycling jersey, bike pump, pedal set",
        "running": "running shoes, pace watch, hydration vest, compression socks",
        "swimming": "swim goggles, swimsuit, kickboard, nose clip",
        "climbing": "climbing rope, carabiner, chalk bag, harness",
        "fishing": "fishing rod, tackle box, bait lure, landing net",
        "yoga": "yoga mat, meditation cushion, cork block, stretching strap",
        "hockey": "hockey stick, ice skates, goalie mask, puck",
    },
    "toys": {
        "dinosaurs": "dinosaur figure, fossil dig kit, raptor puzzle, triceratops plush",
        "trains": "toy locomotive, wooden rails, signal tower, freight wagon",
        "dolls": "doll house, baby doll, doll pram, tiny tea set",
        "robots": "robot kit, remote control rover, circuit board set, servo arm",
        "painting": "finger paint, crayon box, colouring book, easel",
        "pirates": "pirate ship, treasure chest, toy sword, parrot costume",
        "music": "toy drum, xylophone, ukulele, tambourine",
        "space": "rocket model, astronaut suit, planet globe, moon lander",
    },
    "beauty": {
        "lipstick": "lipstick, lip gloss, lip liner, lip balm",
        "shaving": "razor, shaving foam, aftershave, beard oil",
        "hair": "hair dryer, shampoo, curling iron, hair wax",
        "nails": "nail polish, manicure set, nail file, cuticle oil",
        "perfume": "perfume, eau de toilette, scented candle, body mist",
        "sunscreen": "sunscreen, after sun lotion, tanning oil, sun hat",
        "skincare": "face cream, serum, cleansing gel, clay mask",
        "bath": "bath salts, shower gel, loofah sponge, bubble bath",
    },
}
_STYLES = [
    "classic",
    "compact",
    "deluxe",
    "everyday",
    "light",
    "limited",
    "modern",
    "premium",
    "simple",
    "travel",
    "vintage",
    "warm",
]
_BRANDS = ["Alder", "Borealis", "Corvo", "Dune", "Ember", "Fjord", "Gale", "Harbor", "Indigo", "Juniper"]
_SENTENCES = {
    "sports": "Gear for people who train, hike and play outdoors.",
    "toys": "Things for children to play and build with.",
    "beauty": "Care, make-up and fragrance.",
}
_BEGIN, _DAYS = 1_790_000_000, 60
_LIKING = 2.2


@dataclass(frozen=True)
class Shop:
    """What the generator knows.

    Attributes:
        rows: how many interactions were written.
        items: how many items.
        best_auc: of the true odds over all rows; no model can be expected to have more.
    """

    rows: int
    items: int
    best_auc: float


def write_shop(
    folder: Path,
    *,
    users: int = 700,
    items: int = 12_000,
    positives: int = 8_000,
    negatives: int = 2,
    shuffled: bool = False,
    turned: str | None = None,
    seed: int = 1,
) -> Shop:
    """Write clicks.csv, items.csv and llm4msr.yaml with nothing set but the data.

    Args:
        folder: made here.
        users: how many; each visits one to three categories.
        items: how many, all categories together; two rows an item is what a shop has.
        positives: how many.
        negatives: drawn for each positive.
        turned: a category whose users like what they disliked from the last third of the log on: what was learned of them does harm there.
        shuffled: give each item the title of another item of its category: the placebo, in which texts say nothing.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    names = list(CATEGORIES)
    kinds = len(CATEGORIES["sports"])
    category, kind = rng.integers(0, len(names), items), rng.integers(0, kinds, items)
    popularity = rng.pareto(1.6, items) + 0.2
    liking = _LIKING * rng.normal(size=(users, len(names), kinds)) * (rng.random((users, 1, 1)) * 0.6 + 0.7)
    of = [np.flatnonzero(category == number) for number in range(len(names))]
    weights = [popularity[own] / popularity[own].sum() for own in of]
    expected = np.stack([(np.exp(liking[:, c, kind[own]]) * weights[c]).sum(1) for c, own in enumerate(of)], axis=1)
    visits = rng.dirichlet(np.full(len(names), 0.7), users)
    activity = rng.pareto(1.5, users) + 0.5
    who = rng.choice(users, positives, p=activity / activity.sum())
    where = (rng.random((positives, 1)) > visits[who].cumsum(1)).sum(1).clip(max=len(names) - 1)
    when = np.sort(rng.integers(0, _DAYS * 86_400, positives)) + _BEGIN

    rows: list[tuple[int, int, int, int, int]] = []
    odds: list[float] = []
    labels = (1, *(0,) * negatives)
    for t, u, c in zip(when.tolist(), who.tolist(), where.tolist(), strict=True):
        own, weight = of[c], weights[c]
        sign = -1 if turned == names[c] and t >= _BEGIN + _DAYS * 86_400 * 2 / 3 else 1
        likely = weight * np.exp(sign * liking[u, c, kind[own]])
        drawn = [rng.choice(own, p=likely / likely.sum()), *rng.choice(own, negatives, p=weight, replace=False)]
        for item, label in zip(drawn, labels, strict=True):
            rows.append((t, u, int(item), c, label))
            odds.append(float(sign * liking[u, c, kind[item]] - np.log(expected[u, c])))
    titles = [_title(rng, names[c], k, n) for n, (c, k) in enumerate(zip(category, kind, strict=True))]
    if shuffled:
        for own in of:
            mixed = rng.permutation(own)
            for place, text in zip(own, [titles[m] for m in mixed], strict=True):
                titles[place] = text
    folder.mkdir(parents=True, exist_ok=True)
    _write(
        folder / "clicks.csv",
        ("time", "uid", "sku", "page", "clicked"),
        ((t, f"u{u:05d}", f"sku-{i:05d}", names[c], label) for t, u, i, c, label in rows),
    )
    _write(
        folder / "items.csv",
        ("sku", "name", "scenarios"),
        ((f"sku-{n:05d}", title, names[c]) for n, (title, c) in enumerate(zip(titles, category, strict=True))),
    )
    (folder / "llm4msr.yaml").write_text(_settings(), encoding="utf-8")
    return Shop(len(rows), items, _auc(np.array([row[4] for row in rows]), np.array(odds)))


def _title(rng: np.random.Generator, category: str, kind: int, number: int) -> str:
    goods = list(CATEGORIES[category].values())[kind].split(", ")
    style, brand = _STYLES[rng.integers(len(_STYLES))], _BRANDS[rng.integers(len(_BRANDS))]
    return f"{brand} {style} {goods[rng.integers(len(goods))]} no. {number}"


def _settings() -> str:
    texts = "\n".join(
        f'    {name}: {{title: {name.title()}, description: "{text}"}}' for name, text in _SENTENCES.items()
    )
    return f"""\
project: shop
root: root
clock: {{mode: replay, at: log_end}}
data:
  source: table
  path: .
  files: {{interactions: clicks.csv, items: items.csv}}
  columns: {{user_id: uid, item_id: sku, event_timestamp: time, title: name}}
  timestamp_unit: s
  label: {{column: clicked, op: is}}
  scenario: {{rule: column, column: page}}
  scenarios:
{texts}
  item_text: [title]
"""


def _write(path: Path, header: tuple[str, ...], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def _auc(labels: np.ndarray, scores: np.ndarray) -> float:
    from models.measures import auc

    found = auc(labels, scores)
    assert found is not None
    return found
