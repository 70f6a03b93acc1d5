# driftgraph with the releases that its tests ran on. Build: docker build -t driftgraph .
# Without a GPU the image is smaller by gigabytes with PyTorch's CPU build, from the package index that
# PyTorch's own site names for CPU: docker build -t driftgraph --build-arg TORCH_INDEX=… .
FROM python:3.11-slim
ARG TORCH_INDEX=""

WORKDIR /srv
COPY constraints.txt pyproject.toml README.md LICENSE ./src/
COPY stream ./src/stream
COPY model ./src/model
COPY snapshots ./src/snapshots
COPY app ./src/app
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' src/constraints.txt)"; \
    fi \
    && pip install --no-cache-dir -c src/constraints.txt './src[registry]' && rm -r src

# The user has a number, by which Kubernetes sees that it is not root. The data folder is open to the group of
# root too, in which a user is who has another number and no account: docker run --user 12345.
RUN useradd --uid 10001 --no-create-home --home-dir /srv --shell /usr/sbin/nologin driftgraph \
    && mkdir var && chown 10001:0 var && chmod 0770 var
USER 10001
# All that is written goes there, so the root file system may be read-only.
VOLUME /srv/var

# Settings: mount driftgraph.toml at /srv/driftgraph.toml, or set DRIFTGRAPH__KAFKA__BOOTSTRAP_SERVERS and others.
ENTRYPOINT ["driftgraph"]
CMD ["run"]
