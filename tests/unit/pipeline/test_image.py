"""What goes to an engine when an image is built, and which engine that is."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from urllib.parse import quote

import pytest

from bento.package import ROOMS
from core.digest import REPOSITORY
from pipeline import image


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch):
    for name in (*image.CERTIFICATES, *image.PROXIES, "PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


@pytest.fixture
def engines(tmp_path, monkeypatch):
    """Makes programs of a name and an exit code the only ones on the path."""

    def install(**answers: int) -> None:
        for name, code in answers.items():
            (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return install


def copied(recipe: str) -> set[str]:
    """What a recipe copies from the build context."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", (REPOSITORY / recipe).read_text(), re.MULTILINE)
    return {word for line in lines for word in line.split()}


def test_the_first_engine_that_answers_is_taken(engines):
    engines(docker=1, podman=0, buildah=0)
    assert image.find_engine() == "podman"


def test_an_engine_that_does_not_answer_is_named(engines, capsys):
    engines(docker=1)
    assert image.main(["serve"]) == 2
    assert "docker found, but without an answer to `docker info`; start it, or install" in capsys.readouterr().err


def test_without_an_engine_one_sentence_says_which_ones_will_do(engines, capsys):
    engines()
    assert image.main(["serve"]) == 2
    assert capsys.readouterr().err.startswith("image: Install docker, podman or buildah")


@pytest.mark.parametrize("name", sorted(image.IMAGES))
def test_the_context_holds_what_the_recipe_copies_and_nothing_else(name, tmp_path):
    image.fill_context(tmp_path, name)
    made, recipe = image.IMAGES[name], image.IMAGES[name].recipe
    wanted = copied(recipe) - ({"dags", "requirements/airflow.txt"} if name in ("pipeline", "gpu") else set())
    wanted = {word.replace("${LOCK}", made.locks[0]) for word in wanted}
    assert [word for word in wanted if not (tmp_path / word).exists()] == []
    assert {path.name for path in tmp_path.iterdir()} == {word.split("/")[0] for word in wanted}
    assert {path.stem for path in (tmp_path / "requirements").glob("*.txt")} >= set(made.locks)
    assert not [path for path in tmp_path.rglob("*") if path.name in ("__pycache__", "deploy", ".git", "seed")]
    # Without it Airflow takes every file of the folder for a DAG.
    assert name != "airflow" or (tmp_path / "dags" / ".airflowignore").is_file()


def test_the_service_image_holds_the_rooms_that_serving_packs():
    rooms = {word for word in copied("bento/Dockerfile") if not word.startswith("requirements/")}
    assert rooms == set(ROOMS)


def test_the_rooms_that_serving_packs_import_no_other_room():
    rooms = set(image.ALL_ROOMS) | {"dags", "benchmarks"}
    found = {
        word
        for room in ROOMS
        for path in (REPOSITORY / room).rglob("*.py")
        for word in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
    }
    assert found & rooms <= set(ROOMS)


