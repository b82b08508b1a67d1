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

# The methods of the installed PEFT that need no file of their own. Those that cannot be trained here say why.
_PEFT_METHODS = (
    "adamss", "adaption_prompt", "beft", "boft", "c3a", "cartridge", "cpt", "deft", "delora", "fourierft", "frod",
    "glora", "gralora", "hira", "hra", "ia3", "lily", "ln_tuning", "loha", "lokr", "miss", "multitask_prompt_tuning",
    "osf", "peanut", "poly", "psoft", "pvera", "randlora", "road", "shadow", "shira", "supertuning", "tinylora",
    "trainable_tokens", "unilora", "vblora", "vera", "waveft", "xlora",
)  # fmt: skip

# Tuners export Arguments (the flat keys), check(args) and create(...); the files import no torch at module level.
TUNERS: dict[str, str] = {
    "full": "llamafactory.model.tuners.full",
    "freeze": "llamafactory.model.tuners.freeze",
    "lora": "llamafactory.model.tuners.lora",
    "oft": "llamafactory.model.tuners.oft",
    "adalora": "llamafactory.model.tuners.adalora",
    **dict.fromkeys(("prompt_tuning", "p_tuning", "prefix_tuning"), "llamafactory.model.tuners.prompt"),
    **dict.fromkeys(_PEFT_METHODS, "llamafactory.model.tuners.peft_method"),
}

STAGES: dict[str, str] = {
    name: f"llamafactory.train.{name}.workflow:stage"
    for name in (
        "pt", "sft", "rm", "dpo", "kto", "ppo", "grpo", "gkd", "classification", "embedding", "reranker",
    )
}  # fmt: skip

