# SPDX-License-Identifier: Apache-2.0
"""The models that users know by name: where they lie on each hub, and the template that fits them. Data, no torch.

One file a family. An id that Hugging Face and ModelScope share stands under ``both``; ``why`` says why models have no
template; ``takes`` names what they take beside text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

Hub = Literal["huggingface", "modelscope", "openmind"]

_FOLDER = Path(__file__).parent
_PACKAGE = "pkg://"
# What a newcomer's first run trains: small enough for any machine.
_FIRST = ("SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct")


@dataclass(frozen=True)
class Model:
    """One model by the name that users know.

    Attributes:
        name: What they call it.
        hf: Its id on Hugging Face, or ``pkg://PACKAGE/FILE.gguf``; ``None`` = it is not there.
        modelscope: Its id on ModelScope.
        openmind: Its id on Modelers.
        template: The template that fits it; ``None`` = the tokenizer's own, if it has one.
        modality: ``text``, or what it takes beside text: ``image``, ``image video``, ``audio`` …
        why: Why it has no template.
    """

    name: str
    hf: str | None = None
    modelscope: str | None = None
    openmind: str | None = None
    template: str | None = None
    modality: str = "text"
    why: str = ""

    def path(self, hub: str = "huggingface") -> str:
        """Its id on a hub; where the hub does not have it, the one of another hub."""
        given = {"huggingface": self.hf, "modelscope": self.modelscope, "openmind": self.openmind}
        return given.get(hub) or self.hf or self.modelscope or self.openmind or ""

    @property
    def is_here(self) -> bool:
        """Whether it can be had: what comes in a package needs that package."""
        path = self.path()
        return not path.startswith(_PACKAGE) or find_spec(path.removeprefix(_PACKAGE).partition("/")[0]) is not None


@cache
def load() -> dict[str, Model]:
    """Every model of the catalogue by its name, in the order of the files."""
    found = {}
    for file in sorted(_FOLDER.glob("[!_]*.yaml")):
        for group in _read(file):
            shared = {"template": group["template"], "why": group.get("why", "")}
            shared["modality"] = " ".join(group.get("takes", ["text"]))
            for name, ids in group["models"].items():
                both = ids.get("both")
                hubs = {"hf": ids.get("hf", both), "modelscope": ids.get("ms", both), "openmind": ids.get("om")}
                found[name] = Model(name, **hubs, **shared)
    return found


@cache
def unlisted_templates() -> dict[str, str]:
    """Names of templates that no model has -> why."""
    reasons: dict[str, str] = _read(_FOLDER / "_unlisted.yaml")
    return reasons


def find(text: str, most: int = 50) -> list[Model]:
    """The models whose name or id holds every word of a text, whatever its case; the shortest names first."""
    words = text.casefold().split()
    fits = [model for model in load().values() if all(word in f"{model.name} {model.hf}".casefold() for word in words)]
    return sorted(fits, key=lambda model: len(model.name))[:most]


def of_path(path: str) -> Model | None:
    """The model with an id, on whichever hub."""
    return next((model for model in load().values() if path in (model.hf, model.modelscope, model.openmind)), None)


def default_model() -> Model:
    """The model that the page shows at first: the one of the quickstart if its package is there."""
    return next(model for name in _FIRST if (model := load()[name]).is_here)


def supported_models() -> dict[str, dict[str, str]]:
    """Name -> hub (``hf``, ``ms``, ``om``) -> id, for scripts that look models up."""
    return {
        name: {hub: path for hub, path in (("hf", m.hf), ("ms", m.modelscope), ("om", m.openmind)) if path}
        for name, m in load().items()
    }


def _read(file: Path) -> Any:
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the fast one, where it was compiled
    return loader(file.read_text("utf-8")).get_single_data()
