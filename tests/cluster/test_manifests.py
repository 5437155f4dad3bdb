"""Every manifest of `cluster/` is held to the schema of what reads it, unknown fields refused."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from jobs.commands.run import run as run_command
from jobs.runtime.recipes import load_recipe

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
SCHEMAS = CLUSTER / "kuberay" / "schemas"
KUBERAY = ("cluster", "job")
RAY_UP = ("aws", "gcp")

# Of KubeRay 1.5.1 and later; the committed schemas are older (schemas/README.md).
NEWER = {"authOptions": {"mode": "token"}}


def strict(schema: Any) -> Any:
    """A schema of a custom resource in which an object has no field but the ones that it lists."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:  # only to the metadata that every Kubernetes object has
        assert schema["$ref"].endswith("meta.v1.ObjectMeta")
        return {"type": "object"}
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    return made


def problems(kind: str, resource: dict[str, Any]) -> list[str]:
    """What the schema of a custom resource says against one."""
    schema = strict(json.loads((SCHEMAS / f"{kind.lower()}.json").read_text()))
    schema["properties"]["metadata"] = {"type": "object"}
    errors = Draft202012Validator(schema).iter_errors(resource)
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in errors]


def documents(name: str) -> list[dict[str, Any]]:
    """The resources of a KubeRay manifest: a service account, and the custom resource."""
    return list(yaml.safe_load_all((CLUSTER / "kuberay" / f"{name}.yaml").read_text()))


def cluster_spec(resource: dict[str, Any]) -> dict[str, Any]:
    """The RayCluster's spec, of either kind of resource."""
    spec: dict[str, Any] = resource["spec"]
    return spec["rayClusterSpec"] if resource["kind"] == "RayJob" else spec


def groups(name: str) -> dict[str, dict[str, Any]]:
    """The groups of pods of a manifest by name."""
    spec = cluster_spec(documents(name)[1])
    workers = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"], **workers}


@pytest.mark.parametrize("name", KUBERAY)
def test_a_kuberay_manifest_is_what_the_official_schema_takes(name: str) -> None:
    account, resource = documents(name)
    assert (account["kind"], account["apiVersion"]) == ("ServiceAccount", "v1")
    older = copy.deepcopy(resource)
    for key, value in NEWER.items():
        assert cluster_spec(older).pop(key) == value
    assert problems(resource["kind"], older) == []


def test_the_check_refuses_what_the_schema_does_not_have() -> None:
    _, resource = documents("cluster")
    assert any("authOptions" in problem for problem in problems("RayCluster", resource))
    del cluster_spec(resource)["authOptions"]
    container = groups("cluster")["head"]["template"]["spec"]["containers"][0]
    for change, word in (
        (lambda spec: spec["headGroupSpec"].pop("template"), "template"),
        (lambda spec: spec["headGroupSpec"].update(serviceAccount="x"), "serviceAccount"),
        (lambda spec: spec["workerGroupSpecs"][0].update(maxReplicas="4"), "'4' is not of type"),
        (lambda spec: spec["autoscalerOptions"].update(upscalingMode="Fast"), "Fast"),
        (
            lambda spec: spec["headGroupSpec"]["template"]["spec"].update(
                containers=[{**container, "volumeMount": []}]
            ),
            "volumeMount",
        ),
    ):
        broken = copy.deepcopy(resource)
        change(cluster_spec(broken))
        assert any(word in problem for problem in problems("RayCluster", broken)), word


def test_both_kuberay_manifests_describe_one_cluster() -> None:
    assert cluster_spec(documents("cluster")[1]) == cluster_spec(documents("job")[1])
    assert documents("cluster")[0] == documents("job")[0]


def test_pods_have_what_a_run_needs() -> None:
    found = groups("cluster")
    assert set(found) == {"head", "learner", "generators"}
    for name, group in found.items():
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert "sizeLimit" in volumes[mounts["/node-cache"]]["emptyDir"]
        assert pod["serviceAccountName"] == documents("cluster")[0]["metadata"]["name"]
        env = {item["name"]: item["value"] for item in container["env"]}
        assert int(env["RAY_JOB_STOP_WAIT_TIME_S"]) < 150
        gpus = container["resources"]["limits"].get("nvidia.com/gpu", "0")
        assert (int(gpus) > 0) == (name != "head")
        assert not any("SECRET" in key or "TOKEN" in key for key in env)
    head = found["head"]
    assert head["rayStartParams"]["num-gpus"] == head["rayStartParams"]["num-cpus"] == "0"
    env = {item["name"]: item["value"] for item in head["template"]["spec"]["containers"][0]["env"]}
    wait = int(env["RAY_JOB_STOP_WAIT_TIME_S"])
    assert head["template"]["spec"]["terminationGracePeriodSeconds"] > wait
    assert found["learner"]["maxReplicas"] == 1
    assert found["generators"]["minReplicas"] == 0
    selectors = [group["template"]["spec"]["nodeSelector"] for group in found.values()]
    assert len({json.dumps(one) for one in selectors}) == 3


