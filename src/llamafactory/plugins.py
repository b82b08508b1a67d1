# SPDX-License-Identifier: Apache-2.0
"""The table of contents of the house: what exists of each kind, and where it lives.

A row is ``name -> "module:attribute"``, or ``name -> "module"`` where the whole file is the plugin (it exports
several things, such as ``Arguments``, ``check`` and ``create``). Nothing is imported until a row is used. A package
outside this one adds rows through the entry-point group ``llamafactory.plugins``: the entry point's name is
``kind.name`` (for example ``templates.my_chat``) and its value is ``module:attribute`` or ``module``.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from .extras.errors import ConfigError

# Tuners export Arguments (the flat keys), check(args) and create(...); the files import no torch at module level.
TUNERS: dict[str, str] = {
    "full": "llamafactory.model.tuners.full",
    "freeze": "llamafactory.model.tuners.freeze",
    "lora": "llamafactory.model.tuners.lora",
}

STAGES: dict[str, str] = {
    "pt": "llamafactory.train.pt.workflow:stage",
    "sft": "llamafactory.train.sft.workflow:stage",
    "rm": "llamafactory.train.rm.workflow:stage",
    "dpo": "llamafactory.train.dpo.workflow:stage",
    "kto": "llamafactory.train.kto.workflow:stage",
}

# One ChatTemplate value a row.
TEMPLATES: dict[str, str] = {
    "alpaca": "llamafactory.data.templates.alpaca:alpaca",
    "chatml": "llamafactory.data.templates.chatml:chatml",
    "chatml_de": "llamafactory.data.templates.chatml:chatml_de",
    "deepseek": "llamafactory.data.templates.deepseek:deepseek",
    "deepseek3": "llamafactory.data.templates.deepseek:deepseek3",
    "deepseekr1": "llamafactory.data.templates.deepseek:deepseekr1",
    "deepseekr1_0528": "llamafactory.data.templates.deepseek:deepseekr1_0528",
    "default": "llamafactory.data.templates.plain:default",
    "empty": "llamafactory.data.templates.plain:empty",
    "gemma": "llamafactory.data.templates.gemma:gemma",
    "gemma2": "llamafactory.data.templates.gemma:gemma2",
    "gemma3": "llamafactory.data.templates.gemma:gemma3",
    "llama2": "llamafactory.data.templates.llama2:llama2",
    "llama2_zh": "llamafactory.data.templates.llama2:llama2_zh",
    "llama3": "llamafactory.data.templates.llama3:llama3",
    "llama3_1": "llamafactory.data.templates.llama3:llama3_1",
    "llama3_2": "llamafactory.data.templates.llama3:llama3_1",
    "llama3_3": "llamafactory.data.templates.llama3:llama3_1",
    "ministral": "llamafactory.data.templates.mistral:ministral",
    "mistral": "llamafactory.data.templates.mistral:mistral",
    "mistral_small": "llamafactory.data.templates.mistral:mistral_small",
    "mistral_v1": "llamafactory.data.templates.mistral:mistral_v1",
    "phi4": "llamafactory.data.templates.phi:phi4",
    "phi4_mini": "llamafactory.data.templates.phi:phi4_mini",
    "qwen": "llamafactory.data.templates.qwen:qwen",
    "qwen2": "llamafactory.data.templates.qwen:qwen2",
    "qwen2_5": "llamafactory.data.templates.qwen:qwen",
    "qwen3": "llamafactory.data.templates.qwen:qwen3",
    "qwen3_nothink": "llamafactory.data.templates.qwen:qwen3_nothink",
    "qwen3_thinking": "llamafactory.data.templates.qwen:qwen3_thinking",
    "smollm": "llamafactory.data.templates.smollm:smollm",
    "smollm2": "llamafactory.data.templates.smollm:smollm2",
    "vicuna": "llamafactory.data.templates.vicuna:vicuna",
}

FORMATS: dict[str, str] = {
    "alpaca": "llamafactory.data.formats.alpaca:convert",
    "sharegpt": "llamafactory.data.formats.sharegpt:convert",
    "openai": "llamafactory.data.formats.openai:convert",
}

# A tool format describes tools, renders calls and parses them back: a JsonToolFormat, or an object with its methods.
TOOL_FORMATS: dict[str, str] = {
    "default": "llamafactory.data.tool_formats.default:tool_format",
    "deepseek": "llamafactory.data.tool_formats.deepseek:tool_format",
    "llama3": "llamafactory.data.tool_formats.llama3:tool_format",
    "mistral": "llamafactory.data.tool_formats.mistral:v3",
    "mistral_small": "llamafactory.data.tool_formats.mistral:small",
    "mistral_tekken": "llamafactory.data.tool_formats.mistral:tekken",
    "phi4_mini": "llamafactory.data.tool_formats.phi4_mini:tool_format",
    "qwen": "llamafactory.data.tool_formats.qwen:tool_format",
}

# Losses of pairs (stage dpo): functions of Pairs and Settings.
LOSSES: dict[str, str] = {
    "sigmoid": "llamafactory.train.losses.preference:sigmoid",
    "hinge": "llamafactory.train.losses.preference:hinge",
    "ipo": "llamafactory.train.losses.preference:ipo",
    "kto_pair": "llamafactory.train.losses.preference:kto_pair",
    "orpo": "llamafactory.train.losses.preference:orpo",
    "simpo": "llamafactory.train.losses.preference:simpo",
    "robust": "llamafactory.train.losses.preference:robust",
    "exo_pair": "llamafactory.train.losses.preference:exo_pair",
    "aot": "llamafactory.train.losses.preference:aot",
    "apo_zero": "llamafactory.train.losses.preference:apo_zero",
    "apo_down": "llamafactory.train.losses.preference:apo_down",
    "sppo_hard": "llamafactory.train.losses.preference:sppo_hard",
    "nca": "llamafactory.train.losses.preference:nca",
    "discopop": "llamafactory.train.losses.preference:discopop",
}

ENGINES: dict[str, str] = {
    "huggingface": "llamafactory.chat.hf_engine:HuggingfaceEngine",
}

QUANTIZERS: dict[str, str] = {}

OPTIMIZERS: dict[str, str] = {}

MEDIA: dict[str, str] = {}

FAMILIES: dict[str, str] = {}

BACKENDS: dict[str, str] = {}

TABLES: dict[str, dict[str, str]] = {
    "tuners": TUNERS,
    "stages": STAGES,
    "templates": TEMPLATES,
    "formats": FORMATS,
    "tool_formats": TOOL_FORMATS,
    "losses": LOSSES,
    "engines": ENGINES,
    "quantizers": QUANTIZERS,
    "optimizers": OPTIMIZERS,
    "media": MEDIA,
    "families": FAMILIES,
    "backends": BACKENDS,
}


def names(kind: str) -> list[str]:
    """Return the known names of one kind, our own rows first."""
    return list({**_third_party(kind), **TABLES[kind]})


def resolve(kind: str, name: str) -> Any:
    """Import one plugin on first use.

    Args:
        kind: A key of ``TABLES``, such as ``"tuners"``.
        name: The row's name, as the user wrote it.

    Returns:
        The attribute the row points at, or the module when the row names no attribute.

    Raises:
        ConfigError: No row has that name; the nearest names are given.
    """
    target = TABLES[kind].get(name) or _third_party(kind).get(name)
    if target is None:
        known = names(kind)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        listed = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
        raise ConfigError(f"{kind}: unknown name {name!r}; {listed}")
    module, _, attribute = target.partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


_entry_points: dict[str, dict[str, str]] | None = None


def _third_party(kind: str) -> dict[str, str]:
    """Return rows that installed packages add to one kind; read once a process."""
    global _entry_points
    if _entry_points is None:
        # Reading the metadata of every installed package takes tens of milliseconds, so it waits until it is needed.
        from importlib.metadata import entry_points

        _entry_points = {}
        for point in entry_points(group="llamafactory.plugins"):
            group, _, name = point.name.partition(".")
            if group not in TABLES or not name:
                kinds = ", ".join(TABLES)
                raise ConfigError(f"entry point {point.name!r}: expected kind.name, kind one of {kinds}")
            _entry_points.setdefault(group, {})[name] = point.value
    return _entry_points.get(kind, {})
