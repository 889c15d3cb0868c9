"""The Kubernetes manifests, which were never applied to a cluster, and that they agree with the images."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from core import load_settings
from pipeline.image import version as shipped

REPOSITORY = Path(__file__).resolve().parents[3]
DEPLOY = REPOSITORY / "bento" / "deploy"
OVERLAYS = {
    "base": DEPLOY / "base",
    **{name: DEPLOY / "overlays" / name for name in ("dev", "production", "production-keda")},
}
KINDS = {
    "ConfigMap",
    "Deployment",
    "HorizontalPodAutoscaler",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Service",
    "ServiceAccount",
}
WATCHED = KINDS - {"HorizontalPodAutoscaler"} | {"PrometheusRule", "ScaledObject", "ServiceMonitor"}
# Of operators, by group, version and kind; where each comes from stands in the file.
CRDS = json.loads((Path(__file__).parent / "crds.json").read_text())
SECRET = "a secret that is long enough"
# Older clients (Debian 12 has 1.20) hold a kustomize that does not know `labels`.
OLDEST_KUBECTL = (1, 27)


def test_the_overlay_names_the_image_of_this_version():
    for name in ("dev", "production"):
        (image,) = yaml.safe_load((OVERLAYS[name] / "kustomization.yaml").read_text())["images"]
        assert str(image["newTag"]) == shipped()


def kubectl_problem() -> str | None:
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    said = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True).stdout
    version = json.loads(said)["clientVersion"]
    found = (int(version["major"]), int(version["minor"].rstrip("+")))
    return None if found >= OLDEST_KUBECTL else f"kubectl {found} is older than {OLDEST_KUBECTL}"


@pytest.fixture(scope="module", params=sorted(OVERLAYS))
def rendered(request, tmp_path_factory) -> Path:
    problem = kubectl_problem()
    if problem:
        pytest.skip(f"{problem}: the overlays cannot be rendered")
    done = subprocess.run(["kubectl", "kustomize", str(OVERLAYS[request.param])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "kustomize warns"
    path = tmp_path_factory.mktemp(request.param) / "all.yaml"
    path.write_text(done.stdout)
    return path


@pytest.fixture(scope="module")
def objects(rendered: Path) -> dict[str, dict]:
    return {body["kind"]: body for body in yaml.safe_load_all(rendered.read_text())}


@pytest.fixture(scope="module")
def pod(objects) -> dict:
    return objects["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod) -> dict:
    (only,) = pod["containers"]
    return only


def strict(schema: dict) -> dict:
    """A schema that refuses fields which it does not name: a cluster drops them in silence."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    changed: dict[str, object] = {key: strict(value) for key, value in schema.items()}
    # At the top the API server adds its own.
    if isinstance(schema.get("properties"), dict) and "apiVersion" not in schema["properties"]:
        changed.setdefault("additionalProperties", False)
    return changed


def faults(body: dict) -> list[str]:
    """What an operator's schema has against one of its objects."""
    known = CRDS.get(f"{body['apiVersion']}/{body['kind']}")
    if known is None:
        return [f"{body['kind']} is of no operator that is known here"]
    return [error.message for error in jsonschema.Draft7Validator(strict(known["schema"])).iter_errors(body)]


def validate(*files: Path) -> subprocess.CompletedProcess:
    command = Path(sys.executable).parent / "kubernetes-validate"
    return subprocess.run([command, "--strict", *files], capture_output=True, text=True)


def test_plain_files_conform_to_the_published_schemas():
    files = [f for f in sorted((DEPLOY / "base").glob("*.yaml")) if f.stem not in ("kustomization", "settings")]
    done = validate(*files)
    assert len(files) == 6
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_validator_refuses_an_unknown_field(tmp_path):
    broken = tmp_path / "service.yaml"
    broken.write_text((DEPLOY / "base" / "service.yaml").read_text().replace("type:", "typo:"))
    assert validate(broken).returncode != 0


