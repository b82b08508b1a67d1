# SPDX-License-Identifier: Apache-2.0
"""The page: a conversation, the question, and the settings of the response."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from inspect import isasyncgenfunction
from typing import TYPE_CHECKING, Any, cast

from ..chat.chat_model import to_messages, to_tools
from ..data.messages import Message, Part, PartType
from ..extras.errors import ConfigError
from ..extras.packages import require
from ..hparams import InferArgs
from .conversation import escape, message_at, shown, stream_response

if TYPE_CHECKING:
    from ..chat.base_engine import Engine

TITLE = "llamafactory"
# Names that users know: what a tool returned is an observation.
ROLES = {"user": "user", "observation": "tool"}
BOXES = {"image": "Images", "video": "Videos", "audio": "Sound"}
EXAMPLES = (
    "Who are you?",
    "Explain in three sentences how a language model learns.",
    "Write a polite e-mail that moves a meeting to Friday.",
)
# On a phone the box and its button stay beside each other, and nothing is wider than the screen.
STYLE = """
#title h3 { margin: 0; }
#ask { flex-wrap: nowrap; align-items: end; }
#more { flex-wrap: nowrap; }
@media (max-width: 480px) {
  .gradio-container, .gradio-container > main { padding: 4px !important; }
  #chat { height: 50vh !important; }
}
"""
# Media of one conversation, which lives in memory and is decoded again for each response.
MOST_FILES, MOST_BYTES = 64, 64 * 2**20
KEPT_SECONDS = 3600  # uploaded files, which were read already, and conversations


def make_page(engine: Engine, args: InferArgs, max_waiting: int) -> Any:
    """Build the page of one loaded model.

    Args:
        engine: Answers; as many questions at once as it can hold, from all tabs together.
        args: The configuration; its generation keys are what the controls begin with.
        max_waiting: Questions that may wait for their turn.

    Returns:
        ``gradio.Blocks``, with the endpoints ``/chat`` and ``/clear`` for programs. ``/chat`` of a model that takes
        media has a list of files for each kind behind its other arguments.
    """
    gr = require("gradio", "webchat", "'gradio>=6'")
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, fill_height=True, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)
    ) as page:
        # Kept on the server, an hour after the last use: what a browser sends is no conversation, only a question.
        conversation = gr.State([], time_to_live=KEPT_SECONDS)
        gr.Markdown(f"### {TITLE}", elem_id="title")
        chatbot = _chatbot(gr, args)
        error = gr.Markdown("", elem_id="error", sanitize_html=True)
        with gr.Row(elem_id="ask"):
            # One line at first: so Enter sends, and Shift-Enter breaks the line.
            question = gr.Textbox(
                show_label=False, placeholder="Ask something", lines=1, max_lines=12, scale=8, min_width=120,
                elem_id="question", autofocus=True,
            )  # fmt: skip
            send = gr.Button("Send", variant="primary", scale=1, min_width=72, elem_id="send")
        boxes = _boxes(gr, engine)
        with gr.Row(elem_id="more"):
            stop = gr.Button("Stop", size="sm", min_width=72, elem_id="stop")
            again = gr.Button("Regenerate", size="sm", min_width=72, elem_id="again")
            clear = gr.Button("Clear", size="sm", min_width=72, elem_id="clear")
        role, *settings = _settings(gr, engine, args)
        handler = ChatHandler(engine)
        shared: dict[str, Any] = {
            "outputs": [chatbot, question, error, conversation, *boxes],
            "show_progress": "hidden",
            "trigger_mode": "once",
            "concurrency_limit": args.model.max_batch_size,
            "concurrency_id": "answers",
        }
        inputs = [conversation, question, role, *settings, *boxes]
        submit = gr.on([send.click, question.submit], handler.respond, inputs, api_name="chat", **shared)
        kept = [conversation, question, *settings]
        shared["api_visibility"] = "private"
        anew = gr.on([again.click, chatbot.retry], handler.regenerate, kept, **shared)
        edited = chatbot.edit(_with_event(gr.EditData, handler.edit), kept, **shared)
        chatbot.example_select(
            _with_event(gr.SelectData, _example), None, question, concurrency_limit=None, api_visibility="private"
        )
        running = [submit, anew, edited]
        _connect_stop(stop, running, conversation, chatbot, error)
        _connect_clear(gr, clear, running, conversation, chatbot, error, boxes)
    return page.queue(max_size=max_waiting)


def _chatbot(gr: Any, args: InferArgs) -> Any:
    return gr.Chatbot(
        label=args.model.model_name_or_path and _last_part(args.model.model_name_or_path),
        elem_id="chat",
        scale=1,
        height="60vh",
        resizable=True,
        buttons=["copy", "copy_all"],
        editable="user",
        examples=[{"text": text} for text in EXAMPLES],
        sanitize_html=True,
        allow_tags=False,
        feedback_options=None,
    )


def _with_event(kind: Any, handle: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose first argument is what happened; gradio finds it by the type, known once gradio is imported."""

    def handler(event: Any, *inputs: Any) -> Any:
        return handle(event, *inputs)

    async def answers(event: Any, *inputs: Any) -> AsyncGenerator[Any, None]:
        async with aclosing(handle(event, *inputs)) as states:
            async for state in states:
                yield state

    chosen: Any = answers if isasyncgenfunction(handle) else handler
    chosen.__annotations__ = {"event": kind}
    return chosen


