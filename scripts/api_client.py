# SPDX-License-Identifier: Apache-2.0
"""What a client of ``llamafactory-cli api`` looks like: chat, a stream, JSON, a tool and its answer.

pip install openai
llamafactory-cli api examples/inference/smollm2_api.yaml      # in another terminal
python scripts/api_client.py [http://127.0.0.1:8000/v1]
"""

from __future__ import annotations

import os
import sys
from typing import Any

from openai import OpenAI

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def main() -> None:
    """Talk to the server in four ways."""
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
    client = OpenAI(base_url=url, api_key=os.environ.get("API_KEY", "none"))
    model = client.models.list().data[0].id
    question: list[Any] = [{"role": "user", "content": "What is the weather like in Paris?"}]

    answer = client.chat.completions.create(model=model, messages=question, max_tokens=64, temperature=0)
    print("whole:   ", answer.choices[0].message.content)

    print("streamed: ", end="")
    for chunk in client.chat.completions.create(model=model, messages=question, max_tokens=64, stream=True):
        print(chunk.choices[0].delta.content or "", end="", flush=True)

    schema: Any = {"type": "object", "properties": {"sunny": {"type": "boolean"}}, "required": ["sunny"]}
    schema["additionalProperties"] = False  # else the model may go on with keys of its own
    form: Any = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}
    answer = client.chat.completions.create(model=model, messages=question, response_format=form, temperature=0)
    print("\nJSON:    ", answer.choices[0].message.content)

    called = client.chat.completions.create(
        model=model, messages=question, tools=[TOOL], tool_choice="required", temperature=0
    ).choices[0].message  # fmt: skip
    for call in called.tool_calls or []:
        assert call.type == "function"
        print("call:    ", call.function.name, call.function.arguments)
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "18 degrees and sunny"}
        question += [called, result]
    answer = client.chat.completions.create(model=model, messages=question, tools=[TOOL], max_tokens=64, temperature=0)
    print("answer:  ", answer.choices[0].message.content)


if __name__ == "__main__":
    main()
