# SPDX-License-Identifier: Apache-2.0
"""The bodies of requests. A field that could change an answer is obeyed or refused; the tables name the others."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
FunctionName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.\-]{1,64}$")]
Texts = Annotated[list[str], Field(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
MODEL = "The served name, or that of an adapter; without adapters every name is taken."
MOST_MESSAGES = 4096  # each takes its time to be read, while others wait
Stop = str | Annotated[list[str], Field(max_length=16)]

# Accepted and read by nobody, because it cannot change an answer.
WITHOUT_EFFECT = {
    "user": "a name of the caller, for OpenAI's watch over misuse",
    "safety_identifier": "the same",
    "metadata": "labels of answers that OpenAI stores",
    "store": "nothing is stored here",
    "service_tier": "there is one",
    "prompt_cache_key": "says where OpenAI may find a prompt that it has read before",
    "prompt_cache_options": "the same",
    "prompt_cache_retention": "the same",
    "prediction": "a guess of the answer, which makes OpenAI faster",
    "JsonSchema.name": "a label",
    "JsonSchema.strict": "every schema is enforced",
    "SchemaFormat.strict": "the same",
}
# Known from OpenAI or vLLM, would change an answer, and refused: what is offered instead.
NOT_OFFERED = {
    "audio": "answers are text",
    "modalities": "answers are text",
    "functions": "tools is",
    "function_call": "tool_choice is",
    "reasoning_effort": "enable_thinking is",
    "verbosity": "ask for it in a message",
    "moderation": "check the text of an answer yourself",
    "web_search_options": "a search of your own among the tools is",
    "min_p": "top_p and top_k are",
    "min_tokens": "logit_bias of the tokens that end an answer is",
    "ignore_eos": "logit_bias of the tokens that end an answer is",
    "stop_token_ids": "stop is",
    "bad_words": "logit_bias is",
    "allowed_token_ids": "logit_bias is",
    "guided_json": "response_format is",
    "guided_regex": "response_format is",
    "guided_choice": "response_format is",
    "guided_grammar": "response_format is",
    "structured_outputs": "response_format is",
    "continue_final_message": "/v1/completions goes on with a text",
}


class _Model(BaseModel):
    """A field that is null is as good as left out: the clients of OpenAI write those that were not set."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        return {key: value for key, value in values.items() if value is not None} if type(values) is dict else values


class FunctionCall(_Model):
    """A function and its arguments as JSON text."""

    name: Name
    arguments: str | dict[str, Any] = "{}"


class ToolCall(_Model):
    """One call of an assistant turn."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(_Model):
    """One turn; any order of roles."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = Field(None, description="One call, as before tool_calls.")
    tool_call_id: str | None = None


class Function(_Model):
    """What a tool is called and what it takes."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Model):
    """A function that the model may call."""

    type: Literal["function"] = "function"
    function: Function


class NamedFunction(_Model):
    """The name of a function."""

    name: str


class NamedTool(_Model):
    """The one tool that must be called."""

    type: Literal["function"] = "function"
    function: NamedFunction


class JsonSchema(_Model):
    """A schema with a name."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), populate_by_name=True)
    name: str = "answer"
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Model):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class StreamOptions(_Model):
    """What a stream tells besides the answer."""

    include_usage: bool = False


class SamplingRequest(_Model):
    """How an answer is made; what is not given comes from the server's configuration."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    model: Name | None = Field(None, description=MODEL)
    temperature: float | None = Field(None, ge=0, le=10, description="0 = always the likeliest token.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=10**6, description="0 = all tokens.")
    do_sample: bool | None = Field(None, description="false = always the likeliest token.")
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    presence_penalty: float | None = Field(
        None, description="As in LLaMA-Factory the multiplicative repetition_penalty: 1 or more; 0 = not used."
    )
    frequency_penalty: float | None = Field(None, description="Not offered: only 0 is accepted.")
    logit_bias: dict[str, float] | None = Field(
        None, description="Token id to a number from -100 to 100 that is added to its logit before sampling."
    )
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | None = None
    stream: bool = False


class ChoicesRequest(SamplingRequest):
    """What is answered with choices."""

    max_tokens: int | None = Field(None, ge=1, le=10**7)
    max_completion_tokens: int | None = Field(None, ge=1, le=10**7, description="The newer name of max_tokens.")
    n: int = Field(1, ge=1, le=64, description="So many choices; without drawing all are the same.")
    stream_options: StreamOptions | None = None


class ChatRequest(ChoicesRequest):
    """``/v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool = Field(True, description="false = of several calls, only the first is sent.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="`enable_thinking` is read from it.")


class CompletionRequest(ChoicesRequest):
    """``/v1/completions``."""

    prompt: (
        str
        | Texts
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=256)]
    )
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)
    suffix: str | None = Field(None, description="Not offered.")
    best_of: int | None = Field(None, description="Not offered: only the value of n is accepted.")


class ScoreRequest(_Model):
    """``/v1/score/evaluation``: whole texts for a reward model."""

    model: Name | None = Field(None, description=MODEL)
    messages: Texts
    max_length: int | None = Field(None, ge=1, le=10**7)


class Document(_Model):
    """A text to rank."""

    text: str


class RerankRequest(_Model):
    """``/v1/rerank``: documents in the order in which they answer a query, as a reward model judges them."""

    model: Name | None = Field(None, description=MODEL)
    query: str = Field(min_length=1)
    documents: Annotated[list[str | Document], Field(min_length=1, max_length=256)]
    top_n: int | None = Field(None, ge=1, description="Only so many of the best.")
    return_documents: bool = Field(False, description="Whether results hold the text of their document.")


class EmbeddingRequest(_Model):
    """``/v1/embeddings``."""

    model: Name | None = Field(None, description=MODEL)
    input: str | Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        None, ge=1, description="Only the first numbers, of unit length again; of models of stage embedding."
    )
    input_type: Literal["query", "document"] | None = Field(
        None, description="Which prompt of training stands before the texts; of models of stage embedding."
    )
