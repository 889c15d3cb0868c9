"""What training minimises: the label's cross-entropy, and beside it that of a grade.

A grade is an outcome in more than two steps (stars, share of a film that was watched). The same logit z that is trained
on the label has to order the grades too, as in the proportional odds model (McCullagh, JRSS B 1980, with a slope of
its own for each level):

    loss = CE(z, label) + weight * sum over levels k of CE(exp(a_k) z - b_k, [grade > level k])

The a_k and b_k are learned and thrown away: a trained model is the same with or without grades, and so is its cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from core.errors import SettingsError


class GradedLoss(nn.Module):
    """The loss of a batch.

    Args:
        levels: K levels of the grade; none: the label alone.
        weight: of each level's term.
        label: of the training rows, float32 [N].
        grade: of the training rows, float32 [N]; NaN is unknown, and such a row has the label's term only.

    Raises:
        SettingsError: no row has a grade, or all or none of them are above a level.
    """

    def __init__(self, levels: Sequence[float], weight: float, label: np.ndarray, grade: np.ndarray) -> None:
        super().__init__()
        self.levels, self.weight = tuple(levels), weight
        known = ~np.isnan(grade)
        if self.levels and not known.any():
            raise SettingsError("train.grade_levels needs grades and no training row has one; set data.grade")
        shares = np.array([(grade[known] > level).mean() for level in self.levels])
        for level, share in zip(self.levels, shares, strict=True):
            if share in (0.0, 1.0):
                side = "no" if share == 0 else "every"
                raise SettingsError(
                    f"train.grade_levels: {side} training row has a grade above {level:g}; drop the level"
                )
        # Where z is the label's log-odds, z - b_k are the level's, over all rows.
        start = _log_odds(np.array([label.mean()])) - _log_odds(shares)
        self.slopes = nn.Parameter(torch.zeros(len(self.levels)))
        self.shifts = nn.Parameter(torch.from_numpy(start.astype(np.float32)))

    def forward(self, logits: Tensor, label: Tensor, weight: Tensor, grade: Tensor) -> Tensor:
        """The mean loss, a scalar.

        Args:
            logits: [B].
            label: 0 or 1, [B].
            weight: of each row, [B].
            grade: NaN where it is unknown, [B].
        """
        loss = binary_cross_entropy_with_logits(logits, label, weight)
        if not self.levels:
            return loss
        above = (grade[:, None] > torch.tensor(self.levels, device=grade.device)).float()
        z = logits[:, None] * self.slopes.exp() - self.shifts
        known = torch.where(grade.isnan(), 0.0, weight)[:, None].expand_as(z)
        return loss + self.weight * binary_cross_entropy_with_logits(z, above, known, reduction="sum") / len(logits)

    def average_gradients(self, processes: int) -> None:
        """Make the gradients those of all processes' rows together: nothing wraps this module."""
        for parameter in self.parameters():
            if processes > 1 and parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= processes


def _log_odds(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 1e-4, 1 - 1e-4)
    return np.log(share / (1 - share))
