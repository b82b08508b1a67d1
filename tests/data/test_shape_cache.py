# SPDX-License-Identifier: Apache-2.0
"""Plain conversations encoded by shape and word caches: always what rendering and tokenizing the whole text gives."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, normalizers, pre_tokenizers

from llamafactory.data.messages import Message, Sample
from llamafactory.data.template.word_cache import _PATTERNS, WordCache

from .templates.binding import bind
from .templates.trained_tokenizers import build_tokenizer

NAMES = ["chatml", "qwen", "qwen3", "llama2", "llama3", "gemma3", "mistral", "deepseekr1", "vicuna", "default", "empty"]
SENTENCE = "the quick brown fox weather don't I'll he's 21 3.14 2,000 x=1 (a) Köln 你好 世界。 é e\u0301 😀 ½ _ ' 'S"
WORDS = SENTENCE.split(" ")
EDGES = [
    *" \n\t\r",
    "  ",
    "\n\n",
    " \n ",
    "\xa0",
    "\u3000",
    "\u2028",
    "\x1c",
    "\u0301",
    "▁",
    "<",
    "</s>",
    "<|im_",
    "end|>",
    "</think>",
]
TEXT = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join),
    st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(EDGES), st.text(max_size=4)), max_size=10).map("".join),
)
ROLES = st.sampled_from(["user", "assistant", "system", "user", "assistant"])
MESSAGES = st.lists(st.tuples(ROLES, TEXT, st.sampled_from([None, None, 0.0, 0.5])), min_size=1, max_size=5)


def _pattern(number: int) -> Any:
    """Split by one of the known patterns, then as bytes."""
    split = pre_tokenizers.Split(Regex(sorted(_PATTERNS)[number]), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _digits() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _metaspace(scheme: str) -> Any:
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)


def _split_spaces() -> Any:
    return pre_tokenizers.Split(" ", "merged_with_previous")


def _prepended() -> Any:
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


# What the vocabulary is made of, the normalizer, and the pre-tokenizer.
KINDS: dict[str, tuple[str, Any, Any]] = {
    "gpt2": ("bytes", None, lambda: pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "smollm": ("bytes", None, _digits),
    **{f"pattern{n}": ("bytes", normalizers.NFC, partial(_pattern, n)) for n in range(len(_PATTERNS))},
    "llama2": ("metaspace", _prepended, None),
    "gemma": ("metaspace", partial(normalizers.Replace, " ", "▁"), _split_spaces),
    "always": ("metaspace", None, partial(_metaspace, "always")),
    "never": ("metaspace", None, partial(_metaspace, "never")),
}


@cache
def _template(name: str, kind: str) -> Any:
    vocabulary, normalizer, pre_tokenizer = KINDS[kind]
    tokenizer = build_tokenizer(name, vocabulary)
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizer() if normalizer else None
    backend.pre_tokenizer = pre_tokenizer() if pre_tokenizer else pre_tokenizers.Sequence([])
    return bind(tokenizer, name)


def _sample(messages: list[tuple[str, str, float | None]]) -> Sample:
    return Sample(tuple(Message.of(role, text, weight=weight) for role, text, weight in messages))  # type: ignore[arg-type]


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(NAMES), st.sampled_from(sorted(KINDS)), MESSAGES, st.booleans(), st.booleans(), st.booleans())
def test_the_short_way_gives_what_the_general_way_gives(
    name: str, kind: str, messages: list[Any], train_on_prompt: bool, mask_history: bool, by_words: bool
) -> None:
    template, samples = _template(name, kind), [_sample(messages)] * 2
    template._shape_cache.words.worth.is_worth_it = by_words
    try:
        wanted = template._encode_general(samples, train_on_prompt, mask_history)
    except ValueError:  # the template has no place for something
        with pytest.raises(ValueError, match="template"):
            template.encode_batch(samples, train_on_prompt, mask_history)
        return
    assert template.encode_batch(samples, train_on_prompt, mask_history) == wanted
    assert template.encode_batch(samples, train_on_prompt, mask_history) == wanted  # now everything is known


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("name", NAMES)
def test_plain_conversations_take_the_short_way(name: str, kind: str) -> None:
    texts = ["The quick  brown fox's 3 dogs.\n\n  Ça va?", "你好 world, it is 21 degrees"] * 2
    roles = ["user", "assistant"] * 2
    chat = _sample([(role, text, None) for role, text in zip(roles, texts, strict=True)])
    template = _template(name, kind)
    (found,) = template._encode_plain_samples([chat], False, False)
    assert found is not None
    assert [found] == template._encode_general([chat], False, False)


@pytest.mark.parametrize("text", ["a <|im_end|> b", "a </s> b", "a <think> b"])
def test_added_tokens_in_data_take_the_general_way(text: str) -> None:
    template = _template("qwen3", "gpt2")
    chat = _sample([("user", text, None), ("assistant", "x", None)])
    is_token = text.split()[1] in template.tokenizer.get_added_vocab()
    assert (template._encode_plain_samples([chat], False, False) == [None]) == is_token


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer"),
    [
        (normalizers.NFKC(), pre_tokenizers.ByteLevel(add_prefix_space=False)),
        (None, pre_tokenizers.ByteLevel(add_prefix_space=True)),
        (None, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
        (None, pre_tokenizers.Split(Regex(r"\w+ \w+"), "isolated")),
        (None, pre_tokenizers.Whitespace()),
    ],
)
def test_no_cuts_without_a_proof(normalizer: Any, pre_tokenizer: Any) -> None:
    tokenizer = build_tokenizer("chatml")
    tokenizer.backend_tokenizer.normalizer, tokenizer.backend_tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    assert WordCache.of(tokenizer) is None


def test_no_cuts_where_a_token_holds_two_words() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    for merged, safe in (("▁a", True), ("a▁", False)):
        backend = Tokenizer(models.BPE({"▁": 0, "a": 1, merged: 2}, [tuple(merged)]))
        backend.normalizer = normalizers.Replace(" ", "▁")
        assert (WordCache.of(PreTrainedTokenizerFast(tokenizer_object=backend)) is not None) == safe


def test_a_token_that_another_can_overlap_is_not_fixed() -> None:
    tokenizer = build_tokenizer("chatml")
    tokenizer.add_special_tokens({"additional_special_tokens": ["x<|im_start|>", "<|im_end|>y"]})
    template = bind(tokenizer, "chatml")
    chat = _sample([("user", "a x", None), ("assistant", "y b", None)])
    assert template._encode_plain_samples([chat], False, False) == [None]


def test_a_template_that_writes_what_cannot_be_cut_takes_the_general_way() -> None:
    template = bind(build_tokenizer("chatml", "metaspace"), "chatml")
    template.chat = replace(template.chat, gap="▁")
    chat = _sample([("user", "a b", None), ("assistant", "c", None)])
    assert template._encode_plain_samples([chat], False, False) == [None]
    assert template.encode_batch([chat]) == template._encode_general([chat], False, False)


def test_dropout_takes_the_general_way() -> None:
    tokenizer = build_tokenizer("chatml")
    tokenizer.backend_tokenizer.model.dropout = 0.5
    assert WordCache.of(tokenizer) is None


def test_words_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamafactory.data.template.word_cache._MOST_KNOWN", 100)
    tokenizer = build_tokenizer("chatml")
    template = bind(tokenizer, "chatml")
    chats = [_sample([("user", f"number {i} of some", None), ("assistant", f"answer {i}", None)]) for i in range(200)]
    for chat in chats:
        assert template.encode_batch([chat]) == template._encode_general([chat], False, False)
    assert template._shape_cache.words.known.size < 300


def test_words_are_looked_up_where_they_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of new words are soon tokenized as a whole, and nothing of them is kept; repeated ones are looked up."""
    monkeypatch.setattr("llamafactory.data.template.word_cache._TRIAL", 2**12)
    monkeypatch.setattr("llamafactory.data.template.word_cache._PAUSE", 2**15)
    template = bind(build_tokenizer("chatml"), "chatml")
    words = template._shape_cache.words
    rng = random.Random(0)
    known = ["".join(rng.choices("abcdefgh", k=8)) for _ in range(50)]

    def encode(make: Callable[[], str]) -> None:
        text = " ".join(make() for _ in range(400))
        chat = [_sample([("user", "say it", None), ("assistant", text, None)])]
        assert template.encode_batch(chat) == template._encode_general(chat, False, False)

    for _ in range(3):
        encode(lambda: rng.choice(known))
    assert words.worth.is_worth_it
    for _ in range(3):
        encode(lambda: "".join(rng.choices("abcdefgh", k=8)))
    assert not words.worth.is_worth_it
    size, chunks = words.known.size, len(words.known.chunks)
    encode(lambda: "".join(rng.choices("abcdefgh", k=8)))
    assert len(words.known.chunks) == chunks and words.known.size - size < 100
    for _ in range(12):  # after the pause
        encode(lambda: rng.choice(known))
    assert words.worth.is_worth_it
