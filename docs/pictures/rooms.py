"""Draw the pictures of the rooms: `python docs/pictures/rooms.py` writes `docs/pictures/rooms/ROOM.svg`.

A picture is a grid of boxes and arrows between them. Nothing is measured or looked up, so the same words give the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "rooms"
WIDTH, HEIGHT = 176, 50  # of a box
ACROSS, DOWN = 40, 34  # between boxes
EDGE = 14
LONGEST = {"name": 23, "say": 28}  # letters that fit
# Of this room, of a neighbour, a file or a store.
FILLS = {"own": "#dce9fb", "other": "#f3f3f1", "store": "#fdf0d5"}
FORM = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>{title}</title>
<style>text {{ font-family: system-ui, "DejaVu Sans", Arial, sans-serif; fill: #1c2733; text-anchor: middle; }}
.name {{ font-size: 13px; font-weight: 600; }} .say {{ font-size: 11px; }} .line {{ stroke: #4a5a6a; stroke-width: 1.4; fill: none; }}
rect {{ stroke: #7d8b99; }}</style>
<defs><marker id="head" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto"><path d="M0,0 L9,4 L0,8 z" fill="#4a5a6a"/></marker></defs>
<rect x="0" y="0" width="{width}" height="{height}" style="fill:#ffffff;stroke:none"/>
{body}
</svg>
"""


@dataclass(frozen=True)
class Box:
    """A box: its column and row, its name, one line about it, and whether it is of this room, of another, or a store."""

    column: int
    row: int
    name: str
    say: str = ""
    fill: str = "own"

    @property
    def left(self) -> int:
        return EDGE + self.column * (WIDTH + ACROSS)

    @property
    def top(self) -> int:
        return EDGE + self.row * (HEIGHT + DOWN)

    @property
    def middle(self) -> tuple[int, int]:
        return self.left + WIDTH // 2, self.top + HEIGHT // 2


@dataclass(frozen=True)
class Picture:
    """Boxes by a short key, and arrows `a>b`, parted by blanks."""

    title: str
    boxes: Mapping[str, Box]
    arrows: str

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [(left, right) for left, _, right in (arrow.partition(">") for arrow in self.arrows.split())]


