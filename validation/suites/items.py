"""What the catalogue of items must keep."""

from __future__ import annotations

from core.settings import Settings
from validation.suite import Suite, fact, one_of
from validation.suites.catalogue import row_rules, schema_rule

KEY = ("item_id",)


def suite(settings: Settings, texts: list[str], dense: list[str]) -> Suite:
    """The suite of the items; `texts` and `dense` are the text and number columns present."""
    own, key_rule = row_rules("item_id", texts, dense)[:-1], row_rules("item_id", texts, dense)[-1]
    return Suite(
        "items",
        (
            schema_rule(),
            fact(
                "rows",
                "without a catalogue there is nothing to rank",
                "the items file of the source",
                low=min(1, settings.validation.min_rows),
            ),
            *own,
            one_of(
                "unknown_scenarios",
                "scenarios_unknown",
                "an item of an undeclared scenario is never a candidate there",
                [""],
            ),
            key_rule,
            fact(
                "quarantined_share",
                "so many faulty rows are a broken source, not noise",
                "the rules and example rows below; validation.max_quarantined_share sets the limit",
                high=settings.validation.max_quarantined_share,
            ),
            fact(
                "share_with_text",
                "without any text there is no item knowledge and no user knowledge either",
                "data.item_text names the columns that make an item's text",
                low=1e-12,
            ),
            fact(
                "items_without_text",
                "kept: their text vector is missing, the model's neutral one stands in",
                "data.item_text",
                high=0,
                scope="note",
            ),
        ),
    )
