"""The manifests are ones that Kubernetes, kustomize and KEDA take, and fit the image and each other."""

import json
import re

import pytest
import yaml
from deployed import DEPLOY, MANIFESTS, ROOT, SCALERS, containers, instruction, pods, secrets

from jsjobs import JobService

POLICIES = [manifest for manifest in MANIFESTS.values() if manifest["kind"] == "NetworkPolicy"]
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
SECRETS = {
    "worker.yaml: worker": "worker",
    "router.yaml: router": "router",
    "service.yaml: service": "service",
    "setup-job.yaml: migrate": "owner",
    "setup-job.yaml: apply": "operator",
}
"""Which role's Secret each container gets."""
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
    role = SECRETS[where]
    assert container["envFrom"] == [{"configMapRef": {"name": "jsjobs"}}, {"secretRef": {"name": f"jsjobs-{role}"}}]
    assert MANIFESTS["config.yaml"]["metadata"]["name"] == "jsjobs"


@pytest.mark.parametrize("name", pods())
def test_a_pod_is_the_images_user(name: str) -> None:
    security = pods()[name]["securityContext"]
    assert instruction("USER") == [f"{security['runAsUser']}:{security['runAsGroup']}"]
    assert security["runAsNonRoot"]
    assert not pods()[name]["automountServiceAccountToken"]


@pytest.mark.parametrize("name", ["worker.yaml", "router.yaml", "service.yaml"])
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
    shards, lanes = SCALERS["keda-prometheus.yaml"]["spec"]["triggers"]
    # A router that is gone leaves no series. Then the answer must be empty, which is an error and means `fallback`.
    for trigger in (shards, lanes):
        assert trigger["metadata"]["ignoreNullValues"] == "false"
        assert not re.search(r"\b(or|vector|absent)\b", trigger["metadata"]["query"])
    # And where all are idle it must be 0, not empty.
    assert "> bool 0" in shards["metadata"]["query"]
    assert ">" not in lanes["metadata"]["query"]


def test_a_worker_of_the_parallel_lanes_is_as_large_as_declared() -> None:
    slots = str(JobService.Config().concurrency)
    lanes = SCALERS["keda-prometheus.yaml"]["spec"]["triggers"][1]["metadata"]
    assert lanes["threshold"] == slots
    lagging = [trigger["metadata"] for trigger in SCALERS["keda-jetstream.yaml"]["spec"]["triggers"]]
    assert {each["lagThreshold"] for each in lagging if "-parallel-" in each["consumer"]} == {slots}


# --- who gets what


def test_a_secret_holds_what_its_role_needs_and_no_more() -> None:
    assert secrets() == {
        "worker": {"JSJOBS_NATS_PASSWORD"},
        "service": {"JSJOBS_NATS_PASSWORD"},
        "router": {"JSJOBS_NATS_PASSWORD", "DATABASE_URL"},
        "operator": {"JSJOBS_NATS_PASSWORD"},
        "owner": {"DATABASE_URL"},
    }
    assert set(dict(containers())) == set(SECRETS)
    for manifest in MANIFESTS.values():
        assert manifest["kind"] != "Secret"


@pytest.mark.parametrize("where", SECRETS)
def test_a_container_is_a_user_of_nats_that_has_its_role(where: str) -> None:
    named = {each["name"]: each["value"] for each in dict(containers())[where].get("env", [])}
    role = SECRETS[where]
    if role == "owner":
        assert named == {}, "it reaches Postgres alone"
        return
    assert named["JSJOBS_NATS_USER"] == role
    assert named["JSJOBS_NATS_INBOX_PREFIX"] == f"_INBOX.{role}"
    auth = ROOT / "streams" / "auth"
    assert (
        f'user: {role}, password: $JSJOBS_{role.upper()}_PASSWORD, permissions {{ include "{role}.conf" }}'
        in (auth / "server.conf").read_text()
    )
    assert f'"_INBOX.{role}.>"' in (auth / f"{role}.conf").read_text()


def test_nats_is_reached_by_tls_with_an_authority_that_is_mounted() -> None:
    config = MANIFESTS["config.yaml"]["data"]
    assert config["NATS_URL"].startswith("tls://")
    folder, _, file = config["JSJOBS_NATS_TLS_CA"].rpartition("/")
    for where, container in containers():
        mounted = {mount["name"]: mount for mount in container.get("volumeMounts", [])}
        if SECRETS[where] != "owner":
            assert mounted["nats-ca"] == {"name": "nats-ca", "mountPath": folder, "readOnly": True}
    for pod in pods().values():
        assert {"name": "nats-ca", "configMap": {"name": "jsjobs-nats-ca"}} in pod["volumes"]
    assert f"jsjobs-nats-ca --from-file={file}" in (DEPLOY / "kubernetes" / "config.yaml").read_text()


def reached(labels: dict[str, str]) -> set[int]:
    """The ports that pods with these labels reach, by all policies that select them."""
    ports = set()
    for policy in POLICIES:
        selector = policy["spec"]["podSelector"]
        chosen = selector["matchLabels"].items() <= labels.items()
        for each in selector.get("matchExpressions", []):
            assert each["operator"] == "In"
            chosen = chosen and labels.get(each["key"]) in each["values"]
        if chosen:
            ports |= {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    return ports


def test_every_pod_reaches_what_its_role_needs_and_no_more() -> None:
    shared = {53, 4222, 4318}
    found = {
        name: reached(manifest["spec"]["template"]["metadata"]["labels"])
        for name, manifest in MANIFESTS.items()
        if name in pods()
    }
    assert found == {
        "worker.yaml": shared | {443},
        "service.yaml": shared,
        "router.yaml": shared | {5432},
        "setup-job.yaml": shared | {5432},
    }
    [entered] = [policy for policy in POLICIES if "Ingress" in policy["spec"]["policyTypes"]]
    assert entered["spec"]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "jsjobs"}}
    assert entered["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8080}]}]
    applied = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    assert {name for name, manifest in MANIFESTS.items() if manifest in POLICIES} <= set(applied)
