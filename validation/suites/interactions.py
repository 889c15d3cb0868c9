"""What the log of interactions must keep."""

from __future__ import annotations

from core.clock import Clock
from core.settings import Settings
from core.tables import GRADE
from validation.suite import Rule, Suite, fact, first_of_key, not_null, nothing, one_of, within

KEY = ("user_id", "item_id", "scenario", "event_timestamp")
UNIT = "data.timestamp_unit (s, ms, us or iso) does not fit the source's times"


def suite(settings: Settings, clock: Clock, scenarios: list[str], graded: bool = False) -> Suite:
    """The suite of the interactions.

    Args:
        settings: section `validation` sets the limits.
        clock: what the future starts after.
        scenarios: the names in scenarios.parquet.
        graded: whether the rows have a column for a grade.
    """
    limits = settings.validation
    latest = clock.now() + limits.max_future
    return Suite(
        "interactions",
        (
            nothing(
                "schema_problems",
                "every later stage reads these columns by name and type",
                "data.columns, or the source's files",
            ),
            nothing(
                "catalogue_id_problems",
                "ids of two types never join, and each row would silently lose its features",
                "the id columns of the source's files: write them alike in the log and in the catalogues",
            ),
            fact(
                "rows",
                "an empty log trains nothing and would publish an empty model",
                "data.path, the window, and data.scenario (rows may have been filtered out)",
                low=limits.min_rows,
                setting="min_rows",
            ),
            fact(
                "share_too_early",
                f"times in a wrong unit put every row before {limits.earliest:%Y-%m-%d}",
                UNIT,
                high=limits.max_wrong_times,
                setting="max_wrong_times",
            ),
            fact(
                "share_in_future",
                "times in a wrong unit put every row into the far future",
                UNIT,
                high=limits.max_wrong_times,
                setting="max_wrong_times",
            ),
            fact(
                "share_of_rows_with_item",
                "when hardly a row finds its item, the log and the catalogue use different ids",
                "data.columns.item_id and the items file: are these the same ids?",
                low=limits.min_share_linked,
                setting="min_share_linked",
            ),
            fact(
                "share_of_rows_with_user",
                "when hardly a row finds its user, the log and the users table use different ids",
                "data.columns.user_id and the users file: are these the same ids?",
                low=limits.min_share_linked,
                setting="min_share_linked",
            ),
            not_null("user_id", "a row of nobody feeds no history and no personal knowledge"),
            not_null("item_id", "a row of no item has nothing to learn from"),
            not_null("scenario", "without a scenario no tower can be chosen"),
            one_of(
                "scenario",
                "scenario_unknown",
                "a scenario that is not declared has no text, no tower",
                scenarios,
                "data.scenarios: declare it there with a title and a sentence, or give its values a place by "
                "data.scenario.groups and data.scenario.other",
            ),
            not_null("event_timestamp", "point-in-time joins and splits need a time"),
            within(
                "event_timestamp",
                "event_timestamp_too_early",
                "a time before any log is a missing value in disguise, and sorts before the catalogue",
                low=limits.earliest,
                setting="earliest",
            ),
            within(
                "event_timestamp",
                "event_timestamp_in_future",
                "a row from the future would leak into features of today",
                high=latest,
                setting="max_future",
            ),
            not_null("label", "a row without a label cannot be learned from"),
            one_of("label", "label_not_binary", "the loss and every metric are defined for 0 and 1", [0, 1]),
            not_null("weight", "the loss multiplies by it", name="weight_null"),
            within(
                "weight",
                "weight_not_valid",
                "negative or infinite weights turn the loss around",
                low=0.0,
                high=limits.largest_number,
                setting="largest_number",
            ),
            *((_finite_grade(limits.largest_number),) if graded else ()),
            not_null("created_timestamp", "joins ask when a row was published"),
            first_of_key("one event logged twice counts twice in every statistic; the first sound row is kept"),
            fact(
                "quarantined_share",
                "so many faulty rows are a broken source, not noise",
                "the rules and example rows below",
                high=limits.max_quarantined_share,
                setting="max_quarantined_share",
            ),
            fact(
                "clean_rows",
                "nothing is left to train on",
                "the rules and example rows below",
                low=limits.min_rows,
                setting="min_rows",
            ),
            nothing(
                "only_positives",
                "a log of what people did, without what they were shown and left, has nothing to tell it from",
                "data.negatives, which draws negatives for such a log, or log what was shown; if there are rows "
                "without a click, at data.label (column, op, value)",
                setting="one_class_rows",
            ),
            nothing(
                "only_negatives",
                "the label rule finds no positive row, and nothing can be learned from the others",
                "data.label (column, op, value)",
                setting="one_class_rows",
            ),
            nothing(
                "one_class_of_few",
                f"fewer than {limits.one_class_rows} rows may be of one class by chance (a short window)",
                "data.label, or data.negatives where the log holds positives only, if it stays so",
                scope="note",
            ),
            *_history_rules(),
            nothing(
                "dominant_id",
                "one user or item has an absurd share of the rows: a robot, a default id, or a word for nothing",
                "that id in the source; data.nulls names words that stand for nothing, validation.max_share_of_one is the limit",
                scope="note",
            ),
            fact(
                "items_without_catalogue_row",
                "kept: served and trained as unknown items; many point to a stale catalogue",
                "the items file",
                high=0,
                scope="note",
            ),
            fact(
                "users_without_catalogue_row",
                "kept: served and trained as unknown users; many point to a stale users file",
                "the users file",
                high=0,
                scope="note",
            ),
            fact(
                "scenarios_without_rows",
                "a declared scenario that nothing was logged for has an untrained tower",
                "data.scenarios",
                high=0,
                scope="note",
            ),
            fact(
                "repeated_keys_with_both_labels",
                "one key with label 0 and 1: if views and clicks are logged as two rows, the click is lost",
                "the source's export: keep one row per shown item",
                high=0,
                scope="note",
            ),
        ),
    )


