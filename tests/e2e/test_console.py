"""The page for people, in a browser: behind its token, on a screen and on a phone, and it changes nothing."""

from __future__ import annotations

import pytest
from browser import CHROMIUM, browser
from started import started

pytestmark = pytest.mark.e2e
TOKEN = "a token for reading, 1"
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
LISTED = "document.querySelectorAll('#list li').length"


@pytest.fixture(scope="module")
def guarded(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("console")
    with started(finished.file, folder / "log", ready=True, LLM4MSR_SERVING__TOKENS__READ=TOKEN) as service:
        yield service


@pytest.fixture(scope="module")
def tab(guarded, tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one


@pytest.fixture
def ranked(tab, guarded):
    """The page with a ranking of user 1 in comedy."""
    tab.open(f"{guarded.url}/console?user=1&scenario=comedy")
    tab.until("!document.querySelector('#asks').hidden")
    tab.type("#token", TOKEN)
    tab.click("button.main")
    tab.until(f"{LISTED} === 10")
    return tab


def get(guarded, route, **more):
    return guarded.client.get(route, headers={"Authorization": f"Bearer {TOKEN}"}, **more)


def test_the_page_is_empty_and_all_that_it_shows_asks_for_the_token(guarded):
    page = guarded.client.get("/console")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    assert "comedy" not in page.text.lower() and "http://" not in page.text and "https://" not in page.text
    for route in ("health", "users", "ranking?user=1&scenario=comedy", "prompt?user=1"):
        assert guarded.client.get(f"/console/{route}").status_code == 401


def test_what_it_asks_for_is_bounded_and_read_only(guarded):
    assert [str(one)[0] for one in get(guarded, "/console/users?begins=4").json()] != []
    assert {str(one)[0] for one in get(guarded, "/console/users?begins=4").json()} == {"4"}
    for query in (
        "user=1&scenario=comedies",
        "user=x&scenario=comedy",
        "user=1&scenario=comedy&k=21",
        "scenario=comedy",
    ):
        answer = get(guarded, f"/console/ranking?{query}")
        assert answer.status_code in (400, 422) and answer.headers["content-type"] == "application/problem+json", query
    assert (
        guarded.client.post("/console/ranking", json={}, headers={"Authorization": f"Bearer {TOKEN}"}).status_code
        == 405
    )


def test_its_ranking_is_the_services_own_with_reasons_and_places(guarded):
    body = {"user_id": 1, "scenario": "comedy", "k": 10}
    own = guarded.client.post("/rank", json=body, headers={"Authorization": f"Bearer {TOKEN}"}).json()
    shown = get(guarded, "/console/ranking?user=1&scenario=comedy").json()
    assert [(i["item_id"], i["score"]) for i in shown["items"]] == [(i["item_id"], i["score"]) for i in own["items"]]
    assert all(item["reasons"] for item in shown["items"]) and shown["user_text"].startswith("Based on")
    assert [one["scenario"] for one in shown["elsewhere"]] == [
        one["scenario"] for one in get(guarded, "/scenarios").json()
    ]
    without = get(guarded, "/console/ranking?user=1&scenario=comedy&k=20&knowledge=false").json()
    places = {item["item_id"]: item["other_place"] for item in without["items"]}
    assert all(places.get(i["item_id"], i["place"]) == i["place"] for i in shown["items"])
    assert not any("taste" in reason["text"] for item in without["items"] for reason in item["reasons"])


@in_a_browser
def test_a_reader_enters_the_token_and_sees_a_ranking(tab, guarded):
    tab.open(f"{guarded.url}/console")
    tab.until("document.body.innerText.includes('asks for a token')")
    tab.type("#token", "not the right one at all")
    tab.click("button.main")
    tab.until("document.body.innerText.includes('not the right one')")
    tab.type("#token", TOKEN)
    tab.click("button.main")
    tab.until(f"{LISTED} === 10")
    assert tab.run("document.querySelector('#user').value") and "token" not in tab.run("location.search")


@in_a_browser
def test_an_item_says_why_and_knowledge_can_be_taken_away(ranked):
    with_it = ranked.run("document.querySelector('#list').innerText")
    ranked.click("#list button")
    ranked.until("document.querySelectorAll('#why .bar').length > 5")
    assert "All parts together" in ranked.run("document.querySelector('#why').innerText")
    ranked.click("#knowledge")
    ranked.until("document.querySelector('#heading').innerText.includes('without knowledge')")
    ranked.until(f"{LISTED} === 10")
    assert ranked.run("document.querySelector('#list').innerText") != with_it
    assert "knowledge=off" in ranked.run("location.search")


@in_a_browser
def test_another_scenario_and_another_user_are_one_choice_away(ranked, guarded):
    count = len(get(guarded, "/scenarios").json())
    assert ranked.run("document.querySelectorAll('#elsewhere .card').length") == count
    ranked.run(
        "(s => { s.value = 'drama'; s.dispatchEvent(new Event('change')) })(document.querySelector('#scenario'))"
    )
    ranked.until("document.querySelector('.card.here h3').innerText.startsWith('Drama')")
    ranked.type("#user", "4")
    ranked.until("[...document.querySelectorAll('#users option')].every(o => o.value.startsWith('4'))")
    ranked.type("#user", "no such user")
    ranked.click("button.main")
    ranked.until("document.querySelector('#list').innerText.includes('user_id')")


@in_a_browser
def test_the_prompt_and_the_health_of_the_service_are_shown(ranked):
    ranked.until("document.querySelector('#health').innerText.includes('answers of this process')")
    ranked.click("#person button")
    ranked.until("[...document.querySelectorAll('#person pre')].some(e => e.innerText.includes('Liked, newest first'))")


@in_a_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_off_and_nothing_comes_from_elsewhere(ranked, guarded, width):
    ranked.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    ranked.click("#list button")
    ranked.until("document.querySelectorAll('#why .bar').length > 5")
    wide = (
        "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"
    )
    assert ranked.run(f"document.documentElement.scrollWidth <= innerWidth ? [] : {wide}") == []
    loaded = ranked.run("performance.getEntriesByType('resource').map(e => e.name)")
    assert loaded and all(name.startswith(guarded.url) for name in loaded)


def test_where_nothing_is_explained_there_is_no_console(finished, tmp_path):
    with started(finished.file, tmp_path / "log", ready=True, LLM4MSR_SERVING__EXPLAIN="false") as service:
        for route in ("/console", "/console/health", "/console/users", "/console/ranking?user=1&scenario=comedy"):
            answer = service.client.get(route)
            assert answer.status_code == 404 and "serving.explain" in answer.json()["detail"]
