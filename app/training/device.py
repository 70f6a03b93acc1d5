"""What trains: the device and the class that the configuration names, and how many threads.

settings ──► [device_of] ──► TrainerOptions          settings ──► [described_device] ──► driftgraph doctor
settings ──► [check_custom] ──► run, doctor
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import Final

import torch

from driftgraph.app.config.builders import trainer_options
from driftgraph.app.config.settings import Settings
from driftgraph.model.network.custom_network import untrained
from driftgraph.stream.errors import ConfigError

NICE: Final = 5  # of the thread that trains: its share of a contended core is a third of another's
SWITCH_S: Final = 0.001


def use_threads() -> None:
    """Let torch have half of the cores, the rest is ingestion's, unless ``OMP_NUM_THREADS`` says how many.

    A step is many small products: on two cores, two threads took 8.5 s for a fit where one took 5.4 s.
    """
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))


def yield_to_others() -> None:
    """Let this thread and those that it starts take a core only where nobody else on the machine wants it.

    A fit may take seconds longer; who reads events, refreshes users or asks Redis waits less. The interpreter
    is handed over sooner, since a refresh asks for it often and for short, and garbage collections, in which
    every thread stands still, leave out what is there by now.
    """
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    sys.setswitchinterval(SWITCH_S)
    gc.freeze()  # torch's 250,000 objects: .1 s of each full collection


def device_of(wanted: str) -> str:
    """What ``model.device`` comes out as on this machine.

    Raises:
        ConfigError: It is a CUDA device that is not here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda" if count else "cpu"
    if wanted != "cpu" and int(wanted.partition(":")[2] or 0) >= count:
        raise ConfigError(
            f"model.device = {wanted}, but PyTorch {torch.__version__} sees {count} CUDA devices here; "
            'set it to "auto" or "cpu", or give this process the device'
        )
    return wanted


def gpu_memory() -> dict[str, int] | None:
    """Bytes on the GPU that trains: of tensors, taken by torch, and in all; None where none is used."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return {
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "total": total,
    }


def described_device(wanted: str) -> str:
    """What trains, in words. Raises like ``device_of``."""
    device = device_of(wanted)
    if device == "cpu":
        unused = ", though there is a CUDA device" if torch.cuda.is_available() else ""
        return f"PyTorch {torch.__version__} on the processor{unused}"
    found = torch.cuda.get_device_properties(device)
    half = "with" if torch.cuda.is_bf16_supported() else "without"
    named = f"CUDA, {found.name}, {found.total_memory / 1e9:.0f} GB, {half} bfloat16"
    return f"PyTorch {torch.__version__} on {named}"


def check_custom(settings: Settings) -> None:
    """Make the class of ``model.custom`` once.

    Raises:
        ConfigError: There is no such class, or it lacks a method of the protocol.
        CustomModelError: It cannot be made.
    """
    untrained(list(settings.relations), trainer_options(settings, device="cpu"))
