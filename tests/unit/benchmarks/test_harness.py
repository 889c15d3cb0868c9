import json

import pytest

from benchmarks.harness import arguments, figure, finish, in_turn

FIELDS = ["name", "unit", "ours", "reference", "ratio", "target", "holds"]


def test_the_last_line_is_one_json_object_of_the_agreed_shape(capsys):
    finish("training", [figure("speed", "samples/s", 30.0, 10.0, target=2), figure("size", "MiB", 5.0)], quick=True)
    body = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(body) == ["benchmark", "machine", "figures"]
    assert body["benchmark"] == "training"
    assert {"cpu", "cores", "memory_gib"} <= set(body["machine"])
    assert [list(one) for one in body["figures"]] == [FIELDS, FIELDS]
    assert body["figures"][0] == dict(zip(FIELDS, ["speed", "samples/s", 30.0, 10.0, 3.0, 2, True], strict=True))
    assert body["figures"][1] == dict(zip(FIELDS, ["size", "MiB", 5.0, None, None, None, None], strict=True))


@pytest.mark.parametrize(
    ("ours", "bound", "of", "holds"),
    [
        (20.0, "at_least", "ratio", True),
        (19.0, "at_least", "ratio", False),
        (20.0, "at_most", "ratio", True),
        (21.0, "at_most", "ratio", False),
        (2.0, "at_least", "ours", True),
        (1.9, "at_least", "ours", False),
    ],
)
def test_a_target_bounds_the_ratio_or_our_own_figure_from_below_or_above(ours, bound, of, holds):
    assert figure("x", "ms", ours, 10.0, target=2.0, bound=bound, of=of).holds is holds


def test_a_bound_on_a_ratio_without_a_reference_says_nothing():
    assert figure("x", "ms", 5.0, target=2.0).holds is None


def test_measures_run_in_turn_and_give_medians():
    calls, values = [], {"a": iter([3.0, 1.0, 2.0]), "b": iter([9.0, 9.0, 1.0])}

    def measure(name):
        calls.append(name)
        return next(values[name])

    assert in_turn({"a": lambda: measure("a"), "b": lambda: measure("b")}) == {"a": 2.0, "b": 9.0}
    assert calls == ["a", "b"] * 3


def test_fewer_than_three_rounds_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        in_turn({}, repeats=2)


def test_every_benchmark_knows_quick():
    assert arguments(None).parse_args(["--quick"]).quick
