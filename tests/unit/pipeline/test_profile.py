"""Doctor and run say beforehand what of the data will surprise."""

import datetime as dt

import pytest
import yaml

from core import Window, load_settings, replay
from core.errors import DataError
from core.negatives import NegativeSampling
from core.settings import LabelRule
from pipeline import run as running
from pipeline import stages
from pipeline.commands.doctor import diagnose
from pipeline.profile import lines, profile, profile_source, remarks

BEGIN = 1_700_000_000
END = dt.datetime.fromtimestamp(BEGIN + 600 * 60, dt.UTC)
NOW = replay(END)


@pytest.fixture
def project(tmp_path):
    """Writes a log of 600 rows in two scenarios with items of their own, and its settings."""

    def make(label=lambda n: n % 3 == 0, item=lambda n, s: 100 * s + n % 20, items=None, titles=True, **sections):
        rows = [(n % 30, item(n, n % 2), BEGIN + 60 * n, ("books", "toys")[n % 2], int(label(n))) for n in range(600)]
        (tmp_path / "log.csv").write_text(
            "user_id,item_id,time,shelf,bought\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows)
        )
        known = sorted({row[1] for row in rows})
        lines = [f"{i},{f'Thing {i}' if titles else ''}" for i in known]
        (tmp_path / "items.csv").write_text("\n".join(items or ["item_id,title", *lines]) + "\n")
        body = {
            "root": "root",
            "data": {
                "source": "table",
                "path": ".",
                "files": {"interactions": "log.csv", "items": "items.csv"},
                "columns": {"event_timestamp": "time"},
                "label": {"column": "bought"} | {"op": "is"},
                "scenario": {"rule": "column", "column": "shelf"},
            },
            "promotion": {"min_users": 10, "min_positives": 10},
        } | sections
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(body))
        return load_settings(tmp_path / "mine.yaml")

    return make


def seen(settings, tmp_path, clock=NOW):
    return {remark.about: remark for remark in remarks(profile_source(settings, tmp_path), settings, clock)}


def test_the_data_is_counted_as_ingest_reads_it(project, tmp_path):
    settings = project()
    found = profile_source(settings, tmp_path)
    assert (found.rows, found.users, found.items, found.catalogue) == (600, 30, 20, 20)
    assert found.positive == pytest.approx(1 / 3)
    assert [(s.name, s.rows, s.items, s.ranked) for s in found.scenarios] == [
        ("books", 300, 10, 20),
        ("toys", 300, 10, 20),
    ]
    told = dict(lines(found))
    assert told["log"] == "600 rows of 30 users and 20 items, 2023-11-14 to 2023-11-15 (0 days), 33.3% positive"
    assert "ranks 20 items" in told["scenario toys"]
    assert not list(tmp_path.glob(".llm4msr-*"))


def test_scenarios_that_share_a_catalogue_by_mistake_are_named_with_the_column_that_is_missing(project, tmp_path):
    remark = seen(project(), tmp_path)["catalogue"]
    assert "each of 2 scenarios ranks all 20 items" in remark.seen and "100% of the log's items" in remark.seen
    assert "scenarios" in remark.mend and "data.columns" in remark.mend


def test_scenarios_that_show_the_same_items_may_share_a_catalogue(project, tmp_path):
    assert "catalogue" not in seen(project(item=lambda n, s: n // 2 % 20), tmp_path)


def test_items_that_name_their_scenarios_are_ranked_there_only(project, tmp_path):
    known = [f"{i},Thing,{'toys' if i >= 100 else 'books'}" for i in [*range(0, 20, 2), *range(101, 121, 2)]]
    settings = project(items=["item_id,title,scenarios", *known])
    assert "catalogue" not in seen(settings, tmp_path)
    assert {s.ranked for s in profile_source(settings, tmp_path).scenarios} == {10}


def test_a_log_that_is_older_than_the_times_to_live_is_all_stale(project, tmp_path):
    settings = project(features={"ttl": {"user_stats": "P30D"}, "lag": {"user_stats": "PT24H"}})
    late = replay(END + dt.timedelta(days=32))
    assert "age" not in seen(settings, tmp_path, replay(END + dt.timedelta(days=30, hours=23)))
    remark = seen(settings, tmp_path, late)["age"]
    assert "older than features.ttl of user_stats" in remark.seen and "features.ttl" in remark.mend
    assert "age" not in seen(project(), tmp_path, late)


@pytest.mark.parametrize(("label", "word"), [(lambda n: True, "positive"), (lambda n: False, "negative")])
def test_a_log_of_one_label_only_is_named_before_a_run_meets_it(project, tmp_path, label, word):
    remark = seen(project(label=label), tmp_path)["label"]
    assert f"every row is {word}" in remark.seen
    assert "data.label" in remark.mend


def test_a_log_of_positives_only_is_told_of_negatives_that_can_be_drawn(project, tmp_path):
    settings = project(label=lambda n: True)
    remark = seen(settings, tmp_path)["label"]
    assert "a log of positives only" in remark.seen and "data.negatives" in remark.mend
    drawn = settings.data.model_copy(update={"negatives": NegativeSampling(), "label": LabelRule(op="all")})
    settings = settings.model_copy(update={"data": drawn})
    assert "label" not in seen(settings, tmp_path)
    assert profile_source(settings, tmp_path).positive == 1


def test_too_few_rows_to_replace_a_champion_are_named_with_the_settings(project, tmp_path):
    remark = seen(project(promotion={}), tmp_path)["size"]
    assert "promotion.min_positives" in remark.mend


def test_items_without_text_and_repeated_ones_are_counted(project, tmp_path):
    assert "data.item_text" in seen(project(titles=False), tmp_path)["item text"].mend
    repeated = seen(project(items=["item_id,title", *["1,Thing"] * 3]), tmp_path)["items"]
    assert repeated.seen.startswith("2 rows")


def test_rows_that_lack_something_are_counted_by_column(project, tmp_path):
    settings = project()
    (tmp_path / "log.csv").write_text("user_id,item_id,time,shelf,bought\n1,1,1700000000,,1\n2,1,1700000001,toys,0\n")
    assert "1 rows (50.0%) have no scenario" in seen(settings, tmp_path)["rows"].seen


def test_a_fault_deep_in_the_file_is_a_bad_finding(project, tmp_path, capsys):
    settings = project()
    with (tmp_path / "log.csv").open("a") as stream:
        stream.write("1,1,soon,toys,1\n")
    with pytest.raises(DataError):
        profile_source(settings, tmp_path)
    assert diagnose(settings) is False
    assert "row 602" in capsys.readouterr().out


def test_warnings_leave_the_verdict_good_and_say_what_to_do(project, capsys):
    assert diagnose(project()) is True
    told = capsys.readouterr().out
    assert "warn catalogue: no column says" in told and "     -> give the items table a column" in told
    assert "0 to mend before a run" in told


def test_a_quick_look_does_not_read_the_log(project, capsys):
    diagnose(project(), quick=True)
    assert "catalogue" not in capsys.readouterr().out


def test_a_run_says_it_once_before_the_long_stages(project, caplog, monkeypatch):
    settings = project()
    read = stages.ingest(settings)
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
    with caplog.at_level("WARNING", "llm4msr"):
        running._warn(settings, Window(), read)
    assert [r.message for r in caplog.records if "no column says which items" in r.message]
    assert profile(settings, read.path).rows == 600
