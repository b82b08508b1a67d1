# SPDX-License-Identifier: Apache-2.0
"""Where an exported folder runs: what ``readers.yaml`` says of a model's configuration, one line a reader.

A verdict "right" needs a family and settings that were measured; whatever else a configuration holds is "not checked".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..extras.errors import ConfigError
from ..model.config import attention_width, largest
from ..model.rope import rope_kinds
from ..model.vllm_length import vllm_limit
from .gguf.limits import FIELDS, FREE, SHAPE, llama_cpp_limits
from .gguf.vocabulary import vocabulary

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

RULES = Path(__file__).with_name("readers.yaml")
RIGHT, SETTING, WRONG, REFUSED = "right", "right with a setting", "wrong", "refused"
NOT_RUN, NOT_CHECKED = "not run", "not checked"
_OF_NO_ACCOUNT = {
    *FREE, *SHAPE, "model_type", "torch_dtype", "_name_or_path", "max_position_embeddings", "pretraining_tp",
    "resid_pdrop", "embd_pdrop", "router_aux_loss_coef", "output_router_logits", "num_experts", "num_local_experts",
    "num_experts_per_tok", "moe_intermediate_size",
}  # fmt: skip
_SEEN_OTHERWISE = {
    "rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq", "original_max_position_embeddings",
    "partial_rotary_factor", "sliding_window", "layer_types", "use_sliding_window", "max_window_layers", "head_dim",
    "query_pre_attn_scalar",
}  # fmt: skip
_BEYOND_FIELDS = {"quantization_config", "auto_map"}
_ROPE_KEYS = {
    "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "low_freq_factor",
    "high_freq_factor", "short_factor", "long_factor",
}  # fmt: skip
_NEUTRAL = {"partial_rotary_factor": 1.0, "beta_fast": 32, "beta_slow": 1, "truncate": True}
_LONGEST = 60  # characters of a value in a line
_FULL, _SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Verdict:
    """What one reader makes of one model.

    Attributes:
        reader: Its name.
        version: The version that was looked at.
        verdict: ``right``, ``right with a setting``, ``wrong``, ``refused``, ``not run`` or ``not checked``.
        words: Why, or which setting, in one line; empty for what is simply right.
        limit: Tokens up to which it is right; ``None`` = as many as the model takes.
        test: The test that holds the rule.
    """

    reader: str
    version: str | None
    verdict: str
    words: str = ""
    limit: int | None = None
    test: str | None = None


@dataclass(frozen=True)
class Rule:
    """One entry of ``readers.yaml``; of a reader's rules the first is taken whose conditions hold.

    Attributes:
        reader: Its name.
        version: The version that it was seen with; ``None`` = it was not run.
        verdict: As in :class:`Verdict`; ``llama_cpp_limits`` asks that function.
        test: The test that holds it.
        when: Facts of the configuration and their values: one, a list of them, or ``any``.
        words: Why, or which setting, with ``{limit}`` in it.
        limit: What bounds the tokens: ``window``, ``original`` or ``vllm_limit``; no rule for models without it.
        proven: The export itself proves it, for any model.
    """

    reader: str
    version: str | None
    test: str | None
    verdict: str
    when: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""
    limit: str | None = None
    proven: bool = False


@cache
def read_rules() -> tuple[tuple[Rule, ...], dict[str, dict[str, Any]]]:
    """The rules in the order in which they are tried; families and the unusual settings they were measured with."""
    content: dict[str, Any] = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    versions = {"installed": version("transformers")}
    found = (
        Rule(name, versions.get(reader["version"], reader["version"]), reader["test"], **entry)
        for name, reader in content["readers"].items()
        for entry in reader["rules"]
    )
    return tuple(found), content["measured"]


def verdicts(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> list[Verdict]:
    """Return what each reader makes of a model, in the order of the rules.

    Args:
        config: A configuration as transformers loads it from the exported folder.
        tokenizer: The folder's; ``None`` = only the model is asked about.
    """
    rules, _ = read_rules()
    facts = unusual(config)
    found = [_verdict(reader, config, facts) for reader in dict.fromkeys(rule.reader for rule in rules)]
    return found if tokenizer is None else [_with_tokenizer(verdict, config, tokenizer) for verdict in found]


def find_rule(reader: str, config: PretrainedConfig, facts: Mapping[str, Any]) -> Rule:
    """Return the first rule of a reader that holds for a model; a reader's last rule holds for all."""
    known = {**facts, "model_type": config.model_type}
    return next(rule for rule in read_rules()[0] if rule.reader == reader and _holds(rule, known, config))


