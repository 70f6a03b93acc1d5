"""``driftgraph config check``: every setting with its source, and every fault at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from driftgraph.app.cli.main import app
from driftgraph.app.config.check import DEFAULT, faults_of, settings_of
from driftgraph.app.config.settings import load

GOOD = (
    '[kafka]\ntopic = "clicks"\n[relations.click]\nspan = "3d"\n[relations."a.b"]\n'
    '[redis]\npassword = "hush"\n'
)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own.toml"
    file.write_text(GOOD, encoding="utf-8")
    return file


def test_each_setting_has_its_source(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTGRAPH__SEED", "9")
    monkeypatch.setenv("driftgraph__kafka__topic", "events of the environment")
    monkeypatch.setenv("DRIFTGRAPH__FIT", '{"every": "6h"}')
    found = {one.key: (one.value, one.source) for one in settings_of(path)}
    assert found["seed"] == (9, "DRIFTGRAPH__SEED")
    assert found["fit.every"] == ("6h", "DRIFTGRAPH__FIT")
    assert found["relations.click.span"] == ("3d", str(path))
    assert found["relations.click.weight"] == (1.0, DEFAULT)
    assert found['relations."a.b".span'] == (None, DEFAULT)
    assert found["redis.password"] == ("**********", str(path))
    assert found["name"] == ("driftgraph", DEFAULT)
    monkeypatch.delenv("driftgraph__kafka__topic")
    monkeypatch.setenv("DRIFTGRAPH__KAFKA__TOPIC", "those")
    found = {one.key: (one.value, one.source) for one in settings_of(path)}
    assert found["kafka.topic"] == ("those", "DRIFTGRAPH__KAFKA__TOPIC")


def test_no_setting_is_left_out(path: Path) -> None:
    keys = {one.key for one in settings_of(path)}
    for name, value in load(path):
        assert any(key == name or key.startswith(f"{name}.") for key in keys), (name, value)


def test_all_faults_are_told_at_once_with_the_nearest_key(path: Path) -> None:
    path.write_text('[kafka]\ntopik = "x"\n[fit]\nevery = "often"\n[model]\ndimm = 3\nheads = 0\n')
    one, three, two, four = sorted(faults_of(path))
    assert one.startswith(f'{path}: fit.every = "often": should be')
    assert two == f"{path}: unknown key kafka.topik, did you mean topic?; remove or correct it"
    assert three.startswith(f"{path}: model.heads = 0: ")
    assert four == f"{path}: unknown key model.dimm, did you mean dim?; remove or correct it"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed = 1", "no relations are configured"),
        ("seed = ", "is not valid TOML"),
        ('[relations."$erase"]', "events.erase = $erase is a relation too"),
        ("[relations.click]\ncapacity = 2147483648\n[relations.buy]\ncapacity = 2147483648", "add up to"),
    ],
)
def test_what_run_refuses_for_other_reasons_is_a_fault(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    [fault] = faults_of(path)
    assert said in fault


def test_the_command_and_its_exit_codes(path: Path) -> None:
    done = CliRunner().invoke(app, ["config", "check", "-c", str(path)])
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert f'kafka.topic = "clicks"  # {path}' in lines
    assert "seed = 0  # default" in lines
    assert "window.dir = not set  # default" in lines
    assert "hush" not in done.stdout
    told = json.loads(CliRunner().invoke(app, ["config", "check", "-c", str(path), "--json"]).stdout)
    assert (told["ok"], told["faults"], len(told["settings"])) == (True, [], len(lines))
    assert {"key": "kafka.topic", "value": "clicks", "from": str(path)} in told["settings"]
    path.write_text('[kafka]\ntopik = "x"')
    done = CliRunner().invoke(app, ["config", "check", "-c", str(path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "did you mean topic?" in done.stderr
    done = CliRunner().invoke(app, ["config", "check", "-c", str(path), "--json"])
    assert (done.exit_code, json.loads(done.stdout)["ok"]) == (2, False)
    path.write_text("seed = 1")
    done = CliRunner().invoke(app, ["config", "check", "-c", str(path)])
    assert (done.exit_code, "seed = 1" in done.stdout) == (2, True), "all is shown that could be read"
    assert CliRunner().invoke(app, ["config", "check", "-c", "none.toml"]).exit_code == 2


def test_it_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['driftgraph', 'config', 'check']\n"
        "from driftgraph.app.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as e: assert e.code == 2, e.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
