"""`llm4msr models list`: every backbone with its source, its size and its cost per row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from core import Settings
from models.backbones import BACKBONES, Inputs, Shape, build_backbone
from models.data import ITEM_STATS, USER_STATS
from models.inputs import ITEM_ID, USER_ID, Layout
from models.ranker import Head, user_vectors_read

ROWS = 1024  # Per scenario: what is generated once per step is shared by that many rows.


class Entry(NamedTuple):
    """A line of the list.

    Args:
        name: as in `model.backbone`.
        title: its name in print.
        source: paper and where to find it.
        parameters: of the backbone alone, without tables and meta levels.
        flops: of its matrix products, per row; a multiplication and an addition are two.
        options: what `model.backbone_options` may set, with the values in use.
        chosen: whether the settings name it.
    """

    name: str
    title: str
    source: str
    parameters: int
    flops: int
    options: dict[str, object]
    chosen: bool


def shape_of(settings: Settings, scenarios: int | None = None) -> Shape:
    """The shape of x that a model of these settings reads.

    Args:
        settings: data, features, knowledge and model count.
        scenarios: S; none: as many as the settings name, or 3 where they name none.
    """
    data, knowledge = settings.data, settings.knowledge
    groups = [*data.scenario.groups, *([data.scenario.other] if data.scenario.other else [])]
    count = scenarios or len(groups) or len(data.scenarios) or 3
    dense = len(data.user_dense) + len(data.item_dense) + len(USER_STATS) + len(ITEM_STATS)
    layout = Layout(
        user=(USER_ID, *data.user_categorical),
        item=(ITEM_ID, *data.item_categorical),
        rows={},
        history=settings.features.history_length > 0,
        dense=dense,
        scenarios=tuple(str(number) for number in range(count)),
        user_vectors=dict.fromkeys(user_vectors_read(settings.model), knowledge.user_dim),
        scenario_dim=knowledge.user_dim,
        item_dim=knowledge.item_dim,
    )
    return Head(settings.model, layout).shape


def entries(settings: Settings, shape: Shape) -> Iterator[Entry]:
    """All backbones: the chosen one with the settings' options, the others with their defaults."""
    for name, backbone in BACKBONES.items():
        chosen = name == settings.model.backbone
        update: dict[str, Any] = (
            {} if chosen else {"backbone": name, "backbone_options": {}, "hidden": None, "tower": None}
        )
        module = build_backbone(settings.model.model_copy(update=update), shape).eval()
        options = {field.name: getattr(module.config, field.name) for field in fields(backbone.config)[1:]}
        parameters = sum(parameter.numel() for parameter in module.parameters())
        yield Entry(name, backbone.title, backbone.source, parameters, _flops(module, shape), options, chosen)


def listing(settings: Settings, scenarios: int | None = None) -> str:
    """The list as text.

    Args:
        settings: see `shape_of`.
        scenarios: see `shape_of`.
    """
    shape = shape_of(settings, scenarios)
    rest = shape.inputs - shape.fields * shape.dim
    lines = [
        f"x has {shape.inputs} numbers ({shape.fields} fields of {shape.dim}, {rest} others); {shape.scenarios} scenarios; "
        "* is the chosen one. Sizes are those of the backbone alone.",
        "",
        f"  {'name':<14}{'parameters':>11}{'FLOPs/row':>11}  source",
    ]
    for entry in entries(settings, shape):
        mark, options = "*" if entry.chosen else " ", ", ".join(f"{k} {_plain(v)}" for k, v in entry.options.items())
        title = f"{entry.title}: {entry.source}"
        lines += [f"{mark} {entry.name:<14}{entry.parameters:>11,}{entry.flops:>11,}  {title}", f"{'':40}{options}"]
    return "\n".join(lines)


def _plain(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else "none" if value is None else str(value)


def _flops(module: torch.nn.Module, shape: Shape) -> int:
    scenario = torch.arange(shape.scenarios).repeat_interleave(ROWS)
    # With gradients: without them products run in one with their bias, which the counter does not know.
    with FlopCounterMode(display=False) as counter:
        module(Inputs.of(torch.zeros(len(scenario), shape.inputs), scenario, shape))
    return round(counter.get_total_flops() / len(scenario))
