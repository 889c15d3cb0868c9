"""The report: one HTML file that opens offline and says what came in, how good the model is, and what to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import Built, Manifest, Settings, Window
from pipeline import plots
from pipeline.drift import measure_drift
from pipeline.stages import DATA_DOCS, artifact_store

TEMPLATES = Path(__file__).parent / "templates"
_COLD_SHARE = 0.5
_CALIBRATION_BAND = (0.9, 1.1)


def report(settings: Settings, window: Window = Window()) -> Manifest:  # noqa: B008
    """Write `report.html` from the window's artifacts."""
    store = artifact_store(settings)
    names = (
        "ingest",
        "validate",
        "features",
        "knowledge",
        "materialize",
        "dataset",
        "train",
        "evaluate",
        "promote",
    )
    parts = {name: store.get(name, window) for name in names} | {"drift": measure_drift(settings, window)}
    return store.build(
        "report",
        window,
        inputs={name: manifest.digest for name, manifest in parts.items()},
        settings={"project": settings.project},
        rooms=("core", "pipeline"),
        builder=lambda out: _write(out, settings, parts),
    )


def _write(out: Path, settings: Settings, parts: dict[str, Manifest]) -> Built:
    content = _content(settings, parts)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    environment.filters["number"] = _number
    (out / "report.html").write_text(environment.get_template("report.html.j2").render(**content), encoding="utf-8")
    return Built(rows={"findings": len(content["findings"])})


def _content(settings: Settings, parts: dict[str, Manifest]) -> dict[str, Any]:
    metrics, lift = _json(parts["evaluate"], "metrics.json"), _json(parts["evaluate"], "lift.json")
    vectors = [f"{kind}_row" for kind in _json(parts["dataset"], "spec.json")["vectors"] if kind.startswith("user_")]
    columns = ["user_id", "item_id", "scenario", "label", "split", "event_timestamp", *vectors]
    rows = pq.read_table(parts["dataset"].file("rows.parquet"), columns=columns)
    rejected = _rejected(parts["validate"])
    verdict, drift = _json(parts["promote"], "verdict.json"), _json(parts["drift"], "drift.json")
    return {
        "project": settings.project,
        "cold_rows": settings.promotion.cold_rows,
        "window": parts["ingest"].window,
        "rows_in": parts["ingest"].rows,
        "rejected": rejected,
        "data_docs": _data_docs(parts),
        "scenarios": _scenario_rows(rows),
        "splits": _counts(rows["split"]),
        "metrics": metrics,
        "lift": lift,
        "verdict": verdict,
        "versions": parts["knowledge"].versions,
        "artifacts": {name: manifest.digest for name, manifest in parts.items()},
        "lift_plot": plots.lift(lift),
        "curve_plot": plots.curves(_json(parts["train"], "curves.json")),
        "calibration_plot": plots.calibration(metrics["knowledge"]),
        "volume_plot": plots.volume(rows),
        "drift": drift,
        "drift_plot": plots.drift(drift) if drift["features"] else None,
        "findings": _findings(parts["ingest"], rejected, metrics, lift, verdict, rows) + _drift_findings(drift),
    }


def _findings(
    source: Manifest,
    rejected: list[dict[str, Any]],
    metrics: dict[str, Any],
    lift: dict[str, Any],
    verdict: dict[str, Any],
    rows: pa.Table,
) -> list[str]:
    """What a person should look at, most pressing first."""
    found = [
        f"{name}: knowledge made it worse (AUC {change['auc']['difference']:+.4f}, the interval excludes zero)."
        for name, change in lift["scenarios"].items()
        if change["auc"]["says"] == "worse"
    ]
    if not verdict["promote"]:
        found.append(f"The new model was not promoted: {verdict['reason']}.")
    total = sum(r["rows"] for r in rejected)
    if total:
        share = total / max(sum(source.rows.values()), 1)
        found.append(f"{total:,} rows ({share:.2%}) are in quarantine; the rules that rejected them are listed below.")
    for name, values in metrics["knowledge"]["scenarios"].items():
        ratio = (values.get("calibration") or {}).get("ratio")
        if ratio is not None and not _CALIBRATION_BAND[0] <= ratio <= _CALIBRATION_BAND[1]:
            found.append(
                f"{name}: predicted over observed positives is {ratio:.2f}; scores of scenarios are not comparable."
            )
    vectors = [name for name in rows.column_names if name.startswith("user_") and name.endswith("_row")]
    unknown = min((rows[name].null_count for name in vectors), default=0) / max(rows.num_rows, 1)
    if unknown > _COLD_SHARE:
        found.append(f"{unknown:.0%} of the rows have no user knowledge yet; look at knowledge.thresholds and lags.")
    untold = [n for n, change in lift["scenarios"].items() if not change["auc"]["told"]]
    if untold:
        found.append(f"No difference can be told in {', '.join(untold)}: too few users, or no effect.")
    return found


def _data_docs(parts: dict[str, Manifest]) -> list[tuple[str, str]]:
    """Each gate's name and the way from the report to its pages."""
    gates = {"source": "validate", "knowledge": "knowledge", "online store": "materialize", "training table": "dataset"}
    pages = {gate: parts[stage].path / DATA_DOCS / "index.html" for gate, stage in gates.items()}
    return [
        (gate, f"../../{gates[gate]}/{parts[gates[gate]].path.name}/{DATA_DOCS}/index.html")
        for gate, page in pages.items()
        if page.is_file()
    ]


def _drift_findings(drift: dict[str, Any]) -> list[str]:
    """The feature that drifted most, and how many others did."""
    sizes = [(drift["features"][name][group]["psi"], name, group) for name, group in drift["drifted"]]
    if not sizes:
        return []
    psi, name, group = max(sizes)
    where = "all rows" if group == "all" else group
    others = f"; {len(sizes) - 1} more pairs of feature and scenario drifted" if len(sizes) > 1 else ""
    return [f"{name} in {where} drifted from the champion's training data (stability index {psi:.2f}){others}."]


def _scenario_rows(rows: pa.Table) -> list[dict[str, Any]]:
    grouped = rows.group_by("scenario").aggregate(
        [("label", "count"), ("label", "mean"), ("user_id", "count_distinct"), ("item_id", "count_distinct")]
    )
    return sorted(grouped.to_pylist(), key=lambda r: -r["label_count"])


def _rejected(clean: Manifest) -> list[dict[str, Any]]:
    found = []
    for path in sorted(clean.path.glob("quarantine_*.parquet")):
        rules = _counts(pq.read_table(path, columns=["rule"])["rule"])
        table = path.stem.removeprefix("quarantine_")
        found += [{"table": table, "rule": rule, "rows": count} for rule, count in rules.items()]
    return found


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {v["values"]: v["counts"] for v in sorted(pc.value_counts(column).to_pylist(), key=lambda v: -v["counts"])}


def _json(manifest: Manifest, name: str) -> Any:
    return json.loads(manifest.file(name).read_text(encoding="utf-8"))


def _number(value: float | None, digits: int = 4, sign: bool = False) -> str:
    return "undefined" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"
