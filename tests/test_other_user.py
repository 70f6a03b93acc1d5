"""The commands under a user to whom neither the package nor the home folder belongs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from driftgraph.app.commands.embedded import EmbeddedRedis
from tests.other_user import UID, OtherUser

EVENTS = """user_id,item_id,behavior,timestamp
u1,i1,click,1783000000
u2,i2,click,1783000100
u1,i2,purchase,1783000200
"""
NOT_KEPT = "compiled kernels can be kept in none of"
NO_OTHER_TEMPORARY_FOLDER = """
import os, tempfile
tempfile._candidate_tempdir_list = lambda: [os.environ["TMPDIR"]]  # not /var/tmp, nor where the command runs
from driftgraph.app.cli.main import main
main()
"""
SAY_WHERE = """
import logging
from driftgraph.app.cli.main import main
logging.getLogger("driftgraph.stream.kernels.kernel_cache").setLevel(logging.DEBUG)
main()
"""


@pytest.fixture
def other(tmp_path: Path) -> OtherUser:
    made = OtherUser(tmp_path)
    (made.work / "events.csv").write_text(EVENTS)
    return made


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def kept_times(folder: Path) -> dict[str, int]:
    """The kept files, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix == ".nbc"}


def test_every_command_works_and_the_second_one_compiles_nothing(
    other: OtherUser, redis_server: EmbeddedRedis
) -> None:
    """``validate`` first, without a data_dir, which it does not make."""
    validated = other.run("validate", "events.csv", "--json", code=SAY_WHERE)
    assert validated.returncode == 0, validated.stderr
    assert json.loads(validated.stdout)["events"]["applied"] == 3
    assert f"compiled kernels are kept in {other.temporary}/driftgraph-kernels-{UID}" in validated.stderr
    assert names_in(other.work) == {"events.csv"}

    other.make_data_dir()
    replayed = other.run("replay", "events.csv", "--redis", redis_server.url, "--json")
    assert replayed.returncode == 0, replayed.stderr
    assert json.loads(replayed.stdout)["events_applied"] == 3
    assert "WARNING" not in replayed.stderr
    status = other.kept.stat()
    assert (status.st_uid, status.st_mode & 0o777) == (UID, 0o700)
    first = kept_times(other.kept)
    assert len(first) > 20
    assert not any(path.stat().st_mode & 0o022 for path in other.kept.iterdir())

    again = other.run("replay", "events.csv", "--redis", redis_server.url, "--json")
    assert again.returncode == 0, again.stderr
    assert kept_times(other.kept) == first

    shown = other.run("config", "show", "--json")
    assert json.loads(shown.stdout)["data_dir"] == "var", shown.stderr
    for command in (("status", "--json"), ("recommend", "u1", "--json"), ("generations",)):
        done = other.run(*command, DRIFTGRAPH__REDIS__URL=redis_server.url)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("home", "without"), [("", "HOME"), ("relative", ""), ("/", "")], ids=["unset", "relative", "of root"]
)
def test_whatever_home_is_nothing_is_left_where_the_command_runs(
    other: OtherUser, home: str, without: str
) -> None:
    given = {} if without else {"HOME": home}
    done = other.run("validate", "events.csv", without=without, **given)
    assert done.returncode == 0, done.stderr
    assert names_in(other.work) == {"events.csv"}
    assert names_in(other.temporary) == {f"driftgraph-kernels-{UID}"}


def test_where_nothing_can_be_written_it_is_said_once_and_the_command_does_its_work(other: OtherUser) -> None:
    other.temporary.chmod(0o555)
    done = other.run("validate", "events.csv", "--json", code=NO_OTHER_TEMPORARY_FOLDER)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["events"]["applied"] == 3
    assert done.stderr.count(NOT_KEPT) == 1
    assert len(done.stderr.splitlines()) == 1
    assert names_in(other.work) == {"events.csv"}


def test_a_fault_of_ours_is_still_told_where_no_traceback_can_be_written(other: OtherUser) -> None:
    other.temporary.chmod(0o555)
    fails = "import driftgraph.app.config.settings\ndriftgraph.app.config.settings.load = lambda *_: 1 // 0\n"
    done = other.run("config", "show", code=fails + NO_OTHER_TEMPORARY_FOLDER)
    assert done.returncode == 1
    assert done.stderr.startswith("driftgraph: unexpected ZeroDivisionError")


def test_where_the_data_dir_alone_can_be_written_a_model_is_trained(other: OtherUser) -> None:
    other.temporary.chmod(0o555)
    other.make_data_dir()
    arguments = ("replay", "events.csv", "--redis", "embedded", "--json")
    done = other.run(*arguments, code=NO_OTHER_TEMPORARY_FOLDER)
    assert done.returncode == 0, done.stderr
    assert [one["generation"] for one in json.loads(done.stdout)["generations"]] == [1]
    assert "WARNING" not in done.stderr
    assert (other.work / "var" / "tmp").stat().st_mode & 0o777 == 0o700
    assert names_in(other.work) == {"events.csv", "var"}


def test_a_data_dir_of_another_user_is_a_sentence_for_who_must_write_there(other: OtherUser) -> None:
    """And no obstacle for who only reads."""
    other.take_kernels()
    (other.work / "var").mkdir(mode=0o555)
    assert other.run("validate", "events.csv").returncode == 0
    (other.work / "driftgraph.toml").write_text("[relations.click]\n")
    for command in (("run",), ("replay", "events.csv", "--redis", "none")):
        done = other.run(*command)
        assert done.returncode == 1
        assert "Permission denied" in done.stderr
        assert "var" in done.stderr
        assert "unexpected" not in done.stderr


def test_a_home_that_nobody_has_is_told_by_the_setting_that_names_it(other: OtherUser) -> None:
    done = other.run("config", "show", without="HOME", DRIFTGRAPH__DATA_DIR="~nobody-of-this-name/var")
    assert done.returncode == 2
    assert "data_dir" in done.stderr
    assert "write the whole path" in done.stderr
