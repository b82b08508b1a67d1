# SPDX-License-Identifier: Apache-2.0
"""Reward models of every kind give the scores of plain transformers; a service is asked over real HTTP."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from llamafactory.data.messages import Message
from llamafactory.data.template_loader import get_template
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import TrainArgs, get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.heads import REWARD
from llamafactory.train.rl.rewards.completion import Completion
from llamafactory.train.rl.rewards.reward_model import ServiceReward, load_reward_model
from llamafactory.train.rl.rewards.reward_set import load_rewards

from .conftest import Keys
from .pairs import pair_set
from .running import train

_TALK = [("Who are you?", "I am a small model that answers questions."), ("Count.", "0 1 2 3 4 5"), ("Hi", "Rain")]


def _completions() -> list[Completion]:
    return [Completion((Message.of("user", asked),), Message.of("assistant", said), said, [1]) for asked, said in _TALK]


def _ids(folder: Path) -> list[Tensor]:
    """The conversations as the tokenizer's own chat template writes them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    talks = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in _TALK]
    return [torch.tensor([tokenizer.apply_chat_template(talk, tokenize=True, return_dict=False)]) for talk in talks]


def _args(given: dict[str, Any]) -> TrainArgs:
    """Only the stages that reward answers take a reward model."""
    return get_train_args({"stage": "ppo", **given} if "reward_model" in given else given)


def _reward(given: dict[str, Any], policy: Any = None) -> Tensor:
    args = _args(given)
    tokenizer = load_tokenizer(args.model)
    template = get_template(tokenizer, args.data)
    return load_reward_model(args, tokenizer, template, policy)(_completions())


def _policy(given: dict[str, Any]) -> Any:
    args = _args(given)
    return load_model(load_tokenizer(args.model), args)


def _value_head(folder: Path, size: int = 64) -> tuple[Tensor, Tensor]:
    weight = torch.randn(1, size, generator=torch.Generator().manual_seed(5))
    bias = torch.tensor([0.7])
    save_file({"v_head.summary.weight": weight, "v_head.summary.bias": bias}, folder / "value_head.safetensors")
    return weight, bias


def _at_the_end(model: Any, sequences: list[Tensor], head: tuple[Tensor, Tensor]) -> list[float]:
    """Value of the last token, from plain hidden states."""
    with torch.no_grad():
        states = [model(ids, output_hidden_states=True).hidden_states[-1][0, -1] for ids in sequences]
    return [(head[0] @ state + head[1]).item() for state in states]


@pytest.fixture
def classifier(tiny_llama: Path, tmp_path: Path) -> Path:
    """A reward model as stage rm saves it."""
    torch.manual_seed(2)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1, dtype=torch.float32)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(tmp_path / "classifier")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