def _holds(rule: Rule, known: Mapping[str, Any], config: PretrainedConfig) -> bool:
    bounded = rule.limit is None or _limit(rule.limit, config) is not None
    return bounded and all(
        _is_one_of(_theta(config) if name == "theta" else known.get(name), value) for name, value in rule.when.items()
    )


def _verdict(reader: str, config: PretrainedConfig, facts: Mapping[str, Any]) -> Verdict:
    rule = find_rule(reader, config, facts)
    if "head" in facts and not rule.proven:
        return Verdict(reader, rule.version, NOT_CHECKED, "reward models were not measured")
    if rule.verdict == "llama_cpp_limits":
        return _llama_cpp(rule, config)
    doubt = None if rule.proven or rule.verdict == NOT_RUN else _unmeasured(config.model_type, facts, rule.verdict)
    if doubt:
        return Verdict(reader, rule.version, NOT_CHECKED, doubt)
    limit = _limit(rule.limit, config)
    return Verdict(reader, rule.version, rule.verdict, rule.words.format(limit=limit), limit, rule.test)


def _llama_cpp(rule: Rule, config: PretrainedConfig) -> Verdict:
    limits = llama_cpp_limits(config)
    if limits.refusal:
        verdict = REFUSED if config.model_type in FIELDS else NOT_CHECKED
        return Verdict(rule.reader, rule.version, verdict, limits.refusal, None, rule.test)
    if limits.notes:
        return Verdict(rule.reader, rule.version, SETTING, "; ".join(limits.notes), limits.context, rule.test)
    return Verdict(rule.reader, rule.version, RIGHT, rule.words, None, rule.test)


