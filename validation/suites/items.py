"""What the catalogue of items must keep."""

from __future__ import annotations

from core.settings import Settings
from validation.suite import Suite, fact, nothing, one_of
from validation.suites.catalogue import row_rules, schema_rule, withdrawn_rule

KEY = ("item_id",)


def suite(settings: Settings, texts: list[str], dense: list[str]) -> Suite:
    """The suite of the items; `texts` and `dense` are the text and number columns present."""
    limits = settings.validation
    *own, key_rule = row_rules("item_id", texts, dense, limits.largest_number)
    return Suite(
        "items",
        (
            schema_rule(),
            fact(
                "rows",
                "without a catalogue there is nothing to rank",
                "the items file of the source",
                low=min(limits.min_items, limits.min_rows),
                setting="min_items",
            ),
            *own,
            one_of(
                "unknown_scenarios",
                "scenarios_unknown",
                "an item of an undeclared scenario is never a candidate there",
                [""],
                "data.scenarios, or the column of the items that names their scenarios",
            ),
            key_rule,
            fact(
                "quarantined_share",
                "so many faulty rows are a broken source, not noise",
                "the rules and example rows below",
                high=limits.max_quarantined_share,
                setting="max_quarantined_share",
            ),
            withdrawn_rule("items", settings.validation.max_withdrawn_share),
            fact(
                "share_with_text",
                "items without a text have no item knowledge, and their users no pooled knowledge",
                "data.item_text, which names the columns that make an item's text",
                low=limits.min_share_with_text,
                setting="min_share_with_text",
            ),
            nothing(
                "text_missing",
                "kept: there is no item knowledge, and users have no pooled vectors",
                "data.item_text, which names the columns that make an item's text",
                scope="note",
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
