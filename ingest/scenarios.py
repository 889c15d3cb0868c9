"""Which scenario a row belongs to, and whether it is positive."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import pyarrow as pa

from core.errors import SettingsError
from core.settings import DataSettings, ScenarioRule
from core.tables import SCENARIOS
from ingest.source import Source


def slug(value: str) -> str:
    """A lower-case name of letters, digits and `_`: `Sci-Fi` is `sci_fi`, `Children's` is `childrens`."""
    return re.sub(r"\W+", "_", value.replace("'", "").lower()).strip("_")


class ScenarioMap:
    """Maps the values a rule looks at to scenario names.

    Without groups each value is its own scenario: by its slug for the rules `first_genre` and `source`, unchanged for
    `age` and `column`. With groups a value in none of them belongs to `other`, or to no scenario (null) if there is
    no `other`.

    Args:
        settings: groups and other.
        rule: the rule in force, which may be the source's default.

    Raises:
        SettingsError: a value is in two groups.
    """

    def __init__(self, settings: ScenarioRule, rule: str) -> None:
        self.settings = settings
        self._key: Callable[[str], str] = slug if rule in ("first_genre", "source") else str
        self._groups: dict[str, str] = {}
        for name, values in settings.groups.items():
            for value in values:
                other = self._groups.setdefault(self._key(value), name)
                if other != name:
                    raise SettingsError(f"data.scenario.groups: {value!r} is in {other!r} and in {name!r}")

    def name(self, value: str | None) -> str | None:
        """The scenario of one value; null for a value that has none."""
        if not value:
            return self.settings.other
        key = self._key(value)
        return self._groups.get(key, self.settings.other) if self._groups else key

    def apply(self, values: pa.Array) -> pa.Array:
        """The scenarios of a column of values, string [n] -> string [n]."""
        encoded = values.dictionary_encode(null_encoding="encode")
        names = pa.array([self.name(value) for value in encoded.dictionary.to_pylist()], pa.string())
        return names.take(encoded.indices)

    def names(self, values: Iterable[str]) -> list[str]:
        """The scenarios there are: groups and `other` as the settings order them, else those of `values`."""
        if self._groups:
            return [*self.settings.groups, *([self.settings.other] if self.settings.other else [])]
        found = dict.fromkeys(self._key(value) for value in values)
        return [*found, *([self.settings.other] if self.settings.other and self.settings.other not in found else [])]

    def members(self, name: str, values: Iterable[str]) -> list[str]:
        """The values that make a scenario, as a person would read them; empty for `other`."""
        if self._groups:
            return list(self.settings.groups.get(name, []))
        return [value for value in values if self._key(value) == name][:1]


def scenario_table(data: DataSettings, source: Source, mapping: ScenarioMap, seen: Iterable[str]) -> pa.Table:
    """One row per scenario: what the settings say about it, else a default title and sentence.

    Args:
        data: the settings' `data` section.
        source: knows its values and what they mean.
        mapping: from values to scenarios.
        seen: scenarios of the rows read.

    Returns:
        A table of `core.tables.SCENARIOS`: groups in the settings' order, then `other`, then what `data.scenarios`
        declares or, where it declares nothing, what was seen, sorted.
    """
    values = source.values()
    # Whoever declares scenarios means all of them: a value that is not among them is for validation to reject.
    undeclared = () if data.scenarios else sorted(seen)
    names = dict.fromkeys([*mapping.names(values), *data.scenarios, *undeclared])
    rows = []
    for name in names:
        if name in data.scenarios:
            title, description = data.scenarios[name].title, data.scenarios[name].description
        else:
            members = mapping.members(name, values)
            known = members or name in (mapping.settings.other,)
            title = name.replace("_", " ").capitalize()
            description = source.describe(members if known else [name])
        rows.append({"scenario": name, "title": title, "description": description})
    return pa.Table.from_pylist(rows, schema=SCENARIOS)
