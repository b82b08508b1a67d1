# SPDX-License-Identifier: Apache-2.0
"""What is trained equals the ``{% generation %}`` marks of TRL's training templates, for every family that has one."""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple

import pytest

from .binding import bind, ids_and_weights, sample
from .cases import A2, CALL, CALLS, INLINE, RESULT, RESULT2, THOUGHT, U2, WEATHER, A, S, U
from .comparison import load_official, package_folder
from .trained_tokenizers import build_tokenizer

Chat = list[dict[str, Any]]
PLAIN: list[Chat] = [[U, A], [U, A, U2, A2]]
SYSTEM: list[Chat] = [[S, U, A], [S, U, A, U2, A2]]
TOOLS: list[Chat] = [[U, CALL, RESULT, A], [S, U, CALLS, RESULT, RESULT2, A, U2, A2]]
THOUGHTS: list[Chat] = [[U, THOUGHT], [U, INLINE]]


class Family(NamedTuple):
    """One training template.

    Attributes:
        name: Ours.
        chats: What both write alike.
        prompt: Words that TRL trains, though they are part of the prompt or stand between turns: ours are context.
        parts: Its text takes content as lists of parts.
    """

    name: str
    chats: list[Chat]
    prompt: tuple[str, ...] = ()
    parts: bool = False


# TRL's marks hold the line breaks around a turn, too, which the template writes, not the model.
FAMILIES = {
    "cohere": Family("cohere", PLAIN + SYSTEM + THOUGHTS),
    "deepseek_r1_distill": Family(
        "deepseekr1", [[U, INLINE], [U, A, U2, INLINE]], ("<｜Assistant｜>", "<｜Assistant｜><think>")
    ),
    "deepseekv3": Family("deepseek3", PLAIN + SYSTEM, ("<｜Assistant｜>",)),
    "gemma": Family("gemma", PLAIN + THOUGHTS),
    "gemma3": Family("gemma3", PLAIN + SYSTEM + THOUGHTS),
    "glm4moe": Family(
        "glm4_moe", PLAIN + SYSTEM + THOUGHTS + TOOLS, ("<|user|>", "<|observation|>", "<think></think>")
    ),
    "gptoss": Family("gpt_oss", PLAIN + SYSTEM + TOOLS[:1] + THOUGHTS[1:], ("<|start|>assistant",)),
    "lfm2": Family("lfm2", PLAIN + SYSTEM + THOUGHTS),  # this text writes no calls
    "lfm2_v2": Family("lfm2", PLAIN + SYSTEM + THOUGHTS + TOOLS),
    "llama3": Family("llama3", PLAIN + SYSTEM + THOUGHTS),  # this text writes no calls
    "llava_next": Family("llava_next_mistral", PLAIN + SYSTEM + THOUGHTS, parts=True),
    "phi3": Family("phi", PLAIN + SYSTEM + THOUGHTS, ("</s>",)),
    "phi3_5": Family("phi", PLAIN + SYSTEM + THOUGHTS, ("</s>",)),
    "qwen2_5": Family("qwen2_5", PLAIN + SYSTEM + THOUGHTS + TOOLS),
    "qwen2_5_vl": Family("qwen2_vl", PLAIN + SYSTEM + THOUGHTS),  # this text writes no calls
    # These keep the thoughts of earlier turns in training. An answer with a thought is asked for with it open.
    "qwen3": Family("qwen3", [*PLAIN[:1], *SYSTEM[:1], *THOUGHTS]),
    "qwen3_5_nothink": Family(
        "qwen3_5_nothink", [*PLAIN[:1], *SYSTEM[:1], *THOUGHTS, *TOOLS[:1]], ("<think>", "<think>\n\n</think>")
    ),
    "qwen3_5_think": Family("qwen3_5", [*PLAIN[:1], *SYSTEM[:1], *THOUGHTS, *TOOLS[:1]], ("<think>",)),
    "qwen3_6": Family("qwen3_6", [*PLAIN[:1], *SYSTEM[:1], *THOUGHTS, *TOOLS[:1]], ("<think>",)),
    "qwen3_instruct_2507": Family("qwen3_nothink", PLAIN + SYSTEM + THOUGHTS + TOOLS),
    "qwen3_vl": Family("qwen3_vl_nothink", PLAIN + SYSTEM + THOUGHTS + TOOLS),
}
NO_FAMILY = {
    "cohere2", "diffusion_gemma", "idefics3", "muse_glimmer", "nemotron_3_5_lightning", "nemotron_3_nano",
    "nemotron_3_super", "nemotron_3_ultra", "qwen3_8", "smolvlm",
}  # fmt: skip


# Their prompt ends in a line break, and an answer without a thought begins with one: TRL tokenizes both together, but
# the model is asked with the prompt alone (`test_seams.py`).
BROKEN_UP = ("qwen3_5_think", "qwen3_6")


def _by_character(tokenizer: Any, ids: list[int], mask: list[Any]) -> tuple[list[str], list[Any]]:
    """The text and its mask, character by character."""
    pairs = [(char, one) for token, one in zip(ids, mask, strict=True) for char in tokenizer.decode([token])]
    return [char for char, _ in pairs], [one for _, one in pairs]


def test_every_training_template_is_compared_or_of_no_family_of_ours() -> None:
    files = (package_folder("trl") / "chat_templates").glob("*_training.jinja")
    found = {path.stem.removesuffix("_training") for path in files}
    assert found == set(FAMILIES) | NO_FAMILY


def _official(tokenizer: Any, name: str, family: Family, chat: Chat) -> tuple[list[int], list[int]]:
    source = load_official(f"trl:{name}_training").replace('strftime_now("%Y-%m-%d")', '"2025-08-05"')
    if family.parts:
        chat = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in chat]
    out = tokenizer.apply_chat_template(
        chat,
        tools=[WEATHER] if chat in TOOLS[1:] else None,
        chat_template=source,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return out["input_ids"], out["assistant_masks"]


@pytest.mark.parametrize("train_on_turn_break", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_masks_equal_those_of_trl(name: str, train_on_turn_break: bool) -> None:
    family = FAMILIES[name]
    tokenizer = build_tokenizer(family.name)
    template = bind(tokenizer, family.name)
    template.trains_turn_break = train_on_turn_break
    # TRL trains the break behind a turn, and in Qwen2.5 the one before a turn's first call, too.
    breaks = ("\n",) if not train_on_turn_break or name == "qwen2_5" else ()
    for chat in family.chats:
        ids, mask = _official(tokenizer, name, family, chat)
        ours, weights = ids_and_weights(template, sample(chat, [WEATHER] if chat in TOOLS[1:] else ()))
        if family.parts:  # the official text leaves BOS to the tokenizer
            ours, weights = ours[1:], weights[1:]
        if template.chat.end and template.chat.eos is None:  # ours ends the last turn with EOS, TRL with a user's start
            ours, weights, ids, mask = ours[:-1], weights[:-1], ids[:-1], mask[:-1]
        assert tokenizer.decode(ours) == tokenizer.decode(ids)
        assert sum(weights) > 4
        if name in BROKEN_UP:
            (text, mask), (_, weights) = _by_character(tokenizer, ids, mask), _by_character(tokenizer, ours, weights)
        else:
            assert ours == ids
            text = [tokenizer.decode([token]) for token in ids]
        for more, group in groupby(zip(text, mask, weights, strict=True), key=lambda item: item[1] - item[2]):
            words = "".join([piece for piece, _, _ in group])
            known = words in breaks or words.strip("\n") in family.prompt
            assert more == 0 or (more == 1 and known), (more, words)
