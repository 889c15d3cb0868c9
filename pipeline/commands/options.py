"""What the commands share: the settings file and the window."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core import Settings, Window, load_settings
from core.errors import SettingsError

DEFAULT_FILE = Path("llm4msr.yaml")
SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", "-s", envvar="LLM4MSR_SETTINGS", help="settings file [default: ./llm4msr.yaml]"),
]
Start = Annotated[str | None, typer.Option(help="first event time, ISO 8601; none: from the log's start")]
End = Annotated[str | None, typer.Option(help="event time to stop before, ISO 8601; none: to the log's end")]
CatchUp = Annotated[
    bool,
    typer.Option(
        "--catch-up",
        help="begin where the windows before START end, or at the log's start if none was run; decided once per window",
    ),
]


def window_of(settings: Settings, start: str | None, end: str | None, catch_up: bool) -> Window:
    """The window that the options name."""
    from pipeline.windows import caught_up

    window = Window.parse(start, end)
    return caught_up(settings, window) if catch_up else window


def settings_of(path: Path | None) -> Settings:
    """The settings file that was named, or ./llm4msr.yaml.

    Raises:
        SettingsError: there is none.
    """
    if path is None and not DEFAULT_FILE.is_file():
        raise SettingsError("no settings: name a file with --settings, or write one with `llm4msr init`")
    return load_settings(path or DEFAULT_FILE)
