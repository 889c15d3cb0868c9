"""What the defaults do on six kinds of data, of which nothing is set but what the data is.

    llm4msr bench defaults [--data FOLDER] [--worlds shop,tiny] [--seeds 5] [--out FOLDER] [--set train.epochs=10]

FOLDER holds MovieLens-1M; without it that kind is left out. Per kind and seed the product's own stages train and measure every system
of the ladder. `--out` keeps data, roots and rows.jsonl, so that a stopped command goes on where it was; `--set` tries another default, which is to be chosen by
the rows' `validation`.

    worst_harm_auc             what the run would promote minus the plain model, the worst kind's mean over seeds
    worst_harm_auc_unseen      the same, the choice made on one half of the test users and measured on the other
    worst_harm_logloss         by what share log loss is higher than the plain model's, worst kind
    beats_counting             on how many kinds what the run would promote is better than counting
    shop_lift_over_placebo     AUC with knowledge minus that with shuffled titles, where titles carry signal
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.default_worlds import halves, worlds
from benchmarks.harness import arguments, figure, finish
from core import Settings, Window, configure, load_settings
from core.contracts.bundle_spec import BundleMetrics
from core.contracts.results import Choice, Controls, Metrics
from core.errors import Llm4msrError, SettingsError
from core.files import write_json
from models import choose, compare, evaluate, first_verdict
from pipeline.run import STAGES

BEFORE = ("ingest", "validate", "features", "knowledge", "dataset")
LADDER = ("counting", "without_text", "plain", "other_user", "shuffled_titles", "knowledge")
NAME = "defaults"


def main() -> None:
    options = _options()
    configure()
    with ExitStack() as stack:
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = {name: _world(name, options, out) for name in _chosen(options)}
    _print(found)
    finish(NAME, _figures(found), options.quick)


def _chosen(options: argparse.Namespace) -> list[str]:
    known = worlds(options.data)
    wanted = options.worlds.split(",") if options.worlds else list(known)
    if unknown := [name for name in wanted if name not in known]:
        raise SettingsError(f"no kind of data {unknown[0]!r}; there are {', '.join(known)} (ml_1m with --data)")
    return wanted


def _world(name: str, options: argparse.Namespace, out: Path) -> list[dict[str, Any]]:
    """One row a seed."""
    folder, world = out / name, worlds(options.data)[name]
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / "best.json"
    if not known.is_file():
        write_json(known, {"best_auc": world.write(folder)})
    best, rows = json.loads(known.read_text())["best_auc"], []
    for seed in range(1, options.seeds + 1):
        for text in [f"train.seed={seed}", "controls.every=1", *options.set]:
            key, _, value = text.partition("=")
            os.environ["LLM4MSR_" + key.upper().replace(".", "__")] = value
        settings = load_settings(folder / "llm4msr.yaml")
        for stage in (*(BEFORE if seed == 1 else ()), "train", "evaluate", "controls"):
            made = STAGES[stage](settings, Window())
            if stage == "train":
                trained = made
            elif stage == "evaluate":
                scores = made
        rows.append(
            {
                "world": name,
                "title": world.title,
                "seed": seed,
                "best_auc": best,
                **_row(settings, trained.path, scores.path, made.path),
            }
        )
        _say(rows[-1])
        with (out / "rows.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({**rows[-1], "set": options.set}) + "\n")
    return rows


def _row(settings: Settings, trained: Path, scores: Path, controls: Path) -> dict[str, Any]:
    metrics, choice = Metrics.read(scores), Choice.read(scores).system
    every = {name: metrics.of(name) for name in LADDER}
    every |= {name: placebo.metrics for name, placebo in Controls.read(controls).placebos.items()}
    measured = {name: found.overall for name, found in every.items() if found is not None}
    verdict = first_verdict(metrics, choice, settings.promotion)
    tables = {name: _test(trained, name) for name in ("plain", "knowledge")}
    return {
        "auc": {name: body.auc for name, body in measured.items()},
        "logloss": {name: body.logloss for name, body in measured.items()},
        "validation": {name: _validation(trained, name) for name in ("plain", "knowledge")},
        "choice": choice,
        "live": verdict.promote,
        "rows": metrics.plain.overall.rows,
        "unseen": _unseen(settings, tables),
    }


def _validation(trained: Path, name: str) -> dict[str, float | None]:
    """AUC and log loss of the validation rows: what defaults may be chosen by."""
    return BundleMetrics.read(trained / f"bundle_{name}").validation.model_dump()


def _test(trained: Path, name: str) -> pa.Table:
    table = pq.read_table(trained / f"predictions_{name}.parquet")
    return table.filter(pc.equal(table["split"], "test")).sort_by("row_id")


def _unseen(settings: Settings, tables: dict[str, pa.Table]) -> dict[str, float]:
    """AUC and share of log loss gained by the choice that other users' rows make, mean of both halves."""
    first = halves(np.array(tables["plain"]["user_id"].to_pylist(), dtype=object).astype(str))
    changes: dict[str, list[float]] = {"auc": [], "logloss": []}
    for judged in (first, ~first):
        mine = {name: table.filter(pa.array(judged)) for name, table in tables.items()}
        theirs = {name: evaluate(table.filter(pa.array(~judged))).overall for name, table in tables.items()}
        lift = compare(mine["plain"], mine["knowledge"], settings.promotion, settings.train.seed)
        system = choose(lift, evaluate(mine["plain"], settings.promotion.cold_rows), settings.promotion).system
        ours, plain = theirs[system], theirs["plain"]
        if plain.auc is not None and ours.auc is not None and plain.logloss and ours.logloss is not None:
            changes["auc"].append(ours.auc - plain.auc)
            changes["logloss"].append(ours.logloss / plain.logloss - 1)
    return {name: mean(values) if values else 0.0 for name, values in changes.items()}


