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

from core.log import logger

LOG = logger("models")


class GradedLoss(nn.Module):
    """The loss of a batch.

    Args:
        levels: K levels of the grade; none: the label alone.
        weight: of each level's term.
        label: of the training rows, float32 [N].
        grade: of the training rows, float32 [N]; NaN is unknown, and such a row has the label's term only.

    A level that all or none of the known grades are above is left out, with a warning: rows from before grades were read
    have none, and a nightly training goes on.
    """

    def __init__(self, levels: Sequence[float], weight: float, label: np.ndarray, grade: np.ndarray) -> None:
        super().__init__()
        known = grade[~np.isnan(grade)]
        above = {level: float((known > level).mean()) if len(known) else 0.0 for level in levels}
        self.levels = tuple(level for level, share in above.items() if 0 < share < 1)
        self.weight = weight
        if levels and len(known) < len(grade):
            LOG.warning(
                "%.1f %% of the training rows have no grade; windows from before data.grade was set have none until "
                "they are run again",
                100 * (1 - len(known) / len(grade)),
            )
        for level in above if len(known) else ():
            if level not in self.levels:
                side = "every" if above[level] else "no"
                LOG.warning(
                    "train.grade_levels: %s training row has a grade above %g, so it teaches nothing", side, level
                )
        shares = np.array([above[level] for level in self.levels])
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
