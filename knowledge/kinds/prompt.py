"""`prompt`: the language model's hidden states over a prompt about the user, or over its answer."""

from __future__ import annotations

from collections.abc import Callable

from knowledge.kinds.user_kind import Prompted
from knowledge.log.snapshots import Snapshots
from knowledge.log.sources import Log
from knowledge.open_run import OpenRun


class Prompt(Prompted):
    """See `texts.prompts`."""

    def recipe(self, run: OpenRun) -> dict[str, object]:
        knowledge = run.settings
        return {
            "template": run.template("user_v3").digest,
            "reasoner": run.generator.identity,
            "history": knowledge.prompt_history,
            "scenarios": run.catalogue.scenarios,
            "thresholds": knowledge.thresholds,
            "snapshots": knowledge.prompt_snapshots,
            "item_text": run.text_recipe(),
        }

    def snapshots(self, run: OpenRun, log: Log) -> Snapshots:
        return run.prompted(log, run.due(log))

    def writer(self, run: OpenRun, log: Log) -> Callable[[Snapshots], list[str]]:
        return run.prompt_builder(log).build


KIND = Prompt()
