"""The service's page and document: ours, working, and loading nothing from anywhere else."""

import json
import logging
import re

import pytest
from bentoml.exceptions import BentoMLException, InvalidArgument
from pydantic import BaseModel, ValidationError
from unit.bento.handmade import make_live_model

from bento.logs import quiet_callers
from bento.page import HEADERS, examples, openapi, page
from core import Settings
from core.settings import PushSettings


@pytest.fixture
def live(bundle, catalogue):
    return make_live_model(bundle, catalogue)


@pytest.fixture(scope="module")
def document():
    from bento.service import Ranker

    return Ranker.openapi_spec.asdict()


def settings(tmp_path, **sections):
    return Settings(project="shop", root=tmp_path, **sections)


def test_the_page_names_product_project_and_scenarios_and_loads_nothing(live, tmp_path):
    told = page(settings(tmp_path), live, None)
    assert re.search(r"<title>llm4msr \d[^<]*: shop</title>", told)
    assert all(s["title"] in told for s in live.scenarios)
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", told)
    assert "default-src 'none'" in HEADERS["Content-Security-Policy"]
    assert "/rank -H" in told and "/push" not in told


def test_a_page_before_anything_is_live_says_why(tmp_path):
    assert "no bundle &lt;yet&gt;" in page(settings(tmp_path), None, "no bundle <yet>")


def test_the_document_is_ours_and_shows_push_only_where_it_is_taken(document, live, tmp_path):
    told = openapi(document, settings(tmp_path), live)
    assert told["info"]["title"] == "llm4msr"
    assert "/push" not in told["paths"] and {"/rank", "/explain", "/scenarios"} <= told["paths"].keys()
    assert not re.search(r"slack|badge|https?://", json.dumps(told), re.IGNORECASE)
    assert "/push" in openapi(document, settings(tmp_path, push=PushSettings(http=True)), live)["paths"]
    assert "/push" in document["paths"], "the document of BentoML is left as it is"


def test_ids_of_a_request_are_documented_as_numbers_or_text(document, live, tmp_path):
    told = openapi(document, settings(tmp_path), live)
    body = told["paths"]["/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert body["user_id"]["anyOf"] == [{"type": "integer"}, {"type": "string"}]


def test_the_document_says_what_may_be_null_and_which_scenarios_there_are(document, live, tmp_path):
    told = openapi(document, settings(tmp_path), live)
    assert told["openapi"] == "3.1.0"
    body = told["paths"]["/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert body["k"]["type"] == ["integer", "null"] and body["only"]["type"] == ["object", "null"]
    assert body["scenario"]["enum"] == [one["scenario"] for one in live.scenarios]
    answer = told["paths"]["/explain"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    fields = told["components"]["schemas"][answer["$ref"].rpartition("/")[2]]["properties"]
    assert {"type": "null"} in fields["place"]["anyOf"] and {"type": "null"} in fields["user_text"]["anyOf"]
    assert (
        "enum"
        not in openapi(document, settings(tmp_path), None)["components"]["schemas"]["RankRequest"]["properties"][
            "scenario"
        ]
    )


def test_example_bodies_name_a_scenario_and_an_item_of_the_catalogue(document, live, tmp_path):
    found = examples(settings(tmp_path, push=PushSettings(http=True)), live)
    assert found["/rank"]["scenario"] in live.catalogue.members
    assert found["/explain"]["item_id"] in live.catalogue.columns["item_id"]
    told = openapi(document, settings(tmp_path), live)
    content = told["paths"]["/rank"]["post"]["requestBody"]["content"]["application/json"]
    assert content["example"] == found["/rank"]


class Body(BaseModel):
    scenario: str


def refusal():
    try:
        Body.model_validate({"secret": "x"})
    except ValidationError as error:
        return error


@pytest.fixture
def lines(caplog):
    quiet_callers()
    quiet_callers()
    logger = logging.getLogger("bentoml._internal.server.http_app")

    def log(error):
        caplog.clear()
        try:
            raise error
        except Exception:
            with caplog.at_level("INFO", logger.name):
                logger.error("Exception on %s [%s]", "/rank", "POST", exc_info=True)
        return caplog.text.splitlines()

    logger.propagate, before = True, logger.propagate
    yield log
    logger.propagate = before


def test_what_a_caller_did_wrong_is_one_short_line(lines):
    told = lines(InvalidArgument("unknown scenario 'x\ny'; " + 10_000 * "z"))
    assert len(told) == 1 and "POST /rank refused (400): unknown scenario" in told[0] and len(told[0]) < 500
    told = lines(refusal())
    assert len(told) == 1 and "refused (400): scenario: Field required" in told[0] and "secret" not in told[0]


@pytest.mark.parametrize("error", [BentoMLException("ours"), KeyError("ours")])
def test_a_fault_of_ours_keeps_its_traceback(lines, error):
    assert any("Traceback" in line for line in lines(error))
