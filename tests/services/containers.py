"""Kafka and Redis through testcontainers, where a Docker engine answers."""

from __future__ import annotations

import contextlib
import functools
import gc
import time
import warnings
from collections.abc import Iterator

import docker
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from docker.errors import DockerException
from testcontainers.community.redis import RedisContainer
from testcontainers.core.container import DockerContainer

from driftgraph.app.commands.embedded import free_port

KAFKA_IMAGE = "apache/kafka:4.1.0"
REDIS_IMAGE = "redis:8"  # with vector sets
READY_WITHIN_S = 60.0


@functools.cache
def why_no_engine() -> str | None:
    """None if a Docker engine answers, else why not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # docker-py forgets a refused socket
        try:
            with contextlib.closing(docker.from_env(timeout=5)) as client:
                client.ping()
        except (DockerException, OSError) as error:
            said = str(error)
        else:
            return None
        gc.collect()
    return f"no Docker engine answers ({said}): start one, or set DOCKER_HOST"


@contextlib.contextmanager
def kafka_container() -> Iterator[str]:
    """The address of a broker in a container. (testcontainers' own KafkaContainer wants another image.)"""
    port = free_port()
    # one port inside and outside: a transaction makes the broker call itself by its advertised address
    container = DockerContainer(KAFKA_IMAGE).with_bind_ports(port, port)
    container.with_env("KAFKA_LISTENERS", f"PLAINTEXT://:{port},CONTROLLER://:9093")
    container.with_env("KAFKA_ADVERTISED_LISTENERS", f"PLAINTEXT://localhost:{port}")
    with container:
        admin = AdminClient({"bootstrap.servers": f"localhost:{port}", "log_level": 0})
        end = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                admin.list_topics(timeout=1)
                break
            except KafkaException as error:
                if time.monotonic() > end:
                    out, err = container.get_logs()
                    said = (out + err).decode(errors="replace")[-2_000:]
                    raise RuntimeError(
                        f"{KAFKA_IMAGE} did not answer in {READY_WITHIN_S:g} s:\n{said}"
                    ) from error
        yield f"localhost:{port}"


@contextlib.contextmanager
def redis_container() -> Iterator[str]:
    """The address of a Redis 8 in a container."""
    with RedisContainer(REDIS_IMAGE) as container:
        yield f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