def _figures(found: dict[str, list[dict[str, Any]]]) -> list[Any]:
    harm = {n: mean(r["auc"][r["choice"]] - r["auc"]["plain"] for r in rows) for n, rows in found.items()}
    unseen = {n: mean(r["unseen"]["auc"] for r in rows) for n, rows in found.items()}
    loss = {n: mean(r["logloss"][r["choice"]] / r["logloss"]["plain"] - 1 for r in rows) for n, rows in found.items()}
    counted = [mean(r["auc"][r["choice"]] - r["auc"]["counting"] for r in rows) > 0 for rows in found.values()]
    figures = [
        figure("worst_harm_auc", "AUC", min(harm.values()), target=-0.001, of="ours"),
        figure("worst_harm_auc_unseen", "AUC", min(unseen.values())),
        figure("worst_harm_logloss", "share", max(loss.values()), target=0.01, bound="at_most", of="ours"),
        figure("beats_counting", f"of {len(found)} kinds", sum(counted), target=len(found), of="ours"),
    ]
    for name in ("shop", "shop_shuffled"):
        if name in found:
            lift = mean(r["auc"]["knowledge"] - r["auc"]["shuffled_titles"] for r in found[name])
            told = f"{name}_lift_over_placebo", "AUC", lift
            figures.append(figure(*told, target=0.03, of="ours") if name == "shop" else figure(*told))
    return figures


def _say(row: dict[str, Any]) -> None:
    systems = ", ".join(f"{name} {value:.4f}" for name, value in row["auc"].items())
    print(f"{row['world']} seed {row['seed']}: {systems}; may go live: {row['choice']}", file=sys.stderr, flush=True)


def _print(found: dict[str, list[dict[str, Any]]]) -> None:
    """A table in Markdown: test AUC / log loss, mean over seeds, and what would go live."""
    print(f"| kind of data | test rows | {' | '.join(LADDER)} | best possible | may go live |", file=sys.stderr)
    print("|---" * (len(LADDER) + 4) + "|", file=sys.stderr)
    for rows in found.values():
        cells = []
        for name in LADDER:
            if name not in rows[0]["auc"]:
                cells.append("")
                continue
            areas = [row["auc"][name] for row in rows]
            spread = f" ± {stdev(areas):.4f}" if len(areas) > 1 else ""
            cells.append(f"{mean(areas):.4f}{spread} / {mean(row['logloss'][name] for row in rows):.4f}")
        best = rows[0]["best_auc"]
        chosen = [row["choice"] if row["live"] else "nothing" for row in rows]
        live = ", ".join(f"{name} {chosen.count(name)}" for name in dict.fromkeys(chosen))
        first = f"{rows[0]['title']} | {rows[0]['rows']:,}"
        print(f"| {first} | {' | '.join(cells)} | {'' if best is None else f'{best:.3f}'} | {live} |", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="folder of MovieLens-1M; without it that kind is left out")
    parser.add_argument("--worlds", default="", help="some kinds, by name, separated by commas")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--out", type=Path, help="keep data, roots and results here")
    parser.add_argument("--set", action="append", default=[], help="SECTION.FIELD=VALUE for all kinds")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.worlds = 1, options.worlds or "shop,tiny"
    return options


if __name__ == "__main__":
    try:
        main()
    except Llm4msrError as error:
        print(f"llm4msr: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
