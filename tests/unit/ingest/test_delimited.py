"""Every row of a delimited file comes out, whatever its dialect, or an error names the line."""

import bz2
import csv
import gzip
import io
import lzma
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import DataError
from core.settings import CsvDialect
from ingest import stream
from ingest.delimited import Delimited
from ingest.structure import Dialect, scan

HEADER = ["id", "page", "title"]
LOG = 'id,page,title\n1,feed,lamp\n2,feed,"a, b"\n'
PLAIN = [["1", "feed", "lamp"], ["2", "feed", "a, b"]]


def read(path: Path, usual: str = ",", known=(), **dialect: str) -> list[list[str | None]]:
    file = Delimited.find(path, CsvDialect(**dialect), usual=usual, known=known)
    columns: list[list[str | None]] = [[] for _ in file.header]
    for batch in file.read(dict.fromkeys(file.header, pa.string())):
        for column, cells in zip(columns, batch.columns, strict=True):
            column += cells.to_pylist()
    rows = [list(row) for row in zip(*columns, strict=True)]
    assert len(rows) == file.structure.rows
    return rows


@pytest.fixture
def text(tmp_path):
    """Write a file and read all its cells."""

    def run(content: str | bytes, name: str = "log.csv", known=(), **dialect: str) -> list[list[str | None]]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read(path, "\t" if ".tsv" in name else ",", known, **dialect)

    return run


WORDS = st.text(st.sampled_from("ab \"',;|\\N\n\té5"), min_size=1, max_size=6)
TABLES = st.lists(
    st.tuples(st.integers(0, 99).map(str), st.sampled_from(["feed", "a b"]), WORDS), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=TABLES, delimiter=st.sampled_from(",;|\t"), end=st.sampled_from(["\n", "\r\n", "\r"]), every=st.booleans())
def test_what_a_csv_writer_wrote_is_read_or_refused(rows, delimiter, end, every):
    rows = [(key, page, word.replace("\n", end)) for key, page, word in rows]
    written = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL
    csv.writer(written, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows([HEADER, *rows])
    expected = [list(row) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log.csv")
        path.write_text(written.getvalue(), newline="")
        assert read(path, delimiter=delimiter, quote='"', escape="none") == expected
        try:
            found = read(path)
        except DataError as error:
            assert "of its own" in str(error)  # two readings account for every line
        else:
            assert len(found) == len(rows)
            assert [row[:2] for row in found] == [row[:2] for row in expected]


@settings(max_examples=60, deadline=None)
@given(rows=TABLES, delimiter=st.sampled_from(",;|\t"), data=st.data())
def test_small_blocks_change_nothing(rows, delimiter, data):
    escaped = data.draw(st.booleans())
    options = {"escapechar": "\\", "doublequote": False} if escaped else {}
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter, lineterminator="\n", **options).writerows([HEADER, *rows])
    dialect = CsvDialect(delimiter=delimiter, quote='"', escape="\\" if escaped else "none")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder, "log.csv")
        path.write_text(written.getvalue(), newline="")
        whole = Delimited.find(path, dialect).structure
        patch.setattr(stream.utf8_blocks, "__defaults__", (None, data.draw(st.integers(1, 20))))
        parts = Delimited.find(path, dialect).structure
    assert (parts.rows, parts.header, parts.spanning, parts.row_like, parts.fault) == (
        *(whole.rows, whole.header, whole.spanning, whole.row_like, whole.fault),
    )
    assert [parts.lines.of(row) for row in range(parts.rows)] == [whole.lines.of(row) for row in range(whole.rows)]
    starts, line = [], 2
    for row in rows:
        starts.append(line)
        line += row[2].count("\n") + 1
    assert [whole.lines.of(row) for row in range(whole.rows)] == starts


