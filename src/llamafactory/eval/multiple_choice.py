# SPDX-License-Identifier: Apache-2.0
"""Which of A, B, C and D a model finds likeliest as the next token (Hendrycks et al. 2021, arXiv:2009.03300)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from ..data.messages import Message, Sample
from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from ..model import generation_attention
from ..model.families.family import prompt_types
from ..model.whole import require_finite
from .questions import CHOICES, Benchmark, Question, Subject

if TYPE_CHECKING:
    from ..data.template.base import Template

logger = get_logger(__name__)

_WORDS = {
    "en": ("The following are multiple choice questions (with answers) about {subject}.", "Answer:"),
    "zh": ("以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。", "答案："),
}


@dataclass(frozen=True)
class Prompt:
    """Ids to continue, and the ids of the four answers."""

    ids: list[int]
    choices: tuple[int, ...]


class PromptBuilder:
    """Questions as prompts of a model.

    Args:
        template: How the model was trained to be asked: worked examples become turns of a conversation. ``None`` for a
            base model: they become one text.
        tokenizer: The model's.
        lang: ``en`` or ``zh``.
        context: Most tokens of a prompt; examples are left out until it fits.
    """

    def __init__(self, template: Template | None, tokenizer: Any, lang: str, context: int) -> None:
        self._template, self._tokenizer, self._context = template, tokenizer, context
        self._intro, self._answer = _WORDS[lang]
        self.shortened = 0

    def prompt(self, subject: Subject, examples: Sequence[Question], question: Question) -> Prompt:
        """Return the prompt of one question.

        Raises:
            ConfigError: The question alone is too long, or its answers do not begin with different tokens.
        """
        made = self._render(subject, examples, question)
        dropped = 0
        while len(made.ids) > self._context:
            dropped += 1
            if dropped > len(examples):
                raise ConfigError(f"task: a question of {subject.id} has {len(made.ids)} tokens, more than the model")
            made = self._render(subject, examples[dropped:], question)
        self.shortened += dropped > 0
        return made

    def _render(self, subject: Subject, examples: Sequence[Question], question: Question) -> Prompt:
        intro = self._intro.format(subject=subject.name)
        if self._template is not None:
            return self._conversation(intro, examples, question)
        shots = [f"{self._text(example)} {example.answer}\n\n" for example in examples]
        text = f"{intro}\n\n" + "".join(shots) + self._text(question)
        full = [self._tokenizer(f"{text} {choice}").input_ids for choice in CHOICES]
        return _split(full, self._tokenizer(text).input_ids)

    def _conversation(self, intro: str, examples: Sequence[Question], question: Question) -> Prompt:
        assert self._template is not None
        messages = [Message.of("system", intro)]
        for example in examples:
            messages += [Message.of("user", self._text(example)), Message.of("assistant", example.answer, weight=0.0)]
        messages.append(Message.of("user", self._text(question)))
        samples = [Sample((*messages, Message.of("assistant", choice))) for choice in CHOICES]
        full = [[token for segment in row for token in segment.ids] for row in self._template.encode_batch(samples)]
        return _split(full, self._template.encode_prompt(messages))

    def _text(self, question: Question) -> str:
        lines = [question.question, *(f"{name}. {text}" for name, text in zip(CHOICES, question.choices, strict=True))]
        return "\n".join([*lines, self._answer])


def _split(full: list[list[int]], prompt: list[int]) -> Prompt:
    """Cut the four continuations where they part; before that they are one prompt."""
    at = next(at for at, ids in enumerate(zip(*full, strict=False)) if len(set(ids)) > 1)
    choices = tuple(ids[at] for ids in full)
    if len(set(choices)) < len(CHOICES):
        raise ConfigError("task: the tokens of the answers A, B, C and D do not differ in this model's vocabulary")
    # A model without the thought that its prompt begins (a reasoning template) is asked for the answer right away.
    return Prompt(full[0][:at] if prompt[:at] != full[0][:at] else prompt[:at], choices)


@torch.inference_mode()
def predict_choices(model: Any, prompts: Sequence[Prompt], batch_size: int, pad: int, title: str) -> list[str]:
    """Return the likeliest choice for each prompt.

    Args:
        model: A causal language model.
        prompts: In any order; they are batched by length.
        batch_size: Prompts at once.
        pad: Id that fills shorter rows, on the left.
        title: Of the progress bar.
    """
    predicted = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number].ids))
    starts = range(0, len(order), batch_size)
    with generation_attention(model):
        for start in tqdm(starts, desc=title, leave=False, disable=len(starts) < 2):
            numbers = order[start : start + batch_size]
            logits = _last_logits(model, [prompts[number].ids for number in numbers], pad)
            for row, number in zip(logits, numbers, strict=True):
                values = row[list(prompts[number].choices)]
                require_finite(values, "logits")
                predicted[number] = CHOICES[int(values.argmax())]
    return predicted


def _last_logits(model: Any, rows: list[list[int]], pad: int) -> torch.Tensor:
    """Return the logits ``[rows, vocabulary]`` of what follows each row."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    output = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1,
        **prompt_types(model, ids),
    )  # fmt: skip
    return output.logits[:, -1].float()


def score(model: Any, builder: PromptBuilder, benchmark: Benchmark, split: str, n_shot: int, seed: int, batch_size: int,
          pad: int) -> dict[str, list[bool]]:  # fmt: skip
    """Ask every question of a benchmark.

    Args:
        model: A causal language model.
        builder: Makes the prompts.
        benchmark: The questions.
        split: Whose questions are asked; examples come from ``train`` (or ``dev``).
        n_shot: Worked examples before each question, drawn once for each subject.
        seed: Of that draw.
        batch_size: Questions at once.
        pad: Id that fills shorter rows.

    Returns:
        Right or wrong for each question, by subject.
    """
    right: dict[str, list[bool]] = {}
    for subject in tqdm(benchmark.subjects, desc="subjects", disable=len(benchmark.subjects) < 2):
        questions = benchmark.questions(subject, split)
        pool = benchmark.questions(subject, "train") if n_shot else []
        examples = random.Random(seed).sample(pool, min(n_shot, len(pool)))
        prompts = [builder.prompt(subject, examples, question) for question in questions]
        predicted = predict_choices(model, prompts, batch_size, pad, subject.id)
        right[subject.id] = [choice == question.answer for choice, question in zip(predicted, questions, strict=True)]
    if builder.shortened:
        logger.warning(
            "%d questions were asked with fewer than %d examples to fit the model", builder.shortened, n_shot
        )
    return right