def _with_tokenizer(verdict: Verdict, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Verdict:
    """llama.cpp reads the tokenizer out of the GGUF file, which cannot hold every one."""
    if verdict.reader != "llama.cpp/Ollama" or verdict.verdict not in (RIGHT, SETTING):
        return verdict
    try:
        vocabulary(tokenizer, config.vocab_size)
    except ConfigError as error:
        why = str(error).removeprefix("export_gguf: ")
        return replace(verdict, verdict=REFUSED, words=why, limit=None)
    return verdict


def _limit(name: str | None, config: PretrainedConfig) -> int | None:
    if name == "window":
        return window(config)
    if name == "original":
        return min(rope_kinds(config).values(), default=None)
    found = vllm_limit(config) if name == "vllm_limit" else None
    return found[0] if found else None


def _is_one_of(value: Any, wanted: Any) -> bool:
    if wanted == "any":
        return value is not None
    return value in wanted if isinstance(wanted, list) else value == wanted


def _unmeasured(family: str, facts: Mapping[str, Any], verdict: str) -> str | None:
    """Name what no reader was tried with; a fault is one, whatever else a model of the family has."""
    measured = read_rules()[1]
    if family not in measured:
        return f"models of type {family!r} were not measured"
    known = measured[family] or {}
    for name, value in facts.items():
        if verdict in (RIGHT, SETTING) and not (name in known and _is_one_of(value, known[name])):
            return f"{name} = {_short(value)} was not measured with this family"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def unusual(config: PretrainedConfig) -> dict[str, Any]:
    """What sets a model apart from the plain one of its class: names and values, sizes left out.

    Positions and windows come in words: ``rope_type``, ``window: all, some or own layers`` (own: the class's pattern).
    """
    plain = _plain(config)
    usual, own = plain.to_dict(), config.to_dict()
    looked_at = {one.name for one in fields(config)} | _BEYOND_FIELDS  # transformers passes over all other keys
    found = {
        name: own[name]
        for name in sorted(looked_at & own.keys() - _OF_NO_ACCOUNT - _SEEN_OTHERWISE)
        if own[name] != usual.get(name)
    }
    if str((config.architectures or [""])[0]).endswith("ForSequenceClassification"):
        found["head"] = "score"
    width = largest(config, "head_dim")
    if width and attention_width(config)[0] != getattr(config, "hidden_size", None):
        found["head_dim"] = width
    if getattr(config, "query_pre_attn_scalar", width) != width:
        found["query_pre_attn_scalar"] = config.query_pre_attn_scalar
    return {**found, **_rope(config, plain), **_window_facts(config, plain)}


def _plain(config: PretrainedConfig) -> PretrainedConfig:
    """The usual one of its class, with as many layers where the class can be told a number."""
    if not hasattr(config, "num_hidden_layers"):
        return type(config)()
    try:
        return type(config)(num_hidden_layers=config.num_hidden_layers)
    except NotImplementedError:  # it counts its layers by blocks, or in encoder and decoder
        return type(config)()


def _rope(config: PretrainedConfig, plain: PretrainedConfig) -> dict[str, Any]:
    parts = _rope_parts(config)
    found: dict[str, Any] = {}
    for kind, part in parts.items():
        scaling = part.get("rope_type", "default")
        if scaling != "default":
            found["rope_type" if kind != _SLIDING else "rope_type of sliding layers"] = scaling
        extra = {name: value for name, value in part.items() if name not in _ROPE_KEYS and value is not None}
        found.update({name: value for name, value in extra.items() if value != _NEUTRAL.get(name)})
    return found


def _theta(config: PretrainedConfig) -> str:
    """Whether the bases of the rotary embedding are those that a program may have built in for the family."""
    own, usual = (
        {kind: part.get("rope_theta") for kind, part in _rope_parts(one).items()} for one in (config, type(config)())
    )
    return "usual" if own == usual else "other"


def _rope_parts(config: PretrainedConfig) -> dict[str, dict[str, Any]]:
    rope = getattr(config, "rope_parameters", None) or {}
    return {name: part for name, part in rope.items() if isinstance(part, dict)} or {_FULL: rope}


def window(config: PretrainedConfig) -> int | None:
    """The tokens that a layer sees, where one sees less than all; ``None`` = each layer sees all."""
    size = largest(config, "sliding_window")
    kinds = getattr(config, "layer_types", None) or [_SLIDING]
    longest = getattr(config, "max_position_embeddings", None)
    return size if size and _SLIDING in kinds and (longest is None or size < longest) else None


def _window_facts(config: PretrainedConfig, plain: PretrainedConfig) -> dict[str, Any]:
    kinds = getattr(config, "layer_types", None) or [_SLIDING]
    strange = sorted(set(kinds) - {_FULL, _SLIDING})
    if strange:
        return {} if kinds == getattr(plain, "layer_types", None) else {"layer_types": strange}
    if window(config) is None:
        return {}
    if _FULL not in kinds:
        return {"window": "all layers"}
    return {"window": "own layers" if kinds == getattr(plain, "layer_types", None) else "some layers"}


def words(verdict: Verdict) -> str:
    """A verdict and its reason in one line."""
    return verdict.verdict + (f": {verdict.words}" if verdict.words else "")


def as_json(config: PretrainedConfig, found: list[Verdict]) -> dict[str, Any]:
    """What ``compatibility.json`` holds."""
    return {
        "model_type": config.model_type,
        "unusual": unusual(config),
        "readers": [asdict(verdict) for verdict in found],
    }
