# SPDX-License-Identifier: Apache-2.0
"""What the machines of one launch must agree on, and where they do not."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from typing import Any

from ..extras.errors import short
from ..extras.launching import PACE_SECONDS, processes_per_node
from ..extras.line import Line
from ..extras.packages import version_of
from ..extras.secrets import mask_values
from .args import TrainArgs

# Packages that compute, encode or exchange what a run is made of.
PACKAGES = ("llamafactory", "torch", "transformers", "tokenizers", "peft", "accelerate", "datasets", "deepspeed")
# Each machine may have its own place for these.
OWN_PLACES = ("cache_dir", "dataset_dir", "media_dir", "tokenized_path", "local_rank")


def card(args: TrainArgs, workers: int, faults: Sequence[str]) -> dict[str, Any]:
    """Return what a machine says of itself: number of processes, configuration without secrets, versions, faults."""
    keys = {key: value for key, value in args.keys.items() if key not in OWN_PLACES}
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    versions |= {name: version_of(name) or "missing" for name in PACKAGES}
    return {"workers": workers, "config": mask_values(keys), "packages": versions, "faults": list(faults)}


def config_hash(config: dict[str, Any]) -> str:
    """Return a short name of a configuration: equal texts, equal settings."""
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(cards: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Return one line for each thing that machines do not agree on; each is compared with the first.

    Args:
        cards: Of every machine.
        names: Their names.
    """
    found = []
    for other, name in zip(cards[1:], names[1:], strict=True):
        if other["workers"] != cards[0]["workers"]:
            found.append(_differ("NPROC_PER_NODE", names[0], cards[0]["workers"], name, other["workers"]))
        for part, what in (("packages", "the version of {}"), ("config", "{}")):
            mine, theirs = cards[0][part], other[part]
            for key in sorted({*mine, *theirs}):
                if mine.get(key) != theirs.get(key):
                    pair = (names[0], mine.get(key, "not set"), name, theirs.get(key, "not set"))
                    found.append(_differ(what.format(key), *pair))
    return found


def _differ(what: str, first: str, mine: Any, second: str, theirs: Any) -> str:
    return f"{what}: {_shown(mine)} on {first}, {_shown(theirs)} on {second}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= 80 else short(value)


def call_roll(args: TrainArgs, line: Line, faults: Sequence[str]) -> list[str]:
    """Return what is wrong with machines of a launch, and what they do not agree on; every one gets the same answer.

    Args:
        args: Of the run.
        line: To the other machines.
        faults: Of this machine.

    Raises:
        ConfigError: A machine is gone.
    """
    cards = line.gather(card(args, processes_per_node(os.environ), faults), PACE_SECONDS)
    names = [line.name(rank) for rank in range(len(cards))]
    own = [f"{name}: {fault}" for name, other in zip(names, cards, strict=True) for fault in other["faults"]]
    return own + differences(cards, names)
