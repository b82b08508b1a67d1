# SPDX-License-Identifier: Apache-2.0
"""The models that users know by name: where they lie on each hub, and the template that fits them. Data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Hub = Literal["huggingface", "modelscope", "openmind"]


@dataclass(frozen=True)
class Model:
    """One model by the name that users know.

    Attributes:
        name: What they call it.
        hf: Its id on Hugging Face, or ``pkg://PACKAGE/FILE.gguf``; ``None`` = it is not there.
        modelscope: Its id on ModelScope.
        openmind: Its id on Modelers.
        template: The template that fits it; ``None`` = a base model without one.
        modality: ``text``, or ``media`` for one that takes images, videos or sound.
    """

    name: str
    hf: str | None = None
    modelscope: str | None = None
    openmind: str | None = None
    template: str | None = None
    modality: str = "text"

    def path(self, hub: str = "huggingface") -> str:
        """Its id on a hub; where the hub does not have it, the one of another hub."""
        given = {"huggingface": self.hf, "modelscope": self.modelscope, "openmind": self.openmind}
        return given.get(hub) or self.hf or self.modelscope or self.openmind or ""


@cache
def load() -> dict[str, Model]:
    """Every model of the catalogue by its name, in the order of the files."""
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, Model] = {}
    for file in sorted(Path(__file__).parent.glob("*.yaml")):
        del file, loader
    return found


def find(text: str, most: int = 50) -> list[Model]:
    """The models whose name or id holds every word of a text, whatever its case; the shortest names first."""
    words = text.casefold().split()
    fits = [model for model in load().values() if all(word in f"{model.name} {model.hf}".casefold() for word in words)]
    return sorted(fits, key=lambda model: len(model.name))[:most]