# One ChatTemplate value a row.
TEMPLATES: dict[str, str] = {
    "aeva": "llamafactory.data.templates.glm:aeva",
    "alpaca": "llamafactory.data.templates.alpaca:alpaca",
    "bailing": "llamafactory.data.templates.bailing:bailing",
    "bailing_v2": "llamafactory.data.templates.bailing:bailing_v2",
    "breeze": "llamafactory.data.templates.breeze:breeze",
    "chatglm3": "llamafactory.data.templates.glm:chatglm3",
    "chatml": "llamafactory.data.templates.chatml:chatml",
    "chatml_de": "llamafactory.data.templates.chatml:chatml_de",
    "cohere": "llamafactory.data.templates.cohere:cohere",
    "cpm4": "llamafactory.data.templates.minicpm:cpm4",
    "dbrx": "llamafactory.data.templates.dbrx:dbrx",
    "deepseek": "llamafactory.data.templates.deepseek:deepseek",
    "deepseek3": "llamafactory.data.templates.deepseek:deepseek3",
    "deepseek3_1": "llamafactory.data.templates.deepseek:deepseek3_1",
    "deepseekcoder": "llamafactory.data.templates.deepseek:deepseekcoder",
    "deepseekr1": "llamafactory.data.templates.deepseek:deepseekr1",
    "deepseekr1_0528": "llamafactory.data.templates.deepseek:deepseekr1_0528",
    "default": "llamafactory.data.templates.plain:default",
    "dots_ocr": "llamafactory.data.templates.vision:dots_ocr",
    "empty": "llamafactory.data.templates.plain:empty",
    "ernie": "llamafactory.data.templates.ernie:ernie",
    "ernie_nothink": "llamafactory.data.templates.ernie:ernie_nothink",
    "ernie_vl": "llamafactory.data.templates.ernie:ernie_vl",
    "exaone": "llamafactory.data.templates.exaone:exaone",
    "falcon": "llamafactory.data.templates.falcon:falcon",
    "falcon_h1": "llamafactory.data.templates.falcon:falcon_h1",
    "fewshot": "llamafactory.data.templates.legacy:fewshot",
    "gemma": "llamafactory.data.templates.gemma:gemma",
    "gemma2": "llamafactory.data.templates.gemma:gemma2",
    "gemma3": "llamafactory.data.templates.gemma:gemma3",
    "gemma3n": "llamafactory.data.templates.gemma:gemma3n",
    "gemma4": "llamafactory.data.templates.gemma:gemma4",
    "gemma4n": "llamafactory.data.templates.gemma:gemma4n",
    "glm4": "llamafactory.data.templates.glm:glm4",
    "glm4_5v": "llamafactory.data.templates.glm:glm4_5v",
    "glm4_7": "llamafactory.data.templates.glm:glm4_7",
    "glm4_moe": "llamafactory.data.templates.glm:glm4_moe",
    "glm4v": "llamafactory.data.templates.glm:glm4v",
    "glm_ocr": "llamafactory.data.templates.glm:glm_ocr",
    "glmz1": "llamafactory.data.templates.glm:glmz1",
    "gpt_oss": "llamafactory.data.templates.gpt_oss:gpt_oss",
    "granite3": "llamafactory.data.templates.granite:granite3",
    "granite3_vision": "llamafactory.data.templates.granite:granite3_vision",
    "granite4": "llamafactory.data.templates.granite:granite4",
    "hunyuan": "llamafactory.data.templates.hunyuan:hunyuan",
    "hunyuan_small": "llamafactory.data.templates.hunyuan:hunyuan_small",
    "hy3": "llamafactory.data.templates.hunyuan:hy3",
    "hy_dense_1_8b": "llamafactory.data.templates.hunyuan:hy_dense_1_8b",
    "hy_dense_7b": "llamafactory.data.templates.hunyuan:hy_dense_7b",
    "index": "llamafactory.data.templates.legacy:index",
    "intern2": "llamafactory.data.templates.internlm:intern2",
    "intern_s1": "llamafactory.data.templates.internlm:intern_s1",
    "intern_vl": "llamafactory.data.templates.internlm:intern_vl",
    "keye_vl": "llamafactory.data.templates.vision:keye_vl",
    "kimi_vl": "llamafactory.data.templates.kimi:kimi_vl",
    "lfm2": "llamafactory.data.templates.lfm2:lfm2",
    "lfm2_5": "llamafactory.data.templates.lfm2:lfm2_5",
    "lfm2_vl": "llamafactory.data.templates.lfm2:lfm2_vl",
    "llama2": "llamafactory.data.templates.llama2:llama2",
    "llama2_zh": "llamafactory.data.templates.llama2:llama2_zh",
    "llama3": "llamafactory.data.templates.llama3:llama3",
    "llama3_1": "llamafactory.data.templates.llama3:llama3_1",
    "llama3_2": "llamafactory.data.templates.llama3:llama3_1",
    "llama3_3": "llamafactory.data.templates.llama3:llama3_1",
    "llama4": "llamafactory.data.templates.llama3:llama4",
    "llava": "llamafactory.data.templates.llava:llava",
    "llava_next": "llamafactory.data.templates.llava:llava_next",
    "llava_next_llama3": "llamafactory.data.templates.llava:llava_next_llama3",
    "llava_next_mistral": "llamafactory.data.templates.llava:llava_next_mistral",
    "llava_next_qwen": "llamafactory.data.templates.llava:llava_next_qwen",
    "llava_next_video": "llamafactory.data.templates.llava:llava_next_video",
    "llava_next_video_mistral": "llamafactory.data.templates.llava:llava_next_video_mistral",
    "llava_next_video_yi": "llamafactory.data.templates.llava:llava_next_video_yi",
    "llava_next_yi": "llamafactory.data.templates.llava:llava_next_yi",
    "mimo": "llamafactory.data.templates.mimo:mimo",
    "mimo_v2": "llamafactory.data.templates.mimo:mimo_v2",
    "mimo_vl": "llamafactory.data.templates.mimo:mimo_vl",
    "minicpm_o": "llamafactory.data.templates.minicpm:minicpm_o",
    "minicpm_v": "llamafactory.data.templates.minicpm:minicpm_v",
    "minicpm_v_4_6": "llamafactory.data.templates.minicpm:minicpm_v_4_6",
    "minimax1": "llamafactory.data.templates.minimax:minimax1",
    "minimax2": "llamafactory.data.templates.minimax:minimax2",
    "ministral": "llamafactory.data.templates.mistral:ministral",
    "ministral3": "llamafactory.data.templates.mistral:ministral3",
    "mistral": "llamafactory.data.templates.mistral:mistral",
    "mistral_small": "llamafactory.data.templates.mistral:mistral_small",
    "mistral_v1": "llamafactory.data.templates.mistral:mistral_v1",
    "mllama": "llamafactory.data.templates.llama3:mllama",
    "moonlight": "llamafactory.data.templates.kimi:moonlight",
    "moss_vl": "llamafactory.data.templates.vision:moss_vl",
    "olmo": "llamafactory.data.templates.olmo:olmo",
    "olmo2": "llamafactory.data.templates.olmo:olmo2",
    "openchat": "llamafactory.data.templates.openchat:openchat",
    "openchat-3.6": "llamafactory.data.templates.openchat:openchat_3_6",
    "opencoder": "llamafactory.data.templates.opencoder:opencoder",
    "paligemma": "llamafactory.data.templates.gemma:paligemma",
    "paligemma_chat": "llamafactory.data.templates.gemma:paligemma_chat",
    "phi": "llamafactory.data.templates.phi:phi",
    "phi4": "llamafactory.data.templates.phi:phi4",
    "phi4_mini": "llamafactory.data.templates.phi:phi4_mini",
    "phi_small": "llamafactory.data.templates.phi:phi_small",
    "pixtral": "llamafactory.data.templates.mistral:pixtral",
    "qwen": "llamafactory.data.templates.qwen:qwen",
    "qwen2": "llamafactory.data.templates.qwen:qwen2",
    "qwen2_5": "llamafactory.data.templates.qwen:qwen",
    "qwen2_audio": "llamafactory.data.templates.qwen:qwen2_audio",
    "qwen2_omni": "llamafactory.data.templates.qwen:qwen2_omni",
    "qwen2_vl": "llamafactory.data.templates.qwen:qwen2_vl",
    "qwen3": "llamafactory.data.templates.qwen:qwen3",
    "qwen3_5": "llamafactory.data.templates.qwen:qwen3_5",
    "qwen3_5_nothink": "llamafactory.data.templates.qwen:qwen3_5_nothink",
    "qwen3_6": "llamafactory.data.templates.qwen:qwen3_6",
    "qwen3_coder": "llamafactory.data.templates.qwen:qwen3_coder",
    "qwen3_coder_next": "llamafactory.data.templates.qwen:qwen3_coder_next",
    "qwen3_nothink": "llamafactory.data.templates.qwen:qwen3_nothink",
    "qwen3_omni": "llamafactory.data.templates.qwen:qwen3_omni",
    "qwen3_omni_nothink": "llamafactory.data.templates.qwen:qwen3_omni_nothink",
    "qwen3_thinking": "llamafactory.data.templates.qwen:qwen3_thinking",
    "qwen3_vl": "llamafactory.data.templates.qwen:qwen3_vl",
    "qwen3_vl_nothink": "llamafactory.data.templates.qwen:qwen3_vl_nothink",
    "sailor": "llamafactory.data.templates.sailor:sailor",
    "seed_coder": "llamafactory.data.templates.seed:seed_coder",
    "seed_oss": "llamafactory.data.templates.seed:seed_oss",
    "smollm": "llamafactory.data.templates.smollm:smollm",
    "smollm2": "llamafactory.data.templates.smollm:smollm2",
    "solar": "llamafactory.data.templates.solar:solar",
    "starchat": "llamafactory.data.templates.zephyr:starchat",
    "telechat2": "llamafactory.data.templates.telechat:telechat2",
    "vicuna": "llamafactory.data.templates.vicuna:vicuna",
    "video_llava": "llamafactory.data.templates.llava:video_llava",
    "xuanyuan": "llamafactory.data.templates.legacy:xuanyuan",
    "yi": "llamafactory.data.templates.yi:yi",
    "yi_1_5": "llamafactory.data.templates.yi:yi_1_5",
    "yi_vl": "llamafactory.data.templates.yi:yi_vl",
    "youtu": "llamafactory.data.templates.youtu:youtu",
    "youtu_vl": "llamafactory.data.templates.youtu:youtu_vl",
    "yuan": "llamafactory.data.templates.yuan:yuan",
    "zephyr": "llamafactory.data.templates.zephyr:zephyr",
}

