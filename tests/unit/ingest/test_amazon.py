import gzip
import json

import pytest

from core.errors import DataError


def review(user, item, stars, time=1_400_000_000, **more):
    return {
        "reviewerID": user,
        "asin": item,
        "reviewerName": "Jo",
        "helpful": [2, 3],
        "reviewText": "so \u00e9 good",
        "overall": stars,
        "summary": "good",
        "unixReviewTime": time,
        "reviewTime": "05 13, 2014",
        **more,
    }


def lines(rows, write=json.dumps) -> bytes:
    return gzip.compress("".join(write(row) + "\n" for row in rows).encode())


BEAUTY = [review("U1", "B1", 5.0), review("U2", "B2", 3.0), review("U2", "B1", 4.0)]
TOYS = [review("U1", "T1", 1.0), review("U3", "B2", 5)]
BEAUTY_META = [
    {
        "asin": "B1",
        "title": "Fish &amp; Chips' polish",
        "price": 9.5,
        "brand": "Acme",
        "categories": [["Beauty", "Nails", "Polish"]],
        "salesRank": {"Beauty": 7},
        "related": {"also_bought": ["B2"]},
    },
    {"asin": "B9", "title": "never reviewed"},
]
TOYS_META = [{"asin": "T1", "title": "<span id=x>raw</span>", "price": "$1,234.50", "category": ["Toys", "Blocks"]}]


@pytest.fixture
def folder(raw):
    raw("reviews_Beauty_5.json.gz", lines(BEAUTY))
    raw("reviews_Toys_and_Games_5.json", gzip.decompress(lines(TOYS)))
    raw("meta_Toys_and_Games.json.gz", lines(TOYS_META))
    return raw("meta_Beauty.json.gz", lines(BEAUTY_META, write=repr))


def test_each_category_is_a_scenario_and_stars_make_the_label(folder, ingest):
    got = ingest(source="amazon", path=folder)
    rows = got.interactions.select(["user_id", "item_id", "scenario", "label"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("U1", "B1", "beauty", 1),
        ("U2", "B2", "beauty", 0),
        ("U2", "B1", "beauty", 1),
        ("U1", "T1", "toys_and_games", 0),
        ("U3", "B2", "toys_and_games", 1),
    ]
    assert got.column("users", "user_id") == ["U1", "U2", "U3"]
    assert got.column("scenarios", "description")[1] == "Products of the category Toys and Games."


def test_reviewed_products_are_the_items_with_all_their_categories(folder, ingest):
    items = ingest(source="amazon", path=folder).items.drop_columns(["event_timestamp", "created_timestamp"])
    assert items.to_pylist() == [
        {
            "item_id": "B1",
            "title": "Fish & Chips' polish",
            "scenarios": ["beauty"],
            "brand": "Acme",
            "category": "Polish",
            "price": 9.5,
        },
        {
            "item_id": "T1",
            "title": None,
            "scenarios": ["toys_and_games"],
            "brand": None,
            "category": "Blocks",
            "price": 1234.5,
        },
        {
            "item_id": "B2",
            "title": None,
            "scenarios": ["beauty", "toys_and_games"],
            "brand": None,
            "category": None,
            "price": None,
        },
    ]


def test_what_postdates_the_choice_is_not_read(folder, ingest):
    got = ingest(source="amazon", path=folder)
    names = {*got.interactions.column_names, *got.items.column_names}
    assert not {"helpful", "reviewText", "summary", "reviewerName", "salesRank", "related"} & names


def test_overall_and_rating_name_the_same_stars(folder, ingest):
    rule = {"op": ">", "value": 4.5}
    labels = [
        ingest(source="amazon", path=folder, label={"column": name, **rule}).column("interactions", "label")
        for name in ("overall", "rating")
    ]
    assert labels[0] == labels[1] == [1, 0, 0, 0, 1]


def test_missing_metadata_leaves_titles_empty(folder, ingest):
    (folder / "meta_Beauty.json.gz").unlink()
    assert ingest(source="amazon", path=folder).rows["items"] == 3


def test_metadata_is_never_evaluated(raw, folder, ingest, tmp_path):
    code = f"{{'asin': open({str(tmp_path / 'owned')!r}, 'w')}}\n"
    raw("meta_Beauty.json.gz", gzip.compress(code.encode()))
    with pytest.raises(DataError, match=r"meta_Beauty\.json\.gz, row 1: neither a JSON object nor a Python literal"):
        ingest(source="amazon", path=folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b'{"asin": "B1"\n'), r"reviews_Beauty_5\.json\.gz, row 1: not JSON"),
        (lines([BEAUTY[0], review("U", "B", [5.0])]), r"row 2, column 'overall': \[5.0\] is no double"),
        (lines([{k: v for k, v in BEAUTY[0].items() if k != "asin"}]), r"column 'asin': no line has this key"),
        (gzip.compress(b""), r"reviews_Beauty_5\.json\.gz: the file is empty"),
        (gzip.compress('{"asin": "é"}\n'.encode("latin-1")), r"row 1: not JSON: byte 10 is not UTF-8 text"),
        (lines(BEAUTY * 2000)[:-300], r"reviews_Beauty_5\.json\.gz: cannot be decompressed"),
    ],
    ids=["no JSON", "no double", "no key", "empty", "no UTF-8", "cut off"],
)
def test_bad_reviews_are_named(raw, folder, ingest, content, message):
    raw("reviews_Beauty_5.json.gz", content)
    with pytest.raises(DataError, match=message):
        ingest(source="amazon", path=folder)