def _example(event: Any) -> str:
    """The text of an example, for the box."""
    return str(event.value["text"])


def _connect_stop(stop: Any, running: list[Any], conversation: Any, chatbot: Any, error: Any) -> None:
    """A cancelled response ends in the conversation as far as it came."""
    stop.click(
        lambda messages: (shown(messages), ""),
        conversation,
        [chatbot, error],
        cancels=running,
        concurrency_limit=None,
        api_visibility="private",
    )


def _connect_clear(
    gr: Any, clear: Any, running: list[Any], conversation: Any, chatbot: Any, error: Any, boxes: list[Any]
) -> None:
    gr.on(
        [clear.click, chatbot.clear],
        lambda: ([], "", [], *[None] * len(boxes)),
        None,
        [chatbot, error, conversation, *boxes],
        cancels=running,
        concurrency_limit=None,
        api_name="clear",
    )


def _boxes(gr: Any, engine: Engine) -> list[Any]:
    """A box for files of each kind that the model takes; none for a model of text."""
    if not engine.media:
        return []
    with gr.Row():
        return [
            gr.File(
                label=BOXES[kind], file_count="multiple", file_types=[kind], type="binary", height=110, elem_id=kind
            )
            for kind in engine.media
        ]


def _thinks(engine: Engine, args: InferArgs) -> bool:
    """Whether an answer begins with a thought unless the box says otherwise."""
    chat = getattr(engine.template, "chat", None)
    waits = chat is not None and chat.asked_prompt is not None
    return args.data.enable_thinking not in (False, None) and not (waits and args.data.enable_thinking == "default")


def _settings(gr: Any, engine: Engine, args: InferArgs) -> list[Any]:
    """The controls: the role, then the others in the order of the arguments of :meth:`ChatHandler.respond`."""
    keys = args.generating
    most = max(8192, keys.max_new_tokens)
    with gr.Accordion("Settings", open=False):
        role = gr.Dropdown(list(ROLES), value="user", label="Role")
        system = gr.Textbox(args.data.default_system or "", label="System", lines=2)
        tools = gr.Textbox("", label="Tools (JSON list of functions)", lines=2, max_lines=12)
        with gr.Row():
            limit = gr.Slider(1, most, keys.max_new_tokens or keys.max_length, step=1, label="max_new_tokens")
            top_p = gr.Slider(0.01, 1, keys.top_p, step=0.01, label="top_p")
            temperature = gr.Slider(
                0, max(2, keys.temperature), keys.temperature if keys.do_sample else 0, step=0.01, label="temperature"
            )
        with gr.Row():
            skip = gr.Checkbox(keys.skip_special_tokens, label="skip_special_tokens")
            thinking = gr.Checkbox(
                _thinks(engine, args),
                label="enable_thinking",
                visible=engine.template.thought is not None,
            )
    return [role, system, tools, limit, top_p, temperature, skip, thinking]


def _check_media(conversation: list[Message]) -> None:
    sizes = [len(part.value) for message in conversation for part in message.parts if part.type != "text"]
    if len(sizes) > MOST_FILES or sum(sizes) > MOST_BYTES:
        most = f"{MOST_FILES} files or {MOST_BYTES // 2**20} MiB"
        raise ConfigError(f"files: the conversation holds more than {most}; clear it, or send fewer")


