# SPDX-License-Identifier: Apache-2.0
"""The chat engine on a random model: its answers are those of a plain greedy loop, and every override acts."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from llamafactory.chat.chat_model import ChatModel, to_messages, to_tools
from llamafactory.chat.sampler import NO_TOKEN, Sampler, sample
from llamafactory.chat.sampling import get_sampling
from llamafactory.extras.errors import ConfigError, ModelFault
from llamafactory.hparams import get_infer_args

QUESTION = [{"role": "user", "content": "Who are you?"}]


def make(folder: Path, **keys: Any) -> ChatModel:
    defaults = {"template": "chatml", "infer_dtype": "float32", "do_sample": False, "max_new_tokens": 24}
    return ChatModel(get_infer_args({"model_name_or_path": str(folder), **defaults, **keys}))


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> ChatModel:
    return make(tiny_llama)


@pytest.fixture(scope="module")
def long_model(make_tiny_model: Any) -> ChatModel:
    """A model without an end: greedy answers run until someone stops them."""
    return make(make_tiny_model(max_position_embeddings=200_000), max_new_tokens=100_000)


def greedy(folder: Path, tokens: int) -> tuple[list[int], list[int]]:
    """Prompt by the tokenizer's own template, answer by an argmax loop without cache: the oracle."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    net = AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            ids.append(int(net(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
    return prompt, ids[len(prompt) :]


def test_greedy_answer_is_the_argmax_loop(model: ChatModel, tiny_llama: Path) -> None:
    prompt, ids = greedy(tiny_llama, 24)
    (response,) = model.chat(QUESTION)
    decode = model.engine.tokenizer.decode  # type: ignore[attr-defined]
    assert response.text == decode(ids, skip_special_tokens=True)
    assert (response.prompt_length, response.response_length) == (len(prompt), len(ids))
    assert response.finish_reason == "length"


def test_stream_is_the_answer_in_pieces(model: ChatModel) -> None:
    pieces = list(model.stream_chat(QUESTION))
    assert len(pieces) > 3
    assert "".join(pieces) == model.chat(QUESTION)[0].text


def test_the_engine_is_async(model: ChatModel) -> None:
    async def both() -> tuple[str, str]:
        (response,) = await model.achat(QUESTION)
        return response.text, "".join([piece async for piece in model.astream_chat(QUESTION)])

    whole, streamed = asyncio.run(both())
    assert whole == streamed == model.chat(QUESTION)[0].text


def test_stop_word_ends_the_answer(model: ChatModel) -> None:
    text = model.chat(QUESTION)[0].text
    word = text[6:9]
    (response,) = model.chat(QUESTION, stop=[word])
    assert response.text == text[: text.find(word)]
    assert response.finish_reason == "stop"
    assert response.response_length < 24
    assert "".join(model.stream_chat(QUESTION, stop=word)) == response.text


def test_stop_token_of_the_template_ends_the_answer(make_tiny_model: Any) -> None:
    from transformers import AutoModelForCausalLM

    folder = make_tiny_model(tie_word_embeddings=False)
    net = AutoModelForCausalLM.from_pretrained(folder)
    prompt, ids = greedy(folder, 3)
    # Point the output row of <|im_end|> to where the model stands after its first new token.
    with torch.no_grad():
        hidden = net.model(torch.tensor([[*prompt, ids[0]]])).last_hidden_state[0, -1]
        net.lm_head.weight[2] = hidden * 10
    net.save_pretrained(folder)
    model = make(folder)
    (response,) = model.chat(QUESTION)
    assert response.finish_reason == "stop" and response.response_length < 24
    assert "<|im_end|>" not in response.text
    assert "<|im_end|>" in model.chat(QUESTION, skip_special_tokens=False)[0].text


def test_sampling_is_reproducible_by_seed_and_off_at_temperature_zero(model: ChatModel) -> None:
    draw = {"do_sample": True, "temperature": 1.5, "top_p": 1.0, "top_k": 0}
    first, second, other = (model.chat(QUESTION, seed=seed, **draw)[0].text for seed in (1, 1, 2))
    assert first == second != other
    assert "".join(model.stream_chat(QUESTION, seed=1, **draw)) == first
    greedy_text = model.chat(QUESTION)[0].text
    assert model.chat(QUESTION, do_sample=True, temperature=0.0)[0].text == greedy_text
    assert model.chat(QUESTION, do_sample=True, temperature=1.5, top_k=1)[0].text == greedy_text


