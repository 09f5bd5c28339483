"""The manifests are ones that Kubernetes, kustomize and KEDA take, and fit the image and each other."""

import json
import re

import pytest
import yaml
from deployed import DEPLOY, MANIFESTS, SCALERS, containers, instruction, pods

KUBERNETES = ("1.31", "1.37")
SCALED_OBJECT = {
    "scaleTargetRef",
    "minReplicaCount",
    "maxReplicaCount",
    "pollingInterval",
    "cooldownPeriod",
    "fallback",
    "triggers",
}
TRIGGERS = {
    "nats-jetstream": {"natsServerMonitoringEndpoint", "account", "stream", "consumer", "lagThreshold"},
    "prometheus": {"serverAddress", "query", "threshold", "ignoreNullValues"},
}


def check(manifest: object, version: str) -> None:
    import kubernetes_validate  # noqa: PLC0415 - of the extra `long`

    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise ValueError(error.message) from error


@pytest.mark.long
@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", [name for name in MANIFESTS if name not in SCALERS])
def test_a_manifest_is_one_that_kubernetes_takes(name: str, version: str) -> None:
    check(MANIFESTS[name], version)


@pytest.mark.long
def test_a_manifest_with_a_misspelt_field_is_refused() -> None:
    wrong = json.loads(json.dumps(MANIFESTS["worker.yaml"]))
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(ValueError, match="terminationGracePeriod"):
        check(wrong, KUBERNETES[-1])


def test_everything_kustomize_names_exists_and_runs_where_it_is_applied() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    assert set(kustomization["resources"]) <= set(MANIFESTS)
    assert [image["name"] for image in kustomization["images"]] == ["jsjobs"]
    for manifest in MANIFESTS.values():
        assert "namespace" not in manifest["metadata"]


@pytest.mark.parametrize("where", dict(containers()))
def test_a_container_may_do_little(where: str) -> None:
    container = dict(containers())[where]
    assert container["image"] == "jsjobs"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert container["envFrom"] == [{"configMapRef": {"name": "jsjobs"}}, {"secretRef": {"name": "jsjobs"}}]
    assert MANIFESTS["config.yaml"]["metadata"]["name"] == "jsjobs"


@pytest.mark.parametrize("name", pods())
def test_a_pod_is_the_images_user(name: str) -> None:
    security = pods()[name]["securityContext"]
    assert instruction("USER") == [f"{security['runAsUser']}:{security['runAsGroup']}"]
    assert security["runAsNonRoot"]
    assert not pods()[name]["automountServiceAccountToken"]


@pytest.mark.parametrize("name", ["worker.yaml", "router.yaml"])
def test_probes_ask_for_what_is_answered(name: str) -> None:
    [container] = pods()[name]["containers"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/live", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "health"}
    [port] = container["ports"]
    assert port == {"name": "health", "containerPort": int(MANIFESTS["config.yaml"]["data"]["JSJOBS_HEALTH_PORT"])}


def test_selectors_select_the_workers() -> None:
    worker = MANIFESTS["worker.yaml"]
    labels = worker["spec"]["template"]["metadata"]["labels"]
    assert worker["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["pod-disruption-budget.yaml"]["spec"]["selector"]["matchLabels"] == labels
    assert labels != MANIFESTS["router.yaml"]["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize("name", SCALERS)
def test_a_scaler_has_the_fields_that_keda_reads(name: str) -> None:
    scaler = SCALERS[name]
    assert scaler["apiVersion"] == "keda.sh/v1alpha1"
    assert set(scaler["spec"]) <= SCALED_OBJECT
    assert scaler["spec"]["scaleTargetRef"] == {"name": MANIFESTS["worker.yaml"]["metadata"]["name"]}
    for trigger in scaler["spec"]["triggers"]:
        assert set(trigger["metadata"]) == TRIGGERS[trigger["type"]]
        assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes strings alone"


def test_no_numbers_are_not_taken_for_idle_shards() -> None:
    (trigger,) = SCALERS["keda-prometheus.yaml"]["spec"]["triggers"]
    # A router that is gone leaves no series. Then the answer must be empty, which is an error and means `fallback`.
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert not re.search(r"\b(or|vector|absent)\b", trigger["metadata"]["query"])
    # And where all are idle it must be 0, not empty.
    assert "> bool 0" in trigger["metadata"]["query"]
