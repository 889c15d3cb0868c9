"""What the table of users must keep. It may be empty: a user without a row is served as unknown."""

from __future__ import annotations

from core.settings import Settings
from validation.suite import Suite, fact
from validation.suites.catalogue import row_rules, schema_rule, withdrawn_rule

KEY = ("user_id",)


def suite(settings: Settings, texts: list[str], dense: list[str]) -> Suite:
    """The suite of the users; `texts` and `dense` are the text and number columns present."""
    return Suite(
        "users",
        (
            schema_rule(),
            *row_rules("user_id", texts, dense, settings.validation.largest_number),
            fact(
                "quarantined_share",
                "so many faulty rows are a broken source, not noise",
                "the rules and example rows below",
                high=settings.validation.max_quarantined_share,
                setting="max_quarantined_share",
            ),
            withdrawn_rule("users", settings.validation.max_withdrawn_share),
        ),
    )