FORMATS: dict[str, str] = {
    "alpaca": "llamafactory.data.formats.alpaca:convert",
    "sharegpt": "llamafactory.data.formats.sharegpt:convert",
    "openai": "llamafactory.data.formats.openai:convert",
}

# A tool format describes tools, renders calls and parses them back: a JsonToolFormat, or an object with its methods.
TOOL_FORMATS: dict[str, str] = {
    "deepseek": "llamafactory.data.tool_formats.deepseek:tool_format",
    "deepseek3_1": "llamafactory.data.tool_formats.deepseek:v3_1",
    "default": "llamafactory.data.tool_formats.default:tool_format",
    "falcon_h1": "llamafactory.data.tool_formats.granite:falcon_h1",
    "gemma4": "llamafactory.data.tool_formats.gemma4:tool_format",
    "glm4": "llamafactory.data.tool_formats.glm4:tool_format",
    "glm4_7": "llamafactory.data.tool_formats.glm4_moe:compact",
    "glm4_moe": "llamafactory.data.tool_formats.glm4_moe:tool_format",
    "glmz1": "llamafactory.data.tool_formats.glm4:z1",
    "gpt_oss": "llamafactory.data.tool_formats.gpt_oss:tool_format",
    "granite3": "llamafactory.data.tool_formats.granite:granite3",
    "granite4": "llamafactory.data.tool_formats.granite:granite4",
    "hunyuan_small": "llamafactory.data.tool_formats.hunyuan:tool_format",
    "hy3": "llamafactory.data.tool_formats.hy3:tool_format",
    "intern_s1": "llamafactory.data.tool_formats.intern_s1:tool_format",
    "lfm2": "llamafactory.data.tool_formats.lfm2:tool_format",
    "lfm2_5": "llamafactory.data.tool_formats.lfm2:lfm2_5",
    "ling": "llamafactory.data.tool_formats.qwen:tool_format",
    "llama3": "llamafactory.data.tool_formats.llama3:tool_format",
    "llama4": "llamafactory.data.tool_formats.llama3:llama4",
    "mimo_v2": "llamafactory.data.tool_formats.qwen3_5:mimo_v2",
    "minimax1": "llamafactory.data.tool_formats.minimax:m1",
    "minimax2": "llamafactory.data.tool_formats.minimax:m2",
    "ministral3": "llamafactory.data.tool_formats.mistral:ministral3",
    "mistral": "llamafactory.data.tool_formats.mistral:v3",
    "mistral_small": "llamafactory.data.tool_formats.mistral:small",
    "mistral_tekken": "llamafactory.data.tool_formats.mistral:tekken",
    "phi4_mini": "llamafactory.data.tool_formats.phi4_mini:tool_format",
    "qwen": "llamafactory.data.tool_formats.qwen:tool_format",
    "qwen3_5": "llamafactory.data.tool_formats.qwen3_5:tool_format",
    "qwen3_6": "llamafactory.data.tool_formats.qwen3_5:json_values",
    "qwen3_coder": "llamafactory.data.tool_formats.qwen3_5:coder",
    "qwen3_coder_next": "llamafactory.data.tool_formats.qwen3_5:coder_next",
    "seed_oss": "llamafactory.data.tool_formats.seed_oss:tool_format",
    "youtu": "llamafactory.data.tool_formats.granite:youtu",
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
    "vllm": "llamafactory.chat.vllm_engine:VllmEngine",
    "sglang": "llamafactory.chat.sglang_engine:SglangEngine",
}

