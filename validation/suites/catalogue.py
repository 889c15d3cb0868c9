"""Rules that users and items share: both are keyed by one id and hold declared columns."""

from __future__ import annotations

from validation.suite import Rule, fact, first_of_key, not_null, nothing, within

# NUL and other control characters (not tab, line feed, carriage return), and the mark of undecodable bytes.
UNREADABLE = "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\ufffd]"


def schema_rule() -> Rule:
    """Table rule: the declared columns exist and have usable types."""
    return nothing(
        "schema_problems",
        "features are declared by column name and type",
        "data.columns and the declared user_/item_ columns of section data",
    )


def row_rules(key: str, texts: list[str], dense: list[str], largest: float) -> tuple[Rule, ...]:
    """Row rules.

    Args:
        key: the id column.
        texts: text columns that are present.
        dense: number columns that are present.
        largest: numbers beyond it count as infinite.
    """
    return (
        not_null(key, "a row of nobody joins nothing"),
        not_null("event_timestamp", "point-in-time joins need a time (undated sources get a fixed one)"),
        not_null("created_timestamp", "joins ask when a row was published"),
        *(
            Rule(
                f"{column}_unreadable",
                "ExpectColumnValuesToNotMatchRegex",
                "control characters or undecodable bytes: the file was read with the wrong encoding (data.encoding)",
                {"column": column, "regex": UNREADABLE},
            )
            for column in texts
        ),
        *(
            within(
                column,
                f"{column}_not_finite",
                "an infinite value makes every standardised value nan",
                low=-largest,
                high=largest,
                setting="largest_number",
            )
            for column in dense
        ),
        first_of_key("two rows of one id multiply every joined row; the first sound one is kept"),
    )


def withdrawn_rule(table: str, limit: float) -> Rule:
    """Table rule: a new snapshot lacks no more than this share of the ids of the one before it."""
    return fact(
        "withdrawn_share",
        f"a snapshot is all there is: so many {table} at once are a file that was cut short, and none of them would be "
        "served any more",
        f"the {table} file: if it is cut short, put it whole in its place and run again; if it holds only what is new or "
        f"changed, set data.catalogue: {{{table}: delta}}; if they are meant to go, raise the limit for this run",
        high=limit,
        setting="max_withdrawn_share",
    )
