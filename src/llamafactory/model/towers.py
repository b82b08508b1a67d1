# SPDX-License-Identifier: Apache-2.0
"""The parts of a model that see and hear: training on text leaves them as they are."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from .config import media_class
from .wrapping import beneath_adapters


def outside_language(model: Any) -> str | None:
    """A regular expression of the modules beside the language model and its head; ``None`` for models of text."""
    if media_class(model.config) is None or hasattr(model, "score"):
        return None
    language, head = model.get_decoder(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    inside = rf"{re.escape(names[language])}(\..*)?"
    return f"(?!({inside}{'' if head is None else '|' + re.escape(names[head])})$).*"


def freeze_towers(model: nn.Module) -> None:
    """Take what images, videos and sound go through out of training: text gives it no gradient."""
    core = beneath_adapters(model)
    outside = outside_language(core)
    if outside is None:
        return
    for name, module in core.named_modules():
        if name and re.fullmatch(outside, name):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
