"""Numbers of a server for Prometheus, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numclip_runtime.errors import import_extra

# Seconds. Small networks take a millisecond, large ones on a busy machine seconds
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROUTES = ("/", "/healthz", "/metrics", "/model", "/openapi.json", "/predict", "/readyz")


class ServerMetrics:
    """What `/metrics` shows; threads may share it.

    Raises:
        MissingDependencyError: if prometheus-client is not installed.
    """

    def __init__(self) -> None:
        client = import_extra("serve", "prometheus_client")
        self._client, self.registry = client, client.CollectorRegistry()
        own = {"registry": self.registry}
        self._requests = client.Counter(
            "numclip_requests", "Requests answered.", ["route", "status"], **own
        )
        self._seconds = client.Histogram(
            "numclip_predict_seconds",
            "Seconds from the request line of POST /predict to its answer, of those with 200.",
            buckets=BUCKETS,
            **own,
        )
        self._images = client.Counter(
            "numclip_images", "Pictures by outcome: predicted, failed, dropped.", ["outcome"], **own
        )
        self._decode = client.Histogram(
            "numclip_decode_seconds", "Decoding of one picture.", buckets=BUCKETS, **own
        )
        self._inference = client.Histogram(
            "numclip_inference_seconds", "One run of the network.", buckets=BUCKETS, **own
        )
        self._batch = client.Histogram(
            "numclip_batch_images", "Images in one run.", buckets=(1, 2, 4, 8, 16, 32, 64), **own
        )
        self._model = client.Gauge(
            "numclip_model_info",
            "1, with the model that answers.",
            ["file", "sha256", "task", "precision", "backend", "device"],
            **own,
        )
        self._reloads = client.Counter(
            "numclip_reloads", "New model files by outcome: loaded, refused.", ["outcome"], **own
        )
        for outcome in ("predicted", "failed", "dropped"):
            self._images.labels(outcome)
        for outcome in ("loaded", "refused"):
            self._reloads.labels(outcome)
        client.ProcessCollector(registry=self.registry)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a number that is asked for when the page is read."""
        self._client.Gauge(name, text, registry=self.registry).set_function(value)

    def add(self, collector: Any) -> None:
        """Show the numbers of another collector of prometheus-client."""
        self.registry.register(collector)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Note an answer; other paths than those of the server count as one."""
        self._requests.labels(route if route in ROUTES else "other", str(status)).inc()
        if route == "/predict" and status == 200:
            self._seconds.observe(seconds)

    def decoded(self, seconds: float) -> None:
        """Note a decoded picture."""
        self._decode.observe(seconds)

    def ran(self, seconds: float, images: int) -> None:
        """Note a run of the network."""
        self._inference.observe(seconds)
        self._batch.observe(images)

    def picture(self, outcome: str) -> None:
        """Note the end of a picture: "predicted", "failed" or "dropped"."""
        self._images.labels(outcome).inc()

    def reload(self, outcome: str) -> None:
        """Note a new model file: "loaded" or "refused"."""
        self._reloads.labels(outcome).inc()

    def model(self, *labels: str) -> None:
        """Show the model that answers, in place of the one before."""
        self._model.clear()
        self._model.labels(*labels).set(1)

    def text(self) -> bytes:
        """Return the page."""
        page: bytes = self._client.generate_latest(self.registry)
        return page
