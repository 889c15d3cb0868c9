"""The ranker: x = concat(embeddings, dense, projected vectors), user level, backbone beside the scenario level.

x' = UserLevel(x ; g_u)      z_b = Backbone(x')[scenario]      z_s = MetaTower(x' ; g_s)      y = sigmoid(z_b + z_s)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.contracts.kinds import kind_named
from core.errors import SettingsError
from core.settings import ModelSettings
from models.backbones import Inputs, Shape, build_backbone
from models.dropout import dropout
from models.inputs import Layout, Side
from models.meta import Bottleneck, Form, Generated, MetaTower, Neutral, build_meta_layer
from models.second_order import CrossNetwork, SecondOrder


class Parts(NamedTuple):
    """The two summands of the logit, each [B]."""

    backbone: Tensor
    scenario: Tensor

    @property
    def logit(self) -> Tensor:
        return self.backbone + self.scenario


class Head(nn.Module):
    """Everything after the embedding lookup.

    Args:
        settings: the model's settings.
        layout: the features.

    Raises:
        SettingsError: a level is asked for whose knowledge vectors the dataset lacks.
    """

    def __init__(self, settings: ModelSettings, layout: Layout) -> None:
        super().__init__()
        _check(settings, layout)
        self.settings = settings
        wide = 2 * settings.embedding_dim
        inputs = len(layout.features) * settings.embedding_dim + layout.dense
        self.item_neutral = Neutral(layout.item_dim) if layout.item_dim else None
        self.item_text = nn.Linear(layout.item_dim, wide) if layout.item_dim else None
        inputs += wide if layout.item_dim else 0

        kinds = layout.user_vectors
        self.user_neutral = nn.ModuleList([Neutral(dim) for dim in kinds.values()])
        self.user_features = nn.Linear(sum(kinds.values()), wide) if settings.knowledge_features and kinds else None
        inputs += wide if self.user_features is not None else 0
        self.inputs = inputs
        self.user_code: nn.Module | None = None
        if settings.user_level != "none":
            form = settings.user_level
            self.user_code = Bottleneck(sum(kinds.values()), settings.bottleneck)
            size = _size(form, settings)
            self.user_layer = build_meta_layer(form, inputs, settings.bottleneck, size, settings.meta_depth)

        self.second_order: SecondOrder | None = None
        self.cross = CrossNetwork(inputs, settings.cross_layers) if settings.second_order == "dcn_v2" else None
        if settings.second_order == "fm":
            widths = ((layout.item_dim,) if layout.item_dim else ()) + ((sum(kinds.values()),) if kinds else ())
            self.second_order = SecondOrder(settings.embedding_dim, widths)

        self.shape = Shape.of(layout, inputs, settings.embedding_dim)
        self.backbone = build_backbone(settings, self.shape)
        self.scenario_code: nn.Module | None = None
        if settings.scenario_level != "none":
            form, code = settings.scenario_level, settings.bottleneck
            width = settings.meta_width or (settings.tower or [32])[0]
            size = min(_size(form, settings), width)
            self.scenario_neutral = Neutral(layout.scenario_dim)
            self.scenario_code = Bottleneck(layout.scenario_dim, code)
            self.scenario_tower = MetaTower(inputs, width, code, form, size, settings.meta_depth)
        # What rates and other numbers say alone; fitted before training begins, and trained on with the rest.
        self.base = nn.Linear(layout.dense, 1) if layout.dense else None
        if self.base is not None:
            nn.init.zeros_(self.base.weight)
            nn.init.zeros_(self.base.bias)
        # 1, or 0 where nothing that was learned beside it is better than the base.
        self.trust: Tensor
        self.register_buffer("trust", torch.ones(()))
        # Of the scenarios' calibration, [S]; fitted after training, no change before.
        self.slope: Tensor
        self.shift: Tensor
        self.register_buffer("slope", torch.ones(len(layout.scenarios)))
        self.register_buffer("shift", torch.zeros(len(layout.scenarios)))

    def forward(self, embedded: Tensor, side: Side) -> Parts:
        """Score rows.

        Args:
            embedded: [B, F * d].
            side: everything else of the same rows.

        Returns:
            The logit's parts.
        """
        users = self.users(side.user_vectors, side.user_known)
        embedded = dropout(embedded, self.settings.embedding_dropout, self.training)
        x = self._assemble(embedded, side, users)
        pairs = None if self.second_order is None else self.second_order(embedded, self._vectors(side, users))
        if self.user_code is not None:
            x = self.user_layer(x, self.user_code(users), side.user_index)
        base = None if self.base is None else self.base(side.dense).squeeze(1)
        level = None
        if self.scenario_code is not None:
            level = self.scenario_level(self.scenario_neutral(side.scenario_vectors, side.scenario_known))
        parts = self.logits(x, side.scenario, pairs, base, level, side.scenario_index)
        return self._calibrated(parts, side.scenario)

    def scenario_level(self, vectors: Tensor) -> Generated:
        """What Q scenarios' vectors [Q, d] generate of the scenario level."""
        assert self.scenario_code is not None, "the model has no scenario level"
        return self.scenario_tower.generate(self.scenario_code([vectors]))

    def logits(
        self,
        x: Tensor,
        scenario: Tensor,
        pairs: Tensor | None,
        base: Tensor | None,
        level: Generated | None,
        scenario_index: Tensor,
    ) -> Parts:
        """Score rows behind the user level, before calibration.

        Args:
            x: [B, D].
            scenario: int64 [B].
            pairs: of the second order, [B], where there is one.
            base: what the numbers say alone, [B], where there are any.
            level: of `scenario_level`, where there is one.
            scenario_index: int64 [B] into the Q scenarios.
        """
        backbone = self.backbone(Inputs.of(x, scenario, self.shape))
        backbone = backbone if pairs is None else backbone + pairs
        backbone = backbone if self.cross is None else backbone + self.cross(x)
        backbone = self.trust * backbone
        backbone = backbone if base is None else backbone + base
        if level is None:
            return Parts(backbone, torch.zeros_like(backbone))
        return Parts(backbone, self.trust * self.scenario_tower.apply_to(x, level, scenario_index))

    def begin(self, weight: Tensor, bias: Tensor) -> None:
        """Set the base, float [dense] and []."""
        if self.base is not None:
            with torch.no_grad():
                self.base.weight.copy_(weight[None])
                self.base.bias.copy_(bias)

    def calibrate(self, slope: Tensor, shift: Tensor) -> None:
        """Set what is applied to each scenario's logits outside of training, [S] each."""
        self.slope.copy_(slope)
        self.shift.copy_(shift)

    def _calibrated(self, parts: Parts, scenario: Tensor) -> Parts:
        if self.training:
            return parts
        slope = self.slope[scenario]
        return Parts(slope * parts.backbone + self.shift[scenario], slope * parts.scenario)

    def text(self, vectors: Tensor, known: Tensor) -> Tensor:
        """Items' text as columns of x, [B, d] and [B, 1] -> [B, 2 k]."""
        assert self.item_text is not None and self.item_neutral is not None, "the layout has no item text"
        projected: Tensor = self.item_text(self.item_neutral(vectors, known))
        return projected

    def _assemble(self, embedded: Tensor, side: Side, users: list[Tensor]) -> Tensor:
        parts = [embedded, side.dense]
        if self.item_text is not None:
            parts.append(self.text(side.item_vectors, side.item_known))
        if self.user_features is not None:
            projected = self.user_features(torch.cat(users, dim=1))
            one = len(projected) == 1
            parts.append(projected.expand(len(embedded), -1) if one else projected.index_select(0, side.user_index))
        return torch.cat(parts, dim=1)

    def _vectors(self, side: Side, users: list[Tensor]) -> tuple[tuple[Tensor, Tensor | None], ...]:
        """What the second order reads beside the embeddings: item text per row, user vectors per distinct user."""
        found: list[tuple[Tensor, Tensor | None]] = []
        if self.item_neutral is not None:
            found.append((self.item_neutral(side.item_vectors, side.item_known), None))
        if users:
            found.append((torch.cat(users, dim=1), side.user_index))
        return tuple(found)

    def users(self, vectors: Sequence[Tensor], known: Sequence[Tensor]) -> list[Tensor]:
        """The distinct users' vectors, unknown ones (and in training a share of all) replaced by the neutral one."""
        if self.training and known and self.settings.knowledge_dropout:
            kept = (torch.rand_like(known[0]) >= self.settings.knowledge_dropout).float()
            known = [mask * kept for mask in known]
        return [neutral(v, k) for neutral, v, k in zip(self.user_neutral, vectors, known, strict=True)]


