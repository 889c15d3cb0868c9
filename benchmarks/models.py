"""What knowledge is worth to ranking, on MovieLens-1M: every run is one row in docs/evidence.

    llm4msr bench models --data FOLDER [--protocol scenario-wise-rec|time] [--backbones shared_bottom,star]
        [--systems plain,both,concat,full,full_shuffled] [--seeds 5] [--lag 0|1h|24h] [--out docs/evidence]

FOLDER holds MovieLens-1M (ratings.dat, users.dat, movies.dat). Runs that are in OUT already are skipped, so a stopped
command goes on where it was. Seeds from 100 on are for choosing settings (`--set rank=8`): they are kept in a file of
their own and measure validation rows only. `--table` only writes tables and plots from the rows that are there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, get_args

import torch
import yaml

from benchmarks.evidence import runner, systems
from benchmarks.evidence.protocol import Name, prepare, scenarios_of
from benchmarks.evidence.source import SENTENCES, read_ratings, text_vectors
from benchmarks.harness import figure, finish
from core import configure
from core.errors import Llm4msrError, SettingsError
from core.settings import ModelSettings

LAGS = {"0": 0, "1h": 3600, "24h": 86_400}
FIRST = "plain,both,concat,full,full_shuffled"
PUBLISHED = {"shared_bottom": 0.8095, "star": 0.8096, "mmoe": 0.8086, "ple": 0.8091, "sar_net": 0.8092}
PUBLISHED |= {"m2m": 0.8115, "adasparse": 0.8108, "adaptdhm": 0.8083, "epnet": 0.8097, "ppnet": 0.8063}
PUBLISHED |= {"hamur": 0.8133}


def main() -> None:
    options = _options()
    configure()
    torch.set_num_threads(1)
    runs = planned(options)
    if options.data is None and not options.table:
        print("skipped: give --data with the folder of MovieLens-1M, whose terms forbid shipping it", file=sys.stderr)
        finish("models", [], options.quick)
        return
    if not options.table:
        _run(options, runs)
    _write(options)


def planned(options: argparse.Namespace) -> list[runner.Run]:
    """Runs in order: all systems of a seed before the next seed, so that early stops leave whole comparisons.

    Raises:
        SettingsError: an unknown system, backbone, lag or setting.
    """
    known = list(get_args(ModelSettings.model_fields["backbone"].annotation))
    names = options.systems.split(",")
    backbones = known if options.backbones == "all" else options.backbones.split(",")
    for name in names:
        systems.find(name)
    if unknown := [name for name in backbones if name not in known]:
        raise SettingsError(f"no backbone {unknown[0]!r}; there are {', '.join(known)}")
    if options.lag not in LAGS:
        raise SettingsError(f"--lag {options.lag}: choose {', '.join(LAGS)}")
    changes = dict(_setting(text) for text in options.set)
    lag = LAGS[options.lag] if options.protocol == "time" else 0
    return [
        runner.Run(options.protocol, name, backbone, seed, lag, changes)
        for seed in runner.seeds(options.first_seed, options.seeds)
        for backbone in backbones
        for name in names
    ]


def results(out: Path, run: runner.Run) -> Path:
    """The file of a run's row."""
    kind = "tuning-" if run.seed >= runner.TUNING_SEED else ""
    return out / f"{kind}{run.protocol}.jsonl"


def _run(options: argparse.Namespace, runs: list[runner.Run]) -> None:
    waiting = [run for run in runs if run.id not in runner.finished(results(options.out, run))]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} are there already", file=sys.stderr, flush=True)
    if not waiting:
        return
    ratings = read_ratings(options.data)
    texts = text_vectors(ratings.texts, options.cache)
    sentences = text_vectors([SENTENCES[name] for name in scenarios_of(options.protocol)], options.cache)
    prepared, made_for = None, None
    for run in waiting:
        if run.id in runner.finished(results(options.out, run)):
            continue
        split = (run.seed if run.protocol == "scenario-wise-rec" else 0, run.lag)
        if prepared is None or made_for != split:
            prepared, made_for = prepare(run.protocol, ratings, texts, sentences, run.seed, run.lag), split
        row = runner.execute(run, prepared)
        runner.append(results(options.out, run), row)
        test = "" if row.get("test_auc") is None else f", test {row['test_auc']:.4f}"
        print(
            f"{run.id} {run.backbone} {run.system} seed {run.seed}: validation {row['val_auc']:.4f}{test}, "
            f"{row['epochs']} epochs, {row['seconds']:.0f} s",
            file=sys.stderr,
            flush=True,
        )


def _write(options: argparse.Namespace) -> None:
    from benchmarks.evidence.pages import write_pages
    from benchmarks.evidence.table import means, write_tables

    rows = list(runner.finished(options.out / f"{options.protocol}.jsonl").values())
    write_tables(options.out, options.protocol, rows)
    write_pages(options.out, options.out.parent / "backbones")
    published = PUBLISHED if options.protocol == "scenario-wise-rec" else {}
    figures = [
        figure(f"{backbone}_{system}_test_auc", "AUC", value, published.get(backbone))
        for (backbone, system), value in means(rows).items()
    ]
    finish("models", figures, options.quick)


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    if name not in runner.SETTINGS:
        raise SettingsError(f"--set {text}: no such setting")
    return name, yaml.safe_load(value)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of MovieLens-1M; without it nothing is run")
    parser.add_argument("--protocol", choices=get_args(Name), default="scenario-wise-rec")
    parser.add_argument("--backbones", default="shared_bottom,star", help="names, or all")
    parser.add_argument("--systems", default=FIRST, help=f"of {', '.join(systems.SYSTEMS)}")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--lag", default="0", help="protocol time: 0, 1h or 24h")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE, with seeds from 100 on")
    parser.add_argument("--out", type=Path, default=Path("docs/evidence"))
    parser.add_argument("--cache", type=Path, default=Path(".llm4msr/bench"), help="text vectors are kept here")
    parser.add_argument("--table", action="store_true", help="run nothing, write tables and plots")
    parser.add_argument("--quick", action="store_true", help="one seed, plain and full only")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.systems, options.backbones = 1, "plain,full", "shared_bottom"
    if options.set and options.first_seed < runner.TUNING_SEED:
        parser.error("--set is for choosing settings: give --first-seed 100 or more")
    return options


if __name__ == "__main__":
    try:
        main()
    except Llm4msrError as error:
        print(f"llm4msr: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
