# SPDX-License-Identifier: Apache-2.0
"""What llama.cpp makes of a model's configuration: every key of it, for every family that is written.

A key is written and obeyed, or lies in the weights, or changes nothing that is computed, or has only some values with
which llama.cpp computes the same. A key that is not in the table is refused: nobody knows what llama.cpp makes of it.
Looked up in the llama.cpp of llama-cpp-python 0.3.36, and compared with it by ``make test-llamacpp``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from .architectures import ARCHITECTURES, is_plain_yarn, rope_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Limits:
    """What llama.cpp makes of one model.

    Attributes:
        refusal: Why no GGUF file of it would be right, in one line that names key and value; ``None`` = it is written.
        context: Tokens up to which llama.cpp computes what the model computes; ``None`` with a refusal.
        notes: What a user of the file must know, one line each.
    """

    refusal: str | None = None
    context: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """What becomes of one key.

    Attributes:
        fate: In words, for ``docs/export.md``.
        fault: What is wrong with a value in a config, in words; ``None`` = nothing.
    """

    fate: str
    fault: Callable[[PretrainedConfig, Any], str | None] = lambda config, value: None


WRITTEN = Rule("written")
WEIGHTS = Rule("in the weights")
UNUSED = Rule("changes nothing that is computed")


def _only(*values: Any) -> Rule:
    """Llama.cpp computes with these values, whatever the file says."""
    words = " or ".join(map(repr, values))
    return Rule(f"only {words}", lambda config, value: None if value in values else f"llama.cpp computes with {words}")


def _number(config: PretrainedConfig, value: Any) -> str | None:
    return None if value else "llama.cpp cannot leave it out"


def _derived_head(config: PretrainedConfig, value: Any) -> str | None:
    width = config.hidden_size // config.num_attention_heads
    return None if value in (None, width) else f"llama.cpp computes with {width}, hidden_size / num_attention_heads"


def _kinds(config: PretrainedConfig, value: Any) -> str | None:
    known = ("full_attention", "sliding_attention")
    return None if set(value or ()) <= set(known) else f"llama.cpp knows {' and '.join(known)}"


def _gemma3_layers(config: PretrainedConfig, value: Any) -> str | None:
    return None if _is_patterned(config, 6) else "llama.cpp takes full attention in each sixth layer and nowhere else"


def _is_patterned(config: PretrainedConfig, period: int) -> bool:
    kinds = ["full_attention" if number % period == 0 else "sliding_attention" for number in _layers(config)]
    return list(config.layer_types) == kinds


def _layers(config: PretrainedConfig) -> range:
    return range(1, config.num_hidden_layers + 1)


_ROPE_KEYS = {
    *("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings"),
    *("low_freq_factor", "high_freq_factor", "short_factor", "long_factor"),
    *("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
}


def _rope(kinds: tuple[str, ...], partial: bool = False) -> Callable[[PretrainedConfig, Any], str | None]:
    def fault(config: PretrainedConfig, value: Any) -> str | None:
        rope = rope_of(config)
        kind = rope.get("rope_type", "default")
        unknown = sorted(set(rope) - _ROPE_KEYS)
        if unknown:
            return f"nobody knows what llama.cpp makes of {unknown[0]}"
        if kind not in kinds:
            return f"rope type {kind!r} cannot be written; known: {', '.join(kinds)}"
        if not partial and (rope.get("partial_rotary_factor") or 1.0) != 1.0:
            return "llama.cpp turns whole heads: partial_rotary_factor must be 1.0"
        if partial and _rotated(config, rope) % 2:
            return f"llama.cpp turns an even number of {config.hidden_size // config.num_attention_heads} in each head"
        if kind == "yarn" and "llama3" not in kinds and not is_plain_yarn(rope):
            return "llama.cpp computes yarn with beta_fast 32, beta_slow 1 and truncate true"
        return None

    return fault


def _rotated(config: PretrainedConfig, rope: dict[str, Any]) -> int:
    return int(config.hidden_size // config.num_attention_heads * rope.get("partial_rotary_factor", 1.0))


def _gemma3_rope(config: PretrainedConfig, value: Any) -> str | None:
    if set(value) != {"full_attention", "sliding_attention"}:
        return "full_attention and sliding_attention must have their own"
    if value["sliding_attention"].get("rope_type", "default") != "default":
        return "llama.cpp does not scale the positions of sliding layers"
    return _rope(("default", "linear"))(config, value)


def _rope_rule(*kinds: str, partial: bool = False) -> Rule:
    return Rule(f"written; types {', '.join(kinds)}", _rope(kinds, partial))


FREE = dict.fromkeys(
    (
        *("transformers_version", "architectures", "output_hidden_states", "return_dict", "dtype", "problem_type"),
        *("chunk_size_feed_forward", "id2label", "label2id", "initializer_range", "use_cache", "attention_dropout"),
        *("pad_token_id", "bos_token_id", "eos_token_id"),
    ),
    UNUSED,
)
SHAPE = dict.fromkeys(
    (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "rms_norm_eps"),
    ),
    WRITTEN,
)
_COMMON: dict[str, Rule] = {
    **FREE,
    **SHAPE,
    "is_encoder_decoder": _only(False),
    "max_position_embeddings": WRITTEN,
    "tie_word_embeddings": WEIGHTS,
}
_SILU = {"hidden_act": _only("silu", "swish")}
_WINDOW = Rule("the context ends at the window")
_QWEN: dict[str, Rule] = {
    **_COMMON,
    **_SILU,
    "rope_parameters": _rope_rule("default", "linear", "yarn"),
    "use_sliding_window": UNUSED,  # transformers makes layer_types and sliding_window of them
    "max_window_layers": UNUSED,
    "sliding_window": _WINDOW,
    "layer_types": Rule("the context ends at the window, if one slides", _kinds),
}
_GEMMA: dict[str, Rule] = {
    **_COMMON,
    "head_dim": WRITTEN,
    "hidden_activation": _only("gelu_pytorch_tanh"),
    "attention_bias": _only(False),
    "query_pre_attn_scalar": Rule("in the weights of the queries"),
    "sliding_window": Rule("written", _number),
    "use_bidirectional_attention": _only(None, False),
}
FIELDS: dict[str, dict[str, Rule]] = {
    "llama": {
        **_COMMON,
        **_SILU,
        "head_dim": WRITTEN,
        "pretraining_tp": UNUSED,
        "attention_bias": WEIGHTS,
        "mlp_bias": WEIGHTS,
        "rope_parameters": _rope_rule("default", "linear", "llama3", "yarn"),
    },
    "mistral": {
        **_COMMON,
        **_SILU,
        "head_dim": WRITTEN,
        "sliding_window": _WINDOW,
        "rope_parameters": _rope_rule("default", "linear", "llama3", "yarn"),
    },
    "qwen2": {**_QWEN, "head_dim": Rule("only hidden_size / num_attention_heads", _derived_head)},
    "qwen3": {**_QWEN, "head_dim": WRITTEN, "attention_bias": _only(False)},
    "gemma2": {
        **_GEMMA,
        "tie_word_embeddings": _only(True),
        "attn_logit_softcapping": Rule("written; not None", _number),
        "final_logit_softcapping": Rule("written; not None", _number),
        "layer_types": Rule("if not every second layer slides, the context ends at the window", _kinds),
        "rope_parameters": _rope_rule("default", "linear", "yarn"),
    },
    "gemma3_text": {
        **_GEMMA,
        "attn_logit_softcapping": _only(None),
        "final_logit_softcapping": WRITTEN,
        "layer_types": Rule("only five that slide, then one that does not", _gemma3_layers),
        "rope_parameters": Rule("written; types default, linear (layers that do not slide)", _gemma3_rope),
    },
    "phi3": {
        **_COMMON,
        **_SILU,
        "resid_pdrop": UNUSED,
        "embd_pdrop": UNUSED,
        "head_dim": Rule("only hidden_size / num_attention_heads", _derived_head),
        "original_max_position_embeddings": UNUSED,  # of yarn it stands in rope_parameters too
        "sliding_window": _WINDOW,
        "rope_parameters": _rope_rule("default", partial=True),
    },
}


def llama_cpp_limits(config: PretrainedConfig) -> Limits:
    """Return what llama.cpp makes of a model whose GGUF file this package wrote, or why it writes none.

    Args:
        config: A configuration as transformers loaded it; of a model with several parts, that of the whole.
    """
    rules = FIELDS.get(config.model_type)
    if rules is None:
        known = ", ".join(FIELDS)
        return Limits(
            f"model type {config.model_type!r} cannot be written; known: {known}. llama.cpp's convert_hf_to_gguf.py "
            "reads the exported folder; compare its logits, it passes over keys of some configurations"
        )
    for name in dict.fromkeys([*(field.name for field in fields(config)), *rules]):
        if name not in rules:
            return Limits(f"{name} = {getattr(config, name)!r}: nobody knows what llama.cpp makes of this key")
        value = getattr(config, name, None)
        fault = rules[name].fault(config, value)
        if fault:
            return Limits(f"{name} = {value!r}: {fault}")
    return _window(config)


def _window(config: PretrainedConfig) -> Limits:
    """Cap the context at a window that llama.cpp does not slide."""
    longest = config.max_position_embeddings
    window = _unobeyed_window(config)
    if window is None or window >= longest:
        return Limits(None, longest)
    return Limits(
        None,
        window,
        (
            f"sliding_window = {window}: llama.cpp does not slide it as this model does; up to there both compute the "
            f"same, so the context is {window} tokens instead of {longest}",
        ),
    )


def _unobeyed_window(config: PretrainedConfig) -> int | None:
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if config.model_type == "gemma3_text" or (config.model_type == "gemma2" and _is_patterned(config, 2)):
        return None
    if config.model_type == "gemma2":
        return window
    return window if kinds is None or "sliding_attention" in kinds else None


assert FIELDS.keys() == ARCHITECTURES.keys()
