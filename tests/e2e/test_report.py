"""The report as a reader sees it: complete, and nothing cut off at any width."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.e2e

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (1400, 1000, 390)


@pytest.fixture(scope="module")
def page(finished):
    latest = json.loads((finished.root / "refs" / "report" / "latest.json").read_text())
    return finished.root / "objects" / "report" / latest["object"] / "report.html"


def test_it_opens_without_a_network(page):
    names = re.sub(r"http://(www\.w3|purl|creativecommons)\.org", "", page.read_text())
    assert "<svg" in names and "http://" not in names and "https://" not in names


def test_it_says_what_was_trained_on_what_and_how_it_was_measured(page):
    text = " ".join(re.sub(r"<[^>]+>", " ", page.read_text()).split())
    for words in (
        "Backbone shared_bottom",
        "user level gate",
        "reasoner minilm",
        "seed 1",
        "shuffled titles",
        "plain without text",
    ):
        assert words in text
    # The first sentence is what texts are worth, the first picture the ladder.
    sentence, headline = text.index("What the texts say"), text.index("test AUC with knowledge")
    assert sentence < min(text.index(name) for name in ("counting", "other user's vectors")) < headline
    assert re.search(r"Test rows: [\d,]+ of \d+ users, \d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d", text)
    assert "train.epochs 3" in text and "promotion.resamples 200" in text
    assert text.index("What came in with this window") < text.index("The training table: the log so far")


def test_each_cell_of_a_wide_table_says_its_column_for_narrow_screens(page):
    for table in re.findall(r'<table class="wide">.*?</table>', page.read_text(), re.DOTALL):
        rows = re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
        columns = rows[0].count("<th")
        assert all(row.count("data-label=") == row.count("<td") == columns for row in rows[1:])


def test_what_it_found_lies_beside_it_for_programs(page):
    found = json.loads((page.parent / "findings.json").read_text())["findings"]
    levels = ["alarm", "warning", "note"]
    assert [levels.index(one["level"]) for one in found] == sorted(levels.index(one["level"]) for one in found)
    assert page.read_text().count('<li class="') == len(found)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_nothing_is_cut_off_at_any_width(page, tmp_path):
    frames = "".join(f'<iframe width="{width}" height="900" src="{page.as_uri()}"></iframe>' for width in WIDTHS)
    script = (
        "onload = () => { document.title = [...document.querySelectorAll('iframe')].map(f => {"
        "const page = f.contentDocument; const wide = [...page.querySelectorAll('body *')].filter(e =>"
        "!e.closest('svg') && e.getBoundingClientRect().right > page.documentElement.clientWidth + 1);"
        "return page.documentElement.scrollWidth - page.documentElement.clientWidth + ':' + wide.length }).join(' ') }"
    )
    (tmp_path / "frames.html").write_text(f"<html><body>{frames}<script>{script}</script></body></html>")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [
        "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=10000",
    ]
    dumped = subprocess.run(
        [*command, "--dump-dom", (tmp_path / "frames.html").as_uri()], capture_output=True, text=True, timeout=600
    )
    assert "<title>0:0 0:0 0:0</title>" in dumped.stdout, re.findall("<title>.*?</title>", dumped.stdout)
