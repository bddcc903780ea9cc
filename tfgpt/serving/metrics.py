"""What a server counts, under TensorFlow Serving's names, in Prometheus' text format; what that server does not have begins with tfgpt.

Source: https://www.tensorflow.org/tfx/serving/serving_config#monitoring_configuration
"""
from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tfgpt.serving.batched import BatchedModel
from tfgpt.serving.catalog import Catalog
from tfgpt.serving.errors import ServingError

PATH = "/monitoring/prometheus/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUESTS = ":tensorflow:serving:request_count"
LATENCY = ":tensorflow:serving:request_latency"
LOAD_LATENCY = ":tensorflow:cc:saved_model:load_latency"
LOAD_ATTEMPTS = ":tensorflow:cc:saved_model:load_attempt_count"
ROWS_RUNNING, ROWS_WAITING = "tfgpt_rows_running", "tfgpt_rows_waiting"
BUCKETS = tuple(10 * 1.8**step for step in range(33))  # microseconds, 10 to about 20 minutes: TensorFlow Serving's


class Metrics:
    """The metrics of one server. What else it has to tell registers with `registry`.

    Args:
        catalog: whose loads are told.
    """

    def __init__(self, catalog: Catalog):
        self._catalog = catalog
        self.registry = CollectorRegistry()
        self._requests = Counter(REQUESTS, "The total number of requests.", ["model_name", "status"], registry=self.registry)
        self._latency = Histogram(LATENCY, "Distribution of wall time (in microseconds) for a request.", ["model_name", "API", "entrypoint"],
                                  buckets=BUCKETS, registry=self.registry)
        self.registry.register(_Loads(catalog))
        self.registry.register(_Rows(catalog))

    @contextlib.contextmanager
    def request(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Count the block as one request, with the code of the `ServingError` that ends it. Only models that are known are counted by name.

        Args:
            model: the model's name.
            api: such as Predict.
            entrypoint: REST or GRPC.
        """
        started, status = time.perf_counter(), "INTERNAL"
        try:
            yield
            status = "OK"
        except ServingError as error:
            status = error.code
            raise
        finally:
            model = model if model in self._catalog.names() else ""  # else whoever asks for names at random fills the memory
            self._requests.labels(model, status).inc()
            if status == "OK":
                self._latency.labels(model, api, entrypoint).observe((time.perf_counter() - started) * 1e6)

    def page(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        text = generate_latest(self.registry)
        for name in (REQUESTS, LOAD_LATENCY, LOAD_ATTEMPTS):  # TensorFlow Serving's counters are older than the ending that the library gives to each
            text = text.replace(f"{name}_total".encode(), name.encode())
        return text


class _Loads(Collector):
    """The loads of a catalog's versions, looked up when they are asked for."""

    def __init__(self, catalog):
        self._catalog = catalog

    def collect(self):
        """Yield the time of each version's last load, and whether it succeeded."""
        latency = CounterMetricFamily(LOAD_LATENCY, "Wall time (in microseconds) of loading a version.", labels=["model_path"])
        attempts = CounterMetricFamily(LOAD_ATTEMPTS, "The last load of a version, by how it ended.", labels=["model_path", "status"])
        for name in self._catalog.names():
            for status in self._statuses(name):
                if status.load_seconds > 0:
                    latency.add_metric([status.path], status.load_seconds * 1e6)
                    attempts.add_metric([status.path, "success" if status.error_code == "OK" else "fail"], 1)
        yield latency
        yield attempts

    def _statuses(self, name):
        try:
            return self._catalog.status(name)
        except ServingError:  # of a gateway whose server is away: the other figures are wanted all the more
            return []


class _Rows(Collector):
    """How much each version has to do, looked up when it is asked for."""

    def __init__(self, catalog):
        self._catalog = catalog

    def collect(self):
        """Yield the rows of each version that run and that wait."""
        labels = ["model_name", "version"]
        running = GaugeMetricFamily(ROWS_RUNNING, "Rows that a version writes or that are in calls which run.", labels=labels)
        waiting = GaugeMetricFamily(ROWS_WAITING, "Rows that wait for a version to do so.", labels=labels)
        for served in self._catalog.loaded():
            if isinstance(served.loaded, BatchedModel):
                running.add_metric([served.name, str(served.version)], served.loaded.running)
                waiting.add_metric([served.name, str(served.version)], served.loaded.waiting)
        yield running
        yield waiting
