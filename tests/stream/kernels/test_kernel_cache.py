"""Where compiled kernels are kept, that no other user can plant one there, and that a fault costs no call."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from driftgraph.stream.kernels import compile as compiling
from driftgraph.stream.kernels import kernel_cache
from driftgraph.stream.kernels.compile import kernel

ROOT = Path(__file__).resolve().parents[3]
OWN = f"driftgraph-kernels-{os.geteuid()}"


def doubled(number: int) -> int:
    return number * 2


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that cannot be written, and a home, a data_dir and a temporary folder that are all here."""
    for name in ("home", "var", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(kernel_cache, "PACKAGE", Path("/proc/no/package"))
    monkeypatch.setattr(kernel_cache._Told, "data_dir", tmp_path / "var")
    monkeypatch.setattr(kernel_cache._Told, "is_child", False)
    return tmp_path


def take_away(folder: Path) -> None:
    """No folder can be made there any more."""
    shutil.rmtree(folder)
    folder.write_text("")


def chosen() -> Path | None:
    """The folder of a process that has not asked yet, by its own name."""
    found = kernel_cache.folder.__wrapped__()
    return None if found is None else found.resolve()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of the cache; a thread of another test may still end with one of its own."""
    own = (record for record in caplog.records if record.name == kernel_cache.__name__)
    return [record.getMessage() for record in own if record.levelno >= logging.WARNING]


def test_the_folders_come_in_order(
    places: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is taken away once it was chosen, until there is none."""
    caplog.set_level(logging.DEBUG, kernel_cache.__name__)  # whatever level ours have from another test
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(places / "named"))
    monkeypatch.setattr(kernel_cache, "PACKAGE", places / "package")
    (places / "package").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(places / "caches"))
    expected = [
        places / "named" / OWN,
        places / "package" / "__pycache__",
        places / "caches" / OWN,
        places / "var" / OWN,
        places / "tmp" / OWN,
    ]
    for folder in expected:
        assert chosen() == folder
        assert f"kept in {folder}" in caplog.text
        take_away(folder.parent)
    assert not warnings(caplog)
    assert chosen() is None
    [said] = warnings(caplog)
    assert all(str(folder) in said for folder in expected if folder.parent.name != "var")  # it is not there


def test_a_child_process_leaves_it_to_its_parent_to_say_that_nothing_is_kept(
    places: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kernel_cache.prefer(places / "missing", is_child=True)
    take_away(places / "home")
    take_away(places / "tmp")
    assert chosen() is None
    assert not caplog.records


def test_the_home_of_another_user_is_left_alone(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    assert chosen() is None
    assert list((places / "home").iterdir()) == []


def planted_by_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    is_ours = os.geteuid()
    monkeypatch.setattr(
        "os.fstat", lambda fd, real=os.fstat: os.stat_result([*real(fd)[:4], is_ours + 1, *real(fd)[5:]])
    )


def writable_for_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def writable_for_the_group(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def a_link_to_one_of_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "elsewhere")


def a_link_into_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.symlink_to(folder.parent / "nothing")


def a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("")


@pytest.mark.parametrize("place", ["var", "tmp"])
@pytest.mark.parametrize(
    "plant",
    [
        planted_by_another,
        writable_for_all,
        writable_for_the_group,
        a_link_to_one_of_ours,
        a_link_into_nothing,
        a_file,
    ],
)
def test_a_folder_that_another_user_may_have_filled_is_not_used(
    places: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[Path, pytest.MonkeyPatch], None],
    place: str,
) -> None:
    take_away(places / "home")
    take_away(places / ("tmp" if place == "var" else "var"))
    plant(places / place / OWN, monkeypatch)
    assert chosen() is None


def test_a_folder_that_is_exchanged_later_stays_the_one_that_was_checked(places: Path) -> None:
    """Who can rename in the parent folder still cannot give us files."""
    take_away(places / "home")
    take_away(places / "var")
    found = kernel_cache.folder.__wrapped__()
    assert found is not None
    (places / "tmp" / OWN).rename(places / "tmp" / "aside")
    (places / "tmp" / OWN).mkdir()
    (found / "kept").write_text("ours")
    assert (places / "tmp" / "aside" / "kept").read_text() == "ours"


# --- what is kept -------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the kernels of this test alone."""
    monkeypatch.setattr(kernel_cache, "folder", lambda: tmp_path)
    compiling._say_not_kept.cache_clear()
    return tmp_path


def hits(function: Any) -> int:
    return sum(function.stats.cache_hits.values())


def test_a_kernel_is_found_again_for_each_of_its_types(kept: Path) -> None:
    first, again = kernel(doubled), kernel(doubled)
    assert (first(4), first(0.5), again(4), again(0.5)) == (8, 1.0, 8, 1.0)
    assert (hits(first), hits(again)) == (0, 2)


@pytest.mark.parametrize(
    "damage", [b"", b"\0" * 4_096, b"\x80\x04N."], ids=["empty", "zeros", "another pickle"]
)
@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_a_damaged_file_costs_a_compilation(kept: Path, ending: str, damage: bytes) -> None:
    assert kernel(doubled)(4) == 8
    [path] = kept.glob(f"*.{ending}")
    path.write_bytes(damage)
    again, after = kernel(doubled), kernel(doubled)
    assert (again(4), hits(again)) == (8, 0)
    assert (after(4), hits(after)) == (8, 1), "it was kept again"


def test_what_is_kept_for_other_types_is_not_run(kept: Path) -> None:
    """Two processes that keep two signatures at one moment can write them under one name."""
    first = kernel(doubled)
    assert (first(4), first(0.5)) == (8, 1.0)
    one, other = sorted(kept.glob("*.nbc"))
    shutil.copyfile(other, one)
    again = kernel(doubled)
    assert [type(again(4)), type(again(0.5))] == [int, float]


@pytest.mark.parametrize("call", ["save", "load"])
def test_a_folder_that_fails_later_costs_a_compilation_and_one_line(
    kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"numba.core.caching.IndexDataCacheFile.{call}", full)
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_index", full)
    for number in (4, 0.5):
        assert kernel(doubled)(number) == 2 * number
    [said] = [record.getMessage() for record in caplog.records]
    assert "No space left on device" in said


def test_a_change_in_a_module_that_helpers_come_from_compiles_anew(tmp_path: Path) -> None:
    """``hash_bytes`` takes helpers from atomics.py; ``scale_ints`` takes none from anywhere."""
    for package in ("stream",):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / "driftgraph" / package, ignore=ignored)
    code = (
        "import numpy as np\n"
        "from driftgraph.stream.kernels import hashing\n"
        "from driftgraph.stream.time import time_kernels\n"
        "hashing.hash_bytes(np.zeros(8, np.uint8), 0, 4)\n"
        "time_kernels.scale_ints(np.ones(1, np.int64), np.ones(1, np.int64), np.ones(1, np.uint8))\n"
        "for one in (hashing.hash_bytes, time_kernels.scale_ints):\n"
        "    print(sum(one.stats.cache_hits.values()))\n"
    )

    def start() -> list[str]:
        command = [sys.executable, "-c", code]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.check_output(command, text=True, env=environment, cwd=tmp_path).split()

    assert start() == ["0", "0"]
    assert start() == ["1", "1"]
    with (tmp_path / "driftgraph/stream/kernels/atomics.py").open("a") as file:
        file.write("# changed\n")
    assert start() == ["0", "1"]