@pytest.fixture
def causal(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that may be written to."""
    AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).save_pretrained(tmp_path / "causal")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "causal")
    return tmp_path / "causal"


@pytest.fixture
def adapter(tiny_llama: Path, tmp_path: Path) -> Callable[[str], Path]:
    """``adapter(kind)`` → folder of a LoRA with random B: of a language model, or of sequence classification."""

    def make(kind: str) -> Path:
        torch.manual_seed(4)
        auto = AutoModelForCausalLM if kind == "CAUSAL_LM" else AutoModelForSequenceClassification
        base = auto.from_pretrained(
            tiny_llama, dtype=torch.float32, **({} if kind == "CAUSAL_LM" else {"num_labels": 1})
        )
        model = get_peft_model(base, LoraConfig(task_type=kind, r=4, target_modules=["q_proj", "down_proj"]))
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "score" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return make


def test_full(keys: Keys, classifier: Path) -> None:
    ours = _reward(keys(reward_model=str(classifier), reward_model_type="full", per_device_eval_batch_size=2))
    model = AutoModelForSequenceClassification.from_pretrained(classifier, dtype=torch.float32)
    with torch.no_grad():
        expected = [model(ids).logits.item() for ids in _ids(classifier)]
    assert ours.dtype == torch.float64 and ours.tolist() == pytest.approx(expected, abs=1e-5)
    assert ours.std() > 0.05


def test_full_where_the_end_of_a_turn_pads(keys: Keys, classifier: Path) -> None:
    """Sequence classification reads before trailing pads: so do we, as plain transformers on its own."""
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    tokenizer.pad_token = "\u010a"  # the line break that ends the rendered conversation
    tokenizer.save_pretrained(classifier)
    ours = _reward(keys(model_name_or_path=str(classifier), reward_model=str(classifier), reward_model_type="full"))
    model = AutoModelForSequenceClassification.from_pretrained(classifier, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        expected = [model(ids).logits.item() for ids in _ids(classifier)]
    assert ours.tolist() == pytest.approx(expected, abs=1e-5)


def test_value_head_beside_a_language_model(keys: Keys, causal: Path) -> None:
    head = _value_head(causal)
    ours = _reward(keys(reward_model=str(causal), reward_model_type="full"))
    model = AutoModelForCausalLM.from_pretrained(causal, dtype=torch.float32)
    assert ours.tolist() == pytest.approx(_at_the_end(model, _ids(causal), head), abs=1e-5)


def test_value_head_on_the_hub(keys: Keys, causal: Path, tmp_path: Path) -> None:
    head = _value_head(causal)
    repository = tmp_path / "hub" / "models--some--reward"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    shutil.copytree(causal, repository / "snapshots" / ("0" * 40))
    given = keys(model_name_or_path=str(causal), reward_model="some/reward", reward_model_type="full",
                 cache_dir=str(tmp_path / "hub"))  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(causal, dtype=torch.float32)
    assert _reward(given).tolist() == pytest.approx(_at_the_end(model, _ids(causal), head), abs=1e-5)
    (repository / "snapshots" / ("0" * 40) / "value_head.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"^reward_model: .*'some/reward' is no reward model"):
        _reward(given)


def test_value_head_beside_an_adapter(keys: Keys, tiny_llama: Path, adapter: Callable[[str], Path]) -> None:
    folder = adapter("CAUSAL_LM")
    head = _value_head(folder)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32), folder)
    expected = _at_the_end(model, _ids(tiny_llama), head)
    full = keys(reward_model=str(tiny_llama), reward_model_adapters=str(folder), reward_model_type="full")
    assert _reward(full).tolist() == pytest.approx(expected, abs=1e-5)
    lora = keys(reward_model=str(folder), reward_model_type="lora")
    assert _reward(lora, _policy(lora)).tolist() == pytest.approx(expected, abs=1e-5)


def test_stage_rm_starts_from_a_value_head(keys: Keys, causal: Path) -> None:
    weight, _ = _value_head(causal)
    args = get_train_args(keys(model_name_or_path=str(causal), stage="rm", finetuning_type="full"))
    model: Any = load_model(load_tokenizer(args.model), args, head=REWARD)
    torch.testing.assert_close(model.score.weight.detach(), weight)
    assert model.score.bias is None and model.score.weight.requires_grad


def test_stage_rm_goes_on_from_an_adapter_of_a_language_model(
    keys: Keys, tiny_llama: Path, adapter: Callable[[str], Path]
) -> None:
    folder = adapter("CAUSAL_LM")
    weight, _ = _value_head(folder)
    args = get_train_args(keys(stage="rm", adapter_name_or_path=str(folder)))
    model: Any = load_model(load_tokenizer(args.model), args, head=REWARD).eval()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("score" in name for name in trained) and any("lora_B" in name for name in trained)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32), folder)
    expected = _at_the_end(plain, _ids(tiny_llama), (weight, torch.zeros(1)))
    with torch.no_grad():
        ours = [model(ids).logits.item() for ids in _ids(tiny_llama)]
    assert ours == pytest.approx(expected, abs=1e-5)


def test_adapter_on_the_policy(keys: Keys, tiny_llama: Path, adapter: Callable[[str], Path], tmp_path: Path) -> None:
    folder = adapter("SEQ_CLS")
    given = keys(reward_model=str(folder), reward_model_type="lora", lora_dropout=0.5)
    policy = _policy(given)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # a policy that has learned something
            torch.nn.init.normal_(parameter, std=0.2)
    sequence = _ids(tiny_llama)[0]
    policy.eval()
    before = policy(sequence).logits.detach()
    policy.train()
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    ours = _reward(given, policy)

    base = AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder).eval()
    with torch.no_grad():
        expected = [model(ids).logits.item() for ids in _ids(tiny_llama)]
    assert ours.tolist() == pytest.approx(expected, abs=1e-5) and ours.std() > 0.05

    assert policy.training and policy.active_adapter == "default"
    assert {name for name, parameter in policy.named_parameters() if parameter.requires_grad} == trained
    policy.eval()
    torch.testing.assert_close(policy(sequence).logits, before)
    policy.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "reward").exists()
    assert (tmp_path / "saved" / "adapter_model.safetensors").exists()


def test_what_stage_rm_saves_is_read(keys: Keys, tiny_llama: Path, tmp_path: Path) -> None:
    run = train(keys(stage="rm", **pair_set(tmp_path), learning_rate=5e-3, output_dir=str(tmp_path / "rm")))
    given = keys(reward_model=str(run), reward_model_type="lora")
    base = AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, run).eval()
    with torch.no_grad():
        expected = [model(ids).logits.item() for ids in _ids(tiny_llama)]
    assert _reward(given, _policy(given)).tolist() == pytest.approx(expected, abs=1e-5)
    full = keys(reward_model=str(tiny_llama), reward_model_adapters=str(run), reward_model_type="full")
    assert _reward(full).tolist() == pytest.approx(expected, abs=1e-5)


def test_a_policy_with_new_tokens(keys: Keys, tiny_llama: Path, adapter: Callable[[str], Path], tmp_path: Path) -> None:
    """The rows that the policy learns for new tokens are its own; a reward adapter may have some too, or none."""
    tokens = {"add_tokens": "<new>", "resize_vocab": True}
    without = str(adapter("SEQ_CLS"))
    plain, given = keys(reward_model=without), keys(reward_model=without, **tokens)
    torch.testing.assert_close(_reward(given, _policy(given)), _reward(plain, _policy(plain)))
    run = str(
        train(keys(stage="rm", **pair_set(tmp_path), **tokens, learning_rate=5e-3, output_dir=str(tmp_path / "rm")))
    )
    given = keys(reward_model=run, **tokens)
    full = keys(reward_model=str(tiny_llama), reward_model_adapters=run, reward_model_type="full", **tokens)
    torch.testing.assert_close(_reward(given, _policy(given)), _reward(full), rtol=0, atol=1e-5)


def test_what_is_no_reward_model_is_refused(
    keys: Keys, tiny_llama: Path, adapter: Callable[[str], Path], causal: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"^reward_model: .* is no reward model: neither sequence classification, nor"
    ):
        _reward(keys(reward_model=str(tiny_llama), reward_model_type="full"))
    plain = keys(reward_model=str(adapter("CAUSAL_LM")), reward_model_type="lora")
    with pytest.raises(ConfigError, match=r"^reward_model: .* is no reward adapter: it has no score"):
        _reward(plain, _policy(plain))
    with pytest.raises(ConfigError, match=r"^reward_model_type: lora needs a policy with an adapter"):
        _reward(keys(reward_model=str(adapter("SEQ_CLS"))), _policy(keys(finetuning_type="full")))
    _value_head(causal, 32)
    with pytest.raises(ConfigError, match=r"value_head.safetensors: its hidden size is 32, that of the model 64$"):
        _reward(keys(reward_model=str(causal), reward_model_type="full"))
    save_file({"other": torch.zeros(1)}, causal / "value_head.safetensors")
    with pytest.raises(ConfigError, match=r"value_head.safetensors: not a value head"):
        _reward(keys(reward_model=str(causal), reward_model_type="full"))


HEADS: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"v_head.summary.weight": torch.full((1, 64), float("nan"))}, "holds NaN"),
    "integers": ({"v_head.summary.weight": torch.ones(1, 64, dtype=torch.int8)}, "floating numbers"),
    "left over": ({"v_head.other": torch.ones(1)}, "not a value head"),
    "shape": ({"v_head.summary.weight": torch.ones(2, 64)}, "head of one score"),
}


@pytest.mark.parametrize("fault", HEADS)
def test_a_value_head_is_whole(fault: str, keys: Keys, causal: Path) -> None:
    _value_head(causal)
    file = causal / "value_head.safetensors"
    save_file(load_file(file) | HEADS[fault][0], file)
    with pytest.raises(ConfigError, match=HEADS[fault][1]) as caught:
        _reward(keys(reward_model=str(causal), reward_model_type="full"))
    assert "\n" not in str(caught.value)


def _edit(state: dict[str, Tensor], fault: str) -> dict[str, Tensor]:
    first = sorted(name for name in state if "lora_B" in name)[0]
    match fault:
        case "missing":
            return {name: value for name, value in state.items() if name != first}
        case "NaN":
            return state | {first: torch.full_like(state[first], float("nan"))}
        case "int8":
            return state | {first: state[first].to(torch.int8)}
        case "without a place":
            return state | {first.replace("layers.0", "layers.9"): state[first].clone()}
    score = next(name for name in state if ".score." in name)
    return state | {score: torch.ones(1, 32)}


@pytest.mark.parametrize("fault", ["missing", "NaN", "int8", "without a place", "score of shape"])
def test_a_reward_adapter_is_loaded_wholly_or_refused(fault: str, keys: Keys, adapter: Callable[[str], Path]) -> None:
    folder = adapter("SEQ_CLS")
    file = folder / "adapter_model.safetensors"
    save_file(_edit(load_file(file), fault), file, metadata={"format": "pt"})
    given = keys(reward_model=str(folder), reward_model_type="lora")
    with pytest.raises(ConfigError, match=f"^reward_model: .*{fault}") as caught:
        _reward(given, _policy(given))
    assert "\n" not in str(caught.value)


def test_a_reward_adapter_of_another_type_is_refused(keys: Keys, adapter: Callable[[str], Path]) -> None:
    file = adapter("SEQ_CLS") / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_type": "PROMPT_TUNING"}))
    given = keys(reward_model=str(file.parent), reward_model_type="lora")
    with pytest.raises(ConfigError, match=r"^reward_model: .* of type PROMPT_TUNING, which cannot be merged"):
        _reward(given, _policy(given))


class _Service(BaseHTTPRequestHandler):
    """Scores a text by its length; the path chooses what goes wrong."""

    asked: list[Any] = []  # noqa: RUF012

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, question))
        texts = question["messages"]
        answers = {
            "/v1/score/evaluation": {"object": "score.evaluation", "scores": [len(text) / 10 for text in texts]},
            "/few": {"scores": [1.0]},
            "/text": {"scores": ["good"] * len(texts)},
            "/list": [1, 2, 3],
        }
        if self.path == "/slow":
            time.sleep(0.6)
        self.send_response(500 if self.path == "/fails" else 200)
        self.end_headers()
        body = "out of\nmemory" if self.path in ("/fails", "/prose") else json.dumps(answers.get(self.path))
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), _Service)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    _Service.asked.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_service(keys: Keys, tiny_llama: Path, service: str) -> None:
    given = keys(reward_model=f"{service}/v1/score/evaluation", reward_model_type="api", reward_funcs="length",
                 reward_weights="10,2")  # fmt: skip
    args = _args(given)
    tokenizer = load_tokenizer(args.model)
    rewards = load_rewards(args, tokenizer, get_template(tokenizer, args.data))
    texts = [tokenizer.decode(ids[0]) for ids in _ids(tiny_llama)]
    scores = rewards(_completions())
    assert rewards.names == ("length", "reward_model")
    assert scores.parts["reward_model"].tolist() == pytest.approx([len(text) / 10 for text in texts])
    assert scores.total.tolist() == pytest.approx([10 * -0.001 + 2 * len(text) / 10 for text in texts])
    assert _Service.asked == [("/v1/score/evaluation", {"model": "model", "messages": texts})]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/few", r"expected 3 scores, got \{\"scores\": \[1.0\]\}"),
        ("/list", r"expected 3 scores, got \[1, 2, 3\]"),
        ("/text", r"score 0 is not a number: 'good'"),
        ("/fails", r"status 500: out of memory"),
        ("/prose", r"its answer is not JSON: .*"),
        ("/slow", r"no answer in 0.2 s"),
    ],
)
def test_a_service_that_fails_is_one_line(keys: Keys, service: str, path: str, message: str) -> None:
    args = get_train_args(keys())
    template = get_template(load_tokenizer(args.model), args.data)
    with pytest.raises(ConfigError, match=rf"^reward_model: {service}{path}: {message}$"):
        ServiceReward(service + path, template, seconds=0.2)(_completions())


def test_a_service_that_is_not_there(keys: Keys, service: str) -> None:
    args = get_train_args(keys())
    template = get_template(load_tokenizer(args.model), args.data)
    with pytest.raises(ConfigError, match=r"^reward_model: http://127.0.0.1:1/: .*[Rr]efused"):
        ServiceReward("http://127.0.0.1:1/", template)(_completions())
    with pytest.raises(ConfigError, match=r"^reward_model: type api needs a URL \(http://…\), got 'saves/rm'$"):
        ServiceReward("saves/rm", template)


def test_a_run_rewarded_by_an_adapter_is_one_rewarded_by_the_model(
    keys: Keys, tiny_llama: Path, adapter: Callable[[str], Path], tmp_path: Path
) -> None:
    """Scoring by the adapter on the policy leaves no trace in training, in what is saved, or in going on from there."""
    reward = str(adapter("SEQ_CLS"))
    kinds: dict[str, dict[str, Any]] = {
        "lora": {"reward_model": reward, "reward_model_type": "lora"},
        "full": {"reward_model": str(tiny_llama), "reward_model_adapters": reward, "reward_model_type": "full"},
    }
    more = {"stage": "grpo", "num_generations": 4, "num_iterations": 2, "max_new_tokens": 8, "max_steps": 4,
            "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 2}  # fmt: skip
    runs = [train(keys(**more, **given, output_dir=str(tmp_path / kind))) for kind, given in kinds.items()]
    shutil.copytree(tmp_path / "lora" / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    runs.append(train(keys(**more, **kinds["lora"], output_dir=str(tmp_path / "again"))))
    first, second, resumed = (load_file(run / "adapter_model.safetensors") for run in runs)
    assert first.keys() == second.keys() == resumed.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)
    assert max(tensor.abs().max() for name, tensor in first.items() if "lora_B" in name) > 5e-3
