"""Templates: versioned text files with named sections and a fixed list of fields each section may use.

A field is filled in one pass, so a value that looks like template syntax stays what it is: text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.digest import sha256_text
from core.errors import SettingsError

FOLDER = Path(__file__).resolve().parent / "templates"
_FIELD = re.compile(r"\{(\w+)\}")
_SECTION = re.compile(r"^\[(\w+)\]$")
_STATISTICS = {"rows", "users", "items", "rate"}
# name -> section -> the fields it may use.
SCHEMAS: Mapping[str, Mapping[str, set[str]]] = {
    "user_v3": {
        "prompt": {"scenarios", "history"},
        "scenario": {"title", "description"},
        "named": {"title"},
        "history": {"title", "items", "typical"},
        "typical": {"items"},
        "item": {"text"},
        "nothing": set(),
    },
    "scenario_v2": {
        "prompt": {"own", "others", "title"},
        "scenario": {"title", "description", "statistics"},
        "described": {"lines"},
        "named": {"titles", "more"},
        "more": {"count"},
        "statistics": _STATISTICS,
        "nothing": set(),
    },
    "summary_v1": {
        "user": {"rows", "positives", "scenarios", "nearest"},
        "scenario": {"title", "description", "statistics", "titles", "categories", "nearest"},
        "liked": {"title", "positives", "titles", "categories"},
        "statistics": _STATISTICS,
        "nothing": set(),
    },
}


@dataclass(frozen=True)
class Template:
    """A parsed template. `digest` is part of the version of everything it makes."""

    name: str
    sections: Mapping[str, str]
    digest: str

    def fill(self, section: str, **values: object) -> str:
        """The section's text with its fields replaced, in one pass."""
        return _FIELD.sub(lambda match: str(values[match.group(1)]), self.sections[section])


def load_template(name: str, language: str, folder: Path = FOLDER) -> Template:
    """Read `NAME.LANGUAGE.txt`.

    Raises:
        SettingsError: the file is missing, or has a section or a field that its schema does not know.
    """
    path = folder / f"{name}.{language}.txt"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"template {path} cannot be read ({error.strerror})") from error
    return Template(name, _parse(text, SCHEMAS[name], path), sha256_text(text))


def _parse(text: str, schema: Mapping[str, set[str]], path: Path) -> dict[str, str]:
    lines: dict[str, list[str]] = {}
    current: list[str] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _SECTION.match(line):
            if match.group(1) not in schema:
                raise SettingsError(f"template {path}, line {number}: unknown section; known: {', '.join(schema)}")
            current = lines.setdefault(match.group(1), [])
        elif current is None:
            raise SettingsError(f"template {path}, line {number}: text before the first [section]")
        else:
            current.append(line)
    if missing := set(schema) - set(lines):
        raise SettingsError(f"template {path} lacks the section {', '.join(sorted(missing))}")
    sections = {name: "\n".join(body).strip("\n").rstrip() for name, body in lines.items()}
    for name, body in sections.items():
        if unknown := set(_FIELD.findall(body)) - schema[name]:
            allowed = ", ".join(sorted(schema[name])) or "none"
            raise SettingsError(
                f"template {path}, section [{name}]: unknown field {', '.join(sorted(unknown))}; allowed: {allowed}"
            )
    return sections
