"""A stage's settings as `graph` declares them: what identifies its artifact, and a view that refuses every other field."""

from __future__ import annotations

from typing import Any, cast

from core import Settings
from pipeline.graph import GRAPH

# Known to every stage; they shape no output. A clock that stands still is an input of its own.
_EVERYWHERE = ("root", "project", "file", "clock", "resources")


class UndeclaredSettingError(Exception):
    """A stage read a setting that it does not declare: a change of it would not make the stage run again."""


def shaping(settings: Settings, stage: str) -> dict[str, Any]:
    """The declared fields with their values, `section` -> fields, for the artifact's identity."""
    found: dict[str, Any] = {}
    for section, fields in _declared(stage).items():
        values = settings.section(section)[section]
        found[section] = values if fields is None else {name: values[name] for name in sorted(fields)}
    return found


def declared(settings: Settings, stage: str) -> Settings:
    """The settings, of which only the fields can be read that the stage declares.

    Raises:
        UndeclaredSettingError: on reading another one.
    """
    return cast(Settings, _View(settings, stage))


def _declared(stage: str) -> dict[str, set[str] | None]:
    """Section -> its declared fields; None: all of them."""
    found: dict[str, set[str] | None] = {}
    for name in GRAPH[stage].settings:
        section, _, field = name.partition(".")
        if not field:
            found[section] = None
        elif (known := found.setdefault(section, set())) is not None:
            known.add(field)
    return found


class _View:
    def __init__(self, settings: Settings, stage: str) -> None:
        self._settings, self._stage = settings, stage
        self._fields = dict.fromkeys(GRAPH[stage].places) | _declared(stage)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pickle and copy ask for such before there is anything
            raise AttributeError(name)
        if name in _EVERYWHERE:
            return getattr(self._settings, name)
        if name not in self._fields:
            raise _undeclared(self._stage, name)
        fields = self._fields[name]
        section = getattr(self._settings, name)
        return section if fields is None else _Section(section, self._stage, name, fields)

    def section(self, *names: str) -> dict[str, Any]:
        """As that of the settings, for sections that are declared as a whole."""
        for name in names:
            if self._fields.get(name, set()) is not None:
                raise _undeclared(self._stage, name)
        return self._settings.section(*names)

    def model_copy(self, *, update: dict[str, Any]) -> _View:
        """As that of the settings."""
        return _View(self._settings.model_copy(update=update), self._stage)


class _Section:
    def __init__(self, section: Any, stage: str, name: str, fields: set[str]) -> None:
        self._section, self._stage, self._name, self._fields = section, stage, name, fields

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._fields:
            raise _undeclared(self._stage, f"{self._name}.{name}")
        return getattr(self._section, name)


def _undeclared(stage: str, name: str) -> UndeclaredSettingError:
    return UndeclaredSettingError(
        f"stage {stage} reads the setting {name}, which pipeline/graph.py does not declare for it: declare it there, or a change of it "
        "would leave old artifacts standing"
    )
