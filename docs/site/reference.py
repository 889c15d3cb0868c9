"""The reference pages, made from the code: settings, commands, tables, and what each room offers in Python."""

from __future__ import annotations

import ast
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("core", "ingest", "knowledge", "validation", "models", "feature_repo", "bento", "pipeline")
# What a program uses of rooms whose faces are commands or a service.
OFFERED = {"pipeline": ("pipeline.stages", "pipeline.run.run_all"), "bento": ("bento.service.Ranker",)}


def pages() -> Iterator[tuple[str, str]]:
    """Name and Markdown of each page."""
    yield "settings", settings_page()
    yield "commands", commands_page()
    yield "tables", tables_page()
    yield "formats", formats_page()
    for room in ROOMS:
        yield room, room_page(room)


def settings_page() -> str:
    """Every field of the settings: type, default, what it is for."""
    from core.settings import Settings

    lines = [
        "# Settings",
        "",
        "One YAML file. Each field can be overridden by a variable, `LLM4MSR_SECTION__FIELD`; secrets come from the environment only. "
        "`llm4msr init --all` writes a file with all of it.",
        "",
    ]
    plain = {name: field for name, field in Settings.model_fields.items() if _model(field.annotation) is None}
    lines += ["## At the top", "", *_field_table("", plain)]
    for name, field in Settings.model_fields.items():
        model = _model(field.annotation)
        if model is not None:
            told = _first_lines(model)
            lines += [f"## {name}", "", *([told, ""] if told else []), *_field_table(f"{name}.", model.model_fields)]
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Every command with its options, as the command line declares them."""
    import typer

    from pipeline.cli import app

    command = typer.main.get_command(app)
    lines = ["# Commands", "", _text(command.help), ""]
    return "\n".join(lines + list(_command_lines(command, "llm4msr"))) + "\n"


def tables_page() -> str:
    """The canonical tables."""
    from core import tables

    ids = tables.IdTypes(pa.int64(), pa.int64())
    schemas = {
        "interactions": (tables.interactions_schema(ids), tables.interactions_schema.__doc__),
        "users": (tables.users_schema(ids), tables.users_schema.__doc__),
        "items": (tables.items_schema(ids), tables.items_schema.__doc__),
        "scenarios": (tables.SCENARIOS, "The scenarios, and one sentence about each."),
    }
    lines = [
        "# Canonical tables",
        "",
        _text(tables.__doc__),
        "",
        "Ids are shown as int64; where the source has text, they are strings.",
        "",
    ]
    for name, (schema, told) in schemas.items():
        lines += [f"## {name}", "", _text(told), "", "| column | type | may be empty |", "|---|---|---|"]
        lines += [f"| `{field.name}` | {field.type} | {'yes' if field.nullable else 'no'} |" for field in schema]
        lines.append("")
    return "\n".join(lines)


def formats_page() -> str:
    """The files that one room writes and another reads, as their contracts declare them."""
    from core.contracts import bundle_spec, catalogue_spec, chain, dataset_spec, kinds, pointers, statistics

    files = {
        "dataset: `spec.json`": dataset_spec.DatasetSpec,
        "bundle: `spec.json`": bundle_spec.BundleSpec,
        "catalogue: `spec.json`": catalogue_spec.CatalogueSpec,
        "features: `chain.json`": chain.Chain,
        "`root/serving/current.json`": pointers.BundlePointer,
        "`root/serving/catalogue.json`": pointers.CataloguePointer,
        "`root/serving/push.json`": pointers.PushPointer,
    }
    lines = [
        "# Artifacts and pointers",
        "",
        "Every artifact is a folder with a `manifest.json`: its digest, what it was made from, its files with their digests, row counts and versions. `llm4msr verify` reads all again. "
        "What rooms read of one another beside tables is in these files; each is a type in `core/contracts`, with the formats that this version reads.",
        "",
    ]
    for name, contract in files.items():
        told = _text(contract.__doc__).split("\n\n")[0]
        formats = ", ".join(map(str, contract.READABLE))
        lines += [f"## {name}", "", f"{told} Formats: {formats}.", "", "| field | type | what |", "|---|---|---|"]
        meanings = _attributes(contract)
        for key, field in contract.model_fields.items():
            lines.append(f"| `{key}` | {_cell(_type(field.annotation))} | {_cell(meanings.get(key, ''))} |")
        lines.append("")
    lines += ["## Kinds of knowledge", "", "| name | view | of | lag by default |", "|---|---|---|---|"]
    lines += [f"| `{one.name}` | `{one.view}` | {one.entity} | {_default(one.lag)} |" for one in kinds.KINDS]
    lines += ["", "## Statistics", "", "| name | type | read as | where missing |", "|---|---|---|---|"]
    for one in statistics.STATISTICS:
        read, missing = "log(1 + x)" if one.logarithm else "x", one.missing
        lines.append(
            f"| `{one.name}` | {one.type} | {read} | {missing if missing != 'prior_rate' else '`features.prior_rate`'} |"
        )
    return "\n".join(lines) + "\n"


def room_page(room: str) -> str:
    """What a room offers, for mkdocstrings to fill in."""
    offered = OFFERED.get(room) or tuple(sorted(f"{home}.{name}" for name, home in _homes(room).items()))
    told = ast.get_docstring(ast.parse((REPOSITORY / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    lines = [f"# {room} in Python", "", _text(told), "", f"What the room is for: [{room}](../rooms/{room}.md).", ""]
    return "\n".join(lines) + "".join(f"\n::: {name}\n" for name in offered)


def _homes(room: str) -> dict[str, str]:
    """Public name to the module that defines it, read from the room's face without importing it."""
    body = ast.parse((REPOSITORY / room / "__init__.py").read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for node in ast.walk(body):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{room}."):
            found |= {name.name: str(node.module) for name in node.names}
        if (
            isinstance(node, ast.Assign)
            and getattr(node.targets[0], "id", "") == "_HOME"
            and isinstance(node.value, ast.Dict)
        ):
            found |= {key: f"{room}.{home}" for key, home in ast.literal_eval(node.value).items()}
    return found


def _command_lines(command: Any, name: str) -> Iterator[str]:
    given = [one for one in command.params if one.name != "help" and not one.hidden]
    if name != "llm4msr":
        arguments = [one for one in given if one.param_type_name == "argument"]
        spelled = " ".join(one.name.upper() if one.required else f"[{one.name.upper()}]" for one in arguments)
        yield from (
            f"## {name.removeprefix('llm4msr ')}",
            "",
            f"    {name} {spelled}".rstrip(),
            "",
            _text(command.help),
            "",
        )
    if given:
        yield from ("| option | default | what |", "|---|---|---|")
        for one in given:
            names = [one.name.upper()] if one.param_type_name == "argument" else [*one.opts, *one.secondary_opts]
            default = "must be given" if one.required else _default(one.default)
            yield f"| {', '.join(f'`{part}`' for part in names)} | {default} | {_cell(one.help or '')} |"
        yield ""
    for key, inner in sorted(getattr(command, "commands", {}).items()):
        if not inner.hidden:
            yield from _command_lines(inner, f"{name} {key}")


def _field_table(prefix: str, fields: dict[str, FieldInfo]) -> list[str]:
    rows = list(_field_rows(prefix, fields))
    return ["| field | type | default | what |", "|---|---|---|---|", *rows, ""]


def _field_rows(prefix: str, fields: dict[str, FieldInfo]) -> Iterator[str]:
    for name, field in fields.items():
        key = f"{prefix}{field.alias or name}"
        inner = _model(field.annotation)
        where = f"{key}.NAME." if inner is not None and typing.get_origin(field.annotation) is dict else f"{key}."
        default = field.get_default(call_default_factory=True)
        optional = inner is None or default is None or default == {}
        if optional:
            yield f"| `{key}` | {_cell(_type(field.annotation))} | {_default(default)} | {_cell(field.description or '')} |"
        if inner is not None:
            yield from _field_rows(where, inner.model_fields)


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, alone, as an option, or by name."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    found = [model for part in typing.get_args(annotation) if (model := _model(part))]
    return found[0] if found else None


def _type(annotation: Any) -> str:
    """A type in the words of a settings file."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(parts[0])
    if origin is typing.Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in parts)
    if origin in (dict, Mapping):
        return f"mapping of {_type(parts[0])} to {_type(parts[1])}"
    if origin in (list, tuple, set, frozenset):
        return "list of " + " or ".join(dict.fromkeys(_type(part) for part in parts if part is not ...))
    if annotation is Any:
        return "anything"
    names = {
        type(None): "none",
        str: "text",
        bool: "true or false",
        int: "whole number",
        float: "number",
        SecretStr: "secret",
    }
    return names.get(annotation) or {"timedelta": "duration", "datetime": "time", "Path": "path"}.get(
        getattr(annotation, "__name__", ""), getattr(annotation, "__name__", str(annotation))
    )


def _default(value: Any) -> str:
    if value is PydanticUndefined or value is ...:
        return "must be given"
    if value is None or value == "" or callable(value):
        return "none" if value is None or callable(value) else "empty"
    plain = to_jsonable_python(value)
    shown = "[" + ", ".join(map(str, plain)) + "]" if isinstance(plain, list) else str(plain)
    return f"`{shown.lower() if isinstance(plain, bool) else shown}`".replace("|", "\\|")


def _first_lines(model: type[BaseModel]) -> str:
    own = model.__doc__ or ""
    return _text(own) if own and own != BaseModel.__doc__ else ""


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """What the docstrings of a model, and of those it is made from, say of its fields."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        for line in inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2].splitlines():
            names, _, meaning = line.strip().partition(": ")
            if meaning:
                found |= dict.fromkeys(re.split(", ?", names), meaning)
    return found


def _text(docstring: str | None) -> str:
    return inspect.cleandoc(docstring or "").replace("<", "&lt;")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
