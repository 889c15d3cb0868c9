"""Which ranking is computed where: short ones on the event loop, long ones beside it, so that none waits behind a long one."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from bento import deadline
from bento.live import LiveModel
from bento.scorer import rank

if TYPE_CHECKING:
    from feature_repo import UserState

# More candidates than these take longer than it costs to hand them to a thread.
AT_ONCE = 1_000


class Ranking:
    """Ranks for a serving process; long rankings one after the other, in a thread."""

    def __init__(self) -> None:
        self._long = ThreadPoolExecutor(1, "llm4msr-rank")

    def stop(self) -> None:
        """Finish the ranking that is under way."""
        self._long.shutdown(wait=True, cancel_futures=True)

    async def rank(
        self, live: LiveModel, user: UserState, scenario: str, rows: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best `k` of the rows and their probabilities, as `scorer.rank` gives them.

        Raises:
            TooLateError: the request's deadline was over before its turn came.
        """
        if len(rows) <= AT_ONCE:
            return rank(live, user, scenario, rows, k)
        until = deadline.until()

        def later() -> tuple[np.ndarray, np.ndarray]:
            deadline.left(until)
            return rank(live, user, scenario, rows, k)

        return await asyncio.get_running_loop().run_in_executor(self._long, later)
