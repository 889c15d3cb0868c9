"""The report: one HTML file that opens offline and says what came in, how good the model is, and what to look at."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup

from core import Built, Manifest, Settings, Window
from core.contracts.bundle_spec import BundleMetrics
from core.contracts.dataset_spec import DatasetSpec
from core.contracts.drift import Drift
from core.contracts.kinds import is_of, kinds_of
from core.contracts.results import Change, Controls, Curves, Ladder, Lift, Metrics, OverCounting, Promotion
from core.training_table import read_rows
from pipeline.declared import declared
from pipeline.drift import measure_drift
from pipeline.findings import Findings, findings
from pipeline.graph import GRAPH
from pipeline.ladder import ladder, worth
from pipeline.stages import DATA_DOCS
from pipeline.windows import artifact_store

TEMPLATES = Path(__file__).parent / "templates"
# What shapes the result and may be shown: no paths, no addresses, no secrets.
_SHOWN = GRAPH["report"].settings
_HIDDEN = {"data.path", "knowledge.base_url", "knowledge.api_key"}
_SHORT_SPAN = dt.timedelta(days=3)


def report(settings: Settings, window: Window = Window()) -> Manifest:
    """Write `report.html`, and `findings.json` with its sentences, from the window's artifacts."""
    store = artifact_store(settings)
    parts = {name: store.get(name, window) for name in GRAPH["report"].reads} | {
        "drift": measure_drift(settings, window)
    }
    return store.build(
        "report",
        window,
        inputs={name: manifest.digest for name, manifest in parts.items()},
        settings={"project": settings.project, "changed": changed_settings(settings)},
        rooms=GRAPH["report"].rooms,
        builder=lambda out: _write(out, declared(settings, "report"), parts),
    )


def changed_settings(settings: Settings) -> dict[str, str]:
    """Dotted name and value of every setting that shapes a model and differs from its default."""
    given, default = ({name: getattr(s, name) for name in _SHOWN} for s in (settings, Settings.model_construct()))
    changed: dict[str, str] = {}
    for section in _SHOWN:
        now, usual = (_flat(body[section].model_dump(mode="json"), section) for body in (given, default))
        changed |= {key: _shown(value) for key, value in now.items() if value != usual.get(key)}
    return {key: value for key, value in changed.items() if key not in _HIDDEN}


def _flat(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {key: v for part, body in value.items() for key, v in _flat(body, f"{name}.{part}").items()}
    return {name: value}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _write(out: Path, settings: Settings, parts: dict[str, Manifest]) -> Built:
    content = _content(settings, parts)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "count": "{:,}".format, "interval": _interval, "loss": _loss}
    (out / "report.html").write_text(environment.get_template("report.html.j2").render(**content), encoding="utf-8")
    found = Findings(findings=content["findings"])
    found.write(out)
    alarms = sum(one.level == "alarm" for one in found.findings)
    return Built(rows={"findings": len(found.findings), "alarms": alarms})


def _content(settings: Settings, parts: dict[str, Manifest]) -> dict[str, Any]:
    scores = parts["evaluate"].path
    metrics, lift = Metrics.read(scores), Lift.read(scores)
    vectors = [f"{view}_row" for view in DatasetSpec.read(parts["dataset"].path).vectors if is_of(view, "user")]
    columns = ["user_id", "item_id", "scenario", "label", "split", "event_timestamp", *vectors]
    rows = read_rows(parts["dataset"].path, columns)
    # Every stage imports this file; only this one draws.
    from pipeline import plots

    rejected = _rejected(parts["validate"])
    withdrawn = {name: parts["validate"].rows.get(f"withdrawn_{name}", 0) for name in ("users", "items")}
    verdict, drift = Promotion.read(parts["promote"].path), Drift.read(parts["drift"].path)
    curves, controls = Curves.read(parts["train"].path).by_system, Controls.read(parts["controls"].path)
    rungs = ladder(metrics, Ladder.read(scores), controls)
    texts = bool(parts["knowledge"].rows.get("item_text", 1))
    return {
        "project": settings.project,
        "settings": settings,
        "changed": changed_settings(settings),
        "cold_rows": settings.promotion.cold_rows,
        "window": {name: _day(edge) for name, edge in parts["ingest"].window.items()},
        "came_in": _came_in(parts["ingest"]),
        "withdrawn": withdrawn,
        "rejected": rejected,
        "data_docs": _data_docs(parts),
        "log": _span(rows),
        "test": _span(rows.filter(pc.equal(rows["split"], "test"))),
        "scenarios": _scenario_rows(rows),
        "splits": _counts(rows["split"]),
        "drawn": parts["dataset"].rows.get("sampled", 0),
        "metrics": metrics,
        "lift": lift,
        "ladder": rungs,
        "worth": worth(controls, texts),
        "verdict": verdict,
        "best_epoch": {name: BundleMetrics.read(parts["train"].file(f"bundle_{name}")).best_epoch for name in curves},
        "versions": parts["knowledge"].versions,
        "artifacts": {name: manifest.digest for name, manifest in parts.items()},
        "plots": {
            "ladder": Markup(plots.ladder(rungs)),
            "lift": Markup(plots.lift(lift)),
            "curves": Markup(plots.curves(curves)),
            "calibration": Markup(plots.calibration(metrics.knowledge)),
            "volume": Markup(plots.volume(rows)),
            "drift": Markup(plots.drift(drift)) if drift.features else None,
        },
        "drift": drift,
        "findings": findings(
            metrics=metrics,
            lift=lift,
            over_counting=OverCounting.read(scores),
            verdict=verdict,
            drift=drift,
            rejected=rejected,
            rows_in=sum(parts["ingest"].rows.values()),
            unknown_share=unknown_share(rows),
            texts=texts,
            withdrawn=withdrawn,
            controls=controls,
        ),
    }


