import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from core import ArtifactStore, Built, Window, replay
from core.digest import REPOSITORY
from core.errors import CorruptArtifactError, MissingArtifactError, StorageError

DAY_1 = Window.parse("2024-01-01", "2024-01-02")
DAY_2 = Window.parse("2024-01-02", "2024-01-03")


def write(text: str, calls: list | None = None):
    def builder(out: Path) -> Built:
        if calls is not None:
            calls.append(text)
        (out / "data.txt").write_text(text)
        return Built(rows={"lines": 1}, versions={"kind": "v1"})

    return builder


def build(store, builder, *, window=DAY_1, stage="stage", inputs=None, **more):
    return store.build(stage, window, inputs=inputs or {}, settings={}, rooms=("core",), builder=builder, **more)


def left_behind(root: Path) -> list[Path]:
    return list((root / "tmp").iterdir())


def test_a_build_is_published_with_its_files_and_counts(tmp_path):
    manifest = build(ArtifactStore(tmp_path, replay("2024-05-01")), write("hello"))
    assert manifest.file("data.txt").read_text() == "hello"
    assert (dict(manifest.rows), dict(manifest.versions), manifest.reused) == ({"lines": 1}, {"kind": "v1"}, False)
    assert json.loads(manifest.file("run.json").read_text())["started_at"] == "2024-05-01T00:00:00+00:00"
    assert left_behind(tmp_path) == []


def test_the_same_again_is_not_built_again(tmp_path):
    store, calls = ArtifactStore(tmp_path), []
    first = build(store, write("hello", calls))
    second = build(store, write("hello", calls))
    assert (calls, second.reused, second.digest) == (["hello"], True, first.digest)


def test_other_inputs_are_built_anew_and_become_the_windows_artifact(tmp_path):
    store = ArtifactStore(tmp_path)
    build(store, write("old"), inputs={"a": "1"})
    new = build(store, write("new"), inputs={"a": "2"})
    assert store.get("stage", DAY_1).fingerprint == new.fingerprint
    assert len(list((tmp_path / "objects" / "stage").iterdir())) == 2


def test_the_digest_ignores_times_and_the_run_folder(tmp_path):
    def builder(folder_text):
        def run(out: Path) -> Built:
            (out / "run").mkdir()
            (out / "run" / "log.txt").write_text(folder_text)
            return write("same")(out)

        return run

    one = build(ArtifactStore(tmp_path / "a", replay("2024-01-01")), builder("x"))
    two = build(ArtifactStore(tmp_path / "b", replay("2025-01-01")), builder("y"))
    assert one.digest == two.digest


def test_row_counts_of_numpy_are_kept_as_numbers(tmp_path):
    manifest = build(ArtifactStore(tmp_path), lambda out: Built(rows={"n": np.int64(3)}))
    assert dict(manifest.rows) == {"n": 3}


def test_a_failed_build_leaves_nothing_visible(tmp_path):
    def fails(out: Path) -> Built:
        (out / "data.txt").write_text("half")
        raise RuntimeError("stop")

    store = ArtifactStore(tmp_path)
    with pytest.raises(RuntimeError, match="stop"):
        build(store, fails)
    with pytest.raises(MissingArtifactError, match="run `llm4msr stage` first"):
        store.get("stage")
    assert left_behind(tmp_path) == []


def test_a_stage_whose_outside_effects_are_lost_is_done_again(tmp_path):
    store, calls = ArtifactStore(tmp_path), []
    build(store, write("hello", calls))
    kept = build(store, write("hello", calls), still_valid=lambda manifest: True)
    redone = build(store, write("hello", calls), still_valid=lambda manifest: False)
    assert (kept.reused, redone.reused, len(calls), left_behind(tmp_path)) == (True, False, 2, [])


CHILD = """
    import os, signal, sys
    from pathlib import Path
    from core import ArtifactStore, Built, Window

    def builder(out):
        (out / "a.txt").write_text("first half")
        if sys.argv[2] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        (out / "b.txt").write_text("second half")
        return Built(rows={"files": 2})

    store = ArtifactStore(sys.argv[1])
    manifest = store.build("stage", Window(), inputs={}, settings={}, rooms=("core",), builder=builder)
    print(manifest.digest)
"""


def child(root: Path, mode: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(root), mode]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=env, check=False)


def test_a_build_killed_half_way_is_invisible_and_the_next_run_ends_in_the_same_digest(tmp_path):
    whole = child(tmp_path / "undisturbed", "run")
    killed = child(tmp_path / "killed", "kill")
    assert (whole.returncode, killed.returncode) == (0, -signal.SIGKILL)
    assert not (tmp_path / "killed" / "objects").exists()
    with pytest.raises(MissingArtifactError):
        ArtifactStore(tmp_path / "killed").get("stage")
    assert len(left_behind(tmp_path / "killed")) == 1
    again = child(tmp_path / "killed", "run")
    assert again.stdout == whole.stdout
    assert left_behind(tmp_path / "killed") == []


def test_verify_finds_a_changed_byte(tmp_path):
    store = ArtifactStore(tmp_path)
    manifest = build(store, write("hello"))
    manifest.check()
    manifest.file("data.txt").write_text("hellO")
    with pytest.raises(CorruptArtifactError, match="data.txt"):
        manifest.check()


def test_verify_finds_a_missing_file(tmp_path):
    store = ArtifactStore(tmp_path)
    manifest = build(store, write("hello"))
    manifest.file("data.txt").unlink()
    with pytest.raises(CorruptArtifactError, match="data.txt"):
        manifest.check()