# What writes the answers of stages ppo and grpo: an Engine of train/rl/rollouts/rollout.py.
ROLLOUTS: dict[str, str] = {
    "huggingface": "llamafactory.train.rl.rollouts.hf_rollout:HuggingfaceRollout",
    "vllm": "llamafactory.train.rl.rollouts.vllm_rollout:VllmRollout",
}

# Rewards with a name of their own (stages ppo and grpo): functions as users write them (docs/rl.md).
REWARD_FUNCS: dict[str, str] = {
    "format": "llamafactory.train.rl.rewards.functions:format",
    "accuracy": "llamafactory.train.rl.rewards.functions:accuracy",
    "length": "llamafactory.train.rl.rewards.functions:length",
    "environment": "llamafactory.train.rl.rewards.functions:environment",
    "math_verify": "llamafactory.train.rl.rewards.functions:math_verify",
}

# Values of quantization_method; those that quantize while a model loads, then formats of checkpoints.
QUANTIZERS: dict[str, str] = {
    **{name: f"llamafactory.model.quantizers.{name}:quantizer" for name in ("bnb", "torchao", "hqq", "quanto", "eetq")},
    "compressed-tensors": "llamafactory.model.quantizers.checkpoints:compressed_tensors",
    **{name: f"llamafactory.model.quantizers.checkpoints:{name}" for name in ("fp8", "mxfp4", "gptq", "awq", "aqlm")},
}