class RankingNetwork(nn.Module):
    """Tables and head: what is trained.

    Args:
        tables: an embedding backend.
        head: the rest.
    """

    def __init__(self, tables: nn.Module, head: Head) -> None:
        super().__init__()
        self.tables = tables
        self.head = head

    def forward(self, bags: object, side: Side) -> Tensor:
        """A batch -> its logits, [B]."""
        return self.head(self.tables(bags), side).logit


def user_vectors_read(settings: ModelSettings) -> list[str]:
    """The kinds of user vectors that a model of these settings reads, e.g. `user_pooled`."""
    reads = settings.user_level != "none" or settings.knowledge_features
    return [kind_named(name).view for name in settings.user_vectors] if reads else []


def plain(settings: ModelSettings) -> ModelSettings:
    """The same model without user and scenario knowledge: what the knowledge has to beat."""
    return settings.model_copy(update={"user_level": "none", "scenario_level": "none", "knowledge_features": False})


def _size(form: Form, settings: ModelSettings) -> int:
    return settings.maps if form == "full" else settings.rank


def _check(settings: ModelSettings, layout: Layout) -> None:
    absent = [kind for kind in user_vectors_read(settings) if kind not in layout.user_vectors]
    if settings.user_level != "none" and absent:
        raise SettingsError(
            f"model.user_vectors needs {absent[0]} and the dataset has none; add it to knowledge.user_vectors, or set "
            "user_level: none"
        )
    if settings.scenario_level != "none" and not layout.scenario_dim:
        raise SettingsError(
            "model.scenario_level needs scenario vectors and the dataset has none; run `llm4msr knowledge`, or set it none"
        )
