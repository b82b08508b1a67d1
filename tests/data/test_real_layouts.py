# SPDX-License-Identifier: Apache-2.0
"""Rows in 14 layouts of public sets (the rows are ours): the tokens and labels of what their own tool trains.

The other side is messages written by hand, and the chat template that TRL trains with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llamafactory.data.processor import FeedbackProcessor, PairwiseProcessor, SupervisedProcessor
from llamafactory.data.sources.dataset_info import find_datasets
from llamafactory.data.sources.reading import open_set, to_samples
from llamafactory.data.template_loader import get_template
from llamafactory.hparams.data_args import DataArguments

from .conftest import write_jsonl
from .templates.comparison import load_official
from .templates.trained_tokenizers import build_tokenizer

Chat = list[dict[str, Any]]
S, U, A = ((lambda text, role=role, **more: {"role": role, "content": text, **more}) for role in
           ("system", "user", "assistant"))  # fmt: skip
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": SCHEMA}}


class Layout(NamedTuple):
    """One row of a set.

    Attributes:
        row: As the file has it.
        chats: What it means; of pairs the chosen and the rejected conversation.
        tools: What stands beside.
        entry: What its entry in dataset_info.json says.
        family: Of the template.
    """

    row: dict[str, Any]
    chats: list[Chat]
    tools: tuple[dict[str, Any], ...] = ()
    entry: dict[str, Any] | None = None
    family: str = "qwen2_5"


ASK, CALL = U("Is it warm in Rome?"), {"name": "get_weather", "arguments": {"city": "Rome"}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]}
TURNS = [U("What is a whale?"), A("A mammal."), U("And a shark?"), A("A fish.")]
SAID = "\n\nHuman: What is a whale?\n\nAssistant: A mammal.\n\nHuman: And a shark?"
LAYOUTS = {
    "alpaca": Layout(
        {"instruction": "Sort these.", "input": "3, 1, 2", "output": "1, 2, 3"},
        [[U("Sort these.\n3, 1, 2"), A("1, 2, 3")]],
    ),
    "sharegpt": Layout(
        {"id": "x", "conversations": [{"from": "system", "value": "Be brief."}]
         + [{"from": "human" if turn["role"] == "user" else "gpt", "value": turn["content"]} for turn in TURNS]},
        [[S("Be brief."), *TURNS]],
    ),
    "openai messages": Layout({"messages": [S("Be brief."), *TURNS]}, [[S("Be brief."), *TURNS]]),
    "OpenOrca": Layout(
        {"id": "flan.1", "system_prompt": "You help.", "question": "Is water wet?", "response": "Yes."},
        [[S("You help."), U("Is water wet?"), A("Yes.")]],
    ),
    "Dolly": Layout(
        {"instruction": "When was it built?", "context": "It was built in 1889.", "response": "In 1889.",
         "category": "closed_qa"},
        [[U("When was it built?\nIt was built in 1889."), A("In 1889.")]],
    ),
    "GSM8K": Layout(
        {"question": "What is 2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"},
        [[U("What is 2 + 3?"), A("2 + 3 = <<2+3=5>>5\n#### 5")]],
    ),
    "UltraChat": Layout(
        {"prompt": "What is a whale?", "prompt_id": "1", "messages": TURNS}, [TURNS],
    ),
    "UltraFeedback": Layout(
        {"prompt": "What is a whale?", "prompt_id": "1", "chosen": TURNS[:2],
         "rejected": [TURNS[0], A("A fish.")], "score_chosen": 8.0, "score_rejected": 2.0},
        [TURNS[:2], [TURNS[0], A("A fish.")]],
    ),
    "hh-rlhf": Layout(
        {"chosen": f"{SAID}\n\nAssistant: A fish.", "rejected": f"{SAID}\n\nAssistant: A bird."},
        [TURNS, [*TURNS[:3], A("A bird.")]],
    ),
    "KTO": Layout(
        {"prompt": [TURNS[0]], "completion": [TURNS[1]], "label": True}, [TURNS[:2]],
    ),
    "medical o1": Layout(
        {"Question": "Is it a cold?", "Complex_CoT": "He sneezes.", "Response": "Yes."},
        [[U("Is it a cold?"), A("Yes.", reasoning_content="He sneezes.")]],
        family="qwen3",
    ),
    "ms-swift": Layout({"query": "What is a whale?", "response": "A mammal.", "system": "Be brief."},
                       [[S("Be brief."), *TURNS[:2]]]),
    "TRL prompt and completion": Layout({"prompt": TURNS[:3], "completion": TURNS[3:]}, [TURNS]),
    "calls (ToolACE, glaive)": Layout(
        {"conversations": [
            {"from": "human", "value": ASK["content"]},
            {"from": "function_call", "value": '{"name": "get_weather", "arguments": {"city": "Rome"}}'},
            {"from": "observation", "value": '{"warm": true}'},
            {"from": "gpt", "value": "Yes."}],
         "tools": '[{"name": "get_weather", "description": "Weather", "parameters": {"type": "object", '
                  '"properties": {"city": {"type": "string"}}, "required": ["city"]}}]'},
        [[ASK, CALLED, {"role": "tool", "content": '{"warm": true}'}, A("Yes.")]],
        tools=(TOOL,),
        entry={"formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}},
    ),
}  # fmt: skip


def _official(tokenizer: Any, layout: Layout, chat: Chat, last_only: bool) -> tuple[list[int], list[int]]:
    found = tokenizer.apply_chat_template(
        chat,
        tools=list(layout.tools) or None,
        chat_template=load_official(f"trl:{layout.family}_training"),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, mask = found["input_ids"], found["assistant_masks"]
    if last_only:
        start = max(place for place in range(1, len(mask)) if mask[place] and not mask[place - 1])
        mask = [0] * start + mask[start:]
    return ids, [token if trained else -100 for token, trained in zip(ids, mask, strict=True)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_row_trains_what_its_own_tool_trains(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    tokenizer = build_tokenizer(layout.family)
    file = write_jsonl(tmp_path / "rows.jsonl", [layout.row])
    (attr,) = (
        find_datasets(["x"], {"x": {"file_name": file, **layout.entry}})
        if layout.entry
        else find_datasets([file], str(tmp_path))
    )
    attr, rows = open_set(attr, None, seed=0)
    (sample,) = to_samples(rows, attr)
    data = DataArguments(template=layout.family, train_on_turn_break=True)
    paired = len(layout.chats) == 2
    processor: Any = PairwiseProcessor() if paired else FeedbackProcessor() if name == "KTO" else SupervisedProcessor()
    columns = processor.encode([sample], get_template(tokenizer, data), tokenizer, data).columns
    alone = paired or name == "TRL prompt and completion"
    expected = [_official(tokenizer, layout, chat, last_only=alone) for chat in layout.chats]
    end = len(expected[0][0]) if name == "KTO" else None  # what follows there is a mismatched answer
    assert tokenizer.decode(columns["input_ids"][0][:end]) == "".join(tokenizer.decode(ids) for ids, _ in expected)
    assert columns["input_ids"][0][:end] == [token for ids, _ in expected for token in ids]
    found = columns["labels"][0][:end]
    for place, label in enumerate(token for _, labels in expected for token in labels):
        # Qwen2.5's training text also marks the line break before a turn's first call.
        assert found[place] == label or (tokenizer.decode([label]) == "\n" and found[place] == -100), place
