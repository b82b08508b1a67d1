# SPDX-License-Identifier: Apache-2.0
"""Rollouts: the order of prompts, what is drawn, what tools add, and the log-probabilities kept of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamafactory.data.messages import Message, Sample
from llamafactory.data.template_loader import get_template
from llamafactory.hparams.data_args import DataArguments
from llamafactory.train.rl.completions import make_batch
from llamafactory.train.rl.rollouts.drawing import Drawing, uniform
from llamafactory.train.rl.rollouts.environment import Replies
from llamafactory.train.rl.rollouts.hf_rollout import HuggingfaceRollout
from llamafactory.train.rl.rollouts.rollout import Drawn, Request, Rollout, Sampling, roll_out
from llamafactory.train.rl.rollouts.tools import load_tools
from llamafactory.train.rl.rollouts.twin import Twin, why_no_twin
from llamafactory.train.rl.rollouts.vllm_rollout import policy_weights
from llamafactory.train.rl.schedule import RolloutSchedule

from .conftest import Keys
from .rollouts import GRPO, PPO, make_trainer, prompt_set

PLAIN = Sampling(temperature=1.0, top_p=1.0, top_k=0, limit=12)


def test_each_prompt_is_answered_once_an_epoch_and_each_rollout_is_passed_through() -> None:
    schedule = RolloutSchedule(10, completions=4, batch=2, accumulation=2, buffer=3, passes=2, ranks=2, seed=5)
    assert schedule.step_slots == 8 and schedule.epoch_steps == 10 and len(schedule) == 20
    places = [schedule.place(step) for step in range(20)]
    assert [(p.first, p.size, p.number) for p in places[:10]] == [
        *((0, 3, number) for number in range(6)), *((6, 2, number) for number in range(4)),
    ]  # fmt: skip
    assert [p.batch for p in places[:10]] == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1]
    assert [step for step in range(20) if places[step].number == 0] == [0, 6, 10, 16]
    first, second = ([row for start in starts for row in schedule.rows(places[start])] for starts in ((0, 6), (10, 16)))
    assert Counter(first) == Counter((row, answer) for row in range(10) for answer in range(4))
    assert first != second and Counter(first) == Counter(second)
    assert all(first[start][0] == first[start + 3][0] for start in range(0, 40, 4))  # answers side by side


def test_ranks_and_micro_batches_cut_the_same_steps() -> None:
    def steps(batch: int, accumulation: int, ranks: int) -> list[list[int]]:
        parts = [RolloutSchedule(6, 4, batch, accumulation, 2, 1, rank, ranks, 0) for rank in range(ranks)]
        place = parts[0].place(0)
        cut = [schedule.rollout(place) for schedule in parts]
        assert all(len(micro) == batch for rank in cut for step in rank for micro in step)
        return [sorted(slot for rank in cut for micro in rank[step] for slot in micro) for step in range(place.size)]

    assert steps(8, 1, 1) == steps(2, 4, 1) == steps(4, 1, 2) == steps(1, 2, 4) == [[*range(8)], [*range(8, 16)]]


@pytest.fixture
def bound(tiny_llama: Path) -> tuple[Any, Any]:
    """A tiny model and its template."""
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    return model, get_template(tokenizer, DataArguments(template="chatml"))


def _engine(bound: tuple[Any, Any], batch: int, sampling: Sampling = PLAIN) -> HuggingfaceRollout:
    return HuggingfaceRollout(*bound, sampling, SimpleNamespace(rlhf=SimpleNamespace(rollout_batch_size=batch)))


def _requests(template: Any) -> list[Request]:
    texts = ("who", "what is the name of a river in this big world", "rain", "think of the five boxing wizards")
    prompts = [template.encode_prompt([Message.of("user", text)]) for text in texts]
    return [Request(ids, seed, 0, 12 - seed) for seed, ids in enumerate(prompts)]


def _ids(engine: HuggingfaceRollout, requests: list[Request], greedy: bool) -> list[list[int]]:
    return [one.ids for one in engine.generate(requests, greedy)]


def test_batched_is_one_by_one(bound: tuple[Any, Any]) -> None:
    """Left padding changes nothing; greedy answers are those of plain transformers, drawn ones have their own seeds."""
    model, template = bound
    requests = _requests(template)
    for greedy in (True, False):
        together = _ids(_engine(bound, 4), requests, greedy)
        assert together == _ids(_engine(bound, 1), requests, greedy)
        assert together == _ids(_engine(bound, 3), requests[::-1], greedy)[::-1]
        assert together == [one.ids for one in _engine(bound, 3)._generate_in_batches(requests, greedy)]
        assert [len(ids) <= request.limit for ids, request in zip(together, requests, strict=True)] == [True] * 4
        if greedy:
            for ids, request in zip(together, requests, strict=True):
                alone = model.generate(
                    torch.tensor([request.ids]), do_sample=False, max_new_tokens=request.limit,
                    attention_mask=torch.ones(1, len(request.ids), dtype=torch.long),
                )  # fmt: skip
                assert ids == alone[0, len(request.ids) :].tolist()
    assert model.training is False


def test_a_later_round_goes_on_in_the_same_draws(bound: tuple[Any, Any]) -> None:
    request = _requests(bound[1])[1]
    (whole,) = _ids(_engine(bound, 1), [request], False)
    rest = Request(request.ids + whole[:5], request.seed, 5, request.limit - 5)
    assert _ids(_engine(bound, 1), [rest], False) == [whole[5:]]


def test_draws_follow_the_distribution() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0, -9.0]])
    requests = [Request([0], seed, 0, 1) for seed in range(4000)]
    for sampling, expected in (
        (PLAIN, scores.softmax(-1)),
        (Sampling(2.0, 1.0, 0, 1), (scores / 2).softmax(-1)),
        (Sampling(1.0, 1.0, 2, 1), scores[:, :2].softmax(-1)),
        (Sampling(1.0, 0.7, 0, 1), scores[:, :2].softmax(-1)),
    ):
        numbers = torch.cat([uniform(request, 1) for request in requests])
        tokens = Drawing(sampling)(scores.repeat(4000, 1), numbers)
        shares = torch.bincount(tokens, minlength=5)[: expected.shape[1]] / 4000
        assert shares.sum() == 1
        assert torch.allclose(shares, expected[0], atol=4 * 0.5 / 4000**0.5)


@pytest.mark.parametrize("free", [True, False])
def test_log_probs_kept_are_those_of_a_fresh_forward(keys: Keys, tmp_path: Path, free: bool) -> None:
    given = keys(**prompt_set(tmp_path), **PPO, temperature=0.7, padding_free=free, output_dir=str(tmp_path / "out"))
    trainer = make_trainer(given)
    (batch,), count = trainer.get_batch_samples(iter(()), 1, torch.device("cpu"))
    assert count == 8 and batch["lengths"] == tuple(len(rollout) for rollout in _answers(batch))
    model = AutoModelForCausalLM.from_pretrained(given["model_name_or_path"], dtype=torch.float32)
    expected = []
    for ids, labels in _sequences(batch):
        log_probs = (model(ids[None]).logits[0] / 0.7).log_softmax(-1)
        expected += [log_probs[place - 1, ids[place]] for place in range(len(ids)) if labels[place] != -100]
    expected = torch.stack(expected)
    assert torch.allclose(batch["old"], expected, atol=1e-5)
    assert torch.allclose(batch["ref"], expected, atol=1e-5)
    assert torch.allclose(batch["drawn"], expected, atol=1e-5)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"finetuning_type": "lora"},
        {"finetuning_type": "lora", "additional_target": "lm_head"},
        {"finetuning_type": "lora", "lora_target": "q_proj,embed_tokens"},
        {"finetuning_type": "lora", "use_rslora": True},
        {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
        {"finetuning_type": "full", "stage": "ppo"},
    ],
)
def test_the_engine_follows_the_policy(keys: Keys, tmp_path: Path, more: dict[str, Any]) -> None:
    """Drawn with the weights of now: tokens' log-probabilities are the policy's, wherever it has moved.

    The prompt of a group is read once.
    """
    trainer = make_trainer(keys(**prompt_set(tmp_path), **GRPO | more, output_dir=str(tmp_path / "out")))
    engine, read = trainer.engine, []
    runner = engine.continuous._runner
    whole = runner.read_whole
    runner.read_whole = lambda prompts, adapter: read.extend(prompts) or whole(prompts, adapter)
    requests = [
        Request(request.ids, 7 * request.seed + n, 0, 8) for request in _requests(engine.template) for n in (0, 1)
    ]
    first = None
    for _ in range(2):
        with torch.no_grad():
            for weight in trainer.model.parameters():
                if weight.requires_grad:
                    weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
        engine.sync()
        drawn = engine.generate(requests, greedy=False)
        for request, one in zip(requests, drawn, strict=True):
            ids = torch.tensor([request.ids + one.ids])
            with torch.no_grad():
                scores = trainer.model(input_ids=ids).logits[0].log_softmax(-1)
            start = len(request.ids)
            expected = [scores[place - 1, ids[0, place]] for place in range(start, ids.shape[1])]
            assert torch.allclose(torch.tensor(one.log_probs), torch.stack(expected), atol=1e-5)
        assert first != drawn
        first = drawn
    assert len(read) == 2 * len(requests) // 2


def test_the_engine_casts_the_weights_of_now(make_tiny_model: Any) -> None:
    """Those that layers share too: the head, cast for a rollout, is cast anew for the next."""
    model = AutoModelForCausalLM.from_pretrained(make_tiny_model())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    twin = Twin(model)
    for _ in range(2):
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.5)
        with torch.autocast("cpu", torch.bfloat16):
            twin.refresh()
        assert torch.equal(twin.model.lm_head.weight, model.lm_head.weight.bfloat16())
        assert torch.equal(twin.model.model.embed_tokens.weight, model.lm_head.weight)


def test_what_is_no_plain_model_is_left_to_generate(keys: Keys, tmp_path: Path) -> None:
    """Rows of single tokens, and an adapter with biases of its own, are not among the weights that are added."""
    lora = GRPO | {"finetuning_type": "lora"}
    trainer = make_trainer(
        keys(**prompt_set(tmp_path), **lora, add_tokens="<one>,<two>", output_dir=str(tmp_path / "a"))
    )
    assert trainer.engine.twin is None
    trainer = make_trainer(keys(**prompt_set(tmp_path), **lora, output_dir=str(tmp_path / "b")))
    assert why_no_twin(trainer.model) is None
    layer = next(module for module in trainer.model.modules() if hasattr(module, "lora_bias"))
    layer.lora_bias["default"] = True
    assert "lora_bias" in str(why_no_twin(trainer.model))


def _sequences(batch: dict[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    if "cu_seqlens" in batch:
        bounds = batch["cu_seqlens"].tolist()
        spans = [(0, slice(a, b)) for a, b in pairwise(bounds)]
    else:
        spans = [(row, slice(0, int(mask.sum()))) for row, mask in enumerate(batch["attention_mask"])]
    return [(batch["input_ids"][row, span], batch["labels"][row, span]) for row, span in spans]


def _answers(batch: dict[str, Any]) -> list[torch.Tensor]:
    return [labels[labels != -100] for _, labels in _sequences(batch)]


TOOLS = '''
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    return a + b
'''


class _Script:
    """An engine that says what is written."""

    def __init__(self, rounds: list[list[list[int]]]) -> None:
        self.rounds, self.seen = rounds, []

    def sync(self) -> None: ...

    def generate(self, requests: Sequence[Request], greedy: bool) -> list[Drawn]:
        self.seen.append(list(requests))
        return [Drawn(ids) for ids in self.rounds[len(self.seen) - 1]]


@pytest.mark.parametrize("name", ["qwen", "file"])
def test_tool_rollouts_are_the_conversation_with_only_the_model_trained(
    tiny_llama: Path, tmp_path: Path, name: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    template = get_template(tokenizer, DataArguments(template="qwen"))
    if name == "file":
        (tmp_path / "t.jinja").write_text(template.jinja())
        template = get_template(tokenizer, DataArguments(template=str(tmp_path / "t.jinja")))
    (tmp_path / "tools.py").write_text(TOOLS)
    toolbox = load_tools(str(tmp_path / "tools.py"))
    end = tokenizer.eos_token_id

    def said(text: str, stop: bool = True) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False) + [end] * stop

    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 41}}\n</tool_call>'
    prompt = [Message.of("user", "How much is 1 and 41?")]
    rollouts = [
        Rollout(prompt, template.encode_prompt(prompt, toolbox.descriptions), seed, toolbox.descriptions)
        for seed in range(3)
    ]
    engine = _Script([[said(call), said("It is 42."), said(call, stop=False)], [said("So 42.")]])
    roll_out(engine, rollouts, template, 400, reply=Replies(toolbox), rounds=2)
    first, second, third = rollouts
    assert [message.role for message in first.turns] == ["assistant", "tool", "assistant"]
    assert first.turns[1].text == "42" and first.text == "So 42." and first.finished
    (segments,) = template.encode_batch([Sample((*prompt, *first.turns), tuple(toolbox.descriptions))])
    ids = [token for segment in segments for token in segment.ids]
    weights = [segment.weight for segment in segments for _ in segment.ids]
    ours = first.prompt + first.ids
    assert ids[: len(ours)] == ours and not any(weights[len(ours) :])  # a line break may follow the last turn
    assert first.written == [weight > 0 for weight in weights[len(first.prompt) : len(ours)]]
    assert engine.seen[1][0].ids == ours[: -len(said("So 42."))]
    assert engine.seen[1][0].drawn == len(first.ids) - len(said("So 42."))
    assert len(second.turns) == len(third.turns) == 1 and not third.finished
    batch = make_batch(rollouts, _collator(tokenizer), [0, 1, 2], [0, 0, 0])
    labels = batch["labels"][0][: len(first.prompt) + len(first.ids)]
    assert labels[labels != -100].tolist() == said(call) + said("So 42.")


def _collator(tokenizer: Any) -> Any:
    from llamafactory.data.collators import PaddedCollator

    return PaddedCollator(tokenizer)


def test_tools_end_with_their_rounds_and_with_the_room(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    template = get_template(tokenizer, DataArguments(template="qwen"))
    (tmp_path / "tools.py").write_text(TOOLS)
    toolbox = load_tools(str(tmp_path / "tools.py"))
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 1}}\n</tool_call>'
    ids = [*tokenizer.encode(call, add_special_tokens=False), tokenizer.eos_token_id]
    for limit, rounds, turns, finished in ((400, 1, 3, True), (len(ids) + 5, 3, 1, False)):
        rollout = Rollout([Message.of("user", "1 and 1?")], [1, 2, 3], 0, toolbox.descriptions)
        roll_out(_Script([[ids], [ids]]), [rollout], template, limit, reply=Replies(toolbox), rounds=rounds)
        assert (len(rollout.turns), rollout.finished) == (turns, finished)


def test_rewards_see_the_columns_of_the_row(keys: Keys, tmp_path: Path) -> None:
    given = keys(**prompt_set(tmp_path), **GRPO, disable_shuffling=True, output_dir=str(tmp_path / "out"))
    given["reward_funcs"] = f"{tmp_path / 'rewards.py'}:wanted"
    trainer = make_trainer(given)
    rows = json.loads((tmp_path / "prompts.json").read_text())
    trainer.get_batch_samples(iter(()), 1, torch.device("cpu"))
    made = trainer.rollout_log.newest
    assert len(made) == 8 and [
        rows[number // 4]["instruction"] in record["prompt"] for number, record in enumerate(made)
    ]
    for number, record in enumerate(made):
        text, letter = record["completion"], rows[number // 4]["letter"]
        if text:
            assert record["rewards"]["wanted"] == pytest.approx(text.count(letter) / len(text))


@pytest.mark.parametrize("whole", [None, ["embed_tokens", "lm_head"]])
def test_weights_handed_to_another_engine_are_those_of_the_merged_policy(tiny_llama: Path, whole: Any) -> None:
    from peft import LoraConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    if whole:
        base.config.tie_word_embeddings = False
        base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.clone())
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], modules_to_save=whole, init_lora_weights=False)
    policy = get_peft_model(base, config)
    before = {name: weight.clone() for name, weight in policy.named_parameters()}
    handed = dict(policy_weights(policy))
    assert all(torch.equal(weight, before[name]) for name, weight in policy.named_parameters())
    ids = torch.arange(3, 20)[None]
    expected = policy(ids).logits
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    if whole:
        plain.lm_head.weight = torch.nn.Parameter(plain.lm_head.weight.clone())
    missing, unexpected = plain.load_state_dict(handed, strict=False)
    assert not unexpected and not set(missing) - {"lm_head.weight"}
    assert torch.allclose(plain(ids).logits, expected, atol=1e-5)
