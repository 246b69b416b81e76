"""Metrics: what the database knows, as Prometheus reads it, made anew at each scrape.

Every replica of the API answers the same, whatever worker did the work: scrape one of them.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from adapters.database.figures import BEYOND_MS, BUCKETS_MS, Bucket
from adapters.types import OperationState, Role
from flows.catalog import FLOWS
from flows.cloud import cloud


class Meaning(NamedTuple):
    """What a metric is."""

    type: str
    labels: tuple[str, ...]
    text: str


METRICS = {
    "cloudloom_operations": Meaning(
        "gauge", ("kind", "state"), "Operations that the database has, until they are trimmed."
    ),
    "cloudloom_operations_stuck": Meaning(
        "gauge", (), "Operations that an operator has to look after."
    ),
    "cloudloom_operation_duration_seconds": Meaning(
        "histogram",
        ("kind", "outcome"),
        "From accepted to ended, of operations that had a runner.",
    ),
    "cloudloom_queue_depth": Meaning(
        "gauge", ("datacenter", "queue"), "Operations that are accepted and have no runner yet."
    ),
    "cloudloom_worker_slots": Meaning(
        "gauge", ("datacenter", "worker"), "Flow runs that a worker carries out at once."
    ),
    "cloudloom_worker_slots_busy": Meaning(
        "gauge", ("datacenter", "worker"), "Flow runs that a worker has now."
    ),
    "cloudloom_step_duration_seconds": Meaning(
        "histogram",
        ("step", "outcome"),
        "Steps with their pauses and attempts: done, failed, stopped, undone, refused (an undo).",
    ),
    "cloudloom_step_retries_total": Meaning(
        "counter", ("step",), "Attempts at a step, or its undo, after its runner's first one."
    ),
}


def exposition() -> bytes:
    """All metrics in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Figures())
    return generate_latest(registry)


class _Figures(Collector):
    """The database's figures as metrics."""

    def collect(self) -> Iterator[Metric]:
        """Ask the database."""
        yield from _operations()
        yield from _queues()
        yield from _slots()
        buckets = cloud.figures.durations()
        for what, name in (
            ("operation", "cloudloom_operation_duration_seconds"),
            ("step", "cloudloom_step_duration_seconds"),
        ):
            yield _histogram(name, [each for each in buckets if each.what == what])
        yield _retries([each for each in buckets if each.what == "step"])


def _gauge(name: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, METRICS[name].text, labels=METRICS[name].labels)


def _operations() -> Iterator[Metric]:
    by_state, stuck = _gauge("cloudloom_operations"), _gauge("cloudloom_operations_stuck")
    found = cloud.figures.operations()
    for kind, state, number in found:
        by_state.add_metric([kind, state], number)
    stuck.add_metric([], sum(n for _, state, n in found if state is OperationState.STUCK))
    yield by_state
    yield stuck


def _queues() -> Iterator[Metric]:
    depth = dict.fromkeys(
        ((where, role) for where in cloud.figures.datacenters() for role in Role), 0
    )
    for where, kind, number in cloud.figures.queued():
        if kind in FLOWS:
            depth[where, FLOWS[kind].role] += number
    family = _gauge("cloudloom_queue_depth")
    for (where, role), number in depth.items():
        family.add_metric([where, role], number)
    yield family


def _slots() -> Iterator[Metric]:
    slots, busy = _gauge("cloudloom_worker_slots"), _gauge("cloudloom_worker_slots_busy")
    for each in cloud.figures.workers():
        slots.add_metric([each.datacenter, each.name], each.slots)
        busy.add_metric([each.datacenter, each.name], each.busy)
    yield slots
    yield busy


def _histogram(name: str, buckets: list[Bucket]) -> Metric:
    family = HistogramMetricFamily(name, METRICS[name].text, labels=METRICS[name].labels)
    for key, of_one in groupby(buckets, key=lambda each: (each.name, each.outcome)):
        found = {each.within_ms: each for each in of_one}
        times, cumulated = 0, []
        for bound in (*BUCKETS_MS, BEYOND_MS):
            times += found[bound].times if bound in found else 0
            at_most = "+Inf" if bound == BEYOND_MS else str(bound / 1000)
            cumulated.append((at_most, times))
        family.add_metric(key, cumulated, sum(each.seconds for each in found.values()))
    return family


def _retries(buckets: list[Bucket]) -> Metric:
    name = "cloudloom_step_retries_total"
    family = CounterMetricFamily(name, METRICS[name].text, labels=METRICS[name].labels)
    for step, of_one in groupby(buckets, key=lambda each: each.name):
        family.add_metric([step], sum(each.retries for each in of_one))
    return family
