"""driftgraph as a user has it to whom neither the package nor the home folder belongs.

As root a command runs under a user number that no account has, with the right to read everything, because the
interpreter may lie where only root can look, and with no other right. Elsewhere it runs as who runs the
tests, and the package is a copy that cannot be written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from driftgraph.stream.kernels import kernel_cache

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("app", "model", "snapshots", "stream")
UID = 12_345 if os.geteuid() == 0 else os.geteuid()
CODE = "from driftgraph.app.cli.main import main; main()"
ENDS_WITHIN_S = 180.0  # with everything to compile, beside other tests


class OtherUser:
    """In ``folder`` are a package and a home that cannot be written, a folder ``tmp`` for all, and ``work``.

    ``work`` is the user's own, and commands run there.
    """

    def __init__(self, folder: Path) -> None:
        self.site, self.home = folder / "site", folder / "home"
        self.temporary, self.work = folder / "tmp", folder / "work"
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / package, self.site / "driftgraph" / package, ignore=ignored)
        for place in (self.home, self.temporary, self.work):
            place.mkdir()
        self.temporary.chmod(0o1777)
        os.chown(self.work, UID, -1)
        for place in (self.home, self.site, *(p for p in self.site.rglob("*") if p.is_dir())):
            place.chmod(0o555)
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "HOME")},
            "PYTHONPATH": str(self.site),
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
        }

    @property
    def kept(self) -> Path:
        """Where the user's compiled kernels are if the data_dir is ``work/var``."""
        return self.work / "var" / f"driftgraph-kernels-{UID}"

    def make_data_dir(self) -> None:
        (self.work / "var").mkdir()
        os.chown(self.work / "var", UID, -1)

    def take_kernels(self) -> None:
        """Where a test is of something else: what is compiled for this process, as kept in ``tmp``."""
        kept = self.temporary / f"driftgraph-kernels-{UID}"
        kept.mkdir(mode=0o700)
        os.chown(kept, UID, -1)
        own = kernel_cache.folder()
        for file in [] if own is None else [*own.glob("*.nbi"), *own.glob("*.nbc")]:
            shutil.copy(file, kept)
            os.chown(kept / file.name, UID, -1)

    def command(self, *arguments: str, code: str = CODE) -> list[str]:
        program = [sys.executable, "-c", code, *arguments]
        if os.geteuid() != 0:
            return program
        reading = "+dac_read_search"
        rights = ("--inh-caps", reading, "--ambient-caps", reading, "--bounding-set", f"-all,{reading}")
        return ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", *rights, *program]

    def run(
        self, *arguments: str, code: str = CODE, without: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, in ``work``, without the variable ``without``."""
        given = {name: value for name, value in self.environment.items() if name != without}
        return subprocess.run(
            self.command(*arguments, code=code),
            capture_output=True,
            text=True,
            check=False,
            timeout=ENDS_WITHIN_S,
            cwd=self.work,
            env=given | environment,
        )
