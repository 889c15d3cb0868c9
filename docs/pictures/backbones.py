"""Draw the pictures of the backbones: `python docs/pictures/backbones.py` writes `docs/pictures/backbones/NAME.svg`.

Parts that serve all rows are "own" (blue), parts of one scenario or cluster "store" (yellow), inputs and the logit "other".
"""

from __future__ import annotations

import sys
from pathlib import Path

from rooms import Box, Picture, draw

FOLDER = Path(__file__).resolve().parent / "backbones"


def _x(row: int = 0) -> Box:
    return Box(0, row, "x", "embeddings and numbers", "other")


def _logit(column: int, row: int = 0, say: str = "") -> Box:
    return Box(column, row, "logit", say, "other")


TOWER = "a tower", "a small MLP"
VECTOR = "scenario's vector", "learned"

PICTURES = {
    "shared_bottom": Picture(
        "Shared Bottom",
        {
            "x": _x(),
            "bottom": Box(1, 0, "bottom", "an MLP"),
            "tower": Box(2, 0, *TOWER, "store"),
            "logit": _logit(3),
        },
        "x>bottom bottom>tower tower>logit",
    ),
    "omoe": Picture(
        "OMoE",
        {
            "x": _x(),
            "experts": Box(1, 0, "experts", "MLPs, side by side"),
            "gate": Box(1, 1, "gate", "softmax over experts"),
            "sum": Box(2, 0, "weighted sum", "of the experts"),
            "tower": Box(3, 0, *TOWER, "store"),
            "logit": _logit(3, 1),
        },
        "x>experts x>gate experts>sum gate>sum sum>tower tower>logit",
    ),
    "mmoe": Picture(
        "MMoE",
        {
            "x": _x(),
            "experts": Box(1, 0, "experts", "MLPs, side by side"),
            "gate": Box(1, 1, "gate", "softmax over experts", "store"),
            "sum": Box(2, 0, "weighted sum", "of the experts"),
            "tower": Box(3, 0, *TOWER, "store"),
            "logit": _logit(3, 1),
        },
        "x>experts x>gate experts>sum gate>sum sum>tower tower>logit",
    ),
    "ple": Picture(
        "PLE",
        {
            "x": _x(1),
            "own": Box(1, 0, "own experts", "of the scenario", "store"),
            "gate": Box(1, 1, "gate", "softmax over both", "store"),
            "shared": Box(1, 2, "shared experts", ""),
            "sum": Box(2, 1, "weighted sum", "one level; more can follow"),
            "tower": Box(3, 1, *TOWER, "store"),
            "logit": _logit(3, 2),
        },
        "x>own x>gate x>shared own>sum gate>sum shared>sum sum>tower tower>logit",
    ),
    "aitm": Picture(
        "AITM",
        {
            "x": _x(),
            "bottom": Box(1, 0, "network", "an MLP", "store"),
            "before": Box(0, 1, "scenario before", "its state", "other"),
            "transfer": Box(1, 1, "transfer", "a linear layer", "store"),
            "attention": Box(2, 0, "attention", "weighs the two"),
            "tower": Box(3, 0, *TOWER, "store"),
            "next": Box(2, 1, "scenario after", "reads this state", "other"),
            "logit": _logit(3, 1),
        },
        "x>bottom bottom>attention before>transfer transfer>attention attention>tower attention>next tower>logit",
    ),
    "star": Picture(
        "STAR",
        {
            "x": _x(),
            "norm": Box(1, 0, "partitioned norm", "by the scenario's rows", "store"),
            "layers": Box(2, 0, "star layers", "shared times own weights", "store"),
            "code": Box(0, 1, *VECTOR, "store"),
            "both": Box(1, 1, "auxiliary input", "x beside the vector"),
            "auxiliary": Box(2, 1, "auxiliary network", "an MLP"),
            "logit": _logit(3, 0, "sum of the two"),
        },
        "x>norm norm>layers layers>logit x>both code>both both>auxiliary auxiliary>logit",
    ),
    "sar_net": Picture(
        "SAR-Net",
        {
            "x": _x(1),
            "affine": Box(1, 1, "scale and shift", "of every number of x", "store"),
            "shared": Box(2, 0, "shared experts", "normalised by all rows"),
            "gate": Box(2, 1, "gate", "softmax over all experts"),
            "own": Box(2, 2, "own experts", "normalised by own rows", "store"),
            "sum": Box(3, 1, "weighted sum", "then an MLP"),
            "logit": _logit(3, 2),
        },
        "x>affine affine>shared affine>gate affine>own shared>sum gate>sum own>sum sum>logit",
    ),
    "m2m": Picture(
        "M2M",
        {
            "x": _x(),
            "experts": Box(1, 0, "experts", "MLPs, side by side"),
            "code": Box(0, 1, *VECTOR, "store"),
            "unit": Box(1, 1, "meta units", "generate layers"),
            "attention": Box(2, 0, "meta attention", "weighs the experts"),
            "tower": Box(2, 1, "meta tower", "generated layers"),
            "layers": Box(3, 1, "layers", "an MLP"),
            "logit": _logit(3, 0),
        },
        "x>experts code>unit experts>attention unit>attention unit>tower attention>tower tower>layers layers>logit",
    ),
    "adasparse": Picture(
        "AdaSparse",
        {
            "x": _x(),
            "code": Box(0, 1, *VECTOR, "store"),
            "pruner": Box(1, 1, "pruner", "a factor for each neuron"),
            "scaled": Box(2, 0, "scaled neurons", "factors near 0 are 0"),
            "hidden": Box(1, 0, "neurons", "x, then each hidden layer"),
            "layer": Box(3, 0, "linear layer", "ReLU; back to neurons"),
            "logit": _logit(3, 1, "after the last layer"),
        },
        "x>hidden hidden>pruner code>pruner hidden>scaled pruner>scaled scaled>layer layer>logit",
    ),
    "adaptdhm": Picture(
        "AdaptDHM",
        {
            "x": _x(),
            "centres": Box(1, 1, "centres", "follow the rows"),
            "route": Box(1, 0, "routing", "the most similar centre"),
            "layers": Box(2, 0, "star layers", "shared times own weights", "store"),
            "logit": _logit(3, 0),
        },
        "x>route centres>route route>layers layers>logit",
    ),
    "epnet": Picture(
        "EPNet",
        {
            "x": _x(),
            "code": Box(0, 1, *VECTOR, "store"),
            "gate": Box(1, 1, "gate", "0 to 2, for each number"),
            "scaled": Box(1, 0, "scaled x", "x times the gate"),
            "layers": Box(2, 0, "layers", "an MLP"),
            "logit": _logit(3, 0),
        },
        "x>scaled x>gate code>gate gate>scaled scaled>layers layers>logit",
    ),
    "ppnet": Picture(
        "PPNet",
        {
            "x": _x(),
            "ids": Box(0, 1, "user and item", "embeddings of their ids", "other"),
            "gates": Box(1, 1, "gates", "0 to 2, for each neuron", "store"),
            "layer": Box(1, 0, "tower's layer", "linear, ReLU", "store"),
            "scaled": Box(2, 0, "scaled neurons", "on to the next layer"),
            "logit": _logit(3, 0, "after the last layer"),
        },
        "x>layer x>gates ids>gates layer>scaled gates>scaled scaled>logit",
    ),
    "hamur": Picture(
        "HAMUR",
        {
            "x": _x(),
            "layers": Box(1, 0, "network", "an MLP", "store"),
            "hyper": Box(1, 1, "hyper network", "a core for each row"),
            "adapter": Box(2, 1, "adapter", "two layers with that core"),
            "sum": Box(2, 0, "sum", "state and adapter"),
            "norm": Box(3, 1, "domain norm", "by the scenario's rows", "store"),
            "out": Box(3, 0, "linear layer", "its output is the logit", "store"),
        },
        "x>layers x>hyper layers>sum layers>adapter hyper>adapter adapter>norm norm>sum sum>out",
    ),
    "m3oe": Picture(
        "M3oE",
        {
            "x": _x(),
            "star": Box(1, 0, "star layer", "shared times own weights", "store"),
            "skip": Box(1, 1, "skip", "a block around it"),
            "shared": Box(2, 0, "shared experts", "under the scenario's gate"),
            "own": Box(2, 1, "scenarios' experts", "own one against the rest", "store"),
            "tower": Box(3, 0, *TOWER, "store"),
            "logit": _logit(3, 1),
        },
        "x>star x>skip star>shared star>own skip>shared skip>own shared>tower own>tower tower>logit",
    ),
    "deepfm": Picture(
        "DeepFM",
        {
            "x": _x(1),
            "linear": Box(1, 0, "linear", "a weight for each number"),
            "pairs": Box(1, 1, "pairs of fields", "products of embeddings"),
            "deep": Box(1, 2, "deep part", "an MLP"),
            "logit": _logit(2, 1, "sum of the three"),
        },
        "x>linear x>pairs x>deep linear>logit pairs>logit deep>logit",
    ),
}


def main() -> int:
    """Write them all."""
    FOLDER.mkdir(exist_ok=True)
    for name, picture in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw(picture), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
