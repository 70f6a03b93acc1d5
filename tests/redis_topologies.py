"""Redis in the forms that people run: a Cluster of three, Sentinels over a primary and a replica, TLS.

All are the real server that EmbeddedRedis starts, on this machine, and end with this process. That server is
built without TLS, so a thread ends TLS in front of it, as stunnel or a load balancer does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis, find_redis_server, free_port
from driftgraph.snapshots.generations.keys import connect
from tests.waits import until

CLUSTER = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1500")
SLOTS = (0, 5_461, 10_923, 16_384)
SERVICE = "shop"


def port_of(server: EmbeddedRedis) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


def ask(port: int, *command: Any) -> Any:
    with contextlib.closing(redis.Redis(port=port)) as client:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def cluster_ports() -> Iterator[list[int]]:
    """The ports of a Cluster of three nodes without replicas."""
    with contextlib.ExitStack() as stack:
        buses = [free_port() for _ in range(3)]  # by default 10,000 above the port, which may be too high
        servers = [
            stack.enter_context(EmbeddedRedis(settings=[*CLUSTER, "--cluster-port", str(bus)]))
            for bus in buses
        ]
        ports = [port_of(server) for server in servers]
        for n, port in enumerate(ports):
            ask(port, "CLUSTER", "ADDSLOTSRANGE", SLOTS[n], SLOTS[n + 1] - 1)
            ask(port, "CLUSTER", "MEET", "127.0.0.1", ports[0], buses[0])
        until(lambda: all(_knows_all(port) for port in ports))
        yield ports


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """The address of such a Cluster."""
    with cluster_ports() as ports:
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)


def _knows_all(port: int) -> bool:
    told = ask(port, "CLUSTER", "INFO").decode().split()
    return {"cluster_state:ok", "cluster_known_nodes:3"} <= {*told}


class WatchedPair:
    """A primary, its replica, and two Sentinels that agree on which is which."""

    def __init__(self, stack: contextlib.ExitStack, sentinel_ports: list[int]) -> None:
        self._stack = stack
        self.sentinel_ports = sentinel_ports
        hosts = ",".join(f"127.0.0.1:{port}" for port in sentinel_ports)
        self.url = f"redis+sentinel://{hosts}/{SERVICE}"

    def primary_ports(self) -> set[int]:
        """As the Sentinels say."""
        told = [ask(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE) for port in self.sentinel_ports]
        return {int(port) for _, port in told}

    def fail_over(self) -> None:
        """Ask a Sentinel for a failover, and wait until both say that the replica is the primary.

        The former primary does not know it yet, and takes writes for some seconds.
        """
        before = self.primary_ports()
        ask(self.sentinel_ports[0], "SENTINEL", "FAILOVER", SERVICE)
        until(lambda: not before & self.primary_ports())

    def crash(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Kill or stop the primary, and wait until both Sentinels have found out and name the replica."""
        [before] = self.primary_ports()
        os.kill(ask(before, "INFO", "server")["process_id"], how)
        until(lambda: before not in self.primary_ports())

    def add_replica(self) -> None:
        """Start one of the primary of now. The Sentinels see it when they ask the primary again."""
        [primary] = self.primary_ports()
        self._stack.enter_context(EmbeddedRedis(settings=_replica_of(primary)))

    def hasten(self) -> None:
        """Let the Sentinels ask the servers each second and act soon, as a test has many failovers.

        One finds out later than the other that a primary is dead. If both find out at the same time, each may
        vote for itself, and they vote again only after twice the failover-timeout.
        """
        for port in self.sentinel_ports:
            ask(port, "SENTINEL", "DEBUG", "INFO-PERIOD", 1_000, "PUBLISH-PERIOD", 500)
            ask(port, "SENTINEL", "SET", SERVICE, "failover-timeout", 3_000)
        ask(self.sentinel_ports[1], "SENTINEL", "SET", SERVICE, "down-after-milliseconds", 5_000)

    def has_replica(self) -> bool:
        """Whether both Sentinels agree on the primary and see a replica that could take over."""
        ports = self.primary_ports()
        return len(ports) == 1 and all(
            any(_may_take_over(one, *ports) for one in ask(port, "SENTINEL", "REPLICAS", SERVICE))
            for port in self.sentinel_ports
        )


def _may_take_over(replica: dict[bytes, bytes], primary: int) -> bool:
    return (
        replica[b"flags"] == b"slave"  # and not s_down or disconnected
        and replica[b"master-link-status"] == b"ok"
        and int(replica[b"master-port"]) == primary
    )


def _replica_of(primary: int) -> list[str]:
    return ["--replicaof", f"127.0.0.1 {primary}", "--repl-diskless-sync-delay", "0"]


@contextlib.contextmanager
def watched_pair(folder: Path) -> Iterator[WatchedPair]:
    """A primary and a replica under two Sentinels. ``folder`` takes the Sentinels' configuration."""
    with contextlib.ExitStack() as stack:
        primary = port_of(stack.enter_context(EmbeddedRedis()))
        stack.enter_context(EmbeddedRedis(settings=_replica_of(primary)))
        sentinels = [stack.enter_context(_sentinel(folder, primary)) for _ in range(2)]
        pair = WatchedPair(stack, sentinels)
        until(lambda: all(_sees_both(port) for port in sentinels))
        yield pair


@contextlib.contextmanager
def _sentinel(folder: Path, primary: int) -> Iterator[int]:
    port = free_port()
    settings = folder / f"sentinel-{port}.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 1\n"
        f"sentinel down-after-milliseconds {SERVICE} 1000\n"
        f"sentinel failover-timeout {SERVICE} 5000\n"
    )
    process = subprocess.Popen(
        [find_redis_server(), settings, "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: _answers(port))
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(redis.RedisError):
        return bool(ask(port, "PING"))
    return False


def _sees_both(port: int) -> bool:
    return len(ask(port, "SENTINEL", "REPLICAS", SERVICE)) == 1


def certificates(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key, made by openssl."""
    certificate, key = folder / "redis.crt", folder / "redis.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-out", certificate, "-keyout", key),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@contextlib.contextmanager
def tls_in_front_of(server: EmbeddedRedis, certificate: Path, key: Path) -> Iterator[int]:
    """A port that speaks TLS and hands everything on to the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, context, port_of(server)), daemon=True).start()
        yield listener.getsockname()[1]


def _accept(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return  # closed
        threading.Thread(target=_hand_on, args=(plain, context, port), daemon=True).start()


def _hand_on(plain: socket.socket, context: ssl.SSLContext, port: int) -> None:
    """One thread for both directions, since an SSLSocket takes no reads and writes at the same time."""
    with (
        contextlib.suppress(OSError),
        context.wrap_socket(plain, server_side=True) as client,
        socket.create_connection(("127.0.0.1", port)) as server,
    ):
        client.settimeout(0.001)
        server.settimeout(0.001)
        while True:
            for source, target in ((client, server), (server, client)):
                with contextlib.suppress(TimeoutError):
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    target.settimeout(5)
                    target.sendall(data)
                    target.settimeout(0.001)


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    with cluster() as url:
        yield url


@pytest.fixture
def in_cluster(cluster_url: str) -> Iterator[redis.Redis]:
    """A client of an empty Cluster."""
    with contextlib.closing(connect(cluster_url)) as client:
        client.flushall()
        yield client


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[WatchedPair]:
    with watched_pair(tmp_path) as found:
        yield found


@pytest.fixture
def tls_url(tmp_path: Path) -> Iterator[str]:
    certificate, key = certificates(tmp_path)
    with EmbeddedRedis() as server, tls_in_front_of(server, certificate, key) as port:
        yield f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}"
