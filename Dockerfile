# driftgraph with the releases that its tests ran on. Build: docker build -t driftgraph .
# Targets: cpu, which is built without --target, and cuda, which asks NVIDIA's container runtime for the GPU.
# PyTorch comes from PyPI with CUDA. Without a GPU the image is smaller by gigabytes with PyTorch's CPU build, from the
# package index that PyTorch's own site names for CPU: docker build -t driftgraph --build-arg TORCH_INDEX=… .

FROM python:3.11-slim AS build
ARG TORCH_INDEX=""
RUN python -m venv /opt/driftgraph
ENV PATH=/opt/driftgraph/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"; \
    fi
COPY pyproject.toml README.md LICENSE ./
COPY stream ./stream
COPY model ./model
COPY snapshots ./snapshots
COPY app ./app
RUN pip install --no-cache-dir -c constraints.txt '.[registry]'

FROM python:3.11-slim AS installed
COPY --from=build /opt/driftgraph /opt/driftgraph
ENV PATH=/opt/driftgraph/bin:$PATH
WORKDIR /srv
# The user has a number, by which Kubernetes sees that it is not root. The data folder is open to the group of
# root too, in which a user is who has another number and no account: docker run --user 12345.
RUN useradd --uid 10001 --no-create-home --home-dir /srv --shell /usr/sbin/nologin driftgraph \
    && mkdir var && chown 10001:0 var && chmod 0770 var
USER 10001
# All that is written goes there, so the root file system may be read-only.
VOLUME /srv/var

# Settings: mount driftgraph.toml at /srv/driftgraph.toml, or set DRIFTGRAPH__KAFKA__BOOTSTRAP_SERVERS and others.
# The port is that of the container alone, until web.listen is 0.0.0.0:8350 and the port is published.
EXPOSE 8350
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["python", "-c", \
    "import urllib.request as http; http.urlopen('http://127.0.0.1:8350/livez', timeout=5)"]
ENTRYPOINT ["driftgraph"]
CMD ["run"]

FROM installed AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility DRIFTGRAPH__MODEL__DEVICE=cuda

FROM installed AS cpu
