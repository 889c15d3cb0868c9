"""How `push --follow` cuts its input into batches."""

import os
import threading

import pytest

from pipeline.commands.follow import LONGEST, Lines

SOON, NEVER = 0.0, 3600.0


@pytest.fixture
def pipes():
    """Input and stop pipe: (read, write) each."""
    ends = [os.pipe(), os.pipe()]
    yield ends
    for end in (end for pair in ends for end in pair):
        try:
            os.close(end)
        except OSError:
            assert end != ends[1][0]


def batches(pipes, rows, seconds):
    return Lines(pipes[0][0], pipes[1][0], rows, seconds).batches()


def texts(batch):
    return [line.text for line in batch]


def test_a_batch_is_full_before_its_time(pipes):
    os.write(pipes[0][1], b"a\nb\nc\n")
    found = batches(pipes, 2, NEVER)
    assert texts(next(found)) == [b"a", b"b"]
    os.write(pipes[0][1], b"d\n")
    assert texts(next(found)) == [b"c", b"d"]


def test_a_batch_that_is_not_full_goes_when_its_time_has_come(pipes):
    os.write(pipes[0][1], b"a\nhalf")
    found = batches(pipes, 100, SOON)
    assert texts(next(found)) == [b"a"]
    os.write(pipes[0][1], b" of b\n")
    assert texts(next(found)) == [b"half of b"]


def test_the_end_of_the_input_ends_it_and_the_last_line_needs_no_end(pipes):
    os.write(pipes[0][1], b"a\n\nb")
    os.close(pipes[0][1])
    assert [[tuple(line) for line in batch] for batch in batches(pipes, 100, NEVER)] == [[(1, b"a"), (3, b"b")]]


def test_a_request_to_stop_writes_what_was_read_and_leaves_the_rest(pipes):
    os.write(pipes[0][1], b"a\nb\nc\nhalf")
    found = batches(pipes, 2, NEVER)
    assert texts(next(found)) == [b"a", b"b"]
    os.write(pipes[1][1], b".")
    assert [texts(batch) for batch in found] == [[b"c"]]


def test_a_request_to_stop_ends_a_wait_for_input(pipes):
    threading.Timer(0.05, os.write, (pipes[1][1], b".")).start()
    assert list(batches(pipes, 2, NEVER)) == []


def test_a_line_without_end_is_cut_so_that_it_is_rejected(pipes):
    def write():
        for _ in range(3):
            os.write(pipes[0][1], b"x" * (LONGEST // 2))
        os.write(pipes[0][1], b"\nnext\n")
        os.close(pipes[0][1])

    writer = threading.Thread(target=write)
    writer.start()
    found = [line for batch in batches(pipes, 10, NEVER) for line in batch]
    writer.join()
    assert LONGEST < len(found[0].text) < LONGEST + 100_000
    assert tuple(found[1]) == (2, b"next")
