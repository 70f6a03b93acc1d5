#!/usr/bin/env bash
# What a release needs beside the tests: a wheel from the source archive, installed with all that it needs into an
# empty environment; the list of what is in there (SBOM); and what is known against these releases. It asks the package
# index, so it is no part of make check. What could not be asked fails: nothing here is green because it was silent.
#   PYTHON  a Python with pip and hatchling; make release-check gives that of .venv
set -euo pipefail
cd "$(dirname "$0")/.."
python="$(realpath -s "$(command -v "${PYTHON:-python3}")")"
out="build/release"
rm -rf "$out" && mkdir -p "$out"
pip() { "$python" -m pip --disable-pip-version-check --python "$1/bin/python" "${@:2}"; }

echo "1. source archive and wheel"
"$python" -m hatchling build -t sdist -d "$out"
mkdir "$out/source" && tar -xzf "$out"/driftgraph-*.tar.gz -C "$out/source" --strip-components 1
(cd "$out/source" && "$python" -m hatchling build -t wheel -d ..)

echo "2. an empty environment"
"$python" -m venv --without-pip "$out/environment"
pip "$out/environment" install --quiet -c constraints.txt "$out"/driftgraph-*.whl
pip "$out/environment" check
"$out/environment/bin/driftgraph" version

echo "3. what is in it: $out/sbom.json"
"$python" -m venv --without-pip "$out/tools"
pip "$out/tools" install --quiet -c constraints.txt cyclonedx-bom pip-audit
"$out/tools/bin/cyclonedx-py" environment --output-reproducible -o "$out/sbom.json" "$out/environment/bin/python"

echo "4. known vulnerabilities"
# without driftgraph itself, which no database knows, and without the local part of a build such as +cpu
pip "$out/environment" freeze --exclude driftgraph | sed 's/+[A-Za-z0-9.]*$//' >"$out/releases.txt"
if ! "$out/tools/bin/pip-audit" --strict --no-deps --disable-pip --progress-spinner off -r "$out/releases.txt"; then
    echo "the audit above found something, or could not ask its database of advisories for a release: this check fails" >&2
    exit 1
fi
echo "a release may be made of $out/$(basename "$out"/driftgraph-*.whl)"