LINES = (
    "1,feed,a",
    '2,feed,5" screen',
    '3,feed,say "x" now',
    '"4",feed,"a, b"',
    '5,feed,"a ""b"""',
    "",
    "6,feed",
    "7,feed,a,b",
    '8,"feed',
    'x",9',
    '10,feed,"',
    "11,feed,a\\",
    '12,feed,\\"',
    ",,",
    '"",,""',
)


@settings(max_examples=300, deadline=None)
@given(
    lines=st.lists(st.sampled_from(LINES), min_size=1, max_size=8),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quote=st.sampled_from(['"', None]),
    escape=st.sampled_from([None, "\\"]),
    size=st.integers(1, 40),
)
def test_any_lines_are_judged_alike_in_small_blocks(lines, end, quote, escape, size):
    """Blocks after the one with the header are looked at less closely where each line is plainly a row."""
    dialect = Dialect(",", quote, escape)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder, "log.csv")
        path.write_text(end.join(["id,page,title", *lines]) + end, newline="")
        whole = scan(path, dialect)
        patch.setattr(stream.utf8_blocks, "__defaults__", (None, size))
        parts = scan(path, dialect)
    assert (parts.fault is None) == (whole.fault is None), "of several faults another may be found first"
    if whole.fault is None:
        assert (parts.rows, parts.spanning, parts.row_like) == (whole.rows, whole.spanning, whole.row_like)
        assert [parts.lines.of(row) for row in range(parts.rows)] == [whole.lines.of(row) for row in range(whole.rows)]


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_the_separator_is_found_out(text, delimiter):
    assert text(LOG.replace(", b", "- b").replace(",", delimiter)) == [PLAIN[0], ["2", "feed", "a- b"]]


def test_a_decimal_comma_is_no_separator(text):
    assert text("id;page;price\n1;feed;9,50\n2;feed;8,00\n") == [["1", "feed", "9,50"], ["2", "feed", "8,00"]]


def test_a_separator_that_finds_the_names_of_the_settings_wins(text):
    content = "id;price, EUR;page\n1;9,5;feed\n"
    assert text(content, known={"id", "page"}) == [["1", "9,5", "feed"]]


def test_quotes_in_a_tsv_are_text_where_they_do_not_enclose(text):
    content = 'id\tpage\ttitle\n1\tfeed\t"red boots\n2\tfeed\tlamp\n3\tfeed\t"red boots\n4\tfeed\t5" screen\n'
    assert [row[2] for row in text(content, "log.tsv")] == ['"red boots', "lamp", '"red boots', '5" screen']


def test_a_quoted_tsv_is_read_as_such(text):
    assert text('id\tpage\ttitle\n1\tfeed\t"a\tb"\n', "log.tsv") == [["1", "feed", "a\tb"]]


def test_stray_quotes_that_pair_up_over_lines_do_not_swallow_them(text):
    content = 'id,page,title\n1,feed,"red boots\n2,feed,lamp\n3,feed,lamp"\n4,feed,x\n'
    assert [row[0] for row in text(content)] == ["1", "2", "3", "4"]


def test_backslashes_before_quotes_are_found_out(text):
    content = 'id,page,title\n1,feed,"Monitor 27\\""\n2,feed,"a \\"b\\", c"\n3,feed,"x\\\\"\n'
    assert [row[2] for row in text(content)] == ['Monitor 27"', 'a "b", c', "x\\"]


def test_a_backslash_before_a_closing_quote_of_a_path_is_text(text):
    assert text('id,page,title\n1,feed,"C:\\a, b\\"\n') == [["1", "feed", "C:\\a, b\\"]]


def test_nothing_stays_nothing_where_backslashes_escape(text):
    content = 'id,page,title\n1,\\N,"a \\"b\\""\n2,feed,\\N\n'
    assert text(content) == [["1", None, 'a "b"'], ["2", "feed", None]]


def test_the_codes_of_a_database_export_are_read(text):
    content = 'id\tpage\ttitle\n1\t\\N\ta\\tb\\nc\\\\n\n2\tfeed\t"x\n'
    assert text(content, "log.tsv") == [["1", "\\N", "a\tb\nc\\n"], ["2", "feed", '"x']]


