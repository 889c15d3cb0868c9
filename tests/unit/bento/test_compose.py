"""compose.yaml against the Compose Specification and against the product, without an engine.

compose-spec.json is the schema of the Compose Specification (github.com/compose-spec/compose-spec, Apache-2.0), unchanged.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from core import load_settings
from pipeline.image import IMAGES, version

REPOSITORY = Path(__file__).resolve().parents[3]
SCHEMA = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
TEXT = (REPOSITORY / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
# Read by the DAG or by the command line itself; everything else that begins so is a settings field.
NO_FIELDS = {f"LLM4MSR_{name}" for name in ("SETTINGS", "COMMAND", "SCHEDULE", "START", "END", "CATCHUP")}
OURS = {name: body for name, body in SERVICES.items() if "llm4msr-" in body["image"]}


def environment(service: dict) -> dict[str, str]:
    """What a service's process finds, with the files it reads and the defaults of what the user may set."""
    found: dict[str, str] = {}
    for file in service.get("env_file", []):
        lines = (REPOSITORY / file).read_text().splitlines()
        found |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    found |= service.get("environment", {})
    return {key: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)) for key, value in found.items()}


def test_it_conforms_to_the_compose_specification():
    jsonschema.validate(COMPOSE, SCHEMA)


def test_the_schema_refuses_an_unknown_key():
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"redis": {"image": "redis", "restrat": "always"}}}, SCHEMA)


def test_foreign_images_are_pinned_by_digest_and_ours_are_what_make_image_builds():
    foreign = [body["image"] for name, body in SERVICES.items() if name not in OURS]
    assert len(foreign) == 2
    assert all(re.fullmatch(r"\S+:[\w.-]+@sha256:[0-9a-f]{64}", image) for image in foreign)
    built = {f"llm4msr-{name}:{version()}" for name in IMAGES}
    assert {re.search(r":-(.+)\}", body["image"])[1] for body in OURS.values()} < built


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_containers_cannot_write_to_their_root_or_gain_rights(name):
    body = SERVICES[name]
    assert (body["read_only"], body["cap_drop"], body["tmpfs"]) == (True, ["ALL"], ["/tmp"])
    assert body["security_opt"] == ["no-new-privileges:true"]


def test_ports_are_open_on_this_machine_only():
    ports = [port for body in SERVICES.values() for port in body.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_whoever_is_waited_for_in_health_has_a_health_check():
    for body in SERVICES.values():
        for other, how in body.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[other]


def test_volumes_are_declared_and_folders_of_ours_exist():
    mounts = [mount for body in SERVICES.values() for mount in body.get("volumes", [])]
    sources = {mount.split(":")[0] for mount in mounts}
    assert {source for source in sources if not source.startswith(".")} == set(COMPOSE["volumes"])
    assert [source for source in sources if source.startswith(".") and not (REPOSITORY / source).exists()] == []
    assert SERVICES["service"]["volumes"][0] == "artifacts:/artifacts:ro"


@pytest.mark.parametrize("name", ["airflow-scheduler", "service"])
def test_the_environment_makes_settings_that_reach_the_other_services(name, monkeypatch):
    for variable in [key for key in os.environ if key.startswith("LLM4MSR_")]:
        monkeypatch.delenv(variable)
    found = environment(SERVICES[name])
    for variable, value in found.items():
        if variable.startswith("LLM4MSR_") and variable not in NO_FIELDS:
            monkeypatch.setenv(variable, value)
    settings = load_settings(REPOSITORY / "config" / "airflow-demo.yaml")
    assert (str(settings.root), str(settings.data.path)) == ("/artifacts", "/data")
    hosts = re.findall(
        r"(?:@|//|^)([a-z-]+):\d+", "\n".join([settings.online.url, settings.registry.url, settings.tracking.url]), re.M
    )
    assert set(hosts) == {"redis", "postgres", "mlflow"} < set(SERVICES)
    assert found["LLM4MSR_SETTINGS"] in ("/opt/llm4msr/config/airflow-demo.yaml", "/etc/llm4msr/settings.yaml")


def test_each_database_that_is_named_is_made():
    made = re.findall(r"CREATE DATABASE (\w+);", (REPOSITORY / "bento/deploy/compose/databases.sql").read_text())
    assert sorted(set(re.findall(r"@postgres:5432/(\w+)", TEXT))) == sorted(made)


def test_all_processes_of_airflow_share_one_configuration():
    parts = [environment(body) for name, body in SERVICES.items() if name.startswith("airflow-")]
    assert len(parts) == 5
    assert all(part == parts[0] for part in parts)
    assert parts[0]["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert len(parts[0]["AIRFLOW__API_AUTH__JWT_SECRET"]) >= 64


def test_airflow_knows_each_option_that_is_set():
    from airflow.configuration import conf

    known = {
        f"AIRFLOW__{section}__{option}".upper()
        for section, body in conf.configuration_description.items()
        for option in body["options"]
    }
    # Provider sections (FAB and the simple manager's) are not in the core's description.
    assert {key for key in environment(SERVICES["airflow-api"]) if key.startswith("AIRFLOW__")} <= known


def test_each_command_is_one_that_its_program_understands():
    from airflow.cli import cli_parser
    from mlflow.cli import cli as mlflow

    commands = {name: body["command"] for name, body in OURS.items() if "command" in body}
    assert {words[0] for words in commands.values()} == {"airflow", "mlflow"}
    for program, *words in commands.values():
        if program == "airflow":
            assert callable(cli_parser.get_parser().parse_args(words).func)
        else:
            command = mlflow.get_command(None, words[0])
            assert command.make_context(words[0], words[1:]).params["port"] == 5000
    # The service runs its image's own command.
    assert set(OURS) - set(commands) == {"service"}


def test_each_published_port_is_the_one_that_is_listened_at_and_asked_for_health():
    for name, body in OURS.items():
        for _, port, inside in (mount.split(":") for mount in body.get("ports", [])):
            recipe = (REPOSITORY / "bento" / "Dockerfile").read_text() if name == "service" else json.dumps(body)
            command = recipe.rsplit("CMD", 1)[-1] if name == "service" else json.dumps(body["command"])
            assert port == inside
            assert re.search(rf'--port(=|", "){port}"', command)
            assert re.search(rf"C\('127.0.0.1', {port},", recipe)


def test_places_in_our_images_hold_what_is_expected_there():
    """Settings, DAG, plugins and data lie in the image or are mounted; see the recipes' COPY lines."""
    recipe = (REPOSITORY / "pipeline" / "Dockerfile").read_text()
    found = environment(SERVICES["airflow-api"]) | dict(re.findall(r"(AIRFLOW__\w+)=(\S+)", recipe))
    places = {
        found["LLM4MSR_SETTINGS"]: REPOSITORY / "config" / "airflow-demo.yaml",
        found["AIRFLOW__CORE__DAGS_FOLDER"]: REPOSITORY / "dags",
        found["AIRFLOW__CORE__PLUGINS_FOLDER"]: REPOSITORY / "dags" / "plugins",
    }
    for place, ours in places.items():
        assert Path(place).relative_to("/opt/llm4msr") == ours.relative_to(REPOSITORY)
        assert ours.exists()
        assert f"COPY {ours.relative_to(REPOSITORY).parts[0]} ." in recipe
    assert SERVICES["service"]["volumes"][1].split(":")[:2] == [
        "./config/airflow-demo.yaml",
        environment(SERVICES["service"])["LLM4MSR_SETTINGS"],
    ]
