# driftgraph with the releases that its tests ran on. Build: docker build -t driftgraph .
# Without a GPU the image is smaller with PyTorch's CPU build: install that first, in a line of its own.
FROM python:3.11-slim

WORKDIR /srv
COPY constraints.txt pyproject.toml README.md LICENSE ./src/
COPY stream ./src/stream
COPY model ./src/model
COPY snapshots ./src/snapshots
COPY app ./src/app
RUN pip install --no-cache-dir -c src/constraints.txt './src[registry]' && rm -r src

RUN useradd --system --home-dir /srv driftgraph && mkdir var && chown driftgraph var
USER driftgraph
VOLUME /srv/var

# Settings: mount driftgraph.toml at /srv/driftgraph.toml, or set DRIFTGRAPH__KAFKA__BOOTSTRAP_SERVERS and others.
ENTRYPOINT ["driftgraph"]
CMD ["run"]
