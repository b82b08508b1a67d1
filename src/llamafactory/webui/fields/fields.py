# SPDX-License-Identifier: Apache-2.0
"""The fields of the page, as a table: those in front, and every other key made of the typed arguments themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from ... import plugins
from ...extras.secrets import is_secret
from ...hparams.args import SHARED_SECTIONS, TRAINING_SECTIONS
from ...hparams.coercion import as_written
from ...hparams.schema import Key, declared_keys, keys_of, plugin_sections
from ...hparams.unbuilt import DONE_ANYWAY
from ...model.catalogue.catalogue import default_model

Widget = Literal["text", "number", "slider", "choice", "multi", "switch", "json", "path"]
TABS = ("top", "train", "eval", "infer", "export")

# The sections of arguments that a tab shows in folded groups; "tuners" stands for those of every tuner.
_SECTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "model", "quantization", "data", "finetuning", "tuners", "rlhf", "training", "generating", "media", "qat",
        "fp8", "galore", "apollo", "badam", "swanlab", "vllm", "profiler", "ray", "kt", "megatron",
    ),
    "eval": ("evaluation", "infer", "generating", "model", "quantization", "data", "media"),
    "infer": ("vllm", "sglang", "generating", "model", "quantization", "media"),
    "export": ("export", "model", "quantization"),
}  # fmt: skip

# Keys that a field of another name says -> that field.
SAID_BY: dict[str, str] = {
    **dict.fromkeys(("bf16", "fp16", "pure_bf16"), "train.compute_type"),
    **dict.fromkeys(("flash_attn", "enable_liger_kernel", "use_liger_kernel"), "top.booster"),
    **dict.fromkeys(("pissa_init", "pissa_convert"), "train.use_pissa"),
    "adapter_name_or_path": "top.checkpoint_path",
    "batch_size": "eval.batch_size",
    **dict.fromkeys(("do_eval", "do_predict", "predict_with_generate"), "eval.kind"),
}
# Key -> why the page has no field of its name. docs/webui.md has this list.
NOT_ON_PAGE: dict[str, str] = {
    **{key: f"the field {name} says it; the rarer values go into extra_args" for key, name in SAID_BY.items()},
    **{key: f"makes no difference: {how}" for key, how in DONE_ANYWAY.items()},
    **{
        key: "a secret is given in the environment of the server (HF_TOKEN, SWANLAB_API_KEY …), never on a page"
        for key in declared_keys()
        if is_secret(key)
    },
    "do_train": "the tab Train says it",
    **dict.fromkeys(
        ("preview_format", "preview_samples", "messages", "report_format"),
        "of commands in a terminal; the page shows rows by itself",
    ),
    "device": "of the command plan; the page plans for the devices that are chosen for a job",
    **dict.fromkeys(("save_name", "matrix_save_name", "infer_concurrency"), "of the command infer; the page predicts"),
    **dict.fromkeys(("mine_file", "mine_negatives", "mine_skip", "mine_share"), "of the command mine"),
    "gradient_checkpointing": "older name of activation_checkpointing",
    "gradient_checkpointing_kwargs": "older name of activation_checkpointing_kwargs",
    "use_unsloth": "refused by every command",
    "low_cpu_mem_usage": "weights are never held twice while loading",
    "ignore_pad_token_for_loss": "padding is never trained",
}


@dataclass(frozen=True)
class Field:
    """One field.

    Attributes:
        id: ``TAB.NAME``, as the page's elements are called.
        key: The configuration key it writes; ``None`` = it writes several, or none.
        widget: How it is shown.
        default: What it shows at first; ``None`` = nothing, and then the run chooses or the key's default counts.
        choices: Values of ``choice`` and ``multi``; the empty one stands for nothing.
        low: Least number.
        high: Largest number.
        step: Distance of numbers.
        tab: One of :data:`TABS`.
        group: Of the tab: ``data``, ``basic`` … for the fields in front, the section's name for the others.
        help: The key's meaning in English; the page's texts have it in other languages for the fields in front.
        free: A ``choice`` or ``multi`` also takes what is typed.
        unset: The value that means that the key is not given.
    """

    id: str
    key: str | None
    widget: Widget
    default: Any = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float | None = None
    tab: str = ""
    group: str = ""
    help: str = ""
    free: bool = False
    unset: Any = None

    @property
    def name(self) -> str:
        """The id without its tab."""
        return self.id.partition(".")[2]


@cache
def declared() -> dict[str, Key]:
    """Every key that there is, by its name; the table of fields is made of it once."""
    return declared_keys()


def fields_of(tab: str, group: str | None = None) -> list[Field]:
    """The fields in front of one tab (of one group of it), in the order of the page."""
    return [field for field in COMMON.values() if field.tab == tab and group in (None, field.group)]


@cache
def all_groups(tab: str) -> dict[str, list[Field]]:
    """The keys that a tab's command reads and no field in front writes, by section.

    They are made of the typed arguments, so that a key that a new plug-in declares is among them. A section of a tuner
    is called ``tuner NAME, …`` as in ``train -h``.
    """
    tables = {**SHARED_SECTIONS, **TRAINING_SECTIONS}
    written = {field.key for field in COMMON.values() if field.tab in ("top", tab)}
    groups: dict[str, list[Field]] = {}
    for name in _SECTIONS.get(tab, ()):
        for title, section in (plugin_sections() if name == "tuners" else {name: tables[name]}).items():
            keys = [
                key
                for key in keys_of(section).values()
                if key.name not in {*written, *NOT_ON_PAGE} and f"{tab}.{key.name}" not in COMMON
            ]
            written |= {key.name for key in keys}  # tuners share some: the first one shows it
            if keys:
                groups[title] = [_field(tab, title, key.name, {}) for key in keys]
    return groups


@cache
def fields_on(tab: str) -> dict[str, Field]:
    """Every field of a tab by its id: those in front, then the others."""
    rest = [field for group in all_groups(tab).values() for field in group]
    return {field.id: field for field in [*fields_of(tab), *rest]}


def every_field() -> Iterator[Field]:
    """Every field of the page."""
    for tab in TABS:
        yield from fields_on(tab).values()


def _front() -> dict[str, Field]:
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the fast one, where it was compiled
    table = loader(Path(__file__).with_name("front_fields.yaml").read_text("utf-8")).get_single_data()
    found = [
        _field(tab, group, name, settings)
        for tab, groups in table.items()
        for group, fields in groups.items()
        for name, settings in fields.items()
    ]
    model = default_model()
    chosen = {"top.model_name": model.name, "top.model_path": model.path(), "top.template": model.template}
    return {field.id: replace(field, default=chosen.get(field.id, field.default)) for field in found}


def _field(tab: str, group: str, name: str, settings: dict[str, Any]) -> Field:
    """A field by what its key declares, and by what the table says otherwise."""
    settings = dict(settings)
    key = settings.pop("key", name)
    base = _of_key(declared()[key]) if key is not None else {"widget": "text"}
    if "table" in settings:
        names, first = list(plugins.names(settings.pop("table"))), settings.pop("first", [])
        settings["choices"] = [*first, *(name for name in names if name not in first)]
    if settings.get("widget") in ("text", "path", "multi", "switch"):
        base |= {"low": None, "high": None, "step": None, "choices": ()}
    merged = {**base, **settings, "tab": tab, "group": group}
    merged["choices"] = tuple(map(as_written, merged.get("choices", ())))
    return Field(f"{tab}.{name}", key, **merged)


def _of_key(key: Key) -> dict[str, Any]:
    """The widget of a key by its type, with what else its declaration says."""
    options = get_args(key.hint) if get_origin(key.hint) in (Union, UnionType) else (key.hint,)
    found: dict[str, Any] = {"default": key.default, "help": key.help, "widget": "text"}
    literal = [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]
    kinds = {option for option in options if option is not NoneType and get_origin(option) is not Literal}
    if kinds == {bool} and not literal and NoneType not in options:
        return {**found, "widget": "switch"}
    if literal or bool in kinds:
        choices = [*(["true", "false"] if bool in kinds else []), *map(as_written, literal)]
        choices += ["null"] if NoneType in options and key.default is not None else []
        choices = [*([""] if key.default is None else []), *dict.fromkeys(choices)]
        free = bool(kinds - {bool})
        default = None if key.default is None else as_written(key.default)
        return {**found, "widget": "choice", "choices": choices, "free": free, "default": default}
    if dict in kinds:
        return {**found, "widget": "json"}
    if kinds <= {int, float}:
        within, whole = key.within, kinds == {int}
        low = within.least if within.least is not None else within.above
        if within.only:
            choices = [*([""] if key.default is None else []), *map(str, within.only)]
            return {**found, "widget": "choice", "choices": choices, "default": key.default and str(key.default)}
        low = min([low, *within.also]) if low is not None and within.also else low
        high = within.most if within.most is not None else within.below
        return {**found, "widget": "number", "low": low, "high": high, "step": 1 if whole else None}
    if key.name.endswith(("_dir", "_path", "_folder", "_file")):
        return {**found, "widget": "path"}
    return found


COMMON: dict[str, Field] = _front()  # the fields in front by id, in the order of the page