def test_several_answers_and_beams(model: ChatModel) -> None:
    drawn = model.chat(QUESTION, do_sample=True, temperature=2.0, top_p=1.0, num_return_sequences=3, seed=0)
    assert len({response.text for response in drawn}) == 3
    likeliest = model.chat(QUESTION, num_return_sequences=20, log_probs=1)  # more than run at the same time
    assert [response for response in likeliest if response != likeliest[0]] == []
    assert likeliest[0] == model.chat(QUESTION, log_probs=1)[0] and len(likeliest) == 20
    beams = model.chat(QUESTION, num_beams=3, num_return_sequences=2, max_new_tokens=6)
    assert len(beams) == 2 and beams[0].response_length == 6
    assert "".join(model.stream_chat(QUESTION, num_beams=3, max_new_tokens=6)) == beams[0].text
    penalized = model.chat(QUESTION, repetition_penalty=5.0)[0].text
    assert penalized != model.chat(QUESTION)[0].text


def test_lengths(model: ChatModel) -> None:
    assert model.chat(QUESTION, max_new_tokens=5)[0].response_length == 5
    prompt = model.chat(QUESTION)[0].prompt_length
    assert model.chat(QUESTION, max_length=prompt + 7)[0].response_length == 7
    with pytest.raises(ConfigError, match="max_length"):
        model.chat(QUESTION, max_length=prompt)
    for number in (0, -5):
        with pytest.raises(ConfigError, match=rf"^max_new_tokens: {number} is out of range"):
            model.chat(QUESTION, max_new_tokens=number)


def test_the_models_own_generation_config_does_not_leak(make_tiny_model: Any) -> None:
    from transformers import GenerationConfig

    folder = make_tiny_model()
    plain = make(folder).chat(QUESTION)[0].text
    GenerationConfig(repetition_penalty=5.0, do_sample=True, temperature=5.0).save_pretrained(folder)
    assert make(folder).chat(QUESTION)[0].text == plain


def test_a_prompt_longer_than_the_context_is_refused_and_a_long_answer_ends_at_it(model: ChatModel) -> None:
    with pytest.raises(ConfigError, match=r"the conversation has \d+ tokens, the model takes fewer than 512"):
        model.chat([{"role": "user", "content": "rain " * 600}])
    (response,) = model.chat([{"role": "user", "content": "rain " * 200}], max_new_tokens=10_000)
    assert response.prompt_length + response.response_length <= 512
    assert response.finish_reason == "length"


def test_text_that_cannot_fit_is_refused_before_it_is_tokenized(
    model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound holds for every text: no token stands for more characters than the longest one has."""
    engine: Any = model.engine
    longest = max(map(len, engine.tokenizer.get_vocab()))
    fits = max(engine.tokenizer.get_vocab(), key=len).replace("Ġ", " ") * 10
    assert len(engine.tokenizer(fits)["input_ids"]) * longest >= len(fits)
    monkeypatch.setattr(engine, "prompt_ids", lambda *_: pytest.fail("it was tokenized"))
    text = "a" * (engine.context * longest + 1)
    for prompt in (text, to_messages([{"role": "user", "content": text}], None)):
        with pytest.raises(
            ConfigError, match=rf"has {len(text)} characters, far more than the {engine.context} tokens"
        ):
            asyncio.run(engine.read_prompt(prompt, (), None))


@pytest.mark.parametrize("tools", [False, True])
def test_a_long_text_is_tokenized_no_further_than_refusing_it_needs(
    model: ChatModel, monkeypatch: pytest.MonkeyPatch, tools: bool
) -> None:
    engine: Any = model.engine
    text = "we are " * 20_000
    monkeypatch.setattr(engine, "context", 20_000)
    assert len(text) < 20_000 * max(map(len, engine.tokenizer.get_vocab()))  # so its length alone does not tell
    assert len(engine.tokenizer(text)["input_ids"]) > 40_000
    given: list[int] = []
    inner = type(engine.tokenizer).__call__
    monkeypatch.setattr(
        type(engine.tokenizer), "__call__", lambda self, one, **keys: given.append(len(one)) or inner(self, one, **keys)
    )
    said = [] if tools else [{"role": "user", "content": text}]
    described = [{"type": "function", "function": {"name": "f", "description": text}}] if tools else []
    prompt = to_messages(said or QUESTION, None)
    with pytest.raises(ConfigError, match=r"the conversation has \d+ characters, more than make the 20000 tokens"):
        asyncio.run(engine.read_prompt(prompt, described, None))
    with pytest.raises(ConfigError, match="the text has 140000 characters, more than make the 20000 tokens"):
        asyncio.run(engine.embed(["short", text]))
    assert 0 < sum(given) < 2 * len(text) * 2 / 3


def test_a_long_prompt_does_not_stop_the_event_loop(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tokenized elsewhere: the loop goes round while the tokenizer waits to be let go on by it."""
    engine: Any = model.engine
    let_go, tokenize = threading.Event(), engine.prompt_ids

    def held(*given: Any) -> list[int]:
        assert let_go.wait(60), "the loop stood still"
        return tokenize(*given)

    monkeypatch.setattr(engine, "prompt_ids", held)

    async def ask() -> int:
        reading = asyncio.create_task(engine.read_prompt("some text", (), None))
        for _ in range(10):
            await asyncio.sleep(0)
        let_go.set()
        return len((await reading).ids)

    assert asyncio.run(ask()) == len(tokenize("some text", (), None))


def test_closing_the_stream_ends_the_generation(long_model: ChatModel) -> None:
    answer = long_model.stream_chat(QUESTION)
    assert next(answer)
    answer.close()
    started = time.monotonic()
    long_model.chat(QUESTION, max_new_tokens=2)  # waits for the model to be free
    assert time.monotonic() - started < 5


def test_cancelling_an_async_chat_ends_the_generation(long_model: ChatModel) -> None:
    async def impatient() -> None:
        await asyncio.wait_for(long_model.achat(QUESTION), timeout=0.3)

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    started = time.monotonic()
    long_model.chat(QUESTION, max_new_tokens=2)
    assert time.monotonic() - started < 5


def test_errors_of_the_generating_thread_reach_the_caller(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.engine.model, "forward", broken)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="out of memory"):
        list(model.stream_chat(QUESTION))
    with pytest.raises(RuntimeError, match="out of memory"):
        model.chat(QUESTION, num_beams=2)
    monkeypatch.undo()
    assert model.chat(QUESTION)[0].response_length == 24  # the engine is well


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"temperature": 1.0, "do_sample": True, "top_k": 5}])
def test_a_model_that_computes_no_numbers_says_so(options: dict[str, Any], overflowing: Path) -> None:
    engine = make(overflowing)
    with pytest.raises(ModelFault, match=r"^infer_dtype: the model's logits are NaN") as caught:
        list(engine.stream_chat(QUESTION, **options)) if not options else engine.chat(QUESTION, **options)
    assert "\n" not in str(caught.value)
    assert engine.engine.load == (0, 0)