def _last_part(path: str) -> str:
    """A model's name without the folders it lies in: pages do not tell paths of this machine."""
    return path.rstrip("/").rpartition("/")[2]


class ChatHandler:
    """Handles the button: responds to one question of one page."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def respond(
        self,
        conversation: list[Message],
        question: str,
        role: str,
        system: str,
        tools: str,
        max_new_tokens: float,
        top_p: float,
        temperature: float,
        skip_special_tokens: bool,
        enable_thinking: bool,
        *files: list[bytes] | None,
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        """Yield what the page shows, what stays in the box, an error line, the conversation, and what stays of files.

        ``files`` are those of each kind that the model takes; they stand before the question.

        A question that cannot be answered stays in the box and does not join the conversation. When gradio cancels the
        event, or nobody reads it any more, this generator is closed, and with it the request.
        """
        if not question.strip():
            yield shown(conversation), question, "", conversation, *self._boxes(keep=True)
            return
        kinds = cast(tuple[PartType, ...], self._engine.media)
        media = [Part(kind, one) for kind, some in zip(kinds, files, strict=True) for one in some or ()]
        messages = [*conversation, Message(ROLES[role], (*media, Part("text", question)))]  # type: ignore[arg-type]
        settings = (system, tools, max_new_tokens, top_p, temperature, skip_special_tokens, enable_thinking)
        async with aclosing(self._answer(conversation, messages, question, "", settings)) as states:
            async for state in states:
                yield state

    async def regenerate(
        self, conversation: list[Message], question: str, *settings: Any
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        """Answer the last question once more; what stands in the box stays there."""
        asked = list(conversation)
        while asked and asked[-1].role == "assistant":
            asked.pop()
        if not asked:
            yield shown(conversation), question, "", conversation, *self._boxes(keep=True)
            return
        async with aclosing(self._answer(conversation, asked, question, question, settings)) as states:
            async for state in states:
                yield state

    async def edit(
        self, event: Any, conversation: list[Message], question: str, *settings: Any
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        """Put another text in the place of an earlier question, and go on from there."""
        place = message_at(conversation, event.index)
        text = event.value if isinstance(event.value, str) else ""
        if place is None or conversation[place].role == "assistant" or not text.strip():
            yield shown(conversation), question, "", conversation, *self._boxes(keep=True)
            return
        media = [part for part in conversation[place].parts if part.type != "text"]
        new = replace(conversation[place], parts=(*media, Part("text", text)))
        asked = [*conversation[:place], new]
        async with aclosing(self._answer(conversation, asked, question, question, settings)) as states:
            async for state in states:
                yield state

    def _boxes(self, keep: bool) -> list[Any]:
        """What becomes of the boxes of files."""
        from gradio import skip

        return [skip() if keep else None] * len(self._engine.media)

    async def _answer(
        self, before: list[Message], messages: list[Message], question: str, left: str, settings: tuple[Any, ...]
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        """Answer ``messages``; ``left`` stays in the box when the answer has begun, until then ``question`` does.

        The conversation is ``before`` until then, and when nothing can be answered.
        """
        system, tools, max_new_tokens, top_p, temperature, skip_special_tokens, enable_thinking = settings
        keep, drop = self._boxes(keep=True), self._boxes(keep=left != "")
        bubbles = shown(messages)
        yield bubbles, question, "", before, *keep
        thinks = self._engine.template.thought is not None
        overrides = {
            "do_sample": temperature > 0,
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": int(max_new_tokens),
            "enable_thinking": enable_thinking if thinks else None,
        }
        try:
            _check_media(messages)
            prompt = to_messages(messages, system)
            stream = stream_response(self._engine, prompt, to_tools(tools), not skip_special_tokens, overrides)
            async with aclosing(stream) as responses:
                async for response, over in responses:
                    if response.begun:
                        yield [*bubbles, *response.shown(over)], left, "", [*messages, response.message()], *drop
                    else:
                        yield bubbles, question, "", before, *keep
        except ConfigError as error:
            yield shown(before), question, f"**Error:** {escape(str(error))}", before, *keep