@pytest.mark.parametrize("recipe", ["bento/Dockerfile", "pipeline/Dockerfile"])
def test_a_recipe_pins_its_base_by_digest_ends_as_the_pods_user_and_takes_no_package_settings_along(recipe):
    text = (REPOSITORY / recipe).read_text()
    assert re.search(r"^ARG PYTHON_IMAGE=docker\.io/library/python:3\.11-\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    assert re.findall(r"^USER (.+)$", stages[-1], re.MULTILINE)[-1] == "10001:10001"
    for stage in stages:
        if "AS packages" not in stage.splitlines()[0]:
            assert not re.search(r"^COPY (?!--from)requirements/pip ", stage, re.MULTILINE)


def test_the_champion_becomes_the_seed_and_a_root_without_one_is_refused(tmp_path, capsys, engines):
    root, context = tmp_path / "root", tmp_path / "context"
    (root / "objects" / "train" / "abc").mkdir(parents=True)
    (root / "objects" / "train" / "abc" / "manifest.json").write_text("{}")
    (root / "serving").mkdir()
    (root / "serving" / "current.json").write_text('{"bundle": "objects/train/abc"}')
    context.mkdir()
    image.fill_context(context, "serve", root)
    assert (context / "bento" / "seed" / "manifest.json").read_text() == "{}"
    engines(buildah=0)
    assert image.main(["serve", "--root", str(tmp_path / "empty")]) == 2
    assert "no champion below" in capsys.readouterr().err


def test_pips_settings_go_along_with_the_wheels_and_certificates_they_name(tmp_path, monkeypatch):
    wheels, folder = tmp_path / "wheels here", tmp_path / "requirements"
    wheels.mkdir()
    folder.mkdir()
    for name in (
        "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl",
        "Safe_Tensors-1-py3-none-any.whl",
        "other-1-py3-none-any.whl",
    ):
        (wheels / name).touch()
    (tmp_path / "ca.pem").write_text("a certificate")
    (folder / "serve.txt").write_text('# a note\nsafe-tensors==1 ; python_version < "4"\ntorch==2.13.0\n')
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@index.example.com/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///opt/simple https://more.example.com/simple")
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path / 'linked'} https://wheels.example.com")
    (tmp_path / "linked").symlink_to(wheels)
    image.write_pip_settings(folder, image.pip_settings(), ["serve"])
    assert {path.name.split("-")[0] for path in (folder / "pip" / "wheels").iterdir()} == {"torch", "Safe_Tensors"}
    assert (folder / "pip" / "ca.pem").read_text() == "a certificate"
    lines = (folder / "pip" / "pip.conf").read_text().splitlines()
    assert lines[0] == "[global]"
    assert set(lines[1:]) == {
        "index-url = https://user:secret@index.example.com/simple",
        "extra-index-url = https://more.example.com/simple",
        "find-links = /build/requirements/pip/wheels https://wheels.example.com",
        "cert = /build/requirements/pip/ca.pem",
    }


def test_a_proxy_is_passed_as_the_argument_that_engines_leave_out_of_the_image(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    command = image.build_command("docker", "airflow", "mine:1", "/context", base="mirror.example.com/python:3.11")
    assert "HTTPS_PROXY=http://proxy.example.com:3128" in command
    assert "PYTHON_IMAGE=mirror.example.com/python:3.11" in command
    assert command[command.index("--target") + 1] == "airflow"
    assert "--format" not in command
    assert "--format" in image.build_command("buildah", "serve", "mine:1", "/context")


def test_a_lock_with_hashes_takes_the_plain_ones_place(tmp_path):
    (tmp_path / "mine.txt").write_text("torch==1 --hash=sha256:00\n")
    (tmp_path / "context").mkdir()
    image.fill_context(tmp_path / "context", "serve", hashes=tmp_path / "mine.txt")
    assert (tmp_path / "context" / "requirements" / "serve.txt").read_text() == "torch==1 --hash=sha256:00\n"
    with pytest.raises(image.ImageError, match="hashes"):
        image.fill_context(tmp_path / "other", "gpu", hashes=tmp_path / "absent")


def test_it_runs_on_a_python_without_any_package():
    done = subprocess.run(
        [sys.executable, "-I", "-S", REPOSITORY / "pipeline" / "image.py", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--hashes" in done.stdout


def test_hashes_are_written_from_pips_own_account(tmp_path):
    sys.path.insert(0, str(REPOSITORY / "requirements"))
    try:
        import hashes
    finally:
        sys.path.pop(0)
    one = {
        "metadata": {"name": "b", "version": "1"},
        "download_info": {"url": "u", "archive_info": {"hashes": {"sha256": "0f"}}},
    }
    assert hashes.render({"install": [one]}).splitlines()[1:] == ["b==1 --hash=sha256:0f"]
    one["metadata"]["name"] = "Py_YAML.x"
    assert "\npy-yaml-x==1 " in hashes.render({"install": [one]}), "names as the locks write them"
    one["download_info"]["archive_info"] = {}
    with pytest.raises(ValueError, match="py-yaml-x 1"):
        hashes.render({"install": [one]})
    # An older pip on a folder of wheels.
    wheel = tmp_path / "b-1+cpu.whl"
    wheel.write_bytes(b"a wheel")
    one["download_info"]["url"] = f"file://{quote(str(wheel))}"
    assert f"--hash=sha256:{hashlib.sha256(b'a wheel').hexdigest()}" in hashes.render({"install": [one]})
