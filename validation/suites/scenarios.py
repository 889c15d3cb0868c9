"""What the table of scenarios must keep. It is short and written by hand: any fault stops the run."""

from __future__ import annotations

from validation.suite import Suite, fact, nothing

LOOK = "data.scenarios in the settings: a name, a title and one sentence each"


def suite() -> Suite:
    """The suite of the scenarios."""
    return Suite(
        "scenarios",
        (
            nothing("schema_problems", "scenario, title and description are read by name", LOOK),
            fact("rows", "without a scenario there is no tower", LOOK, low=1),
            nothing("blank_cells", "names choose towers, titles and descriptions make prompts", LOOK),
            nothing("repeated_names", "one name, one tower", LOOK),
            nothing("repeated_texts", "two scenarios with one text get one and the same knowledge", LOOK, scope="note"),
        ),
    )
