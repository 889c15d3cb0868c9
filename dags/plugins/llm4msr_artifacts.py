"""Pages of the API server that show what a task made: its artifact, and the report and the verdict of its window.

The links of a task lead here. Airflow loads this file where `AIRFLOW__CORE__PLUGINS_FOLDER` names its folder; the API
server then needs `LLM4MSR_SETTINGS` (and `LLM4MSR_ROOT` where it is used) and must be able to read the settings' root.
Whoever may see the DAG may see the pages; they hold the files that a browser can show, never tables of rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Annotated, Any

import yaml
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.plugins_manager import AirflowPlugin
from fastapi import Depends, FastAPI, HTTPException
from fastapi import Path as InPath
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

PREFIX = "/llm4msr"
SHOWN = {".html": "text/html", ".json": "application/json"}
# What a page's own scripts may do must not reach Airflow, whose origin it shares.
SANDBOX = {"Content-Security-Policy": "sandbox allow-scripts allow-popups allow-downloads"}
STYLE = "body{font:15px/1.5 system-ui;margin:2rem auto;max-width:60rem}td,th{text-align:left;padding:0 1rem 0 0}"

Stage = Annotated[str, InPath(pattern=r"^[a-z_]+$")]
Name = Annotated[str, InPath(pattern=r"^[0-9a-f]{16}$")]
app = FastAPI(
    title="llm4msr artifacts",
    docs_url=None,
    openapi_url=None,
    dependencies=[Depends(requires_access_dag(method="GET", param_dag_id="llm4msr"))],
)


@app.get("/artifacts/{stage}/{name}/")
def artifact(stage: Stage, name: Name) -> Response:
    """One artifact: its window, digest, rows, and the files that can be shown."""
    folder, manifest = _folder(stage, name), _manifest(stage, name)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.suffix in SHOWN and p.is_file())
    start, end = (manifest["window"][side] for side in ("start", "end"))
    about = {
        "window": f"{start or 'the start of the log'} to {end or 'its end'}",
        "folder": str(folder),
        "digest": manifest["digest"],
        **{f"rows: {table}": f"{count:,}" for table, count in manifest["rows"].items()},
        **manifest["versions"],
    }
    rows = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in about.items())
    links = "".join(f'<li><a href="files/{escape(str(path))}">{escape(str(path))}</a></li>' for path in files)
    verdict = folder / "verdict.json"
    said = f"<h2>Verdict</h2><pre>{escape(verdict.read_text())}</pre>" if verdict.is_file() else ""
    body = f"""<!doctype html><meta charset="utf-8"><title>{stage} {name}</title><style>{STYLE}</style>
<h1>{stage}</h1><p><a href="report">report</a> and <a href="verdict">verdict</a> of this window</p>
<table>{rows}</table>{said}<h2>Files</h2><ul>{links}</ul>"""
    return HTMLResponse(body, headers=SANDBOX)


@app.get("/artifacts/{stage}/{name}/files/{file:path}")
def show(stage: Stage, name: Name, file: str) -> Response:
    """One file of an artifact, if a browser can show it."""
    folder = _folder(stage, name)
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()) or path.suffix not in SHOWN or not path.is_file():
        raise HTTPException(404, f"{stage} {name} has no file {file!r} that can be shown")
    return FileResponse(path, media_type=SHOWN[path.suffix], headers=SANDBOX)


@app.get("/artifacts/{stage}/{name}/report")
def report(stage: Stage, name: Name) -> Response:
    """The report of the window that an artifact is of."""
    return RedirectResponse(f"../../report/{_of_window('report', _manifest(stage, name))}/files/report.html")


@app.get("/artifacts/{stage}/{name}/verdict")
def verdict(stage: Stage, name: Name) -> Response:
    """What promotion said about the window that an artifact is of."""
    return RedirectResponse(f"../../promote/{_of_window('promote', _manifest(stage, name))}/")


def _root() -> Path:
    settings = Path(os.environ.get("LLM4MSR_SETTINGS") or _default_settings())
    try:
        body = yaml.safe_load(settings.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise HTTPException(404, f"the API server cannot read {settings}; set its LLM4MSR_SETTINGS") from error
    return (settings.resolve().parent / (os.environ.get("LLM4MSR_ROOT") or body.get("root", ".llm4msr"))).resolve()


def _default_settings() -> Path:
    return Path(__file__).resolve().parents[2] / "config" / "production.yaml"


def _folder(stage: str, name: str) -> Path:
    return _root() / "objects" / stage / name


def _manifest(stage: str, name: str) -> dict[str, Any]:
    path = _folder(stage, name) / "manifest.json"
    if not path.is_file():
        raise HTTPException(404, f"there is no {path.parent}: it was removed, or the API server cannot read it")
    return dict(json.loads(path.read_text()))


def _of_window(stage: str, artifact: dict[str, Any]) -> str:
    """The name of a stage's artifact of the same window."""
    for name in _names(stage):
        if _manifest(stage, name)["window"] == artifact["window"]:
            return name
    raise HTTPException(404, f"the stage {stage} of this window has not run yet")


def _names(stage: str) -> Iterator[str]:
    for ref in sorted((_root() / "refs" / stage).glob("*.json")):
        if ref.stem != "latest":
            yield json.loads(ref.read_text())["object"]


class ArtifactPages(AirflowPlugin):
    """Adds the pages to the API server."""

    name = "llm4msr_artifacts"
    fastapi_apps = [{"app": app, "name": "llm4msr artifacts", "url_prefix": PREFIX}]
