import pytest
from typer.testing import CliRunner

from core import Settings
from core.settings import DataSettings, ModelSettings, ScenarioRule
from models.backbones import BACKBONES
from pipeline.cli import app
from pipeline.commands.models_list import entries, listing, shape_of


def test_the_command_prints_every_backbone_with_its_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["models", "list"])
    assert result.exit_code == 0
    for name, backbone in BACKBONES.items():
        (line,) = [line for line in result.output.splitlines() if line[2:].startswith(f"{name} ")]
        assert backbone.source in line
        assert line.startswith("*") == (name == "shared_bottom")


def test_dimensions_are_those_of_the_settings():
    data = DataSettings(
        user_categorical=["gender", "age"],
        item_dense=["year"],
        scenario=ScenarioRule(groups={"a": ["1"], "b": ["2"]}, other="c"),
    )
    shape = shape_of(Settings(data=data, model=ModelSettings(embedding_dim=8, knowledge_features=False)))
    assert (shape.scenarios, shape.fields, shape.dim) == (3, 6, 8)  # user, gender, age, history, item, scenario
    assert shape.inputs == 6 * 8 + (3 + 3 + 1) + 2 * 8  # fields, numbers, projected item text
    assert shape_of(Settings(data=data), scenarios=5).scenarios == 5


def test_parameters_and_flops_are_those_of_the_layers():
    settings = Settings(model=ModelSettings(hidden=[10], tower=[4]))
    shape = shape_of(settings, scenarios=2)
    entry = next(iter(entries(settings, shape)))
    d = shape.inputs
    assert entry.parameters == d * 10 + 10 + 2 * (10 * 4 + 4 + 4 + 1)
    assert entry.flops == 2 * (d * 10 + 10 * 4 + 4)


@pytest.mark.parametrize(("name", "options"), [("mmoe", {"experts": 9}), ("hamur", {"k": 7})])
def test_options_of_the_chosen_backbone_count(name, options):
    plain = Settings(model=ModelSettings(backbone=name))
    changed = Settings(model=ModelSettings(backbone=name, backbone_options=options))
    ((key, value),) = options.items()
    assert f"{key} {value}" in listing(changed)
    sizes = [next(e for e in entries(s, shape_of(s)) if e.chosen).parameters for s in (plain, changed)]
    assert sizes[0] != sizes[1]
