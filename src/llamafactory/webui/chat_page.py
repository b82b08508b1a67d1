# SPDX-License-Identifier: Apache-2.0
"""The page: a conversation, the question, and the settings of the response."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from ..chat.chat_model import to_messages, to_tools
from ..data.messages import Message, Part, PartType
from ..extras.errors import ConfigError
from ..extras.packages import require
from ..hparams import InferArgs
from .conversation import escape, shown, stream_response

if TYPE_CHECKING:
    from ..chat.base_engine import Engine

TITLE = "llamafactory"
# Names that users know: what a tool returned is an observation.
ROLES = {"user": "user", "observation": "tool"}
BOXES = {"image": "Images", "video": "Videos", "audio": "Sound"}
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
        chatbot = _chatbot(gr, args)
        error = gr.Markdown("", elem_id="error", sanitize_html=True)
        with gr.Row():
            question = gr.Textbox(
                show_label=False, placeholder="Ask something", lines=2, max_lines=12, scale=8, elem_id="question"
            )
            role = gr.Dropdown(list(ROLES), value="user", label="Role", scale=1, min_width=140)
        boxes = _boxes(gr, engine)
        with gr.Row():
            send = gr.Button("Submit", variant="primary", elem_id="send")
            stop = gr.Button("Stop", variant="stop", elem_id="stop")
            clear = gr.Button("Clear", elem_id="clear")
        settings = _settings(gr, engine, args)
        submit = gr.on(
            [send.click, question.submit],
            ChatHandler(engine).respond,
            [conversation, question, role, *settings, *boxes],
            [chatbot, question, error, conversation, *boxes],
            api_name="chat",
            show_progress="hidden",
            trigger_mode="once",
            concurrency_limit=args.model.max_batch_size,
        )
        _connect_stop(stop, submit, conversation, chatbot, error)
        _connect_clear(gr, clear, submit, conversation, chatbot, error, boxes)
    return page.queue(max_size=max_waiting)


def _chatbot(gr: Any, args: InferArgs) -> Any:
    return gr.Chatbot(
        label=args.model.model_name_or_path and _last_part(args.model.model_name_or_path),
        elem_id="chat",
        scale=1,
        height="60vh",
        resizable=True,
        buttons=["copy", "copy_all"],
        sanitize_html=True,
        allow_tags=False,
        feedback_options=None,
    )


def _connect_stop(stop: Any, submit: Any, conversation: Any, chatbot: Any, error: Any) -> None:
    """A cancelled response ends in the conversation as far as it came."""
    stop.click(
        lambda messages: (shown(messages), ""),
        conversation,
        [chatbot, error],
        cancels=[submit],
        queue=False,
        api_visibility="private",
    )


def _connect_clear(
    gr: Any, clear: Any, submit: Any, conversation: Any, chatbot: Any, error: Any, boxes: list[Any]
) -> None:
    gr.on(
        [clear.click, chatbot.clear],
        lambda: ([], "", [], *[None] * len(boxes)),
        None,
        [chatbot, error, conversation, *boxes],
        cancels=[submit],
        queue=False,
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


def _settings(gr: Any, engine: Engine, args: InferArgs) -> list[Any]:
    """The controls, in the order of the arguments of :meth:`ChatHandler.respond`."""
    keys = args.generating
    most = max(8192, keys.max_new_tokens)
    with gr.Accordion("Settings", open=False):
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
                args.data.enable_thinking is not False,
                label="enable_thinking",
                visible=engine.template.thought is not None,
            )
    return [system, tools, limit, top_p, temperature, skip, thinking]


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
        from gradio import skip

        keep, drop = [skip()] * len(files), [None] * len(files)
        if not question.strip():
            yield shown(conversation), question, "", conversation, *keep
            return
        kinds = cast(tuple[PartType, ...], self._engine.media)
        media = [Part(kind, one) for kind, some in zip(kinds, files, strict=True) for one in some or ()]
        messages = [*conversation, Message(ROLES[role], (*media, Part("text", question)))]  # type: ignore[arg-type]
        bubbles = shown(messages)
        yield bubbles, question, "", conversation, *keep
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
                        yield [*bubbles, *response.shown(over)], "", "", [*messages, response.message()], *drop
                    else:
                        yield bubbles, question, "", conversation, *keep
        except ConfigError as error:
            yield shown(conversation), question, f"**Error:** {escape(str(error))}", conversation, *keep
