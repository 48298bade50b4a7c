"""Metrics of the daemon, read when they are scraped: nothing is counted on the hot path that the parts do not count for themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lockd.machine import views
from lockd.raft.port import Engine, Role
from lockd.replica import Replica


class Streams(Protocol):
    """What knows the open streams."""

    @property
    def open_streams(self) -> int:
        """How many clients are connected by stream."""


class Metrics(Collector):
    """Prometheus metrics of one node."""

    def __init__(self, engine: Engine, replica: Replica, streams: Streams) -> None:
        self._engine = engine
        self._replica = replica
        self._streams = streams
        self._server: Any = None

    def serve(self, address: str | None) -> None:
        """Serve the metrics over HTTP at `address` (host:port), or nowhere."""
        if address is None:
            return
        registry = CollectorRegistry()
        registry.register(self)
        host, port = address.rsplit(":", 1)
        self._server, _ = start_http_server(int(port), addr=host.strip("[]"), registry=registry)

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def collect(self) -> Iterable[Metric]:
        """The present values."""
        status = self._engine.status()
        counters = self._replica.counters
        counts = views.counts(self._replica.machine)
        gauges = (
            ("lockd_raft_term", "Term of the log's consensus; it grows with each election", status.term),
            ("lockd_raft_is_leader", "1 while this node leads", int(status.role is Role.LEADER)),
            ("lockd_raft_commit_index", "Highest log index known to be committed", status.commit),
            ("lockd_raft_applied_index", "Highest log index applied to the state", status.applied),
            ("lockd_raft_log_bytes", "Bytes of log kept since the last compaction", status.log_bytes),
            ("lockd_fsync_p50_seconds", "Median time of the last fsyncs of the log", status.fsync_p50_ms / 1e3),
            ("lockd_fsync_p99_seconds", "99th percentile of the last fsyncs of the log", status.fsync_p99_ms / 1e3),
            ("lockd_failed", "1 once the node has stopped acknowledging (disk failure)", int(status.failed is not None)),
            ("lockd_streams", "Clients connected by stream", self._streams.open_streams),
            ("lockd_sessions", "Live sessions", counts.sessions),
            ("lockd_locks", "Resources that are held or waited for", counts.locks),
            ("lockd_rows", "Strong rows", counts.rows),
            ("lockd_accounts", "Ledger accounts", counts.accounts),
            ("lockd_transfers", "Ledger transfers", counts.transfers),
        )
        for name, text, value in gauges:
            yield GaugeMetricFamily(name, text, value=value)
        totals = (
            ("lockd_entries_applied", "Log entries applied since the start", counters.entries),
            ("lockd_requests_applied", "Requests applied since the start; divided by entries: how well they gather", counters.requests),
            ("lockd_entries_proposed", "Log entries proposed by this node as leader", counters.proposals),
            ("lockd_ticks", "Log entries proposed only to let time pass", counters.ticks),
            ("lockd_unknown_outcomes", "Requests whose outcome was lost with leadership", counters.unknown),
        )
        for name, text, value in totals:
            yield CounterMetricFamily(name, text, value=value)
