# SPDX-License-Identifier: Apache-2.0
"""PaliGemma reads its prompt in both directions, and its answer in one: whatever the batch, padded or not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from llamafactory.data.collators import PaddedCollator, PromptCollator
from llamafactory.extras.errors import ConfigError
from llamafactory.model.families.family import prompt_types, reads_prefix_both_ways
from llamafactory.train.token_scores import attach

PAD = 0
# Prompt and answer; the last row is trained from its first token on, as in stage pt.
ROWS = [
    ([5, 6, 7], [8, 9, 1]),
    ([11, 12, 13, 14, 15], [16, 1]),
    ([21], [22, 23, 24, 25, 26, 27, 1]),
    ([], [31, 32, 33]),
]


@pytest.fixture(params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    heads = {"intermediate_size": 64, "num_attention_heads": 4, "hidden_size": 32}
    config = PaliGemmaConfig(
        text_config={"model_type": "gemma", "vocab_size": 131, "num_hidden_layers": 2, "num_key_value_heads": 1}
        | heads
        | {"head_dim": 8},
        vision_config={"num_hidden_layers": 1, "image_size": 28, "patch_size": 14} | heads,
        image_token_index=130,
        projection_dim=32,
    )
    config._attn_implementation = request.param
    made = PaliGemmaForConditionalGeneration(config).eval()
    # So strong that what a token may see shows.
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight *= 4.0 if "proj" in name else 1.0
    return attach(made)


def _features() -> list[dict[str, Any]]:
    return [
        {"input_ids": [*p, *a], "labels": [-100] * len(p) + a, "seq_lens": [len(p) + len(a)]} for p, a in ROWS
    ]  # fmt: skip


def _oracle(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log-probabilities of an answer, token by token, each from a text that ends before it and cannot show it."""
    found = []
    for end in range(0 if prompt else 1, len(answer)):
        ids = torch.tensor([[*prompt, *answer[:end]]])
        types = torch.tensor([[0] * len(prompt) + [1] * end])
        logits = model(input_ids=ids, token_type_ids=types).logits[0, -1]
        found.append(logits.float().log_softmax(-1)[answer[end]])
    return torch.stack(found)


def test_no_label_is_seen_before_it_is_said(model: Any) -> None:
    assert reads_prefix_both_ways(model.config)
    collate = PaddedCollator(SimpleNamespace(pad_token_id=PAD), prefix_types=True)
    wanted = torch.cat([_oracle(model, prompt, answer) for prompt, answer in ROWS])
    features = _features()
    with torch.no_grad():
        together = model(**collate(features), score=True).log_probs
        alone = torch.cat([model(**collate([feature]), score=True).log_probs for feature in features])
    torch.testing.assert_close(together, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone, wanted, rtol=1e-4, atol=1e-4)


def test_without_types_the_answer_would_be_seen(model: Any) -> None:
    """What the test above would not notice, if the model did not do it."""
    plain = PaddedCollator(SimpleNamespace(pad_token_id=PAD))
    prompt, answer = ROWS[0]
    with torch.no_grad():
        scored = model(**plain(_features()[:1]), score=True).log_probs
    assert (scored - _oracle(model, prompt, answer)).abs().max() > 1e-2


def test_prompts_are_read_as_in_training(model: Any) -> None:
    batch = PromptCollator(SimpleNamespace(pad_token_id=PAD))([{"input_ids": prompt} for prompt, _ in ROWS[:3]])
    output = model.generate(
        **batch, **prompt_types(model, batch["input_ids"]), max_new_tokens=1, do_sample=False,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    for logits, (prompt, answer) in zip(output.logits[0], ROWS, strict=False):
        first = logits.float().log_softmax(-1)[answer[0]]
        torch.testing.assert_close(first, _oracle(model, prompt, answer)[0], rtol=1e-4, atol=1e-4)


def test_a_later_answer_is_read_as_it_is_asked_for_and_several_in_a_row_are_refused(model: Any) -> None:
    """All text before the last answer is its prompt, the first answer too, in training as in generation."""
    first, second, third = [5, 6, 7], [8, 9, 1], [10, 11]
    answer = [12, 13, 1]
    ids = [*first, *second, *third, *answer]
    collate = PaddedCollator(SimpleNamespace(pad_token_id=PAD), prefix_types=True)
    row = {"input_ids": ids, "labels": [-100] * 8 + answer, "seq_lens": [len(ids)]}
    with torch.no_grad():
        scored = model(**collate([row]), score=True).log_probs
        prompt = torch.tensor([ids[:8]])
        asked = model(input_ids=prompt, **prompt_types(model, prompt)).logits[0, -1].float().log_softmax(-1)
    torch.testing.assert_close(scored, _oracle(model, ids[:8], answer), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scored[0], asked[answer[0]], rtol=1e-4, atol=1e-4)
    several = row | {"labels": [-100] * 3 + second + [-100] * 2 + answer}
    with pytest.raises(ConfigError, match=r"a row can train one answer.*mask_history: true"):
        collate([row, several])
    collate.check(Dataset.from_list([row, row]))
    with pytest.raises(ConfigError, match=r"a row can train one answer"):
        collate.check(Dataset.from_list([row, several]))
