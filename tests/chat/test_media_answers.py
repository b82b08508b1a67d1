# SPDX-License-Identifier: Apache-2.0
"""Answers about images and sound on random models: they are those of transformers' own processor and ``generate``."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from media_models import FAMILIES, build, picture, tone
from transformers import AutoModelForMultimodalLM, AutoProcessor, AutoTokenizer
from transformers.utils import is_torchvision_available

from llamafactory.chat.chat_model import ChatModel
from llamafactory.data.messages import Message, Part
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args
from llamafactory.model import load_processor

TOKENS = 12
DRAW = {"do_sample": True, "temperature": 1.5, "top_p": 1.0, "top_k": 0}
IMAGES = [family for family in FAMILIES if family != "qwen2_audio"]

Ask = list[Any]  # media and texts of one question


class Model:
    """One family: the engine, and transformers' own classes beside it."""

    def __init__(self, folder: Path, family: str) -> None:
        self.folder, self.kind = folder, "audio" if family == "qwen2_audio" else "image"
        self.chat = self.load()
        self.engine: Any = self.chat.engine
        self.net = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        try:
            self.processor: Any = AutoProcessor.from_pretrained(folder)
        except (ImportError, ValueError):  # it wants a video part, which needs torchvision
            args = get_infer_args({"model_name_or_path": str(folder)})
            self.processor = load_processor(args.model, self.tokenizer)
        if family == "smolvlm" and self.processor.video_processor is None:  # asked for numbers even without a video
            self.processor.video_processor = SimpleNamespace(
                num_frames=1, fps=1, video_sampling={"max_frames": 1, "fps": 1}
            )

    def load(self, **keys: Any) -> ChatModel:
        defaults = {"infer_dtype": "float32", "do_sample": False, "max_new_tokens": TOKENS, "crop_to_patches": True}
        return ChatModel(get_infer_args({"model_name_or_path": str(self.folder), **defaults, **keys}))

    def medium(self, number: int) -> Any:
        return tone(150 * number) if self.kind == "audio" else picture(number, (64 + 32 * number, 80))

    def question(self, ask: Ask) -> list[Message]:
        """For the engine."""
        return [Message("user", tuple(self._part(item) for item in ask))]

    def _part(self, item: Any) -> Part:
        if isinstance(item, str):
            return Part("text", item)
        return Part(self.kind, {"array": item, "sampling_rate": 16000} if self.kind == "audio" else item)  # type: ignore[arg-type]

    def inputs(self, ask: Ask) -> Any:
        content = [
            {"type": "text", "text": item} if isinstance(item, str) else {"type": self.kind, self.kind: item}
            for item in ask
        ]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_tensors="pt",
        )

    def oracle(self, ask: Ask, net: Any = None) -> str:
        """The greedy answer of transformers."""
        inputs = self.inputs(ask)
        with torch.inference_mode():
            out = (net or self.net).generate(**inputs, do_sample=False, max_new_tokens=TOKENS)
        return str(self.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest.fixture(scope="module")
def model_of(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    @cache
    def make(family: str) -> Model:
        return Model(build(family, tmp_path_factory.mktemp(family), tiny_llama), family)

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_of_transformers(family: str, model_of: Callable[[str], Model]) -> None:
    model = model_of(family)
    assert set(model.engine.media) - {"video"} == {model.kind}
    asks: list[Ask] = [[model.medium(1), "What is it?"], [model.medium(2), "What is it?"], ["Who are you?"]]
    first, second = (model.net(**model.inputs(ask)).logits[0, -1] for ask in asks[:2])
    assert (first - second).abs().max() > 0.1  # else all that follows would prove nothing
    for ask in asks:
        (response,) = model.chat.chat(model.question(ask))
        assert response.text == model.oracle(ask)
        assert response.prompt_length == model.inputs(ask)["input_ids"].shape[1]


@pytest.mark.parametrize("family", IMAGES)
def test_a_conversation_with_several_images(family: str, model_of: Callable[[str], Model]) -> None:
    model = model_of(family)
    one, two, three = (model.medium(number) for number in (1, 2, 3))
    messages = [*model.question([one, "First,", two, "second."]), Message.of("assistant", "I see.")]
    (response,) = model.chat.chat([*messages, *model.question([three, "And this?"])])
    image, text = (lambda value: {"type": "image", "image": value}), (lambda value: {"type": "text", "text": value})
    inputs = model.processor.apply_chat_template(
        [
            {"role": "user", "content": [image(one), text("First,"), image(two), text("second.")]},
            {"role": "assistant", "content": [text("I see.")]},
            {"role": "user", "content": [image(three), text("And this?")]},
        ],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        out = model.net.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)
    assert response.text == model.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_requests_at_once_get_their_own_answers(family: str, model_of: Callable[[str], Model]) -> None:
    model = model_of(family)
    asks: list[Ask] = [[model.medium(number), "What is it?"] for number in (1, 2, 3)]
    asks += [["Who are you?"], [model.medium(4), "And this one, which comes with a longer question?"], ["Hi"]]

    async def answers() -> list[str]:
        every = await asyncio.gather(*(model.chat.achat(model.question(ask)) for ask in asks))
        return [response.text for (response,) in every]

    assert asyncio.run(answers()) == [model.oracle(ask) for ask in asks]


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_several_answers_and_seeds(
    family: str, alone: bool, model_of: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone: through ``generate`` with the media repeated for each answer, as families do it that cannot join."""
    model = model_of(family)
    if alone:
        monkeypatch.setattr(model.engine, "_joins", False)
    ask: Ask = [model.medium(1), "What is", model.medium(2), "it?"] if family in IMAGES else [model.medium(1), "What?"]
    question = model.question(ask)
    drawn = [response.text for response in model.chat.chat(question, num_return_sequences=2, seed=3, **DRAW)]
    assert drawn == [response.text for response in model.chat.chat(question, num_return_sequences=2, seed=3, **DRAW)]
    assert drawn[0] == model.chat.chat(question, seed=3, **DRAW)[0].text != drawn[1]
    likeliest = model.chat.chat(question, num_return_sequences=3, **{**DRAW, "top_k": 1})
    assert [response.text for response in likeliest] == [model.oracle(ask)] * 3


def test_what_a_call_may_ask_for(model_of: Callable[[str], Model]) -> None:
    model = model_of("qwen2_vl")
    ask: Ask = [model.medium(1), "What is it?"]
    question, text = model.question(ask), model.oracle(ask)
    inputs = model.inputs(ask)
    (told,) = model.chat.chat(question, log_probs=2)
    with torch.inference_mode():
        expected = model.net(**inputs).logits[0, -1].log_softmax(-1).max()
    assert told.log_probs[0].log_prob == pytest.approx(float(expected), abs=1e-4)
    (stopped,) = model.chat.chat(question, stop=[text[3:5]])
    assert stopped.text == text[: text.find(text[3:5])] and stopped.finish_reason == "stop"
    assert "".join(model.chat.stream_chat(question)) == text
    schema: dict[str, Any] = {"type": "object", "properties": {"seen": {"type": "boolean"}}, "required": ["seen"]}
    schema["additionalProperties"] = False
    (written,) = model.chat.chat(question, json_schema=schema, max_new_tokens=200)
    assert isinstance(json.loads(written.text)["seen"], bool)
    with pytest.raises(ConfigError, match="num_beams: 2 cannot be combined with media"):
        model.chat.chat(question, num_beams=2)


def test_decoding_blocks_neither_the_loop_nor_other_requests(
    model_of: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("llava")
    encode = model.engine.encoder.encode

    def slow(*arguments: Any) -> Any:
        time.sleep(0.5)
        return encode(*arguments)

    monkeypatch.setattr(model.engine.encoder, "encode", slow)

    async def both() -> tuple[bool, str]:
        slow_one = asyncio.create_task(model.chat.achat(model.question([model.medium(1), "What is it?"])))
        await asyncio.sleep(0.05)  # it is being decoded
        await model.chat.achat(model.question(["Who are you?"]))
        return slow_one.done(), (await slow_one)[0].text

    done, text = asyncio.run(both())
    assert not done
    assert text == model.oracle([model.medium(1), "What is it?"])


def test_what_a_model_does_not_take_is_refused(model_of: Callable[[str], Model], tiny_llama: Path) -> None:
    model = model_of("llava")
    with pytest.raises(ConfigError, match="audio"):
        model.chat.chat([Message("user", (Part("audio", {"array": tone(200), "sampling_rate": 16000}),))])
    with pytest.raises(ConfigError):
        model.chat.chat([Message("user", (Part("image", b"no picture"), Part("text", "What?")))])
    text = ChatModel(get_infer_args({"model_name_or_path": str(tiny_llama), "template": "chatml"}))
    assert text.engine.media == ()
    with pytest.raises(ConfigError, match="this model is for text"):
        text.chat(model.question([picture(1), "What is it?"]))
    vector, other = asyncio.run(model.engine.embed(["rain", "stars"]))
    assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-4) and vector != other
    with pytest.raises(ConfigError, match="embeddings are of texts"):
        asyncio.run(model.engine.embed([picture(1)]))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_audio"])
def test_an_adapter_of_the_language_part(family: str, model_of: Callable[[str], Model], tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    model = model_of(family)
    ask: Ask = [model.medium(1), "What is it?"]
    targets = r".*language_model.*\.(q_proj|v_proj|down_proj)"
    net = AutoModelForMultimodalLM.from_pretrained(model.folder, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        tuned = get_peft_model(net, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets))
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
    tuned.save_pretrained(tmp_path)
    net = AutoModelForMultimodalLM.from_pretrained(model.folder, dtype=torch.float32)
    oracle = model.oracle(ask, PeftModel.from_pretrained(net, tmp_path).eval())
    assert oracle != model.oracle(ask)
    merged = model.load(adapter_name_or_path=str(tmp_path))
    assert merged.chat(model.question(ask))[0].text == oracle
    named = model.load(lora_modules=f"tuned={tmp_path}")
    question = model.question(ask)

    async def both() -> list[str]:
        answers = await asyncio.gather(named.achat(question, adapter="tuned"), named.achat(question))
        return [response.text for (response,) in answers]

    assert asyncio.run(both()) == [oracle, model.oracle(ask)]


if is_torchvision_available():  # transformers prepares videos by it

    @pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
    def test_answers_about_videos_are_those_of_transformers(family: str, tiny_llama: Path, tmp_path: Path) -> None:
        import numpy as np
        from transformers import Qwen2VLVideoProcessor, Qwen3VLVideoProcessor
        from transformers.video_utils import VideoMetadata

        folder = build(family, tmp_path, tiny_llama)
        films = Qwen3VLVideoProcessor(patch_size=16) if family == "qwen3_vl" else Qwen2VLVideoProcessor()
        films.save_pretrained(folder)
        model = Model(folder, family)
        assert model.engine.media == ("image", "video")
        answers = set()
        for first in (1, 5):
            frames = [picture(first + number, (112, 112)) for number in range(4)]
            text = model.processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What happens?"}]}],
                add_generation_prompt=True,
                tokenize=False,
            )
            inputs = model.processor(
                text=[text],
                videos=[np.stack([np.asarray(frame) for frame in frames])],
                video_metadata=[VideoMetadata(total_num_frames=4, fps=2.0, frames_indices=[0, 1, 2, 3], duration=2.0)],
                do_sample_frames=False,
                return_tensors="pt",
            )
            with torch.inference_mode():
                out = model.net.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)
            expected = model.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            (response,) = model.chat.chat([Message("user", (Part("video", frames), Part("text", "What happens?")))])
            assert response.text == expected
            answers.add(expected)
        assert len(answers) == 2
        model.engine.close()
