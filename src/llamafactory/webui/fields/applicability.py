# SPDX-License-Identifier: Apache-2.0
"""Which fields have an effect with what is chosen, and why the others have none: by the rules that the parser has."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ... import plugins
from ...hparams.args import TRAINING_SECTIONS
from ...hparams.inference_args import KTransformersArguments, ProcessorArguments
from ...hparams.model_args import QuantizationArguments
from ...hparams.rules import data, finetuning, model, optimizer, unread
from ...hparams.schema import keys_of, tuner_arguments
from ...hparams.unbuilt import ALWAYS, ANY, SECTIONS, TRAINING
from ...model.catalogue.catalogue import load
from ..texts.texts import text
from .fields import COMMON, Field, fields_on
from .validation import REMOTE_CODE, allows_remote_code

# What an evaluation of a kind leaves aside: groups of its tab's fields.
GROUPS_ASIDE: dict[str, tuple[str, ...]] = {
    "predict": ("benchmark",),
    "loss": ("benchmark", "generation"),
    "benchmark": ("data", "generation"),
}
_BITS = "export_quantization_bit"
_PSEUDO = {"use_pissa": "pissa_init", "booster": "flash_attn", "compute_type": "bf16"}


def reason_off(field: Field, values: Mapping[str, Any], language: str = "en") -> str | None:
    """Why a field has no effect with the stage, tuner, quantizer and optimizer chosen; ``None`` = it has.

    Args:
        field: One of the page.
        values: Field id to value; a field that is not there has its default.
        language: Of the answer.
    """
    key = field.key or _PSEUDO.get(field.name)
    if field.tab == "eval" and field.group in GROUPS_ASIDE.get(str(values.get("eval.kind", "predict")), ()):
        return text(language, "reason.kind")
    if key is None:
        return None

    def chosen(name: str) -> Any:
        return values.get(name, COMMON[name].default)

    if key == "trust_remote_code" and not allows_remote_code():
        return text(language, "reason.remote_code").format(variable=REMOTE_CODE)
    if key in _unbuilt():
        return text(language, "reason.unbuilt").format(part=_unbuilt()[key])
    tuner = str(chosen("top.finetuning_type"))
    if field.tab == "train":
        stage = str(chosen("train.training_stage"))
        stages = _stages().get(key)
        if stages is not None and stage not in stages and stage in plugins.STAGES:
            return text(language, "reason.stage").format(stages=", ".join(stages), stage=stage)
        owners = _tuners().get(key)
        if owners is not None and tuner not in owners:
            shown = ", ".join(owners if len(owners) < 6 else [owners[0], "…"])
            return text(language, "reason.tuner").format(tuners=shown, tuner=tuner)
        if key in (*optimizer.OF_WHOLE_WEIGHTS, "fp8") and tuner not in ("full", "freeze"):
            return text(language, "reason.tuner").format(tuners="full, freeze", tuner=tuner)
        switch = _switches().get(key)
        if switch is not None and not values.get(f"train.{switch}", False):
            return text(language, "reason.switch").format(switch=switch)
        if switch is not None and switch != key and (why := _reason_of(f"train.{switch}", values, language)):
            return why
    if field.tab == "export" and key.startswith("export_quantization_") and key != _BITS:
        given = chosen(f"export.{_BITS}")
        return text(language, "reason.needs").format(key=_BITS) if given in (None, "", "none") else None
    return _of_model(key, tuner, chosen, language)


def _reason_of(name: str, values: Mapping[str, Any], language: str) -> str | None:
    """Why the field that another depends on has no effect: then neither has that other."""
    field = fields_on(name.partition(".")[0]).get(name)
    return reason_off(field, values, language) if field is not None else None


def reasons_off(tab: str, values: Mapping[str, Any], language: str = "en") -> dict[str, str]:
    """The fields of the top bar and of one tab that have no effect, each with its reason."""
    fields = [*fields_on("top").values(), *fields_on(tab).values()]
    found = {field.id: reason_off(field, values, language) for field in fields}
    return {name: reason for name, reason in found.items() if reason is not None}


def _of_model(key: str, tuner: str, chosen: Any, language: str) -> str | None:
    """What the model and its quantization leave without effect."""
    if key in keys_of(QuantizationArguments) and tuner in model.NOT_OVER_FEW_BITS:
        return text(language, "reason.few_bits").format(tuner=tuner)
    if key in keys_of(QuantizationArguments) and key != "quantization_bit":
        return text(language, "reason.quantization") if chosen("top.quantization_bit") in (None, "", "none") else None
    if key in keys_of(ProcessorArguments):
        named = load().get(str(chosen("top.model_name")))
        return text(language, "reason.media") if named is not None and named.modality == "text" else None
    return None


@cache
def _unbuilt() -> dict[str, str]:
    """Key -> the part of the house that it asks for and that is not built; only keys of which every value does."""
    sections = {**TRAINING_SECTIONS, "kt": KTransformersArguments}
    of_sections = {key: part for name, part in SECTIONS.items() for key in keys_of(sections[name])}
    return of_sections | {key: part for key, value, part in (*ALWAYS, *TRAINING) if value is ANY}


@cache
def _stages() -> dict[str, tuple[str, ...]]:
    """Key -> the stages that read it, for those that some do not read."""
    found = {key: stages for stages, keys in unread.STAGES.items() for key in keys}
    found |= dict.fromkeys(data.OF_ANSWERS, data.ON_ANSWERS) | dict.fromkeys(finetuning.LOSSES, ("sft",))
    return found | {"packing": ("pt", *data.ON_ANSWERS, "classification"), "channel_loss": ("pt", "sft")}


@cache
def _tuners() -> dict[str, tuple[str, ...]]:
    """Key -> the tuners that declare it."""
    found: dict[str, tuple[str, ...]] = {}
    for name in plugins.names("tuners"):
        for key in keys_of(tuner_arguments(name)):
            found[key] = (*found.get(key, ()), name)
    return found | {"use_llama_pro": ("freeze", "lora")}


@cache
def _switches() -> dict[str, str]:
    """Key -> the switch without which nothing reads it."""
    beginnings = {beginning: switch for switch, some in unread.SWITCHES.items() for beginning in some}
    beginnings["swanlab_"] = "use_swanlab"
    keys = [field.key or "" for field in fields_on("train").values()]
    return {key: beginnings[start] for key in keys for start in beginnings if key.startswith(start)}