def test_one_row_that_is_no_number_leaves_its_neighbours_alone() -> None:
    sampling = get_sampling(get_infer_args({"model_name_or_path": "x", "do_sample": False}), {}, 8)
    logits = torch.arange(32, dtype=torch.float32).reshape(4, 8)
    logits[1, 3], logits[2, 0], logits[3, 0] = float("nan"), float("inf"), float("-inf")
    rows = [Sampler(sampling, random.Random(0), [1]) for _ in range(4)]
    assert [token.id for token in sample(logits, rows)] == [7, NO_TOKEN, NO_TOKEN, 7]


def test_requests_from_many_threads_get_their_own_answers(model: ChatModel) -> None:
    questions = [[{"role": "user", "content": text}] for text in ("rivers", "numbers", "stars")]
    expected = [model.chat(question)[0].text for question in questions]
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=number: found.update({n: "".join(model.stream_chat(questions[n]))}))
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(3)] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1.0}, "temprature: unknown generation option; did you mean temperature"),
        ({"top_p": 0.0}, "top_p: 0.0 is out of range"),
        ({"temperature": -1.0}, "temperature: -1.0 is out of range"),
        ({"num_beams": 0}, "num_beams: 0 is out of range"),
        ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences: 3 is more than num_beams 2"),
    ],
)
def test_wrong_options_are_refused(model: ChatModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model.chat(QUESTION, **options)


def test_scores_need_a_reward_model(model: ChatModel) -> None:
    with pytest.raises(ConfigError, match="scores need stage: rm"):
        model.get_scores(["text"])


def test_system_text_and_tools() -> None:
    native = to_messages(QUESTION, system="Be brief.")
    assert [(message.role, message.text) for message in native] == [("system", "Be brief."), ("user", "Who are you?")]
    with pytest.raises(ConfigError, match="give it once"):
        to_messages(native, system="Be long.")
    assert to_tools('[{"name": "f"}]') == [{"name": "f"}]
    assert to_tools(None) == to_tools("") == []
    with pytest.raises(ConfigError, match="tools: not JSON"):
        to_tools("[{")


def test_system_text_reaches_the_model(model: ChatModel) -> None:
    plain, steered = model.chat(QUESTION)[0], model.chat(QUESTION, system="rain rain rain")[0]
    assert steered.prompt_length > plain.prompt_length


def test_the_room_exports_it_and_it_reads_keys_itself(tiny_llama: Path, model: ChatModel) -> None:
    from llamafactory import chat

    assert chat.ChatModel is ChatModel
    with pytest.raises(AttributeError, match="Chatmodel"):
        chat.Chatmodel  # noqa: B018
    keys = {"template": "chatml", "infer_dtype": "float32", "do_sample": False, "max_new_tokens": 24}
    made = chat.ChatModel({"model_name_or_path": str(tiny_llama), **keys})
    assert made.args == model.args and made.chat(QUESTION) == model.chat(QUESTION)
    made.engine.close()


def test_importing_it_loads_no_torch() -> None:
    code = "import sys; from llamafactory.chat import ChatModel; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr
