"""Property tests: the same few examples every time, nothing kept on the disk; PROPERTY_TIMES=50 tries 50 times as many, new ones."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

_TIMES = int(os.environ.get("PROPERTY_TIMES", "1"))


def examples(count: int, shrink: bool = True) -> settings:
    """The profile of a property that is tried so many times; stands under `given`.

    Args:
        count: how many times.
        shrink: whether to look for the smallest example that fails, which takes hundreds of tries.
    """
    return settings(
        phases=[phase for phase in Phase if (shrink and _TIMES == 1) or phase not in (Phase.shrink, Phase.explain)],
        max_examples=count * _TIMES,
        derandomize=_TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )
