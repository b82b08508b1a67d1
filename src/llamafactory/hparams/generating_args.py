# SPDX-License-Identifier: Apache-2.0
"""How text is generated in chat, the servers and prediction."""

from __future__ import annotations

from dataclasses import dataclass

from .field import arg
from .ranges import AT_LEAST_0, AT_LEAST_1, PART, POSITIVE


@dataclass(frozen=True)
class GeneratingArguments:
    """Generation of text."""

    do_sample: bool = arg(True, "Draw tokens at random; false = always the likeliest.")
    temperature: float = arg(0.95, "Flattens (above 1) or sharpens (below 1) the distribution.", within=AT_LEAST_0)
    top_p: float = arg(0.7, "Draw from the likeliest tokens that hold this share of probability.", within=PART)
    top_k: int = arg(50, "Draw from this many likeliest tokens; 0 = all.", within=AT_LEAST_0)
    num_beams: int = arg(1, "Beams of beam search.", within=AT_LEAST_1)
    max_length: int = arg(
        1024, "Most tokens of prompt and answer; used when it is given and max_new_tokens is not.", within=AT_LEAST_1
    )
    max_new_tokens: int = arg(1024, "Most tokens of the answer.", within=AT_LEAST_1)
    repetition_penalty: float = arg(1.0, "Above 1 makes repeated tokens less likely.", within=POSITIVE)
    length_penalty: float = arg(1.0, "Exponent of the length in beam search.")
    skip_special_tokens: bool = arg(True, "Leave special tokens out of the text.")
    legacy_text_scores: bool = arg(False, "BLEU and ROUGE as LLaMA-Factory counts them: repeated words once.")
