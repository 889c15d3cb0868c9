"""`llm4msr knowledge plan`: counts from the log, costs from the formula, a short run to check it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import Settings
from core.contracts.kinds import kind_named
from core.errors import SettingsError

if TYPE_CHECKING:
    from knowledge import Run

_MEASURED = 64


def make_plan(
    settings: Settings,
    run: Run,
    model: str | None,
    device: str | None,
    tflops: float | None,
    share: float,
    price: float | None,
    measure: bool,
) -> dict[str, Any]:
    """The plan as JSON-able numbers: `costs` per kind, `total`, `users`, and `check` if a short run was measured.

    Where the plan is for this machine and model, the measured share of the limit takes the place of `share`.
    """
    from knowledge import make_reasoner
    from knowledge.plan import (
        DEVICES,
        Device,
        architecture_from_config,
        architecture_of,
        cost,
        layer_share,
        matrix_rate,
        short_run,
    )

    chosen = settings.knowledge
    here = device in (None, "here") and tflops is None
    if device not in (None, "here") and device not in DEVICES:
        raise SettingsError(f"--device {device!r}: known are here, {', '.join(DEVICES)}; or give --tflops")
    texts, sample = run.workload()
    if model:  # the cache holds what the settings' model read, not what this one would
        texts = [replace(text, new=1.0) for text in texts]
        if Path(model).is_dir():  # it can be tried here, like the settings' own
            chosen = chosen.model_copy(update={"reasoner": "transformers", "model": model, "revision": None})
    check, own, rate = None, None, None
    local = chosen.reasoner != "openai"
    if local:
        reasoner: Any = make_reasoner(chosen)
        own = architecture_from_config(reasoner.model.config)
    if local and (measure or here):
        rate = matrix_rate(chosen.device if chosen.device != "auto" else "cuda", chosen.dtype)
    if local and own and rate and measure and len(sample) > 1:
        check = asdict(short_run(reasoner, sample[:: max(1, len(sample) // _MEASURED)][:_MEASURED], own, rate))
        check["model"] = chosen.model or chosen.reasoner
    tried = not model or chosen.model == model
    architecture = own if tried else architecture_of(model or "")
    if architecture is None:
        raise SettingsError(
            "the model runs on a server: name its --model (a folder or a known architecture) and its --device"
        )
    if here and rate is None:
        raise SettingsError("the model does not run on this machine: name its --device or --tflops")
    named = DEVICES.get(device or "", Device(rate or 1.0, 1e11))
    limit = Device(tflops * 1e12, named.bandwidth) if tflops else named
    reached = check["share"] if here and check and tried else share
    # The loaded model is already cut at its layer; another model is cut in proportion.
    layers = 1.0 if tried else layer_share(chosen, architecture.layers)
    answer = chosen.generate.max_new_tokens if chosen.generate else 0
    costs = cost(texts, architecture, limit, share=max(reached, 1e-6), layers=layers, answer=answer, price=price)
    rows = [c.as_json() for c in costs]
    return {
        "model": model or chosen.model or chosen.reasoner,
        "device": device or ("--tflops" if tflops else "this machine"),
        "tflops": limit.flops / 1e12,
        "share": reached,
        "users": sum(c.texts for c in costs if kind_named(c.kind).prompted),
        "costs": rows,
        "total": _total(rows),
        "check": check,
    }


def _total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    texts = sum(row["texts"] for row in rows)
    new = sum(row["texts"] * row["new_share"] for row in rows)
    money = None if any(row["money"] is None for row in rows) else sum(row["money"] for row in rows)
    sums = {name: sum(row[name] for row in rows) for name in ("tokens", "flops", "hours")}
    return {"kind": "total", "texts": texts, "new_share": new / max(1, texts), **sums, "money": money}