def test_the_image_is_one() -> None:
    images = {
        group["template"]["spec"]["containers"][0]["image"]
        for name in KUBERAY
        for group in groups(name).values()
    }
    assert len(images) == 1


def test_ray_is_of_the_version_that_is_pinned() -> None:
    pins = (ROOT / "requirements" / "gpu.txt").read_text()
    for name in KUBERAY:
        version = cluster_spec(documents(name)[1])["rayVersion"]
        assert f"\nray=={version}\n" in pins


def test_the_job_runs_a_recipe_that_is_there_with_options_that_are() -> None:
    entrypoint = documents("job")[1]["spec"]["entrypoint"]
    recipe = re.search(r"--recipe (\S+)", entrypoint)
    assert recipe is not None
    changes = re.findall(r"--set (\S+?)'?(?:\s|$)", entrypoint)
    config = load_recipe(recipe[1], changes)
    assert config.cluster.node_cache == "/node-cache"
    assert Path(config.run.out).is_absolute()
    ranks = json.loads(json.loads(groups("job")["learner"]["rayStartParams"]["resources"]))
    assert config.cluster.rank_resource is not None
    assert ranks[config.cluster.rank_resource] >= config.learn.ranks
    assert "jobs.run" in entrypoint
    assert "--store s3://" in entrypoint
    assert run_command.__name__ == "run"
    worker = groups("job")["generators"]["template"]["spec"]["containers"][0]
    assert int(worker["resources"]["limits"]["nvidia.com/gpu"]) >= config.generate.engines


# --- ray up --------------------------------------------------------------------------------------


def ray_up(name: str) -> dict[str, Any]:
    """A `ray up` file."""
    made: dict[str, Any] = yaml.safe_load((CLUSTER / name / "cluster.yaml").read_text())
    return made


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_takes_the_file(name: str) -> None:
    """As `ray up` does before it asks the cloud: its defaults filled in, its schema applied."""
    from ray.autoscaler._private import util

    config = ray_up(name)
    util.validate_config(util.prepare_config(copy.deepcopy(config)))
    with pytest.raises(Exception, match="idle_minutes"):
        util.validate_config(util.prepare_config({**config, "idle_minutes": 2}))


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_nodes(name: str) -> None:
    config = ray_up(name)
    types = config["available_node_types"]
    assert set(types) == {"head", "learner", "generators"}
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert types["learner"]["resources"]["learner"] == 8
    assert types["learner"]["resources"]["GPU"] == types["generators"]["resources"]["GPU"] == 8
    assert types["generators"]["min_workers"] == 0
    most = sum(kind["max_workers"] for kind in types.values())
    assert config["max_workers"] == most
    spot = json.dumps(types["generators"]["node_config"]).lower()
    assert "spot" in spot
    assert "spot" not in json.dumps(types["learner"]["node_config"]).lower()
    options = config["docker"]["run_options"]
    assert "--env=RAY_AUTH_MODE=token" in options
    assert any(option.startswith("--shm-size") for option in options)
    assert any(option.endswith(":/node-cache") for option in options)
    assert not any("SECRET" in option.upper() for option in options)
    assert any(path.endswith(".ray/auth_token") for path in config["file_mounts"])
    (start,) = [line for line in config["head_start_ray_commands"] if "--head" in line]
    assert "--dashboard-host=127.0.0.1" in start


# --- image ---------------------------------------------------------------------------------------


def run_lines(dockerfile: str) -> list[str]:
    """The commands of a Dockerfile, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", dockerfile)
    return [re.sub(r" +", " ", line[4:]) for line in joined.splitlines() if line.startswith("RUN ")]


def test_the_image_installs_by_the_commands_of_the_docs() -> None:
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    installs = [line for line in run_lines(dockerfile) if "pip install" in line]
    assert len(installs) == 2
    docs = (ROOT / "docs" / "cluster.md").read_text()
    block = re.search(r"```\n(grep '\^setuptools.*?)```", docs, re.DOTALL)
    assert block is not None
    assert block[1].splitlines() == installs
    packages = re.search(r"`apt-get install (.*?)`", docs)
    assert packages is not None
    assert f"--no-install-recommends {packages[1]} &&" in run_lines(dockerfile)[0]
    assert "gcc" in packages[1].split()


def test_the_image_copies_nothing_that_is_made() -> None:
    left_out = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "out"} <= set(left_out)
