"""Backbones: one file each, with a frozen config and a module `forward(Inputs) -> logit [B]`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from torch import nn

from core.errors import SettingsError
from core.settings import ModelSettings
from models.backbones.adaptdhm import AdaptDHM, AdaptDHMConfig
from models.backbones.adasparse import AdaSparse, AdaSparseConfig
from models.backbones.aitm import AITM, AITMConfig
from models.backbones.deepfm import DeepFM, DeepFMConfig
from models.backbones.epnet import EPNet, EPNetConfig
from models.backbones.hamur import HAMUR, HAMURConfig
from models.backbones.inputs import Inputs, Shape
from models.backbones.m2m import M2M, M2MConfig
from models.backbones.m3oe import M3oE, M3oEConfig
from models.backbones.mmoe import MMoE, MMoEConfig
from models.backbones.omoe import OMoE, OMoEConfig
from models.backbones.ple import PLE, PLEConfig
from models.backbones.ppnet import PPNet, PPNetConfig
from models.backbones.sar_net import SARNet, SARNetConfig
from models.backbones.shared_bottom import SharedBottom, SharedBottomConfig
from models.backbones.star import Star, StarConfig


class Backbone(NamedTuple):
    """What there is to know of a backbone.

    Args:
        title: its name in print.
        source: paper and where to find it.
        config: its config; field `shape` is filled in, all others are options.
        module: made from a config.
    """

    title: str
    source: str
    config: type[Any]
    module: type[nn.Module]


BACKBONES = {
    "shared_bottom": Backbone("Shared Bottom", "Caruana, Machine Learning 28 (1997)", SharedBottomConfig, SharedBottom),
    "omoe": Backbone("OMoE", "Ma et al., KDD 2018 (its one-gate baseline)", OMoEConfig, OMoE),
    "mmoe": Backbone("MMoE", "Ma et al., KDD 2018, doi 10.1145/3219819.3220007", MMoEConfig, MMoE),
    "ple": Backbone("PLE", "Tang et al., RecSys 2020, doi 10.1145/3383313.3412236", PLEConfig, PLE),
    "aitm": Backbone("AITM", "Xi et al., KDD 2021, arXiv 2105.08489", AITMConfig, AITM),
    "star": Backbone("STAR", "Sheng et al., CIKM 2021, arXiv 2101.11427", StarConfig, Star),
    "sar_net": Backbone("SAR-Net", "Shen et al., CIKM 2021, arXiv 2110.06475", SARNetConfig, SARNet),
    "m2m": Backbone("M2M", "Zhang et al., WSDM 2022, arXiv 2201.06814", M2MConfig, M2M),
    "adasparse": Backbone("AdaSparse", "Yang et al., CIKM 2022, arXiv 2206.13108", AdaSparseConfig, AdaSparse),
    "adaptdhm": Backbone("AdaptDHM", "Li et al., arXiv 2211.12105", AdaptDHMConfig, AdaptDHM),
    "epnet": Backbone("EPNet", "Chang et al., KDD 2023, arXiv 2302.01115", EPNetConfig, EPNet),
    "ppnet": Backbone("PPNet", "Chang et al., KDD 2023, arXiv 2302.01115", PPNetConfig, PPNet),
    "hamur": Backbone("HAMUR", "Li et al., CIKM 2023, arXiv 2309.06217", HAMURConfig, HAMUR),
    "m3oe": Backbone("M3oE", "Zhang et al., SIGIR 2024, arXiv 2404.18465", M3oEConfig, M3oE),
    "deepfm": Backbone("DeepFM", "Guo et al., IJCAI 2017, arXiv 1703.04247", DeepFMConfig, DeepFM),
}


def build_config(settings: ModelSettings, shape: Shape) -> Any:
    """The config of the backbone that the settings name.

    `hidden`, `tower` and `dropout` of the settings count where they are set and the backbone has them;
    `backbone_options` come before them; what nobody sets is the backbone's own default.

    Raises:
        SettingsError: an option that the backbone does not have, or a value that it cannot take.
    """
    config = BACKBONES[settings.backbone].config
    known = {field.name for field in fields(config)} - {"shape"}
    if unknown := sorted(set(settings.backbone_options) - known):
        raise SettingsError(
            f"model.backbone_options.{unknown[0]}: {settings.backbone} has no such option; it has "
            f"{', '.join(sorted(known))}"
        )
    common = {name: getattr(settings, name) for name in ("hidden", "tower", "dropout")}
    given = {name: value for name, value in common.items() if name in known and value is not None}
    try:
        return TypeAdapter(config).validate_python({**given, **settings.backbone_options, "shape": shape})
    except ValidationError as error:
        lines = [f"  {'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise SettingsError(f"model.backbone_options of {settings.backbone}:\n" + "\n".join(lines)) from error


def build_backbone(settings: ModelSettings, shape: Shape) -> nn.Module:
    """The backbone that the settings name.

    Args:
        settings: backbone, backbone_options, hidden, tower, dropout.
        shape: of its inputs.

    Raises:
        SettingsError: see `build_config`.
    """
    return BACKBONES[settings.backbone].module(build_config(settings, shape))


__all__ = ["BACKBONES", "Backbone", "Inputs", "Shape", "build_backbone", "build_config"]
