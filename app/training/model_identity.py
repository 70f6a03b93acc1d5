"""Tells whether a generation in Redis has the vectors that this worker would publish.

Trainer ──► [hash_of_weights, hash_of_configuration] ──► manifest ──► Worker.go_on of a later start
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version

from torch.nn import Module

from driftgraph.model.options import ListLengths
from driftgraph.model.trainer import Trainer
from driftgraph.stream.window.heterograph import HeterographView


def hash_of_weights(network: Module, model_version: int) -> str:
    """Equal for the same model only. Two that begin in closed form may have equal weights, but no version."""
    digest = hashlib.sha256(str(model_version).encode())
    for _, weight in sorted(network.state_dict().items()):
        digest.update(weight.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def hash_of_configuration(trainer: Trainer, lengths: ListLengths, graph: HeterographView) -> str:
    """Of all else that decides what a worker publishes of a model: options, relations, impressions, lists,
    our version.
    """
    relations = [(relation.name, relation.span_ms) for relation in trainer.relations]
    relations += [(one.name, one.span_ms) for one in graph.window.relations[len(relations) :]]
    options = asdict(trainer.options), trainer.cold.fields()
    parts = [version("driftgraph"), relations, *options, asdict(lengths)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
