"""The glossary: one line a term, short and in order."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
GLOSSARY = ROOT / "docs" / "glossary.md"
# What pages use before they explain it.
USED = set(
    """watermark, lag, tick, kind of knowledge, bucket, shard, part, generation, live model, champion, challenger, placebo, scenario,
    pooled, prompt vector, compressor, segment (of a log), segment (of a table), window, pin, artifact, manifest, content digest, pointer, release, bundle, catalogue,
    materialise, quarantine, replay, push, cold user, snapshot (of a user), snapshot (of a catalogue), gate (of data),
    gate (of a network), probe""".replace("\n   ", "").split(", ")
)


def terms() -> dict[str, str]:
    lines = [line for line in GLOSSARY.read_text().splitlines() if line.startswith("- ")]
    matches = [re.fullmatch(r"- \*\*(.+?)\*\*: (.+\.)", line) for line in lines]
    found = [match for match in matches if match]
    assert len(found) == len(lines), [line for line, match in zip(lines, matches, strict=True) if not match]
    assert len({match[1] for match in found}) == len(found), "a term stands twice"
    return {match[1]: match[2] for match in found}


def test_terms_stand_in_order():
    names = [re.sub(r"[^a-z ]", "", name.lower()).strip() for name in terms()]
    assert names == sorted(names)


def test_a_term_takes_one_to_three_short_sentences():
    sizes = {name: (len(re.findall(r"[.](?= |$)", text)), len(text.split())) for name, text in terms().items()}
    assert {name: size for name, size in sizes.items() if size[0] > 3 or size[1] > 50} == {}


def test_the_terms_that_pages_use_are_there():
    assert USED - terms().keys() == set()


def test_a_generation_is_what_models_read_and_nothing_else():
    """What serves is the live model; a language model writes answers."""
    rooms = [ROOT / room for room in ("bento", "ingest", "knowledge", "models", "validation")]
    files = [path for room in rooms for path in room.rglob("*.py")]
    assert [path.name for path in files if re.search(r"\bgenerations?\b", path.read_text(), re.IGNORECASE)] == []