def test_an_escaped_line_end_and_tab_of_a_database_belong_to_the_value(text):
    content = "id\tpage\ttitle\n1\tfeed\ta\\\tb\\\nc\n2\tfeed\td\\\\\n"
    assert text(content, "log.tsv") == [["1", "feed", "a\tb\nc"], ["2", "feed", "d\\"]]


def test_backslashes_of_a_file_that_is_no_database_export_stay(text):
    assert text("id\tpage\ttitle\n1\tfeed\tC:\\temp\n", "log.tsv") == [["1", "feed", "C:\\temp"]]


def test_single_quotes_enclose_where_nothing_else_fits(text):
    assert text("id,page,title\n1,feed,'a, b'\n2,feed,it's\n") == [["1", "feed", "a, b"], ["2", "feed", "it's"]]
    assert text("'id','page','title'\n'1','feed','a'\n") == [["1", "feed", "a"]]


def test_an_apostrophe_at_the_beginning_is_text(text):
    assert text("id,page,title\n1,feed,'Tis\n2,feed,'Twas\n") == [["1", "feed", "'Tis"], ["2", "feed", "'Twas"]]


def test_quotes_within_unquoted_text_are_text(text):
    content = 'id,page,title\n1,feed,5" screen\n2,feed,"a, ""b"""\n3,feed,7"\n4,feed,"x\ny"\n5,feed,8"\n'
    assert [row[2] for row in text(content)] == ['5" screen', 'a, "b"', '7"', "x\ny", '8"']


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_and_byte_order_marks_change_nothing(text, end, encoding, last):
    content = LOG if last else LOG.rstrip("\n")
    assert text(content.replace("\n", end).encode(encoding)) == PLAIN


