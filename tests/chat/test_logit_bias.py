# SPDX-License-Identifier: Apache-2.0
"""``logit_bias`` against transformers' own ``SequenceBiasLogitsProcessor``, and against the law it stands for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from llamafactory.chat.base_engine import Delta
from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.chat.sampler import Sampler, sample
from llamafactory.chat.sampling import get_sampling
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args

TOKENS = 12


def arguments(folder: Path, **keys: Any) -> Any:
    defaults = {"template": "chatml", "infer_dtype": "float32", "do_sample": False, "max_new_tokens": TOKENS}
    return get_infer_args({"model_name_or_path": str(folder), **defaults, **keys})


@pytest.fixture(scope="module", params=["batched", "sequential"])
def engine(request: pytest.FixtureRequest, tiny_llama: Path) -> Iterator[HuggingfaceEngine]:
    made = HuggingfaceEngine(arguments(tiny_llama, use_kv_cache=request.param == "batched"))
    assert made._batches == (request.param == "batched")
    yield made
    made.close()


def oracle(folder: Path, prompt: list[int], bias: dict[int, float], **config: Any) -> list[int]:
    net = AutoModelForCausalLM.from_pretrained(folder).eval()
    net.generation_config = GenerationConfig()
    config |= {"sequence_bias": [[[token], value] for token, value in bias.items()]} if bias else {}
    ends = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": 2, "pad_token_id": 0}
    given = torch.tensor([prompt])
    made = net.generate(
        given, attention_mask=torch.ones_like(given), generation_config=GenerationConfig(**ends, **config)
    )
    return made[0, len(prompt) :].tolist()


async def stream(engine: HuggingfaceEngine, prompt: list[int], **overrides: Any) -> list[Delta]:
    return [delta async for delta in engine.stream(prompt, **overrides)]


def ids(deltas: list[Delta]) -> list[int]:
    return [item.id for delta in deltas for item in delta.log_probs]


def cases(vocabulary: int) -> list[tuple[list[int], dict[int, float]]]:
    """Prompts with biases of very different size; every third has none."""
    draw = random.Random(0)
    found = []
    for number in range(9):
        prompt = [draw.randrange(5, 400) for _ in range(draw.randrange(2, 40))]
        size = (0, 40, vocabulary // 2)[number % 3]
        found.append((prompt, {token: draw.uniform(-3, 3) for token in draw.sample(range(3, vocabulary), size)}))
    return found


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_each_row_has_its_own_bias_as_in_transformers(
    engine: HuggingfaceEngine, tiny_llama: Path, penalty: float
) -> None:
    rows = cases(engine.vocabulary)

    async def run() -> list[list[Delta]]:
        keys: Any = {"log_probs": 0, "repetition_penalty": penalty}
        return await asyncio.gather(*(stream(engine, prompt, logit_bias=bias, **keys) for prompt, bias in rows))

    made = [ids(deltas) for deltas in asyncio.run(run())]
    assert made == [oracle(tiny_llama, prompt, bias, repetition_penalty=penalty) for prompt, bias in rows]
    assert made != [oracle(tiny_llama, prompt, {}, repetition_penalty=penalty) for prompt, _ in rows]


def test_beams_are_biased_as_in_transformers(engine: HuggingfaceEngine, tiny_llama: Path) -> None:
    prompt, bias = cases(engine.vocabulary)[2]
    deltas = asyncio.run(stream(engine, prompt, num_beams=3, logit_bias=bias))
    expected = oracle(tiny_llama, prompt, bias, num_beams=3, length_penalty=engine._args.generating.length_penalty)
    text = engine.tokenizer.decode([token for token in expected if token != 2], clean_up_tokenization_spaces=False)
    assert "".join(delta.text for delta in deltas) == text


def test_log_probabilities_stay_those_of_the_model(engine: HuggingfaceEngine, tiny_llama: Path) -> None:
    prompt, bias = cases(engine.vocabulary)[1]
    deltas = asyncio.run(stream(engine, prompt, logit_bias=bias, log_probs=1))
    made = ids(deltas)
    net = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    with torch.no_grad():
        scores = net(torch.tensor([prompt + made])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    found = [item for delta in deltas for item in delta.log_probs]
    expected = scores.gather(1, torch.tensor(made)[:, None])[:, 0].tolist()
    assert [item.log_prob for item in found] == pytest.approx(expected, abs=1e-4)
    assert [item.top[0][2] for item in found] == pytest.approx(scores.amax(-1).tolist(), abs=1e-4)


def test_the_bias_counts_before_the_temperature(tiny_llama: Path) -> None:
    bias = {0: 1.5, 3: -2.0, 4: 0.5}
    args = arguments(tiny_llama, do_sample=True, temperature=2.0, top_p=1.0, top_k=0)
    sampling = get_sampling(args, {"logit_bias": {str(token): value for token, value in bias.items()}}, 6)
    logits = torch.tensor([0.3, -1.0, 0.8, 2.0, 0.0, -0.5])
    count = 20_000
    rows = [Sampler(sampling, random.Random(seed), []) for seed in range(count)]
    drawn = torch.tensor([token.id for token in sample(logits.repeat(count, 1), rows)]).bincount(minlength=6) / count
    biased = logits.clone()
    for token, value in bias.items():
        biased[token] += value
    assert torch.allclose(drawn, (biased / 2).softmax(-1), atol=4 * 0.5 / count**0.5)


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ({"x": 1}, "logit_bias: 'x' is not the id"),
        ({"-1": 1}, "logit_bias: '-1' is not the id"),
        ({"007": 1}, "logit_bias: '007' is not the id"),
        ({"1.0": 1}, "logit_bias: '1.0' is not the id"),
        ({"9" * 5000: 1}, "logit_bias: '9{32}' is not the id"),
        ({10_000_000: 1}, "logit_bias: '10000000' is not the id of one of this model's [0-9]+ tokens"),
        ({5: 100.5}, "logit_bias: 5: 100.5 is out of range; expected -100 to 100"),
        ({5: float("nan")}, "logit_bias: 5: nan is out of range"),
        ({5: True}, "logit_bias: 5: True is out of range"),
        ([5], "logit_bias: expected a mapping"),
    ],
)
def test_a_wrong_bias_is_refused(engine: HuggingfaceEngine, bias: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asyncio.run(stream(engine, [5, 6, 7], logit_bias=bias))


def test_the_last_token_of_the_vocabulary_can_be_biased(engine: HuggingfaceEngine) -> None:
    last = engine.vocabulary - 1
    assert set(ids(asyncio.run(stream(engine, [5, 6, 7], logit_bias={last: 100}, log_probs=0)))) == {last}
    with pytest.raises(ConfigError, match="is not the id"):
        asyncio.run(stream(engine, [5, 6, 7], logit_bias={last + 1: 100}))
