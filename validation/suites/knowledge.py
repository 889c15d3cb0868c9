"""What the indexes, matrices and texts of knowledge must keep. Nothing is quarantined here: a fault stops the run."""

from __future__ import annotations

import datetime as dt
import re

from core.limits import ValidationSettings
from validation.suite import Rule, Suite, fact, not_after, not_null, nothing, one_of, within

_APOLOGY = re.compile(
    r"^\W*(i'?m (very |so )?sorry|i am (very |so )?sorry|sorry,|i apologi[sz]e|my apologies|i can(no|')t\b|i can not\b"
    r"|i am unable|i'm unable|as an ai\b|as a (large )?language model|unfortunately,? i\b)|\bas an ai (language )?model\b",
    re.IGNORECASE,
)
_SENTENCE_END = (".", "!", "?", "…", "。", "！", "？", '."', ".”", ".)", "*", "`")
LOOK = (
    "section knowledge and what changed in it, in the model or on this machine; nothing was published, and the next run "
    "makes it anew (without the folder cache below root, should what is kept there be at fault)"
)


def text_fault(text: str | None) -> str:
    """What is wrong with a generated text: `apology`, `truncated`, or nothing."""
    text = (text or "").strip().replace("’", "'")
    if _APOLOGY.search(text):
        return "apology"
    return "" if not text or text.endswith(_SENTENCE_END) else "truncated"


def _times(key: str, latest: dt.datetime) -> tuple[Rule, ...]:
    return (
        not_null(key, "knowledge of nobody joins nothing"),
        not_null("event_timestamp", "point-in-time joins need the time from which it can be read"),
        not_null("watermark", "without it no one can prove that a row does not see its own future"),
        not_null("created_timestamp", "joins ask when it was published"),
        not_after("watermark", "event_timestamp", "read_before_built", "knowledge is read before its source rows end"),
        within("event_timestamp", "event_timestamp_in_future", "knowledge that cannot exist yet", high=latest),
        within("created_timestamp", "created_timestamp_in_future", "published after now: it was planted", high=latest),
        within("watermark", "watermark_in_future", "built from rows that have not happened", high=latest),
    )


def vector_suite(
    name: str, key: str, latest: dt.datetime, rows: int, needed: bool, limits: ValidationSettings
) -> Suite:
    """The suite of one vector kind.

    Args:
        name: the kind's folder, e.g. `user_pooled`.
        key: user_id, item_id or scenario.
        latest: no time in the index may be later (now plus the kind's lag).
        rows: rows of the matrix.
        needed: whether the kind must have rows at all.
        limits: what the settings say.
    """
    return Suite(
        name,
        (
            nothing("schema_problems", "the feature views are declared by these columns", LOOK),
            nothing("matrix_problems", "scorers map the matrix into memory as float32 [rows, dim]", LOOK),
            nothing(
                "dimension_problems", "the model's first layer has this many inputs", "knowledge.user_dim and item_dim"
            ),
            fact("rows", "without vectors the model has nothing to read", LOOK, low=int(needed)),
            fact("versions", "vectors of two versions cannot be compared, yet look alike", LOOK, low=1, high=1),
            nothing("version_problems", "views and bundles name the version that versions.json lists", LOOK),
            nothing("kind_problems", "the index must speak of this kind only", LOOK),
            fact("repeated_keys", "two vectors of one key and time: the join would pick either", LOOK, high=0),
            *_times(key, latest),
            not_null("row", "an index row without a vector"),
            within("row", "row_outside_matrix", "it would read another vector or none", low=0, high=max(rows - 1, 0)),
            one_of("not_finite", "vector_not_finite", "one nan makes every score of the user nan", [0]),
            within(
                "norm",
                "norm_out_of_band",
                "a vector this long drowns every other input",
                low=0,
                high=limits.max_norm,
                setting="max_norm",
            ),
            within(
                "relative_norm",
                "norm_unlike_others",
                "a vector many times as long as the others of its kind: another scale or another model",
                high=limits.max_relative_norm,
                setting="max_relative_norm",
            ),
            one_of(
                "stranger",
                "vector_of_someone_else",
                "the vector is not the one made for this id, version and prompt: vectors were swapped or replaced",
                [False],
            ),
            nothing("digest_problems", "without digests no one can tell whose a vector is", LOOK),
            fact("vectors_differ", "all vectors are equal: the reasoner saw no data, or pooled padding", LOOK, low=1),
            fact(
                "share_of_zero_vectors",
                "vectors are zero: the compressor learned nothing",
                LOOK,
                high=limits.max_zero_vectors,
                setting="max_zero_vectors",
            ),
            fact(
                "share_of_commonest_vector",
                "different prompts have one and the same vector: the reasoner saw the same beginning of all of them",
                "the prompts: item texts, templates and the columns they read, and knowledge.max_tokens, at which they are cut",
                high=limits.max_same_vector,
                setting="max_same_vector",
            ),
            fact(
                "share_of_commonest_prompt",
                "kept: many ids have one and the same text, and so one vector, which tells them apart by nothing",
                "data.item_text, which names the columns that make an item's text; [] does without",
                high=limits.max_same_vector,
                scope="note",
                setting="max_same_vector",
            ),
            fact(
                "changed_unprompted",
                "the same version and prompt gave another vector: another model under an old name",
                "the reasoner's model and revision, and who else writes below root",
                high=0.0,
                setting="vector_tolerance",
            ),
            fact(
                "unchanged_vectors",
                "prompts changed, yet the vectors are the old ones: the refresh did not reach the reasoner",
                LOOK,
                high=limits.max_unchanged_vectors,
                setting="max_unchanged_vectors",
            ),
            fact(
                "lost_ids",
                "users had knowledge and have none now",
                LOOK,
                high=limits.max_lost_users,
                setting="max_lost_users",
            ),
            fact(
                "coverage_drop",
                "users of this window had knowledge before and have none now",
                LOOK,
                high=limits.max_coverage_drop,
                setting="max_coverage_drop",
            ),
            fact(
                "due_without_vector",
                "users with rows enough in this window alone have no vector: they were left out",
                f"knowledge.thresholds and the items' texts; {LOOK}",
                high=limits.max_due_without_vector,
                setting="max_due_without_vector",
            ),
            fact(
                "coverage",
                "too few of the window's users have knowledge",
                "knowledge.thresholds",
                low=limits.min_knowledge_coverage,
                setting="min_knowledge_coverage",
            ),
        ),
    )


def text_suite(name: str, key: str, latest: dt.datetime) -> Suite:
    """The suite of the texts that `/explain` shows."""
    return Suite(
        name,
        (
            nothing("schema_problems", "the feature views are declared by these columns", LOOK),
            fact("repeated_keys", "two texts of one key and time: the reader would pick either", LOOK, high=0),
            *_times(key, latest),
            not_null("text", "an explanation without words", name="text_empty"),
            one_of("text_fault", "text_useless", "the reasoner refused or was cut off: no explanation", [""]),
            one_of("text_source", "text_source_unknown", "people must know who wrote it", ["generated", "summary"]),
        ),
    )