def unknown_share(rows: pa.Table) -> float:
    """Share of rows whose user has no vector of any kind; 0 where no kind is read."""
    vectors = [f"{kind.view}_row" for kind in kinds_of("user") if f"{kind.view}_row" in rows.column_names]
    return min((rows[name].null_count for name in vectors), default=0) / max(rows.num_rows, 1)


def _came_in(source: Manifest) -> dict[str, int]:
    return {name: source.rows[name] for name in ("interactions", "users", "items", "scenarios") if name in source.rows}


def _span(rows: pa.Table) -> dict[str, Any]:
    """Rows, users and the first and last day of some rows; with the minute where they span few days."""
    edges = pc.min_max(rows["event_timestamp"]).as_py()
    first, last = edges["min"], edges["max"]
    digits = 10 if first is None or last - first > _SHORT_SPAN else 16
    return {
        "rows": rows.num_rows,
        "users": pc.count_distinct(rows["user_id"]).as_py(),
        "first": first and str(first)[:digits],
        "last": last and str(last)[:digits],
    }


def _day(moment: Any) -> str | None:
    """A day, or the minute where it is not midnight."""
    if moment is None:
        return None
    text = str(moment).replace("T", " ")
    return text[:10] if text[11:19] in ("", "00:00:00") else text[:16]


def _data_docs(parts: dict[str, Manifest]) -> list[tuple[str, str]]:
    """Each gate's name and the way from the report to its pages."""
    gates = {"source": "validate", "knowledge": "knowledge", "online store": "materialize", "training table": "dataset"}
    pages = {gate: parts[stage].path / DATA_DOCS / "index.html" for gate, stage in gates.items()}
    return [
        (gate, f"../../{gates[gate]}/{parts[gates[gate]].path.name}/{DATA_DOCS}/index.html")
        for gate, page in pages.items()
        if page.is_file()
    ]


def _scenario_rows(rows: pa.Table) -> list[dict[str, Any]]:
    grouped = rows.group_by("scenario").aggregate(
        [("label", "count"), ("label", "mean"), ("user_id", "count_distinct"), ("item_id", "count_distinct")]
    )
    return sorted(grouped.to_pylist(), key=lambda r: (-r["label_count"], r["scenario"]))


def _rejected(clean: Manifest) -> list[dict[str, Any]]:
    found = []
    for path in sorted(clean.path.glob("quarantine_*.parquet")):
        rules = _counts(pq.read_table(path, columns=["rule"])["rule"])
        table = path.stem.removeprefix("quarantine_")
        found += [{"table": table, "rule": rule, "rows": count} for rule, count in rules.items()]
    return found


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    found = sorted(pc.value_counts(column).to_pylist(), key=lambda v: (-v["counts"], str(v["values"])))
    return {v["values"]: v["counts"] for v in found}


def _number(value: float | None, digits: int = 4, sign: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def _interval(change: Change) -> str:
    """Both ends of an interval; a dash where there is none."""
    return "–" if change.low is None else f"{_number(change.low, sign=True)} to {_number(change.high, sign=True)}"


def _loss(change: Change) -> str:
    """Whether log loss is better, worse or alike, as a class of the page."""
    return change.says if change.says in ("better", "worse") else ""