# Optimizers that transformers does not make, or not so that a run resumes.
OPTIMIZERS: dict[str, str] = {
    name: f"llamafactory.train.optim.{name}"
    for name in (
        "loraplus", "galore", "apollo", "badam", "adam_mini", "muon", "rounded", "prodigy", "soap", "lion",
    )
}  # fmt: skip

# How families write images, videos and sound into their text.
MEDIA: dict[str, str] = {
    "ernie_vl": "llamafactory.data.media.families:ernie_vl",
    "gemma3": "llamafactory.data.media.families:gemma3",
    "gemma3n": "llamafactory.data.media.families:gemma3n",
    "gemma4": "llamafactory.data.media.families:gemma4",
    "glm4v": "llamafactory.data.media.families:glm4v",
    "granite3_vision": "llamafactory.data.media.families:granite3_vision",
    "intern_s1": "llamafactory.data.media.families:intern_s1",
    "intern_vl": "llamafactory.data.media.families:intern_vl",
    "lfm2_vl": "llamafactory.data.media.families:lfm2_vl",
    "llama4": "llamafactory.data.media.families:llama4",
    "llava": "llamafactory.data.media.families:llava",
    "llava_next": "llamafactory.data.media.families:llava_next",
    "llava_next_video": "llamafactory.data.media.families:llava_next_video",
    "minicpm_v_4_6": "llamafactory.data.media.families:minicpm_v_4_6",
    "ministral3": "llamafactory.data.media.families:ministral3",
    "mllama": "llamafactory.data.media.families:mllama",
    "paligemma": "llamafactory.data.media.families:paligemma",
    "pixtral": "llamafactory.data.media.families:pixtral",
    "qwen2_audio": "llamafactory.data.media.families:qwen2_audio",
    "qwen2_omni": "llamafactory.data.media.families:qwen2_omni",
    "qwen2_vl": "llamafactory.data.media.families:qwen2_vl",
    "qwen3_omni": "llamafactory.data.media.families:qwen3_omni",
    "qwen3_vl": "llamafactory.data.media.families:qwen3_vl",
    "video_llava": "llamafactory.data.media.families:video_llava",
}

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
    "rollouts": ROLLOUTS,
    "reward_funcs": REWARD_FUNCS,
    "quantizers": QUANTIZERS,
    "optimizers": OPTIMIZERS,
    "media": MEDIA,
    "families": FAMILIES,
    "backends": BACKENDS,
}

# The key under which users name a row, where it is not called like its kind.
_KEYS = {
    "tuners": "finetuning_type",
    "stages": "stage",
    "templates": "template",
    "formats": "formatting",
    "tool_formats": "tool_format",
    "losses": "pref_loss",
    "engines": "infer_backend",
    "rollouts": "rollout_engine",
    "quantizers": "quantization_method",
    "optimizers": "optim",
}


def names(kind: str) -> list[str]:
    """Return the known names of one kind, our own rows first."""
    return list({**_third_party(kind), **TABLES[kind]})


def resolve(kind: str, name: str, key: str | None = None) -> Any:
    """Import one plugin on first use.

    Args:
        kind: A key of ``TABLES``, such as ``"tuners"``.
        name: The row's name, as the user wrote it.
        key: Where the user wrote it; unset = the configuration key of that kind.

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
        raise ConfigError(f"{key or _KEYS.get(kind, kind)}: unknown name {name!r}; {listed}")
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