def test_rendered_overlays_conform_to_the_published_schemas(rendered, tmp_path):
    bodies = list(yaml.safe_load_all(rendered.read_text()))
    ours, operators = [b for b in bodies if b["kind"] in KINDS], [b for b in bodies if b["kind"] not in KINDS]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(ours))
    done = validate(tmp_path / "all.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [fault for body in operators for fault in faults(body)] == []


@pytest.mark.parametrize("file", ["monitoring/service-monitor.yaml", "overlays/production-keda/scaled-object.yaml"])
def test_the_operators_schemas_refuse_an_unknown_field(file):
    body = yaml.safe_load((DEPLOY / file).read_text())
    assert faults(body) == []
    body["spec"]["typo"] = body["spec"].get("endpoints", body["spec"].get("triggers"))[0]["typo"] = 1
    assert len(faults(body)) == 2


def test_an_overlay_holds_each_kind_once(objects, rendered):
    assert set(objects) in (KINDS, WATCHED)
    assert len(list(yaml.safe_load_all(rendered.read_text()))) == len(
        KINDS if "HorizontalPodAutoscaler" in objects else WATCHED
    )


def test_probes_ask_the_services_own_health_routes_on_the_admin_port(container):
    routes = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert routes == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert {container[name]["httpGet"]["port"] for name in routes} == {"admin"}


def test_each_port_is_open_to_those_whom_it_is_for_and_the_pod_reaches_its_stores_alone(objects, container):
    policy = objects["NetworkPolicy"]["spec"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    asked = {rule["ports"][0]["port"]: rule for rule in policy["ingress"]}
    assert set(asked) == set(ports.values()) and all(rule["from"] for rule in policy["ingress"])
    assert asked[ports["admin"]]["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    ]
    assert all(rule["to"] for rule in policy["egress"]), "an egress without `to` reaches every host"
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 6379, 5432}


def test_what_watches_the_pods_finds_them(objects, container):
    if "ServiceMonitor" not in objects:
        annotations = objects["Deployment"]["spec"]["template"]["metadata"]["annotations"]
        assert int(annotations["prometheus.io/port"]) in {port["containerPort"] for port in container["ports"]}
        return
    spec, service = objects["ServiceMonitor"]["spec"], objects["Service"]
    assert spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {one["port"] for one in spec["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}
    scaled = objects["ScaledObject"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == objects["Deployment"]["metadata"]["name"]
    assert f'namespace="{objects["Deployment"]["metadata"]["namespace"]}"' in scaled["triggers"][0]["metadata"]["query"]
    assert scaled["minReplicaCount"] > objects["PodDisruptionBudget"]["spec"]["minAvailable"]


def test_cpu_and_memory_are_requested_and_limited(container):
    for bound in ("requests", "limits"):
        assert set(container["resources"][bound]) == {"cpu", "memory"}


def test_the_pod_runs_as_nobody_in_particular_on_a_read_only_file_system(pod, container):
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "its variables would carry the prefix of our settings"


def test_only_scratch_is_writable_and_every_mount_has_its_volume(pod, container):
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert set(volumes) == set(mounts)
    writable = {mount["mountPath"] for mount in mounts.values() if not mount.get("readOnly")}
    assert writable == {"/tmp", "/dev/shm"}
    assert all("emptyDir" in volumes[m["name"]] for m in mounts.values() if m["mountPath"] in writable)


def test_selectors_find_the_pods(objects):
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)


def test_references_between_objects_resolve(objects, pod, container):
    name = objects["Deployment"]["metadata"]["name"]
    settings = next(v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v)
    assert settings == objects["ConfigMap"]["metadata"]["name"]
    assert settings != "llm4msr-settings", "without a content hash, changed settings roll nothing"
    assert pod["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]
    assert objects["Service"]["spec"]["ports"][0]["targetPort"] in {port["name"] for port in container["ports"]}
    assert "replicas" not in objects["Deployment"]["spec"], "the autoscaler owns the replicas"
    if "HorizontalPodAutoscaler" in objects:
        scaled = objects["HorizontalPodAutoscaler"]["spec"]
        assert scaled["scaleTargetRef"]["name"] == name
        assert objects["PodDisruptionBudget"]["spec"]["minAvailable"] < scaled["minReplicas"]


def test_the_settings_are_ones_the_product_accepts_and_agree_with_the_pod(objects, container, tmp_path, monkeypatch):
    (file,) = objects["ConfigMap"]["data"]
    (tmp_path / file).write_text(objects["ConfigMap"]["data"][file])
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", SECRET))
    settings = load_settings(tmp_path / file)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environment["LLM4MSR_SETTINGS"] == f"{mounts['settings']}/{file}"
    assert str(settings.root) == mounts["artifacts"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    serving = settings.serving
    assert (serving.host, {"http": serving.port, "admin": serving.admin_port}) == ("0.0.0.0", ports)
    assert settings.online.password.get_secret_value() == SECRET
    assert {serving.tokens.of(group).get_secret_value() for group in ("read", "write", "admin")} == {SECRET}
    assert settings.clock.mode == "wall"


def test_no_secret_is_written_down(rendered):
    body = json.dumps(list(yaml.safe_load_all(rendered.read_text())))
    assert "kind: Secret" not in rendered.read_text()
    assert not re.search(r"://[^\"@/]*:[^\"@/]*@", body), "an address with a password in it"


def test_settings_of_overlays_differ_from_the_base_in_addresses_and_the_log_only():
    base, dev, production = (
        yaml.safe_load((OVERLAYS[name] / "settings.yaml").read_text()) for name in ("base", "dev", "production")
    )
    assert dev["serving"].pop("access_log") is True
    assert base == dev
    for settings in (base, production):
        del settings["online"]["url"], settings["registry"]["url"]
    assert base == production


def test_values_live_as_long_in_the_pods_as_in_training():
    pods = load_settings(OVERLAYS["production"] / "settings.yaml")
    pipeline = load_settings(REPOSITORY / "config" / "production.yaml")
    assert (pods.features, pods.knowledge.lag) == (pipeline.features, pipeline.knowledge.lag)


@pytest.mark.parametrize(
    ("manifest", "image"), [("base/deployment.yaml", "serve"), ("jobs/knowledge.yaml", "pipeline")]
)
def test_a_pod_runs_an_image_that_make_image_builds_as_the_user_it_has(manifest, image):
    from pipeline.image import IMAGES

    pod = yaml.safe_load((DEPLOY / manifest).read_text())["spec"]["template"]["spec"]
    recipe = (REPOSITORY / IMAGES[image].recipe).read_text()
    assert [container["image"] for container in pod["containers"]] == [f"llm4msr-{image}"]
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert set(re.findall(r"^USER ([\d:]+)$", recipe, re.MULTILINE)) == {user}
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_knowledge_job_conforms_and_has_a_pod_for_each_part(monkeypatch):
    from pipeline.commands.knowledge_cli import parse_shard

    file = DEPLOY / "jobs" / "knowledge.yaml"
    assert validate(file).returncode == 0
    spec = yaml.safe_load(file.read_text())["spec"]
    [command] = [c["command"] for c in spec["template"]["spec"]["containers"]]
    [shard] = [word.removeprefix("--shard=") for word in command if word.startswith("--shard=")]
    found = []
    for index in range(spec["completions"]):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        found.append(parse_shard(shard))
    volumes = [v["configMap"]["name"] for v in spec["template"]["spec"]["volumes"] if "configMap" in v]
    assert volumes == ["llm4msr-pipeline-settings"], "the service's own has a hash in its name and knows no data"
    assert spec["completionMode"] == "Indexed"
    assert found == [(part, spec["completions"]) for part in range(1, spec["completions"] + 1)]


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "job/3", "-1/3"])
def test_a_part_that_does_not_exist_is_refused(monkeypatch, shard):
    from core.errors import SettingsError
    from pipeline.commands.knowledge_cli import parse_shard

    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    with pytest.raises(SettingsError, match="--shard"):
        parse_shard(shard)
