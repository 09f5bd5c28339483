"""The board, the alerts and the scaler ask for metrics, labels and consumers that exist."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
from deployed import ALERTS, BOARD, SCALERS, panels, queries
from prometheus_client.parser import text_string_to_metric_families

from jsjobs.jetstream.protocol.names import Generation, Names, Partition, Shard
from jsjobs.jetstream.topology.declaration import lane_stream, partition_consumer, queue_stream, shard_consumer
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane
from jsjobs.settings import Config

EXPOSITION = Path(__file__).with_name("exposition.py")
# What the collector's exporter adds to every sample.
ADDED = {"job", "instance"}


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Every sample's name in Prometheus, and its labels."""
    done = subprocess.run([sys.executable, str(EXPOSITION)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(done.stdout):
        for sample in family.samples:  # those of one name need not have the same labels: a shard has no partition
            labels.setdefault(sample.name, set(ADDED)).update(sample.labels)
    return labels


def parse(text: str) -> promql_parser.Expr:
    """An expression; Grafana's own intervals are put in as Grafana would, variables in quotes may stay."""
    plain = text.replace("$__rate_interval", "1m").replace("$__range", "1h")
    assert not re.search(r"\$(?!priority\b|type\b)", plain), text
    return promql_parser.parse(plain)


def selectors(expression: promql_parser.Expr) -> Iterator[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []
    promql_parser.walk(
        expression, lambda part: found.append(part) if isinstance(part, promql_parser.VectorSelector) else None
    )
    yield from found


def grouped(expression: promql_parser.Expr) -> Iterator[tuple[promql_parser.AggregateExpr, set[str]]]:
    found: list[promql_parser.AggregateExpr] = []
    promql_parser.walk(
        expression, lambda part: found.append(part) if isinstance(part, promql_parser.AggregateExpr) else None
    )
    for aggregate in found:
        yield aggregate, set(aggregate.modifier.labels) if aggregate.modifier else set()


def unknown(text: str, exported: dict[str, set[str]]) -> list[str]:
    """What an expression asks for that nothing exports."""
    expression = parse(text)
    wrong = []
    for selector in selectors(expression):
        labels = exported.get(selector.name)
        if labels is None:
            wrong.append(selector.name)
        else:
            wrong += [
                f"{selector.name}.{matcher.name}"
                for matcher in selector.matchers.matchers
                if matcher.name not in labels
            ]
    for aggregate, by in grouped(expression):
        for selector in selectors(aggregate):
            wrong += [f"{selector.name} by {label}" for label in by - exported.get(selector.name, by)]
    return wrong


@pytest.mark.parametrize("where", queries())
def test_a_query_asks_for_what_is_exported(where: str, exported: dict[str, set[str]]) -> None:
    assert unknown(queries()[where], exported) == []


def test_this_test_can_fail(exported: dict[str, set[str]]) -> None:
    wrong = 'sum by (shard) (rate(jobs_enqueued{queue="x"}[5m])) + sum by (shard, type) (jobs_running{queue="x"})'
    assert unknown(wrong, exported) == ["jobs_enqueued", "jobs_running.queue", "jobs_running by shard"]
    with pytest.raises(ValueError, match="unclosed"):
        parse("sum(rate(jobs_enqueued_total[5m]")


def test_the_board_shows_every_metric(exported: dict[str, set[str]]) -> None:
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    shown = {metric(selector.name) for text in asked for selector in selectors(parse(text))}
    assert {metric(name) for name in exported if name.startswith("jobs_")} == shown


def metric(sample: str) -> str:
    """The metric that a sample is of: a histogram has several."""
    return re.sub(r"_(bucket|count|sum|total|created)$", "", sample)


def test_the_boards_variables_come_from_metrics(exported: dict[str, set[str]]) -> None:
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert set(variables) == {"datasource", "priority", "type"}
    for name in ("priority", "type"):
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables[name]["query"]["query"]).groups()
        assert label == name
        assert label in exported[metric]


def test_states_and_priorities_in_selectors_exist(exported: dict[str, set[str]]) -> None:
    for where, text in queries().items():
        for selector in selectors(parse(text)):
            for matcher in selector.matchers.matchers:
                if matcher.name == "state":
                    assert matcher.value in {"waiting", "running"}, where
                elif matcher.name == "lane":
                    assert matcher.value in set(Lane), where
                else:
                    assert matcher.value == f"${matcher.name}", where


def test_an_alerts_text_names_labels_that_its_result_has() -> None:
    for rule in ALERTS:
        expression = parse(rule["expr"])
        kept = set().union(*(by for _, by in grouped(expression)), set())
        said = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert said <= kept, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["labels"]["severity"] in {"warning", "critical"}


_NAMED_BY = {
    "": {"priority", "lane", "shard", "partition", "state"},
    "ordered": {"priority", "shard", "state"},
    "parallel": {"priority", "partition", "state"},
}


def test_depths_are_told_apart_by_all_that_names_them() -> None:
    """The largest of what several processes tell is taken of each number, and not of different ones."""
    checked = 0
    for where, text in queries().items():
        for aggregate, by in grouped(parse(text)):
            if str(aggregate.op) != "max":
                continue
            for selector in selectors(aggregate):
                if selector.name == "jobs_queue_depth":
                    given = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
                    assert _NAMED_BY[given.get("lane", "")] <= by | set(given), where
                    checked += 1
    assert checked == sum(text.count("max by") for text in queries().values() if "jobs_queue_depth" in text)


def test_the_scaler_on_lag_has_one_trigger_for_each_declared_consumer() -> None:
    config, names = Config(), Names("jobs")
    declared = {
        (
            queue_stream(config, names, priority, generation)["name"],
            shard_consumer(config, names, Shard(priority, generation, number))["durable_name"],
        )
        for priority in Priority
        for generation in [Generation(1, config.shards(priority))]
        for number in range(config.shards(priority))
    } | {
        (
            lane_stream(config, names, priority)["name"],
            partition_consumer(config, names, Partition(priority, number))["durable_name"],
        )
        for priority in Priority
        for number in range(config.partitions)
    }
    triggers = SCALERS["keda-jetstream.yaml"]["spec"]["triggers"]
    assert [trigger["type"] for trigger in triggers] == ["nats-jetstream"] * len(declared)
    assert {(trigger["metadata"]["stream"], trigger["metadata"]["consumer"]) for trigger in triggers} == declared


@pytest.mark.parametrize("name", SCALERS)
def test_there_are_no_more_workers_than_shards(name: str) -> None:
    shards = sum(Config().shards(priority) for priority in Priority)
    assert SCALERS[name]["spec"]["maxReplicaCount"] == shards
