"""What the gate behind materialise says of sampled keys."""

import datetime as dt

import pytest

from core import Settings, from_micros, replay
from core.errors import GateError
from validation import validate_online

NOW = 1_700_000_000_000_000


def judge(published, **validation):
    """One user whose row was pushed since the artifacts were built, dated `published`."""
    row = {"published": NOW - 3_600_000_000, "watermark": NOW - 3_600_000_000, "user_rows": 3}
    online = {**row, "published": published, "watermark": published, "user_rows": 4}
    samples = {"user_stats": [{"id": 1, "offline": row, "online": online}]}
    return validate_online(samples, Settings(validation=validation), replay(from_micros(NOW)))


def test_a_push_of_a_clock_that_is_fast_passes_as_far_as_pushes_may_be_fast():
    skew = dt.timedelta(minutes=3)
    # The newest event that a push may hold is published a microsecond later.
    latest = NOW + skew // dt.timedelta(microseconds=1) + 1
    assert judge(latest, max_future=skew)["verdict"] == "passed"
    with pytest.raises(GateError, match="early_keys is 1 of the sampled keys"):
        judge(latest + 1, max_future=skew)


def test_without_skew_nothing_online_is_later_than_the_newest_event_that_may_be_pushed():
    assert judge(NOW + 1, max_future=dt.timedelta(0))["verdict"] == "passed"
    with pytest.raises(GateError, match="early_keys"):
        judge(NOW + 2, max_future=dt.timedelta(0))
