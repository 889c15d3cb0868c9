"""A snapshot that lacks much of the one before it was cut short; what it lacks otherwise is withdrawn, and counted."""

from __future__ import annotations

import pytest
from unit.validation.validation_tables import Source

from core.catalogues import Catalogues
from core.errors import GateError
from validation import validate_source


@pytest.fixture
def days(settings, clock, tmp_path):
    """Validate one window after another; the items of each are given, or all."""

    def day(number, items=None, kind="snapshot", previous=None, replaced=None, **limits):
        source, folder, out = Source(), tmp_path / f"in{number}", tmp_path / f"out{number}"
        if items is not None:
            source.items = {name: [values[i] for i in items] for name, values in source.items.items()}
        source.write(folder)
        Catalogues(users="log", items=kind, scenarios="log", as_of=number).write(folder)
        out.mkdir()
        own = settings.model_copy(update={"validation": settings.validation.model_copy(update=limits)})
        return validate_source(folder, out, own, clock, "run", docs=False, previous=previous, replaced=replaced), out

    return day


def test_what_is_withdrawn_is_counted_and_the_kinds_are_passed_on(days):
    first, folder = days(1)
    second, out = days(2, items=range(5, 20), previous=folder)
    assert "withdrawn_items" not in first.rows
    assert second.rows["withdrawn_items"] == 5
    assert Catalogues.read(out) == Catalogues(users="log", items="snapshot", scenarios="log", as_of=2)


def test_a_catalogue_cut_short_stops_the_run_and_its_advice_works(days):
    _, folder = days(1)
    with pytest.raises(
        GateError, match=r"withdrawn_share is 0.5 .*data.catalogue.*validation.max_withdrawn_share"
    ) as stopped:
        days(2, items=range(10), previous=folder)
    assert "the gate of table items" in str(stopped.value)
    assert days(3, items=range(10), previous=folder, max_withdrawn_share=0.5)[0].rows["withdrawn_items"] == 10
    assert "withdrawn_items" not in days(4, items=range(10), kind="delta", previous=folder)[0].rows
    assert days(5, previous=folder)[0].rows["withdrawn_items"] == 0


def test_the_same_window_cut_short_at_its_second_run_is_stopped_too(days):
    _, folder = days(1)
    with pytest.raises(GateError, match="withdrawn_share"):
        days(2, items=range(10), replaced=folder)
    plain, before = days(3, items=range(15))
    again, out = days(4, items=range(15), replaced=folder)
    assert plain.rows == again.rows
    assert (out / "results.json").read_bytes() == (before / "results.json").read_bytes()
