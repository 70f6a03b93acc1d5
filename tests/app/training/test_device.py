"""What doctor says of the device: what is asked for, and what is there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from driftgraph.app.training.device import described_device


def test_a_device_is_described_by_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert described_device("auto").endswith("on the processor")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    found = SimpleNamespace(name="H200", total_memory=150_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert described_device("auto").endswith("on CUDA, H200, 150 GB, with bfloat16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert described_device("cuda:0").endswith("without bfloat16")
    assert described_device("cpu").endswith("on the processor, though there is a CUDA device")