def test_a_folder_without_reviews_is_refused(tmp_path, ingest):
    with pytest.raises(DataError, match="no review file here"):
        ingest(source="amazon", path=tmp_path)


def test_overall_and_rating_name_the_same_grade(folder, ingest):
    grades = [
        ingest(source="amazon", path=folder, grade=name).column("interactions", "grade")
        for name in ("overall", "rating")
    ]
    assert grades[0] == grades[1] and set(grades[0]) <= {1.0, 2.0, 3.0, 4.0, 5.0}


TWICE = '{"reviewerID": "U1", "asin": "B1", "asin": "B2", "overall": 5.0, "unixReviewTime": 1400000000}'


def test_a_key_that_stands_twice_is_named_with_its_line(raw, folder, ingest):
    raw("reviews_Beauty_5.json.gz", lines(BEAUTY) + gzip.compress(TWICE.encode()))
    with pytest.raises(DataError, match=r"reviews_Beauty_5\.json\.gz, row 4: the key 'asin' stands twice"):
        ingest(source="amazon", path=folder)


@pytest.mark.parametrize(
    "text", ['{"asin": "B1", "title": "a", "title": "b"}', "{'asin': 'B1', 'title': 'a', 'title': 'b'}"]
)
def test_a_key_that_stands_twice_in_metadata_is_named_with_its_line(raw, folder, ingest, text):
    raw("meta_Beauty.json.gz", gzip.compress(f"\n{text}\n".encode()))
    with pytest.raises(DataError, match=r"meta_Beauty\.json\.gz, row 2: the key 'title' stands twice"):
        ingest(source="amazon", path=folder)


def test_words_for_nothing_count_in_every_value(raw, folder, ingest):
    rows = [*BEAUTY, review("U4", "B1", "N/A", "1400000000"), review("nan", "B1", 5), review("U4", 77, "4.5")]
    raw("reviews_Beauty_5.json.gz", lines(rows))
    meta = {**BEAUTY_META[0], "title": "null", "brand": " None "}
    raw("meta_Beauty.json.gz", lines([meta, {"asin": 77, "title": "x"}]))
    got = ingest(source="amazon", path=folder, grade="overall")
    assert got.column("interactions", "grade")[:6] == [5.0, 3.0, 4.0, None, 5.0, 4.5]
    assert got.column("interactions", "label")[3] is None
    assert got.column("interactions", "user_id")[4] is None
    items = {row["item_id"]: (row["title"], row["brand"]) for row in got.items.to_pylist()}
    assert items["B1"] == (None, None) and items["77"] == ("x", None)


def test_a_value_of_another_kind_is_named_with_its_line(raw, folder, ingest):
    raw("reviews_Beauty_5.json.gz", lines([*BEAUTY, review("U4", "B1", "five")]))
    with pytest.raises(DataError, match=r"row 4, column 'overall': 'five' is no double"):
        ingest(source="amazon", path=folder)
