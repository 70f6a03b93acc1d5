"""The decorators of compiled functions, and the files in which numba keeps their machine code.

    @kernel, @helper, … ──► numba, at the first call ──► [kernel_cache.folder] ──► the next start

numba's own cache asks for a writable folder as soon as a function is declared. It stops the call when a kept
file is damaged or cannot be written. It does not notice a change in a module from which a kernel takes its
helpers. This module looks for a folder at the first call, a fault of the cache costs a compilation, and a
kernel is compiled anew when its module changes or one that its module imports.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import sigutils
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from driftgraph.stream.kernels import kernel_cache

IMPORTED = re.compile(r"^(?:from|import) (driftgraph[\w.]*)(?: import (\w+(?:, \w+)*))?", re.MULTILINE)

log = logging.getLogger(__name__)


def _sources(module: str) -> dict[str, Path]:
    """The files of the module and of all that it imports of driftgraph, directly or not, by name."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        spec = None if name in found else importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        found[name] = Path(spec.origin)
        for parent, names in IMPORTED.findall(found[name].read_text(encoding="utf-8")):
            inner = (f"{parent}.{one}" for one in names.split(", ") if one)
            waiting += [parent, *(one for one in inner if _is_module(one))]
    return found


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a name inside of a module
        return False


@functools.cache
def _stamp(module: str) -> str:
    """A text that changes with the source of the module and of all that it imports of driftgraph."""
    digest = hashlib.sha256()
    for name, path in sorted(_sources(module).items()):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


class _Locator(_CacheLocator):
    """The place where numba finds the machine code that it kept of one function."""

    def __init__(self, function: Any, folder: Path) -> None:
        self._function = function
        self._folder = folder

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _Locator | None:  # noqa: ARG003  numba's signature
        """A locator, or None if there is no folder."""
        folder = kernel_cache.folder()
        return None if folder is None else cls(py_func, folder)

    def ensure_cache_path(self) -> None:
        """Nothing is left to do: ``kernel_cache`` made the folder."""

    def get_cache_path(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The folder, which is one for all modules."""
        return str(self._folder)

    def get_source_stamp(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The stamp of the sources. numba does not use kept files with another stamp."""
        return _stamp(self._function.__module__)

    def get_disambiguator(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A part of the file's name, beside the names of module and function."""
        return str(self._function.__code__.co_firstlineno)


class _Files(CompileResultCacheImpl):
    _locator_classes: Any = (_Locator,)

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        """A file name with the whole name of the module, because all modules share one folder."""
        package = self._locator._function.__module__.rpartition(".")[0]
        return str(super().get_filename_base(f"{package}.{fullname}", abiflags))


class _Cache(FunctionCache):
    """The cache of one function. The first call opens it, and its faults do not stop the call."""

    _impl_class = _Files
    _is_open = False

    def __init__(self, function: Any) -> None:
        self._function = function

    def _open(self) -> bool:
        if not self._is_open and kernel_cache.folder() is not None:
            super().__init__(self._function)
            self._is_open = True
        return self._is_open

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function for these types, or None."""
        try:
            found = super().load_overload(sig, target_context) if self._open() else None
        except Exception as error:  # a file that a crash or another version left: pickle raises anything
            log.debug("what was kept of %s cannot be used (%r); it is compiled anew", self._function, error)
            self._tolerant(self.flush)
            return None
        # two processes that keep two signatures at one moment may write them under one name
        wanted = sigutils.normalize_signature(sig)[0]
        return found if found is not None and tuple(found.signature.args) == tuple(wanted) else None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled function for these types, if that is possible."""
        if self._open():
            self._tolerant(lambda: super(_Cache, self).save_overload(sig, data))

    def _tolerant(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # a full disk, a folder that was removed
            _say_not_kept(getattr(error, "strerror", None) or type(error).__name__)


@functools.cache
def _say_not_kept(why: str) -> None:
    """Log each reason once."""
    log.warning("compiled kernels could not be kept (%s): the next start compiles them again", why)


def _declarer(**options: Any) -> Any:
    compiled = njit(nogil=True, **options)

    def declare(function: Any) -> Any:
        dispatcher = compiled(function)
        dispatcher._cache = _Cache(function)  # pyright: ignore[reportAttributeAccessIssue]
        return dispatcher

    return declare


# A kernel gets every array from outside and keeps none, so it counts no references (_nrt). numba would count
# one up and down, atomically, wherever a kernel hands an array on, which was two thirds of a sampling step.
# Nothing in a kernel may make an array, a slice included. A kernel takes arrays that belong together as a
# NamedTuple; only the call from Python costs more, a microsecond or two for each tuple. A helper becomes part
# of its caller, because a call would push every array as seven words.
kernel: Any = _declarer(error_model="numpy", _nrt=False)
helper: Any = _declarer(error_model="numpy", _nrt=False, forceinline=True)
# A vector kernel may add up the terms of a sum in another order, eight or sixteen at a time. The compiler
# chooses the order once, so the same machine code gives the same bits.
vector_kernel: Any = _declarer(error_model="numpy", _nrt=False, fastmath={"reassoc", "contract"})
plain_kernel: Any = _declarer()  # as numba has it: arrays may be made, and a division by zero raises