def test_verify_finds_an_altered_manifest(tmp_path):
    store = ArtifactStore(tmp_path)
    path = build(store, write("hello")).file("manifest.json")
    path.write_text(path.read_text().replace('"lines": 1', '"lines": 2'))
    with pytest.raises(CorruptArtifactError, match=r"manifest\.json was altered"):
        store.get("stage").check()


@pytest.mark.parametrize("text", ["", "{", "{}", '{"unknown": 1}'])
def test_an_unreadable_manifest_is_a_clear_error(tmp_path, text):
    store = ArtifactStore(tmp_path)
    build(store, write("hello")).file("manifest.json").write_text(text)
    with pytest.raises(CorruptArtifactError, match=r"no readable manifest\.json.*delete the folder"):
        store.get("stage")


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small tmpfs can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_a_storage_error_and_publishes_nothing(small_disk):
    def large(out: Path) -> Built:
        (out / "data.bin").write_bytes(bytes(1 << 20))
        return Built()

    store = ArtifactStore(small_disk)
    with pytest.raises(StorageError, match="is full"):
        build(store, large)
    assert not (small_disk / "objects").exists()
    assert build(store, write("small")).file("data.txt").read_text() == "small"


def test_no_space_reported_by_the_builder_is_a_storage_error(tmp_path):
    def full(out: Path) -> Built:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="is full.*nothing was published"):
        build(ArtifactStore(tmp_path), full)
    assert not (tmp_path / "objects").exists()


def test_an_error_of_the_builder_that_is_not_the_disks_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError):
        build(ArtifactStore(tmp_path), lambda out: Path(out / "absent").read_text())


def test_two_processes_that_build_the_same_take_turns_and_one_does_the_work(tmp_path):
    script = """
    import sys
    from pathlib import Path
    from core import ArtifactStore, Built, Window
    def builder(out):
        (out / "data.txt").write_text("x")
        print("built", flush=True)
        sys.stdin.readline()  # until both have begun
        return Built()
    print("begun", flush=True)
    made = ArtifactStore(sys.argv[1]).build(
        "stage", Window(), inputs={}, settings={}, rooms=("core",), builder=builder
    )
    print("reused" if made.reused else "made", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
    one = subprocess.Popen(command, **pipes)
    assert [one.stdout.readline(), one.stdout.readline()] == ["begun\n", "built\n"]
    two = subprocess.Popen(command, **pipes)
    assert two.stdout.readline() == "begun\n"
    assert one.communicate("\n")[0] == "made\n"
    assert two.communicate()[0] == "reused\n"


def test_an_artifact_that_was_deleted_by_hand_counts_for_nothing_until_its_window_runs_again(tmp_path):
    store = ArtifactStore(tmp_path)
    gone = build(store, write("one"))
    kept = build(store, write("two"), window=DAY_2)
    shutil.rmtree(gone.path)
    assert [manifest.path for manifest in store.all("stage")] == [kept.path]
    assert not store.has("stage", DAY_1)
    with pytest.raises(MissingArtifactError):
        store.get("stage", DAY_1)
    assert build(store, write("one")).digest == gone.digest
    (tmp_path / "refs" / "stage" / f"{DAY_2.key}.json").write_text("{")
    assert [manifest.digest for manifest in store.all("stage")] == [gone.digest]


def test_a_root_below_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/locks.* cannot be used \(Not a directory\)"):
        build(ArtifactStore(tmp_path / "file"), write("x"))


def test_a_pin_keeps_what_the_first_writer_said(tmp_path):
    store = ArtifactStore(tmp_path)

    def late():
        # Another process pins the same name while this one still computes.
        assert ArtifactStore(tmp_path).pin("start", lambda: {"at": 1}) == {"at": 1}
        return {"at": 2}

    assert store.pin("start", late) == {"at": 1}
    assert store.pin("start", lambda: pytest.fail("computed again")) == {"at": 1}
    assert sorted(path.name for path in (tmp_path / "pins").iterdir()) == [".lock", "start.json"]


def test_a_pin_needs_no_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: pytest.fail("linked"))
    assert ArtifactStore(tmp_path).pin("start", lambda: 1) == 1
    assert ArtifactStore(tmp_path).pin("start", lambda: 2) == 1


def test_artifacts_are_found_by_window_and_listed_in_order(tmp_path):
    store = ArtifactStore(tmp_path)
    second = build(store, write("two"), window=DAY_2)
    first = build(store, write("one"), window=DAY_1)
    assert store.get("stage", DAY_2).digest == second.digest
    assert store.get("stage").digest == first.digest
    assert [m.digest for m in store.all("stage")] == [first.digest, second.digest]
    assert [m.digest for m in store.all("stage", until=DAY_1)] == [first.digest]
    assert store.all("other") == []


def test_a_reused_artifact_becomes_the_latest_again(tmp_path):
    store = ArtifactStore(tmp_path)
    first = build(store, write("one"), inputs={"a": "1"})
    build(store, write("two"), inputs={"a": "2"})
    build(store, write("one"), inputs={"a": "1"})
    assert store.get("stage").fingerprint == first.fingerprint


def test_work_of_a_living_process_is_not_swept_away(tmp_path):
    store = ArtifactStore(tmp_path)

    def outer(out: Path) -> Built:
        build(store, write("inner"), stage="inner")
        return write("outer")(out)

    assert build(store, outer, stage="outer").file("data.txt").read_text() == "outer"
