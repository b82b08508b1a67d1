# SPDX-License-Identifier: Apache-2.0
"""A client whose model calls a function until it knows enough: `llamafactory-cli api` must be running.

python scripts/api_example/test_toolcall.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from openai import OpenAI

POINTS = {"A": 4.0, "A-": 3.7, "B+": 3.3, "B": 3.0, "C": 2.0, "D": 1.0}


def mean_grade(grades: list[str], hours: list[int]) -> float:
    """The mean of grades, weighed by hours."""
    return sum(POINTS[grade] * hour for grade, hour in zip(grades, hours, strict=True)) / sum(hours)


FUNCTIONS: dict[str, Callable[..., float]] = {"mean_grade": mean_grade}
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "mean_grade",
            "description": "The mean of grades, weighed by the hours of each course.",
            "parameters": {
                "type": "object",
                "properties": {
                    "grades": {"type": "array", "items": {"type": "string", "enum": list(POINTS)}},
                    "hours": {"type": "array", "items": {"type": "integer"}},
                },
                "required": ["grades", "hours"],
            },
        },
    }
]


def main() -> None:
    """Ask, run what the model calls, hand the results back, print the answer."""
    client = OpenAI(
        base_url=f"http://{os.environ.get('API_HOST', '127.0.0.1')}:{os.environ.get('API_PORT', '8000')}/v1",
        api_key=os.environ.get("API_KEY", "none"),
    )
    model = client.models.list().data[0].id
    messages: list[Any] = [{"role": "user", "content": "My grades are A, A, B+ and C; the courses had 3, 4, 3 and 2 "
                            "hours. What is my mean grade?"}]  # fmt: skip
    for _ in range(4):
        said = client.chat.completions.create(model=model, messages=messages, tools=TOOLS).choices[0].message
        if not said.tool_calls:
            print(said.content)
            return
        messages.append(said)
        for call in said.tool_calls:
            assert call.type == "function"
            result = FUNCTIONS[call.function.name](**json.loads(call.function.arguments))
            print(f"{call.function.name}({call.function.arguments}) = {result}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)})
    print("no answer after four rounds of calls")


if __name__ == "__main__":
    main()
