"""Image, compose file, Kubernetes manifests and systemd unit: they are valid and agree with the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from driftgraph.app.config.settings import Settings, load
from driftgraph.app.config.variables import SECRETS_DIR
from driftgraph.app.live import supervisor, web_process
from driftgraph.app.live.loop import checkpoint_timer
from driftgraph.app.web.openapi import ROUTES
from driftgraph.snapshots.generations.keys import CALL_FAILS_WITHIN_S
from driftgraph.stream import safe_queue

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
UNIT = ROOT / "deploy" / "systemd" / "driftgraph.service"
VERSIONS = ("1.29.0", "1.37.0")  # of Kubernetes: the oldest and the newest that are looked at
USER = 10001
# What a stop waits for, one after the other: the checkpoint under way and the last one, the worker, letters
# and erasures, the lease, the HTTP port.
STOP_S = (
    2 * checkpoint_timer.LAST_WITHIN_S
    + supervisor.WORKER_STOPS_WITHIN_S
    + 2 * safe_queue.CLOSE_WITHIN_S
    + CALL_FAILS_WITHIN_S
    + web_process.ENDS_WITHIN_S
)


def manifests() -> dict[str, Any]:
    """Kind → manifest, of the files that the kustomization names."""
    named = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    found = [yaml.safe_load((KUBERNETES / name).read_text(encoding="utf-8")) for name in named]
    return {one["kind"]: one for one in found}


def pod() -> dict[str, Any]:
    found: dict[str, Any] = manifests()["StatefulSet"]["spec"]["template"]["spec"]
    return found


def container() -> dict[str, Any]:
    [found] = pod()["containers"]
    return dict(found)


def configured(tmp_path: Path) -> Settings:
    path = tmp_path / "driftgraph.toml"
    path.write_text(manifests()["ConfigMap"]["data"]["driftgraph.toml"], encoding="utf-8")
    return load(path)


def composed() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))[
        "services"
    ]
    return found


# --- Kubernetes ------------------------------------------------------------------------------------------


def test_the_kustomization_names_every_file() -> None:
    kinds = {"ConfigMap", "StatefulSet", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    assert manifests().keys() == kinds
    assert len(list(KUBERNETES.glob("*.yaml"))) == len(kinds) + 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", manifests())
def test_a_manifest_is_valid(kind: str, version: str) -> None:
    kubernetes_validate.validate(manifests()[kind], version, strict=True)


def test_the_configuration_loads_and_agrees_with_the_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DRIFTGRAPH__WEB__LISTEN")
    settings, one = configured(tmp_path), container()
    mounts = {mount["mountPath"]: mount["name"] for mount in one["volumeMounts"]}
    volumes = {volume["name"] for volume in pod()["volumes"]}
    claims = {
        claim["metadata"]["name"] for claim in manifests()["StatefulSet"]["spec"]["volumeClaimTemplates"]
    }
    assert set(mounts.values()) == volumes | claims
    assert mounts[str(settings.data_dir)] in claims, "what is written must outlive the pod"
    assert mounts[str(settings.window.dir)] == "window"
    assert mounts["/srv/driftgraph.toml"] == "config"
    [secrets] = one["env"]
    assert secrets["name"] == SECRETS_DIR
    assert mounts[secrets["value"]] == "secrets"
    assert settings.web.address() == ("0.0.0.0", 8350)
    assert [port["containerPort"] for port in one["ports"]] == [8350]
    [service] = manifests()["Service"]["spec"]["ports"]
    assert (service["port"], service["targetPort"]) == (8350, one["ports"][0]["name"])
    [inside] = manifests()["NetworkPolicy"]["spec"]["ingress"]
    assert [rule["port"] for rule in inside["ports"]] == [8350]
    outside = {
        rule["port"] for one in manifests()["NetworkPolicy"]["spec"]["egress"] for rule in one["ports"]
    }
    assert {int(settings.kafka.bootstrap_servers.rpartition(":")[2]), 6379, 53} == outside


def test_every_selector_finds_the_pod() -> None:
    found = manifests()
    labels = found["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert found["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert found["StatefulSet"]["spec"]["serviceName"] == found["Service"]["metadata"]["name"]


def test_probes_ask_routes_that_need_no_token() -> None:
    free = {route.path for route in ROUTES if route.method == "GET" and not route.private}
    one = container()
    asked = {
        name: one[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert asked == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert set(asked.values()) <= free


def test_the_pod_may_as_little_as_can_be() -> None:
    of_pod, own = pod()["securityContext"], container()["securityContext"]
    assert of_pod["runAsNonRoot"] is True
    assert of_pod["runAsUser"] == USER
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod()["automountServiceAccountToken"] is False
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= container()["resources"]["requests"].keys()


# --- what all of them say ----------------------------------------------------------------------------


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


def test_a_stop_may_take_what_it_takes() -> None:
    text = UNIT.read_text(encoding="utf-8")
    unit = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert unit is not None
    graces = [pod()["terminationGracePeriodSeconds"], float(unit[1])]
    graces += [seconds(composed()[name]["stop_grace_period"]) for name in ("driftgraph", "driftgraph-gpu")]
    assert min(graces) > STOP_S
    said = "\n".join(path.read_text(encoding="utf-8") for path in (UNIT, KUBERNETES / "statefulset.yaml"))
    assert re.findall(r"takes (\d+) s at most", said) == [f"{STOP_S:.0f}"] * 2


def test_the_image_and_the_manifests_have_one_user() -> None:
    assert re.findall(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE) == [
        str(USER)
    ]


def test_each_target_is_there_and_the_last_is_the_one_without_a_gpu() -> None:
    stages = re.findall(
        r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert stages[-1] == "cpu"
    targets = {one["build"]["target"] for one in composed().values() if "build" in one}
    assert targets == {"cpu", "cuda"}
    assert targets <= set(stages)


def test_compose_listens_on_this_machine_alone_and_pins_what_it_pulls() -> None:
    for name, one in composed().items():
        for port in one.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"
        if "build" not in one:
            assert re.fullmatch(r"[\w./-]+:v?\d[\w.]*", one["image"]), f"{name}: {one['image']}"


def test_every_file_that_compose_mounts_is_there() -> None:
    mounts = [
        volume for one in composed().values() for volume in one.get("volumes", []) if volume.startswith("./")
    ]
    assert len(mounts) >= 4
    assert [mount for mount in mounts if not (ROOT / mount.split(":")[0]).exists()] == []


def test_prometheus_scrapes_the_service_of_compose() -> None:
    text = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    [job] = yaml.safe_load(text)["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["driftgraph:8350"]}]
    assert composed()["driftgraph"]["environment"]["DRIFTGRAPH__WEB__LISTEN"] == "0.0.0.0:8350"
    provisioned = ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    [source] = yaml.safe_load(provisioned.read_text(encoding="utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"


# --- systemd -----------------------------------------------------------------------------------------------


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None and os.environ.get("CI"):
        pytest.fail("there is no systemd-analyze: install Debian's package systemd")
    if analyze is None:
        pytest.skip("there is no systemd-analyze")
    text = UNIT.read_text(encoding="utf-8")
    program = "/opt/driftgraph/bin/driftgraph"
    assert text.count(program) == 1
    here = tmp_path / UNIT.name
    here.write_text(
        text.replace(program, str(Path(sys.executable).with_name("driftgraph"))), encoding="utf-8"
    )
    done = subprocess.run([analyze, "verify", here], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "run --config /etc/driftgraph/driftgraph.toml" in text
