"""What the online store must answer after it was written."""

from __future__ import annotations

import datetime as dt

from validation.suite import Rule, Suite, fact, nothing

LOOK = "the online store (full? keys evicted? another writer?), then run `llm4msr materialize` again"


def suite(view: str, oldest: dt.timedelta | None) -> Suite:
    """The suite of one view's sampled keys.

    Args:
        view: its name.
        oldest: how old the newest value may be; None allows any age.
    """
    return Suite(
        view,
        (
            nothing("missing_keys", "a user who is known is served as unknown", LOOK),
            nothing("stale_keys", "serving reads older values than training would see", LOOK),
            nothing(
                "early_keys",
                "serving reads values that the offline store publishes later or never had",
                LOOK,
                setting="max_future",
            ),
            nothing("wrong_values", "serving and training disagree about the same value", LOOK),
            *_age(oldest),
        ),
    )


def _age(oldest: dt.timedelta | None) -> tuple[Rule, ...]:
    if oldest is None:
        return ()
    reason = "the newest value is old: the stages before have not run for this window"
    hours = oldest.total_seconds() / 3600
    return (fact("age_hours", reason, "the schedule", high=hours, setting="max_online_age"),)