PICTURES = {
    "core": Picture(
        "core: what every room stands on",
        {
            "file": Box(0, 0, "settings file", "and LLM4MSR_ variables", "other"),
            "settings": Box(1, 0, "Settings", "typed, unknown keys refused"),
            "window": Box(0, 1, "Window", "event times [start, end)"),
            "clock": Box(0, 2, "Clock", "the only source of now"),
            "build": Box(1, 1, "ArtifactStore.build", "fingerprint, then builder"),
            "source": Box(1, 2, "code version", "syntax of what is imported"),
            "tmp": Box(2, 0, "root/tmp", "work in progress", "store"),
            "objects": Box(2, 1, "root/objects", "artifacts, never changed", "store"),
            "pins": Box(2, 2, "root/pins", "values decided once", "store"),
            "manifest": Box(3, 1, "Manifest", "digest, inputs, files, rows"),
        },
        "file>settings settings>build window>build source>build clock>build build>tmp build>objects build>pins objects>manifest",
    ),
    "ingest": Picture(
        "ingest: from raw files to canonical tables",
        {
            "files": Box(0, 0, "raw files", "CSV, parquet, JSON", "other"),
            "pushed": Box(0, 1, "root/live/pushed.db", "rows that were pushed", "store"),
            "parts": Box(1, 0, "parts, dialect", "which files, written how"),
            "source": Box(2, 0, "Source", "batches of raw columns"),
            "values": Box(3, 0, "values", "ids, times, labels, nothing"),
            "log": Box(2, 1, "PushedLog", "one row a key"),
            "stream": Box(3, 1, "canonical, stream", "schemas, row groups"),
            "out": Box(3, 2, "ingest artifact", "four tables and meta.json", "store"),
            "gate": Box(2, 2, "validation", "the next room", "other"),
        },
        "files>parts parts>source source>values values>stream pushed>log log>stream stream>out out>gate",
    ),
    "knowledge": Picture(
        "knowledge: from the log to vectors",
        {
            "tables": Box(0, 0, "validated tables", "all windows so far", "other"),
            "log": Box(0, 1, "log", "rows in order of users"),
            "snapshots": Box(1, 1, "Snapshots", "when a user's is due"),
            "texts": Box(1, 0, "texts", "item texts, prompts"),
            "reasoner": Box(2, 0, "Reasoner", "a frozen language model"),
            "cache": Box(3, 0, "root/cache", "raw vectors by prompt", "store"),
            "pooling": Box(2, 1, "pooling", "means of item vectors"),
            "compressor": Box(3, 1, "Compressor", "fitted once, pinned"),
            "out": Box(3, 2, "knowledge artifact", "vectors, index", "store"),
        },
        "tables>texts tables>log log>snapshots snapshots>texts texts>reasoner reasoner>cache reasoner>pooling snapshots>pooling pooling>compressor "
        "cache>compressor compressor>out",
    ),
    "validation": Picture(
        "validation: a gate",
        {
            "table": Box(0, 0, "table of a stage", "as written", "other"),
            "history": Box(0, 1, "windows before", "their results.json", "other"),
            "suite": Box(1, 1, "Suite", "rules, each with its reason"),
            "engine": Box(1, 0, "engine", "Great Expectations"),
            "database": Box(1, 2, "database", "DuckDB: keys and joins"),
            "outcome": Box(2, 1, "Outcome", "counts, facts, verdict"),
            "splitter": Box(2, 0, "Splitter", "sound and rejected rows"),
            "sound": Box(3, 0, "sound rows", "the artifact", "store"),
            "quarantine": Box(3, 1, "quarantine", "row, rule, run", "store"),
            "stop": Box(3, 2, "stop", "exit code 2, a message", "other"),
        },
        "table>engine suite>engine suite>outcome database>outcome history>suite engine>splitter splitter>sound splitter>quarantine "
        "outcome>stop",
    ),
    "feature_repo": Picture(
        "feature_repo: one set of values, offline and online",
        {
            "log": Box(0, 0, "validated tables", "all windows so far", "other"),
            "knowledge": Box(0, 1, "knowledge artifact", "vectors and texts", "other"),
            "push": Box(0, 2, "fresh interactions", "file, stream or HTTP", "other"),
            "stats": Box(1, 0, "build_features", "a state per event"),
            "views": Box(1, 1, "Generation", "views and services"),
            "pusher": Box(2, 2, "Pusher", "the users of fresh rows"),
            "table": Box(2, 0, "build_training_table", "point-in-time join"),
            "mat": Box(2, 1, "materialize", "newest values, read back"),
            "dataset": Box(3, 0, "dataset artifact", "rows and vectors", "store"),
            "online": Box(3, 1, "online store", "Redis or SQLite", "store"),
            "reader": Box(3, 2, "OnlineReader", "one read per user"),
        },
        "log>stats stats>table views>table knowledge>views views>mat stats>mat table>dataset mat>online push>pusher pusher>online "
        "online>reader",
    ),
    "models": Picture(
        "models: from a training table to a bundle",
        {
            "dataset": Box(0, 0, "dataset artifact", "rows and vectors", "other"),
            "encoder": Box(1, 0, "Encoder", "ids, numbers, vectors"),
            "x": Box(2, 0, "embeddings", "x, one row per candidate"),
            "user": Box(2, 1, "user level", "generated from user vectors"),
            "backbone": Box(2, 2, "backbone", "one of fifteen"),
            "scenario": Box(3, 2, "scenario level", "from scenario vectors"),
            "logit": Box(3, 1, "logit", "calibrated per scenario"),
            "base": Box(3, 0, "base", "regression on numbers"),
            "train": Box(1, 1, "train", "TorchRec, best epoch kept"),
            "bundle": Box(0, 1, "Bundle", "weights, spec, golden rows", "store"),
            "evaluate": Box(0, 2, "evaluate, compare", "bootstrap over users"),
            "verdict": Box(1, 2, "Verdict", "promoted or not, and why"),
        },
        "dataset>encoder encoder>x x>user user>backbone backbone>scenario scenario>logit base>logit encoder>train train>bundle "
        "bundle>evaluate evaluate>verdict",
    ),
    "bento": Picture(
        "bento: a request, and a new model",
        {
            "caller": Box(0, 0, "caller", "POST /rank", "other"),
            "ranker": Box(1, 0, "Ranker", "checks, answers"),
            "scorer": Box(2, 0, "scorer", "candidates, one product"),
            "bundle": Box(3, 0, "Bundle.score", "of the models room", "other"),
            "reader": Box(1, 1, "OnlineReader", "user state, one read", "other"),
            "online": Box(0, 1, "online store", "Redis or SQLite", "store"),
            "live": Box(2, 1, "live", "loads, checks, swaps"),
            "catalogue": Box(3, 1, "catalogue", "items in memory"),
            "pointers": Box(2, 2, "root/serving", "which bundle, which items", "store"),
            "intake": Box(1, 2, "intake", "POST /push, one thread"),
        },
        "caller>ranker ranker>scorer scorer>bundle online>reader reader>ranker live>scorer catalogue>live pointers>live intake>online",
    ),
    "pipeline": Picture(
        "pipeline: who calls a stage, and what it calls",
        {
            "cli": Box(0, 0, "command line", "llm4msr STAGE"),
            "airflow": Box(0, 1, "Airflow", "the same commands", "other"),
            "test": Box(0, 2, "notebook, test", "the same functions", "other"),
            "graph": Box(1, 0, "graph", "each stage, declared once"),
            "stage": Box(1, 1, "a stage", "f(settings, window)"),
            "declared": Box(1, 2, "declared", "only the settings it named"),
            "rooms": Box(2, 1, "rooms", "ingest to bento", "other"),
            "run": Box(2, 0, "run, estimate", "order, time left"),
            "store": Box(3, 1, "artifact", "a manifest and files", "store"),
            "report": Box(3, 0, "report, outcome", "what a person sees"),
            "pointer": Box(3, 2, "root/serving", "what is live", "store"),
        },
        "cli>stage airflow>stage test>stage graph>run graph>stage declared>stage stage>rooms run>stage rooms>store store>report "
        "store>pointer",
    ),
    "dags": Picture(
        "dags: one task a stage",
        {
            "graph": Box(0, 0, "pipeline/graph.py", "stages, edges, time limits", "other"),
            "dag": Box(1, 0, "llm4msr_dag", "a task for each stage"),
            "timetable": Box(0, 1, "cron timetable", "data intervals", "other"),
            "task": Box(2, 0, "task", "--start --end --catch-up"),
            "command": Box(3, 0, "llm4msr STAGE", "a process of its own", "other"),
            "xcom": Box(2, 1, "XCom", "folder and digest", "store"),
            "root": Box(3, 1, "root", "artifacts", "store"),
            "pages": Box(1, 1, "llm4msr_artifacts", "pages of artifacts"),
        },
        "graph>dag timetable>dag dag>task task>command command>root task>xcom root>xcom xcom>pages",
    ),
    "benchmarks": Picture(
        "benchmarks: ours and a reference, in turn",
        {
            "ours": Box(0, 0, "ours", "what the product does", "other"),
            "reference": Box(0, 1, "reference", "at its best setting", "other"),
            "turn": Box(1, 0, "in_turn", "rounds, then medians"),
            "figures": Box(2, 0, "Figure", "ours, reference, ratio"),
            "finish": Box(3, 0, "finish", "one JSON object"),
            "target": Box(2, 1, "target", "holds or is missed"),
            "machine": Box(3, 1, "machine", "cores, load, quick or not"),
        },
        "ours>turn reference>turn turn>figures figures>finish target>figures machine>finish",
    ),
}


