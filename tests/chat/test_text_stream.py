# SPDX-License-Identifier: Apache-2.0
"""Text in pieces is the text in one go, and stop words end it wherever the pieces are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafactory.chat.terminal import ThoughtPainter
from llamafactory.chat.text_stream import TextStream


class CharacterTokenizer:
    """One token a UTF-8 byte: a character of several bytes is incomplete until its last token."""

    def decode(self, ids: list[int], **options: Any) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


def stream(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    decoder = TextStream(CharacterTokenizer(), stop)  # type: ignore[arg-type]
    pieces = [decoder.push(byte) for byte in text.encode("utf-8")]
    return [*pieces, decoder.finish()], decoder


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet="ab<é你🙂", max_size=30), st.lists(st.text(alphabet="ab<é", min_size=1, max_size=4), max_size=3)
)
def test_pieces_join_to_the_text_before_the_first_stop_word(text: str, stop: list[str]) -> None:
    pieces, decoder = stream(text, tuple(stop))
    # The first moment at which a stop word is complete ends the answer; of several complete then, the earliest counts.
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(word) for word in stop)]
    seen = text[: ends[0]] if ends else text
    expected = seen[: min(seen.find(word) for word in stop if word in seen)] if ends else text
    assert "".join(pieces) == expected
    assert decoder.stopped == bool(ends)


def test_text_is_not_held_back_longer_than_needed() -> None:
    pieces, _ = stream("ab<END", stop=("<END>",))
    assert pieces == ["a", "b", "", "", "", "", "<END"]
    assert stream("a<b", stop=("<END>",))[0] == ["a", "", "<b", ""]
    assert stream("é!")[0] == ["", "é", "!", ""]


@pytest.mark.parametrize("skip", [True, False])
def test_pieces_join_to_what_the_tokenizer_decodes(tiny_llama: Path, skip: bool) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    ids = tokenizer.encode("Grüße, 你好 🙂 rain<|im_end|>\n and  stars<|endoftext|>", add_special_tokens=False)
    decoder = TextStream(tokenizer, skip_special_tokens=skip)
    text = "".join([*(decoder.push(token) for token in ids), decoder.finish()])
    assert text == tokenizer.decode(ids, skip_special_tokens=skip)
    assert ("<|im_end|>" in text) != skip


def test_thoughts_are_dimmed_whatever_the_pieces() -> None:
    text = "Well <think>a < b</think>\nYes <think>open"
    expected = "Well \x1b[2m<think>a < b</think>\x1b[0m\nYes \x1b[2m<think>open\x1b[0m"
    for size in (1, 2, 5, 100):
        painter = ThoughtPainter(styled=True)
        pieces = [painter.paint(text[at : at + size]) for at in range(0, len(text), size)]
        assert "".join([*pieces, painter.finish()]) == expected
    plain = ThoughtPainter(styled=False)
    assert plain.paint(text) + plain.finish() == text


def test_a_thought_that_the_prompt_opened_is_dimmed() -> None:
    painter = ThoughtPainter(styled=True)
    painter.begin_after("<|User|>Hi<|Assistant|><think>\n")
    assert painter.paint("hm</think>Hi") + painter.finish() == "\x1b[2mhm</think>\x1b[0mHi"
    painter = ThoughtPainter(styled=True)
    painter.begin_after("<think>\n\n</think>\n")
    assert painter.paint("Hi") + painter.finish() == "Hi"
