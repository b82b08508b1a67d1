# SPDX-License-Identifier: Apache-2.0
"""What is known of a model family: the only place that compares ``model_type``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..heads import Head


@dataclass(frozen=True)
class Capability:
    """Whether something works, and if not, why."""

    works: bool
    reason: str = ""


@dataclass(frozen=True)
class Family:
    """What differs from a plain decoder. ``isolates``: packed sequences can be kept apart inside attention."""

    isolates: Capability = Capability(True)


_PLAIN = Family()
_WINDOW_IN_MASK = Family(isolates=Capability(False, "its sliding window lives only in the attention mask"))
_OWN_MASK = Family(isolates=Capability(False, "it builds an attention mask of its own"))
_NO_KEYWORDS = Family(isolates=Capability(False, "its layers do not hand the sequence bounds on to attention"))

_KNOWN: dict[str, Family] = {
    "doge": _OWN_MASK,
    "emu3": _NO_KEYWORDS,
    "hrm_text": _OWN_MASK,
    "llama4": _NO_KEYWORDS,
    "llama4_text": _NO_KEYWORDS,
    "moshi": _WINDOW_IN_MASK,
    "phimoe": _WINDOW_IN_MASK,
    "qwen2_moe": _WINDOW_IN_MASK,
}

# A prompt with media that was read is continued by one token at a time like a text: no further state than keys and
# values. Each of these is tested against ``model.generate``; the answers of others are made alone, by generate itself.
_CONTINUE_AS_TEXT = {
    "gemma3",
    "idefics3",
    "internvl",
    "llava",
    "llava_next",
    "qwen2_5_omni_thinker",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_vl",
    "smolvlm",
}

# Text before the first answer is read in both directions; ``token_type_ids`` says where that ends (0 before, 1 behind).
# Without them the answer itself is read in both directions under sdpa, and nothing is in a padded row.
_PREFIX_LM = {"paligemma"}

# The tokens of a picture see each other in every layer; ``token_type_ids`` are 1 there.
_SEES_ITSELF = {"gemma3"}

# Images are seen by cross attention; a text that sees none is computed with a mean of what stands there.
_CROSSES_OVER = {"mllama"}

# Rows with media that are laid end to end are computed as each alone (tested: loss and every gradient); others are
# padded.
_PACKS_MEDIA = {
    "gemma3",
    "glm4v",
    "idefics3",
    "internvl",
    "llava",
    "llava_next",
    "mistral3",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_vl",
    "smolvlm",
}

# Encoders whose configuration does not say that they are no decoder.
_ENCODERS = {"albert", "deberta", "deberta-v2", "distilbert", "eurobert", "modernbert", "mpnet", "nomic_bert"}

_LAYERS_THAT_ISOLATE = {"full_attention", "sliding_attention"}


def family_of(config: Any) -> Family:
    """Look up the family of a transformers text config; a plain decoder if nothing is noted."""
    family = _KNOWN.get(config.model_type, _PLAIN)
    return _PLAIN if family is _WINDOW_IN_MASK and not _has_window(config) else family


def _has_window(config: Any) -> bool:
    types = getattr(config, "layer_types", None)
    return "sliding_attention" in types if types else getattr(config, "sliding_window", None) is not None


def continues_as_text(config: Any) -> bool:
    """Whether answers about media of such a model (whole configuration) can be decoded together with others."""
    return config.model_type in _CONTINUE_AS_TEXT


def reads_prefix_both_ways(config: Any) -> bool:
    """Whether such a model (whole configuration) must be told in ``token_type_ids`` where the prompt ends."""
    return config.model_type in _PREFIX_LM


def media_sees_itself(config: Any) -> bool:
    """Whether the tokens of one medium see each other in both directions (whole configuration)."""
    return config.model_type in _SEES_ITSELF


def crosses_over(config: Any) -> bool:
    """Whether images stand beside the text, not in it (whole configuration)."""
    return config.model_type in _CROSSES_OVER


def media_packing(config: Any) -> Capability:
    """Whether rows with media may be laid end to end (whole configuration), where rows of text may."""
    if config.model_type in _PACKS_MEDIA:
        return Capability(True)
    return Capability(False, f"rows with media of {config.model_type} models are not known to stay apart")


def prompt_types(model: Any, input_ids: Any) -> dict[str, Any]:
    """Further inputs of prompts ``[B, L]``: token types of a model that reads them in both directions."""
    return {"token_type_ids": input_ids.new_zeros(input_ids.shape)} if reads_prefix_both_ways(model.config) else {}


def is_encoder(config: Any) -> bool:
    """Whether each token of a text sees all others."""
    if config.model_type in _ENCODERS:
        return True
    return getattr(config, "is_decoder", True) is False


def isolation(model_class: type, config: Any) -> Capability:
    """Whether the ``isolated`` attention computes what this model means.

    Args:
        model_class: The transformers class; it must take part in the attention interface.
        config: The text config; recurrent, chunked or sparse layers mix tokens outside that interface.
    """
    if not getattr(model_class, "_supports_attention_backend", False):
        return Capability(False, f"{model_class.__name__} does not support transformers' attention interface")
    if getattr(model_class, "_is_stateful", False):
        return Capability(False, f"{model_class.__name__} has recurrent layers")
    others = sorted(set(getattr(config, "layer_types", None) or ()) - _LAYERS_THAT_ISOLATE)
    if others:
        return Capability(False, f"it has layers of type {', '.join(others)}")
    if is_encoder(config):
        return Capability(False, "its attention is not causal")
    if not getattr(config, "is_causal", True) or getattr(config, "use_bidirectional_attention", None):
        return Capability(False, "its attention is not causal")
    return family_of(config).isolates


# What a checkpoint may hold that the class of its language model leaves out on purpose.
_LEFT_OUT = re.compile(
    r"rotary_emb\.inv_freq$"  # computed; older versions of transformers saved it
    r"|(^|\.)mtp(\.|_)"  # heads that predict several tokens
    r"|^v_head\."  # TRL's value head beside a language model
    r"|^(talker|token2wav|code2wav|code_predictor)\."  # the voice of a model that speaks
)


_OUTPUT_HEAD = re.compile(r"(^|\.)lm_head\.|^cls\.")  # of decoders, of encoders
_NEW = re.compile(r"^(score|classifier|head)\.|^(\w+\.)?pooler\.")  # what a classifier has beside its language model


def may_be_left_out(name: str, head: Head | None) -> bool:
    """Whether a tensor of a checkpoint may go unused; a classifier has no use for the output head."""
    return bool(_LEFT_OUT.search(name)) or (head is not None and bool(_OUTPUT_HEAD.search(name)))


def may_be_absent(name: str, config: Any, head: Head | None) -> bool:
    """Whether a tensor may lack in a checkpoint: tied, computed, or a score that a language model cannot have."""
    if name.endswith("rotary_emb.inv_freq"):
        return True
    if name.endswith("lm_head.weight"):
        return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
    classifier = any(made.endswith("ForSequenceClassification") for made in config.architectures or ())
    return head is not None and bool(_NEW.search(name)) and not classifier