def draw(picture: Picture) -> str:
    """The picture as SVG."""
    boxes = picture.boxes.values()
    width = max(box.left for box in boxes) + WIDTH + EDGE
    height = max(box.top for box in boxes) + HEIGHT + EDGE
    lines = [_arrow(picture.boxes[start], picture.boxes[end]) for start, end in picture.pairs]
    drawn = [line for box in boxes for line in _box(box)]
    return FORM.format(width=width, height=height, title=escape(picture.title), body="\n".join([*lines, *drawn]))


def _box(box: Box) -> Iterator[str]:
    x, _ = box.middle
    yield (
        f'<rect x="{box.left}" y="{box.top}" width="{WIDTH}" height="{HEIGHT}" rx="5" style="fill:{FILLS[box.fill]}"/>'
    )
    yield f'<text class="name" x="{x}" y="{box.top + (21 if box.say else 30)}">{escape(box.name)}</text>'
    if box.say:
        yield f'<text class="say" x="{x}" y="{box.top + 38}">{escape(box.say)}</text>'


def _arrow(start: Box, end: Box) -> str:
    """From the nearest side of one box to that of the other."""
    (x, y), (u, v) = start.middle, end.middle
    if start.column == end.column:
        step = 1 if end.row > start.row else -1
        y, v = y + step * HEIGHT // 2, v - step * HEIGHT // 2
    else:
        step = 1 if end.column > start.column else -1
        x, u = x + step * WIDTH // 2, u - step * WIDTH // 2
    return f'<path class="line" d="M{x},{y} L{u},{v}" marker-end="url(#head)"/>'


def main() -> int:
    """Write them all."""
    FOLDER.mkdir(exist_ok=True)
    for name, picture in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw(picture), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
