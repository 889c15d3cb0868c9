"""Data Docs: the HTML pages of Great Expectations, from results that are already computed, readable offline.

The library writes pages from a file context only, its pages load their styles and scripts from the network, and its
index is empty without them. So: a file context in a temporary folder renders the merged results of all chunks, links
to the network are taken out, and index.html is ours.
"""

from __future__ import annotations

import html
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from core.clock import Clock
from validation.engine import Tally, expectation, great_expectations
from validation.report import Outcome

_NETWORK = re.compile(
    r"<script\b.*?</script>|<noscript\b.*?</noscript>|<link\b[^>]*>|<img\b[^>]*>|<footer\b.*?</footer>"
    r"|background:\s*url\([^)]*\)[^;]*;",
    re.IGNORECASE | re.DOTALL,
)
_STYLE = """<style>
body{font-family:sans-serif;margin:2rem;max-width:80rem;color:#222;background:#fff}
table{border-collapse:collapse;width:100%;margin:.5rem 0}
th,td{border:1px solid #ccc;padding:.4rem .6rem;text-align:left;vertical-align:top}
.failed{color:#b00020}.passed{color:#1b6e2c}.modal,.ge-breadcrumbs,button,.navbar{display:none}
</style>"""


def write_data_docs(outcomes: list[Outcome], folder: Path, clock: Clock, run_id: str) -> Path:
    """Write one page per table and an index.

    Args:
        outcomes: what was found.
        folder: made anew.
        clock: the time the pages show.
        run_id: the run the pages name.

    Returns:
        The path of index.html.
    """
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="llm4msr-docs-") as scratch:
        site = _render(outcomes, Path(scratch), clock, run_id)
        for outcome in outcomes:
            pages = sorted((site / "validations" / outcome.suite.table).rglob("*.html"))
            text = _NETWORK.sub("", pages[0].read_text(encoding="utf-8")).replace("</head>", f"{_STYLE}</head>", 1)
            text = text.replace("</body>", f"{_reasons(outcome)}</body>", 1)
            (folder / f"{outcome.suite.table}.html").write_text(text, encoding="utf-8")
        shutil.rmtree(scratch, ignore_errors=True)
    index = folder / "index.html"
    index.write_text(_index(outcomes, run_id), encoding="utf-8")
    return index


def _render(outcomes: list[Outcome], scratch: Path, clock: Clock, run_id: str) -> Path:
    gx = great_expectations()
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    context = gx.get_context(mode="file", project_root_dir=scratch)
    # Great Expectations reads a name as a date where it can, and fails at a digest of digits alone.
    run = RunIdentifier(run_name=f"run {run_id}", run_time=clock.now())
    for outcome in outcomes:
        suite = ExpectationSuiteIdentifier(outcome.suite.table)
        key = ValidationResultIdentifier(suite, run_id=run, batch_identifier=outcome.suite.table)
        context.validation_results_store.set(key, _suite_result(outcome, run, clock))
    return Path(context.build_data_docs()["local_site"].removeprefix("file://")).parent


def _suite_result(outcome: Outcome, run: Any, clock: Clock) -> Any:
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult

    ordered = [outcome.tallies[rule.name] for rule in outcome.suite if rule.name in outcome.tallies]
    passed = sum(tally.success for tally in ordered)
    return ExpectationSuiteValidationResult(
        success=passed == len(ordered),
        results=[_result(tally) for tally in ordered],
        suite_name=outcome.suite.table,
        statistics={
            "evaluated_expectations": len(ordered),
            "successful_expectations": passed,
            "unsuccessful_expectations": len(ordered) - passed,
            "success_percent": 100.0 * passed / max(len(ordered), 1),
        },
        meta={
            "great_expectations_version": great_expectations().__version__,
            "run_id": run,
            "validation_time": clock.now().isoformat(),
            "batch_spec": {"file": outcome.file.name},
            "active_batch_definition": {"batch_identifiers": {}},
        },
    )


def _result(tally: Tally) -> Any:
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult

    share = 100.0 * tally.failed / max(tally.checked, 1)
    examples = [f"row {row}: {value}" for row, value in tally.examples]
    if tally.rule.scope in ("table", "note"):
        examples = [value for _, value in tally.examples]
    return ExpectationValidationResult(
        success=tally.success,
        expectation_config=expectation(tally.rule).configuration,
        result={
            "element_count": tally.checked,
            "unexpected_count": tally.failed,
            "unexpected_percent": share,
            "unexpected_percent_total": share,
            "partial_unexpected_list": examples,
        },
        exception_info={"raised_exception": False, "exception_traceback": None, "exception_message": None},
        meta={},
    )


def _reasons(outcome: Outcome) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(rule.name)}</td><td>{rule.scope}</td><td>{html.escape(rule.reason)}</td></tr>"
        for rule in outcome.suite
    )
    head = "<tr><th>rule</th><th>scope</th><th>reason</th></tr>"
    return f'<h2>Why each rule exists</h2><table>{head}{rows}</table><p><a href="index.html">all tables</a></p>'


def _index(outcomes: list[Outcome], run_id: str) -> str:
    rows = []
    for outcome in outcomes:
        body = outcome.as_json()
        table, state = outcome.suite.table, "passed" if body["success"] else "failed"
        word = "every rule kept" if body["success"] else "rows in quarantine"
        reasons = [f"{rule}: {count:,}" for rule, count in body["quarantined_by_rule"].items()] + body["notes"]
        cells = "<br>".join(html.escape(reason) for reason in reasons)
        counts = (outcome.facts[name] for name in ("clean_rows", "rows", "sampled") if name in outcome.facts)
        clean, rejected = int(next(counts, 0)), outcome.facts.get("quarantined", 0)
        rows.append(
            f'<tr><td><a href="{table}.html">{table}</a></td><td class="{state}">{word}</td>'
            f"<td>{clean:,}</td><td>{rejected:,}</td><td>{cells}</td></tr>"
        )
    head = "<tr><th>table</th><th>verdict</th><th>sound rows</th><th>quarantined</th><th>why, and notes</th></tr>"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Data Docs</title>{_STYLE}</head><body>'
        f"<h1>Data Docs</h1><p>Run {html.escape(run_id)}</p><table>{head}{''.join(rows)}</table></body></html>\n"
    )
