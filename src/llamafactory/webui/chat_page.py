# SPDX-License-Identifier: Apache-2.0
"""The page: a conversation, what is asked, and how it is to be answered."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ..chat.chat_model import to_messages, to_tools
from ..data.messages import Message
from ..extras.errors import ConfigError
from ..extras.packages import require
from ..hparams import InferArgs
from .conversation import escape, grow, shown

if TYPE_CHECKING:
    from ..chat.base_engine import Engine

TITLE = "llamafactory"
# Names that users know: what a tool returned is an observation.
ROLES = {"user": "user", "observation": "tool"}


def make_page(engine: Engine, args: InferArgs, max_waiting: int) -> Any:
    """Build the page of one loaded model.

    Args:
        engine: Answers; as many questions at once as it can hold, from all tabs together.
        args: The configuration; its generation keys are what the controls begin with.
        max_waiting: Questions that may wait for their turn.

    Returns:
        ``gradio.Blocks``, with the endpoints ``/chat`` and ``/clear`` for programs.
    """
    gr = require("gradio", "webchat", "'gradio>=6'")
    ask = Asking(engine)
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_height=True) as page:
        # Kept on the server, an hour after the last use: what a browser sends is no conversation, only a question.
        conversation = gr.State([], time_to_live=3600)
        chatbot = gr.Chatbot(
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
        error = gr.Markdown("", elem_id="error", sanitize_html=True)
        with gr.Row():
            question = gr.Textbox(
                show_label=False, placeholder="Ask something", lines=2, max_lines=12, scale=8, elem_id="question"
            )
            role = gr.Dropdown(list(ROLES), value="user", label="Role", scale=1, min_width=140)
        with gr.Row():
            send = gr.Button("Submit", variant="primary", elem_id="send")
            stop = gr.Button("Stop", variant="stop", elem_id="stop")
            clear = gr.Button("Clear", elem_id="clear")
        settings = _settings(gr, engine, args)
        asking = gr.on(
            [send.click, question.submit],
            ask.answer,
            [conversation, question, role, *settings],
            [chatbot, question, error, conversation],
            api_name="chat",
            show_progress="hidden",
            trigger_mode="once",
            concurrency_limit=args.model.max_batch_size,
        )
        # A cancelled answer ends in the conversation as far as it came.
        stop.click(
            lambda messages: (shown(messages), ""),
            conversation,
            [chatbot, error],
            cancels=[asking],
            queue=False,
            api_visibility="private",
        )
        gr.on(
            [clear.click, chatbot.clear],
            lambda: ([], "", []),
            None,
            [chatbot, error, conversation],
            cancels=[asking],
            queue=False,
            api_name="clear",
        )
    return page.queue(max_size=max_waiting)


def _settings(gr: Any, engine: Engine, args: InferArgs) -> list[Any]:
    """The controls, in the order of the arguments of :meth:`Asking.answer`."""
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


def _last_part(path: str) -> str:
    """A model's name without the folders it lies in: pages do not tell paths of this machine."""
    return path.rstrip("/").rpartition("/")[2]


class Asking:
    """What the button does: answers one question of one page."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def answer(
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
    ) -> AsyncGenerator[tuple[Any, str, str, list[Message]], None]:
        """Yield what the page shows, what stays in the box, an error line, and the conversation.

        A question that cannot be answered stays in the box and does not join the conversation. When gradio cancels the
        event, or nobody reads it any more, this generator is closed, and with it the request.
        """
        if not question.strip():
            yield shown(conversation), question, "", conversation
            return
        asked = [*conversation, Message.of(ROLES[role], question)]  # type: ignore[arg-type]
        bubbles = shown(asked)
        yield bubbles, question, "", conversation
        thinks = self._engine.template.thought is not None
        overrides = {
            "do_sample": temperature > 0,
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": int(max_new_tokens),
            "enable_thinking": enable_thinking if thinks else None,
        }
        try:
            messages = to_messages(asked, system)
            growing = grow(self._engine, messages, to_tools(tools), not skip_special_tokens, overrides)
            async with aclosing(growing) as answers:
                async for answer, over in answers:
                    if answer.begun:
                        yield [*bubbles, *answer.shown(over)], "", "", [*asked, answer.message()]
                    else:
                        yield bubbles, question, "", conversation
        except ConfigError as error:
            yield shown(conversation), question, f"**Error:** {escape(str(error))}", conversation