def _finite_grade(largest: float) -> Rule:
    reason = "training compares rows by it; leave it empty where it is unknown"
    return within(GRADE, "grade_not_finite", reason, low=-largest, high=largest, setting="largest_number")


def _history_rules() -> tuple[Rule, ...]:
    """Rules on how the window compares with those before it; see `validation.history`."""
    source = "the source's export of this window"
    return (
        nothing(
            "watermark_problems",
            "windows are read in order: a newest row that goes backwards is an old partition under a new name",
            source,
        ),
        nothing(
            "volume_problems",
            "part of the log is missing, or is there twice",
            source,
            setting="volume_band",
        ),
        nothing(
            "gap_problems",
            "a stretch without a row is a missing part or a shifted time zone",
            f"{source} and its time zone",
            setting="max_gap_ratio",
        ),
        nothing(
            "scenario_problems",
            "a scenario was renamed, lost or mixed up, or its label rule changed",
            "data.scenario and data.label; name a scenario that was closed for good in validation.closed_scenarios",
            setting="rate_sigmas",
        ),
        nothing(
            "new_scenarios",
            "kept, and not compared with earlier windows until there are validation.min_history_windows of them; what "
            "is compared is the others' rows",
            "data.scenarios: does each have a title and a sentence?",
            scope="note",
        ),
        nothing(
            "link_problems",
            "ids changed their form, columns are swapped, or the catalogue is cut short",
            "the id columns and the catalogue files",
            setting="max_link_drop",
        ),
        nothing(
            "resent_problems",
            "old rows under new times count twice in every statistic",
            source,
            setting="max_resent_share",
        ),
        nothing(
            "busiest_user_problems",
            "a robot or a default id drowns every statistic",
            f"that user in {source}",
            setting="max_busiest_ratio",
        ),
        *(
            nothing(
                f"{table}_drift_problems",
                "a column was emptied, recoded or changed its unit",
                f"that column of {table}",
                setting="max_unusual_share",
            )
            for table in ("users", "items", "interactions")
        ),
    )
