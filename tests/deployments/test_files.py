"""The container, compose and Kubernetes files, as far as a machine without Docker and Kubernetes can tell: the schemas
hold, every name that is used exists, and the programs that they start know their arguments."""

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from flows import deploy
from flows.commands import grammar
from flows.settings import POOL
from tests.test_frame import pins

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deployments"
DOCKERFILE = (FOLDER / "container" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
KUBERNETES = "1.31"
OBJECTS = [
    found
    for path in sorted((FOLDER / "kubernetes").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for found in yaml.safe_load_all(path.read_text())
]
IMAGE = f"tinygptv:{PROJECT['version']}"
FROM_ENV = re.compile(r"\$\{([A-Z_0-9]+)(:[?-])?")


def named(kind: str, name: str) -> dict[str, Any]:
    """The one object of that kind and name."""
    (found,) = [item for item in OBJECTS if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Whose pod it is, and its spec."""
    for item in OBJECTS:
        if item["kind"] == "Deployment":
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]
        if item["kind"] == "RayCluster":
            for group in (item["spec"]["headGroupSpec"], *item["spec"]["workerGroupSpecs"]):
                yield group.get("groupName", "head"), group["template"]["spec"]


PODS = dict(pods())
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"].startswith("tinygptv:")}


def test_compose_is_what_its_specification_allows():
    filled = yaml.safe_dump(COMPOSE)  # its anchors and merges are YAML's and gone with this
    compose = PyCompose.from_yaml(re.sub(r"\$\{[A-Z_0-9]+:[?-][^}]*\}", "x", filled))
    compose.validate()
    assert set(compose.service_names()) == set(COMPOSE["services"])


def test_what_compose_does_not_know_is_refused():
    with pytest.raises(ValueError, match="prots"):
        PyCompose.from_yaml("services: {a: {image: b, prots: ['1:1']}}").validate()


@pytest.mark.parametrize("item", [i for i in OBJECTS if i["kind"] != "RayCluster"], ids=lambda i: i["kind"])
def test_kubernetes_objects_are_what_its_schemas_allow(item):
    kubernetes_validate.validate(item, KUBERNETES, strict=True)


def test_what_kubernetes_does_not_know_is_refused():
    wrong = {**named("Service", "prefect"), "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError, match="prots"):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_the_ray_cluster_has_what_kuberay_requires():
    """RayCluster of ray.io/v1: in each group a pod template (checked as a pod), in workers' a name and counts."""
    spec = named("RayCluster", "tinygptv")["spec"]
    assert set(spec) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    assert set(spec["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in spec["workerGroupSpecs"]:
        assert set(group) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_versions_are_those_of_the_pins_and_of_the_project():
    assert named("RayCluster", "tinygptv")["spec"]["rayVersion"] == pins()["ray"]
    assert {container["image"] for pod in PODS.values() for container in pod["containers"]} == {IMAGE}
    assert {service["image"] for service in OURS.values()} == {f"tinygptv:${{TINYGPTV_TAG:-{PROJECT['version']}}}"}
    assert "FROM python:3.11-slim" in DOCKERFILE and PROJECT["requires-python"] == ">=3.11,<3.13"
    others = {name: service["image"] for name, service in COMPOSE["services"].items() if name not in OURS}
    assert all(re.fullmatch(r"[\w./]+:\d[\w.-]*", image) for image in others.values())


def test_the_image_is_made_of_what_is_there_by_nobody_in_particular():
    copied = [word for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.M) for word in line.split()[:-1]]
    assert [path for path in copied if not (ROOT / path).exists()] == []
    packages = {pattern.rstrip("*") for pattern in ("flows*", "tasks*", "tinygptv_core*", "data_recipes*")}
    assert packages <= set(copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert {path.split("/")[0] for path in copied} == {line[1:] for line in ignored if line.startswith("!")}
    extras = re.search(r"'\.\[([\w,-]+)\]'", DOCKERFILE)[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"]) and {"pipeline", "postgres", "s3", "auth"} <= set(
        extras
    )
    assert DOCKERFILE.index('$CPU_WHEELS" torch') < DOCKERFILE.index("-e '.[")
    assert re.search(r"^USER tinygptv$", DOCKERFILE, re.M) and 'ENTRYPOINT ["tinygptv"]' in DOCKERFILE
    assert not re.search(r"(?i)password|secret|token", DOCKERFILE)


def test_every_password_must_be_set_and_the_example_names_all_of_them():
    used = FROM_ENV.findall((FOLDER / "compose.yaml").read_text())
    required = {name for name, how in used if how == ":?"}
    example = re.findall(r"^([A-Z_0-9]+)=(.*)$", (FOLDER / "env.example").read_text(), re.M)
    assert dict(example) == dict.fromkeys(required, "")
    assert {name for name, how in used if how != ":?"} == {"TINYGPTV_TAG", "TORCH"}


def test_nothing_is_published_but_on_loopback():
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert published and all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in published)
    assert {item["spec"].get("type", "ClusterIP") for item in OBJECTS if item["kind"] == "Service"} == {"ClusterIP"}
    assert not any(item["kind"] == "Ingress" for item in OBJECTS)


def test_every_volume_configuration_and_service_that_compose_uses_exists():
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", ())) <= set(COMPOSE["services"])
        assert {config["source"] for config in service.get("configs", ())} <= set(COMPOSE["configs"])
        for source in (volume.split(":")[0] for volume in service.get("volumes", ())):
            assert (FOLDER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
    asked = re.findall(r"(?:http://|@|address=)([a-z][\w-]+):(\d+)", (FOLDER / "compose.yaml").read_text())
    assert {name for name, _ in asked} == {"prefect", "mlflow", "s3", "postgres", "ray-head"}
    for name, port in asked:
        assert name in COMPOSE["services"]
        assert port == {"postgres": "5432"}.get(name) or port in str(COMPOSE["services"][name]), (name, port)


def test_every_volume_and_service_that_kubernetes_uses_exists():
    claims = {item["metadata"]["name"] for item in OBJECTS if item["kind"] == "PersistentVolumeClaim"}
    for pod in PODS.values():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        claimed = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
        assert claimed <= claims
        assert {mount["name"] for c in pod["containers"] for mount in c.get("volumeMounts", ())} == set(volumes)
    for name in ("prefect", "mlflow"):
        service, (container,) = named("Service", name)["spec"], PODS[name]["containers"]
        assert service["selector"] == named("Deployment", name)["spec"]["template"]["metadata"]["labels"]
        assert {port["targetPort"] for port in service["ports"]} == {port["name"] for port in container["ports"]}
        assert container["ports"][0]["containerPort"] == service["ports"][0]["port"]
        assert str(service["ports"][0]["port"]) in container["command"]
    # KubeRay makes the head's service, and names it after the cluster.
    hosts = {f"{named('RayCluster', 'tinygptv')['metadata']['name']}-head-svc:6379", "prefect:4200", "mlflow:5000"}
    assert set(re.findall(r"(?:http://|address=)([\w-]+:\d+)", yaml.safe_dump(OBJECTS))) == hosts


def test_every_secret_that_is_used_is_made_as_the_readme_says_and_none_is_written_down():
    text = (FOLDER / "kubernetes" / "README.md").read_text().replace("\\\n", " ")
    made = {
        (name, key)
        for name, literals in re.findall(r"create secret generic ([\w-]+) (.*)", text)
        for key in re.findall(r"--from-literal=(\w+)=", literals)
    }
    variables = [variable for pod in PODS.values() for c in pod["containers"] for variable in c["env"]]
    used = {tuple(variable["valueFrom"]["secretKeyRef"].values()) for variable in variables if "valueFrom" in variable}
    assert used == made
    plain = [variable["name"] for variable in variables if "value" in variable]
    assert not [name for name in plain if re.search("PASSWORD|TOKEN|SECRET|AUTH_STRING|KEY", name)]


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_ray_prefect_and_mlflow_ask_who_one_is(where):
    if where == "compose":
        environments = {name: set(service.get("environment", ())) for name, service in OURS.items()}
        commands = {name: service["entrypoint"] for name, service in OURS.items()}
        on_ray = ("ray-head", "ray-worker", "worker")
    else:
        environments = {name: {v["name"] for v in pod["containers"][0]["env"]} for name, pod in PODS.items()}
        commands = {name: pod["containers"][0].get("command", []) for name, pod in PODS.items()}
        on_ray = ("head", "train", "worker")
    assert "PREFECT_SERVER_API_AUTH_STRING" in environments["prefect"]
    assert "PREFECT_API_AUTH_STRING" in environments["worker"]
    assert commands["mlflow"][2:4] == ["--app-name", "basic-auth"]
    assert {"MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD"} <= environments["mlflow"]
    for name in on_ray:
        assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD"} <= environments[name]


def test_the_authentication_of_ray_is_by_token_everywhere():
    modes = [
        service["environment"]["RAY_AUTH_MODE"]
        for service in OURS.values()
        if "RAY_AUTH_MODE" in service["environment"]
    ]
    modes += [v["value"] for pod in PODS.values() for v in pod["containers"][0]["env"] if v["name"] == "RAY_AUTH_MODE"]
    assert modes == ["token"] * 6


def command_lines() -> Iterator[list[str]]:
    """Everything that is started in our image, of a shell's script each line."""
    commands = [service["entrypoint"] for service in OURS.values()]
    commands += [pod["containers"][0]["command"] for pod in PODS.values() if "command" in pod["containers"][0]]
    for command in commands:
        if command[0] != "sh":
            yield command
            continue
        yield from (shlex.split(line.removeprefix("exec ")) for line in command[-1].splitlines())


@pytest.mark.parametrize("command", list(command_lines()), ids=lambda command: " ".join(command[:3]))
def test_the_programs_know_their_arguments(command):
    match command:
        case ["python", "-m", "flows.deploy", *arguments]:
            assert deploy.parser().parse_args(arguments).trainings == 1
        case ["mlflow", *arguments]:
            _parsed("mlflow.cli", "cli", arguments)
        case ["ray", *arguments]:
            _parsed("ray.scripts.scripts", "cli", arguments)
        case ["prefect", *arguments]:
            _known_to_prefect(arguments)
        case _:
            raise AssertionError(command)


def _parsed(module: str, name: str, arguments: list[str]) -> None:
    """Have click read the arguments of the innermost command, and run nothing."""
    command = getattr(importlib.import_module(module), name)
    rest = list(arguments)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    command.make_context(command.name, rest)


def _known_to_prefect(arguments: list[str]) -> None:
    """Prefect's own parser, with the settings of nobody."""
    from prefect.cli._app import _app

    command, *_ = _app.parse_args(arguments, exit_on_error=False, print_error=False)
    assert command.__module__.startswith(f"prefect.cli.{arguments[0]}")


def documented() -> Iterator[list[str]]:
    """The commands that docs/deploying.md has a person type, without the settings before them."""
    text = (ROOT / "docs" / "deploying.md").read_text().replace("\\\n", " ")
    for block in re.findall(r"^```\n(.*?)^```", text, re.M | re.S):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            command = words[next(number for number, word in enumerate(words) if not re.match("[A-Z_]+=", word)) :]
            if command[0] in ("ray", "tinygptv"):
                yield command


@pytest.mark.parametrize("command", list(documented()), ids=lambda command: " ".join(command[:3]))
def test_what_the_document_has_one_type_is_understood(command):
    if command[:3] == ["ray", "job", "submit"]:
        split = command.index("--")
        _parsed("ray.scripts.scripts", "cli", command[1:])
        command = command[split + 1 :]
    if command[0] == "tinygptv":
        assert callable(grammar.parser().parse_args(command[1:]).act)
    else:
        _parsed("ray.scripts.scripts", "cli", command[1:])


def test_the_document_tells_of_all_ways():
    told = {" ".join(command[:3]) for command in documented()}
    assert {"ray job submit", "ray start --head", "tinygptv run --ray-address", "tinygptv store push"} <= told


def test_arguments_that_programs_do_not_know_are_refused():
    with pytest.raises(Exception, match="prot"):
        _known_to_prefect(["server", "start", "--prot", "4200"])
    with pytest.raises(Exception, match="prot"):
        _parsed("mlflow.cli", "cli", ["server", "--prot", "5000"])
    with pytest.raises(Exception, match="prot"):
        _parsed("ray.scripts.scripts", "cli", ["start", "--prot=6379"])


def test_the_work_pool_is_the_one_that_the_deployments_are_made_in():
    workers = [command for command in command_lines() if command[:3] == ["prefect", "worker", "start"]]
    assert len(workers) == 2 and all(command[4] == POOL for command in workers)


def test_without_a_server_named_nothing_is_deployed(capsys, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert deploy.main([]) == 2
    assert "PREFECT_API_URL is not set" in capsys.readouterr().err


def test_the_image_starts_the_command():
    assert PROJECT["scripts"]["tinygptv"] == "flows.cli:main"
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "--help"], cwd=ROOT, env=dict(os.environ), capture_output=True
    )
    assert done.returncode == 0 and grammar.parser().prog.encode() in done.stdout
