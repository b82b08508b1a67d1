# SPDX-License-Identifier: Apache-2.0
"""The body of ``/v1/responses``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from .protocol import MOST_MESSAGES, NOT_OFFERED, FunctionName, JsonSchema, Name, SamplingRequest, _Model

# As for the other routes, and what only this one has.
RESPONSES_NOT_OFFERED = NOT_OFFERED | {
    "previous_response_id": "nothing is stored here: send the earlier items in input",
    "conversation": "nothing is stored here: send the earlier items in input",
    "background": "answers are given at once",
    "prompt": "nothing is stored here: send the text in input",
    "context_management": "leave out earlier items yourself",
    "image": "images are taken as they are",
    "n": "one answer is given",
    "max_tokens": "max_output_tokens is",
    "max_completion_tokens": "max_output_tokens is",
    "messages": "input is",
    "response_format": "text.format is",
    "logprobs": "include: message.output_text.logprobs is",
}
RESPONSES_WITHOUT_EFFECT = {
    "max_tool_calls": "counts calls of OpenAI's own tools, which are not here",
    "access_programs": "permissions at OpenAI",
    "background_options": "of background",
    "stream_options": "padding against listeners; the usage is always told",
}


class InputMessage(_Model):
    """One turn; any order of roles."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]]


class InputCall(_Model):
    """A call that the model has made."""

    type: Literal["function_call"]
    call_id: Name
    name: FunctionName
    arguments: str


class InputCallOutput(_Model):
    """What the call has returned."""

    type: Literal["function_call_output"]
    call_id: Name
    output: str | list[dict[str, Any]]


class ThoughtText(_Model):
    """A piece of a thought."""

    text: str


class InputThought(_Model):
    """What the model has thought before its answer."""

    type: Literal["reasoning"]
    content: list[ThoughtText] | None = None


def _item_type(item: Any) -> Any:
    """A turn may come without a type."""
    given = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return given or "message"


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[InputCall, Tag("function_call")]
    | Annotated[InputCallOutput, Tag("function_call_output")]
    | Annotated[InputThought, Tag("reasoning")],
    Discriminator(_item_type),
]


class FunctionTool(_Model):
    """A function that the model may call; tools of OpenAI's own are not here."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolName(_Model):
    """Names a tool."""

    type: Literal["function"]
    name: FunctionName


class AllowedTools(_Model):
    """Some of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    tools: list[ToolName]


class PlainFormat(_Model):
    """Text, or any JSON object."""

    type: Literal["text", "json_object"] = "text"


class SchemaFormat(JsonSchema):
    """JSON that obeys a schema."""

    type: Literal["json_schema"]


class TextOptions(_Model):
    """What the text must be."""

    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] = Field(default_factory=PlainFormat)
    verbosity: str | None = Field(default=None, description="Not offered.")


class ThoughtOptions(_Model):
    """How much is thought."""

    effort: str | None = Field(default=None, description="none = without a thought; others are not offered.")
    summary: str | None = Field(default=None, description="Not offered: thoughts come whole.")


class ResponsesRequest(SamplingRequest):
    """``/v1/responses``."""

    input: str | Annotated[list[InputItem], Field(max_length=MOST_MESSAGES)] = Field(min_length=1)
    instructions: str | None = Field(None, description="A system message before the input.")
    max_output_tokens: int | None = Field(None, ge=1, le=10**7)
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolName | AllowedTools | None = None
    parallel_tool_calls: bool = Field(True, description="false = of several calls, only the first is sent.")
    text: TextOptions = Field(default_factory=lambda: TextOptions())
    reasoning: ThoughtOptions = Field(default_factory=lambda: ThoughtOptions())
    include: list[str] = Field(default_factory=list, description="message.output_text.logprobs is offered.")
    top_logprobs: int | None = Field(None, ge=0, le=20)
    truncation: str = Field("disabled", description="Only this value is accepted.")
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="`enable_thinking` is read from it.")