def test_blank_lines_are_no_rows_and_rows_keep_their_lines(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text('\n\nid,page,title\n\n1,feed,"a\nb"\n\n\n2,feed,x\n')
    file = Delimited.find(path)
    assert [file.line(row) for row in range(file.structure.rows)] == [5, 9]
    with pytest.raises(DataError, match=r"row 9, column 'title': .*'x'"):
        list(
            Delimited.find(write(path, '\n\nid,page,title\n\n1,feed,"3"\n\n\n\n2,feed,x\n')).read({"title": pa.int64()})
        )


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def test_blanks_around_names_are_not_part_of_them(tmp_path):
    path = write(tmp_path / "log.csv", ' id , "page" ,title \n1,feed,a\n')
    assert Delimited.find(path).header == ["id", '"page"', "title"]
    assert Delimited.find(write(path, '"id "," page","title"\n1,feed,a\n')).header == HEADER


PACKED = {
    ".gz": lambda b: gzip.compress(b[:20]) + gzip.compress(b[20:]),
    ".bz2": lambda b: bz2.compress(b[:20]) + bz2.compress(b[20:]),
    ".xz": lambda b: lzma.compress(b[:20]) + lzma.compress(b[20:]),
    ".zst": lambda b: pa.compress(b, codec="zstd", asbytes=True),
    ".lz4": lambda b: pa.compress(b, codec="lz4", asbytes=True),
    "": lambda b: gzip.compress(b),
}


@pytest.mark.parametrize("suffix", PACKED)
def test_compressed_files_are_told_by_their_bytes(text, suffix):
    assert text(PACKED[suffix](LOG.encode()), f"log.csv{suffix}") == PLAIN


@pytest.mark.parametrize("suffix", [suffix for suffix in PACKED if suffix])
def test_a_compressed_file_that_was_cut_off_is_refused(text, suffix):
    body = "".join(f"{k},feed,{k * 7919 * 7919 % 10**9}\n" for k in range(5000))
    packed = PACKED[suffix](("id,page,title\n" + body).encode())
    with pytest.raises(DataError, match="cannot be decompressed"):
        text(packed[: len(packed) // 2], f"log.csv{suffix}")


def test_thousands_of_columns_and_very_long_lines_are_read(text):
    names = [f"c{k}" for k in range(5000)]
    assert text(",".join(names) + "\n" + ",".join(["1"] * 5000) + "\n") == [["1"] * 5000]
    long = "x" * 3_000_000
    assert text(f"id,page,title\n1,feed,{long}\n2,feed,y\n") == [["1", "feed", long], ["2", "feed", "y"]]


def test_a_file_with_a_header_only_has_no_rows(text):
    assert text("id,page,title") == text("id,page,title\n") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('id,page,title\n1,feed,"a, b"\n2,feed,"c\n3,feed,"d, e\n', r"row 3: .*data\.csv"),
        ('id,page,title\n1,feed,"a, b"\n2,feed,"c, d\n3,feed,x\n', r"row 3: .*opened here and never closed"),
        ('id,page,title\n1,feed,"a, b"\n2,feed,"c\n3,feed,x\n4,feed,d"\n', r"row 3: .*line 5.*data\.csv\.quote"),
        ('id,page,title\n1,feed,a\n2,feed,"b\n', r"row 3: .*opened here and never closed.*data\.csv\.quote: none"),
        ('id;page;title\n1;feed;a\n"2;feed;b', r"row 3: .*opened here and never closed"),
        ('"id","page","title"\n"1","feed","5" screen"\n', r"row 2: .*text follows a closing quote.*data\.csv\.quote"),
        ("id,page,title\n1,feed\n", "row 2: .*2 fields where the header has 3"),
        ("id,page,title\n\n1,feed,a\n2,feed,a,b\n", "row 4: .*4 fields where the header has 3"),
        ("id,page,title\n1,feed,a,\n", "row 2: .*4 fields"),
        ("# made by hand\nid,page,title\n1,feed,a\n", "row 2: .*3 fields where the header has 1"),
        ("id,page,title\n1,feed,a\n# end\n", "row 3: .*1 field where"),
        ("id,page,title\n1,feed,a\n2,feed,\0\n", "row 3: a NUL byte"),
        ('id,page,title\n1, "a, b",x\n', "row 2: .*4 fields"),
        ("id,page,id\n1,feed,2\n", "column 'id': columns 1 and 3 have this name"),
        ("id,page, id\n1,feed,2\n", "column 'id': columns 1 and 3 have this name"),
        ("\n\n", "the file is empty"),
        (b"PK\x03\x04xlsx", "a ZIP archive"),
        ("id,page,title\n1,feed,é\n".encode("latin-1"), r"row 2: byte 21 is not UTF-8 text; set data\.encoding"),
        ("ïd,page,title\n1,feed,x\n".encode("latin-1"), r"row 1: byte 0 is not UTF-8 text; set data\.encoding"),
    ],
)
def test_what_no_dialect_accounts_for_is_refused_with_its_line(text, content, message):
    with pytest.raises(DataError, match=message):
        text(content)


def test_what_the_settings_say_is_not_guessed(text):
    content = 'id,page,title\n1,feed,"a, b"\n2,feed,"c\n3,feed,x\n4,feed,d"\n'
    assert text(content, quote='"')[1] == ["2", "feed", "c\n3,feed,x\n4,feed,d"]
    assert text('id,page,title\n1,feed,"a"\n', quote="none") == [["1", "feed", '"a"']]
    assert text("id-page-title\n1-feed-a\n", delimiter="-") == [["1", "feed", "a"]]
    assert text("id,page,title\n1,feed,^a^^b^\n", quote="^") == [["1", "feed", "a^b"]]
    with pytest.raises(DataError, match="row 2: .*never closed"):
        text('id,page,title\n1,feed,"a\n', quote='"')


@pytest.mark.parametrize("wrong", [{"delimiter": "ab"}, {"delimiter": "\n"}, {"quote": ","}, {"escape": "é"}])
def test_a_dialect_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="character"):
        CsvDialect(**{"delimiter": ",", **wrong})
