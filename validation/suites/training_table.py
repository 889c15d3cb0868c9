"""What the point-in-time training table must keep. A leak stops the run: nothing downstream could show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.contracts.statistics import COUNTED, statistic_columns
from core.limits import ValidationSettings
from validation.suite import Suite, fact, not_after, not_null, nothing, one_of, within

STATS = ("user_stats", "item_stats", "user_history")
COUNTERS = tuple(column for entity in COUNTED for column in statistic_columns(entity))
LEAK = "the dataset stage: the feature service's point-in-time join and the lags of each kind"
LOOK = "the dataset stage; nothing was published, `llm4msr dataset` makes it anew"


def suite(times: Sequence[str], vectors: Mapping[str, int], scenarios: list[str], limits: ValidationSettings) -> Suite:
    """The suite of its rows.

    Args:
        times: columns that end in _watermark or _published.
        vectors: vector kind -> rows of its matrix.
        scenarios: names in spec.json.
        limits: what the settings say.
    """
    return Suite(
        "training_table",
        (
            nothing(
                "schema_problems", "the model and this gate read these columns; a missing one proves nothing", LOOK
            ),
            nothing("vector_problems", "the model maps these matrices", LOOK),
            fact("rows", "nothing to train on", "the window and split.warmup", low=1),
            *(
                not_after(
                    column,
                    "event_timestamp",
                    f"leak_{column}",
                    "the row sees values built from rows at or after it"
                    if column.endswith("_watermark")
                    else "the row sees values that were not readable yet",
                )
                for column in times
            ),
            *(
                one_of(
                    f"{kind}_undated",
                    f"{kind}_undated",
                    "a vector without its watermark: no one can prove that it does not leak",
                    [False],
                )
                for kind in vectors
                if f"{kind}_watermark" in times
            ),
            *(
                within(
                    f"{kind}_row",
                    f"{kind}_row_outside_matrix",
                    "it would read another vector or none",
                    low=0,
                    high=max(count - 1, 0),
                )
                for kind, count in vectors.items()
            ),
            not_null("user_id", "a row of nobody"),
            not_null("item_id", "a row of no item"),
            not_null("event_timestamp", "leaks cannot be judged without a time"),
            not_null("label", "nothing to learn"),
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
            not_null("scenario", "without a scenario no tower can be chosen"),
            one_of("scenario", "scenario_unknown", "the model has no tower for it", scenarios),
            within("history_end", "history_end_negative", "an end before the start", low=0),
            nothing(
                "history_leaks", "the history holds a positive at or after the row, or one that is not there", LEAK
            ),
            nothing("lost_user_stats", "the user has earlier rows, yet its statistics are missing: a lossy join", LEAK),
            nothing("lost_item_stats", "the item has earlier rows, yet its statistics are missing: a lossy join", LEAK),
            nothing(
                "empty_columns", "a declared column without a single value did not join", "data.*_categorical, *_dense"
            ),
            nothing(
                "statistics_jump",
                "a counter does not grow by the rows it has seen: it holds its own row's label, or lost rows",
                LEAK,
            ),
            nothing(
                "reference_problems",
                "rows must point to vectors of their own ids, as they were made: swapped knowledge trains silently",
                "the knowledge artifact, which was changed after it was made: delete it and run again",
            ),
            nothing(
                "one_class",
                "training rows of one class teach nothing",
                "data.label (column, op, value); a log of positives only needs data.negatives",
                setting="one_class_rows",
            ),
            nothing(
                "constant_counters",
                "one and the same count for every training row: the statistics are broken",
                LEAK,
                setting="constant_rows",
            ),
            nothing(
                "constant_features",
                "one and the same value in every training row: it teaches nothing and hides a broken source",
                "its column in the source; take it out of data.*_categorical or *_dense, or name it in "
                "validation.allow_constant if that is how it is",
                setting="constant_rows",
            ),
            nothing(
                "constant_features_of_few",
                "one and the same value in so few training rows may be chance",
                "data.*_categorical and *_dense, if it stays so",
                scope="note",
            ),
            fact(
                "share_without_user_knowledge",
                "the model sees these users as unknown",
                "knowledge.thresholds and lags",
                high=limits.max_share_without_knowledge,
                scope="note",
                setting="max_share_without_knowledge",
            ),
        ),
    )
