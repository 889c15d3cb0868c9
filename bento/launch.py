"""BentoML's command line with the log in the form that was asked for, from the first line on.

Run as `python -m bento.launch serve bento.service:Ranker ...`, with LLM4MSR_LOG_FORMAT.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from bento.bentoml_names import start_workers_by
from bento.logs import json_everywhere, keep_ours
from core import configure, logger

LOG = logger("serve")
VARIABLE, WORKERS = "LLM4MSR_LOG_FORMAT", "LLM4MSR_SERVING__WORKERS"


def prepare() -> bool:
    """Set up this process's log; whether it is JSON."""
    form = os.environ.get(VARIABLE, "human")
    configure(form)
    keep_ours()
    if form == "json":
        json_everywhere()
    return form == "json"


def run(command: Any) -> None:
    """Run a command of BentoML's; what it would print on failing is a line of the log where that is JSON."""
    if not prepare():
        command()
        return
    import click

    try:
        command(standalone_mode=False)
    except click.ClickException as error:
        LOG.error("%s", error.format_message())
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(1)


def main() -> None:
    """As `bentoml`; but `--api-workers` counts."""
    options = iter(sys.argv)
    if "--api-workers" in options:
        # BentoML takes the option and reads its own configuration alone.
        os.environ[WORKERS] = next(options, "1")
    try:
        start_workers_by("bento.worker")
    except (ImportError, AttributeError):
        LOG.warning("BentoML starts its processes otherwise in this version; their first lines may be no JSON")
    from bentoml_cli.cli import cli

    run(cli)


if __name__ == "__main__":
    main()
