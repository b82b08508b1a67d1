# SPDX-License-Identifier: Apache-2.0
"""The chat: one conversation, or two side by side, the question, and how to answer. ``webchat`` is this alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from inspect import isasyncgenfunction
from typing import TYPE_CHECKING, Any

from ...hparams.generating_args import GeneratingArguments
from ..chatting.conversation import Look, shown
from ..chatting.handler import BASE, ROLES, SETTINGS, ChatHandler, Talk
from ..texts.texts import parts, text

if TYPE_CHECKING:
    from gradio.blocks import Block

    from ..chatting.chatter import Loaded
    from ..engine import Engine

BOXES = ("image", "video", "audio")
EXAMPLES = ("chat.example_who", "chat.example_explain", "chat.example_write")
KEPT_SECONDS = 3600  # uploaded files, which were read already, and conversations
MOST_ANSWERS = (
    64  # that grow at once, of a page whose model is not known when it is built; the engine has its own limit
)


def create_chat_box(engine: Engine, visible: bool = False) -> dict[str, Block]:
    """Build the chat.

    A page of one model, which is loaded already, has what that model can do; another has everything, and
    :func:`properties` says what the model shows of it.

    Args:
        engine: Of the page; ``engine.chatter`` holds the model, and the page has its language as ``top.lang``.
        visible: It is seen from the beginning.

    Returns:
        Its elements by name. The endpoints ``/chat`` and ``/clear`` are for programs; ``/chat`` has a list of files for
        each box behind its other arguments, and then who answers.
    """
    import gradio as gr

    loaded = engine.chatter.loaded
    kinds = BOXES if loaded is None else tuple(kind for kind in BOXES if kind in loaded.engine.media)
    pairs = loaded is None or bool(loaded.engine.adapters)
    build = _Builder(gr, engine.language, properties(loaded))
    # Kept on the server, an hour after the last use: what a browser sends is no conversation, only a question.
    talk = gr.State([[]], time_to_live=KEPT_SECONDS)
    elems: dict[str, Block] = {}
    with gr.Column(visible=visible, elem_id="chat-box") as elems["chat_box"]:
        who = build.columns(elems, pairs)
        error = gr.Markdown("", elem_id="error", sanitize_html=True)
        build.question(elems)
        build.files(elems, kinds)
        build.buttons(elems)
        settings = [*build.settings(elems), engine.manager.get_elem_by_id("top.lang")]
    boxes = [elems[kind] for kind in kinds]
    second = [elems["beside"]] if pairs else []
    limit = MOST_ANSWERS if loaded is None else loaded.args.model.max_batch_size
    _connect(gr, ChatHandler(engine.chatter, kinds, pairs), elems, talk, error, settings, boxes, who, second, limit)
    if pairs:
        _connect_columns(gr, elems, [talk, *settings[-2:]], who)
    return elems


def properties(loaded: Loaded | None) -> dict[str, dict[str, Any]]:
    """What the chat's elements are like for one model, by name: what it takes, and what its configuration says."""
    media = () if loaded is None else loaded.engine.media
    adapters = () if loaded is None else loaded.engine.adapters
    keys = GeneratingArguments() if loaded is None else loaded.args.generating
    names = [BASE, *adapters]
    system = None if loaded is None else loaded.args.data.default_system
    found: dict[str, dict[str, Any]] = {kind: {"visible": kind in media} for kind in BOXES}
    found |= {
        "chatbot": {"label": "" if loaded is None else loaded.name},
        "who": {"visible": bool(adapters)},
        "answers": {"choices": names, "value": BASE},
        "compared": {"choices": names, "value": names[-1]},
        "system": {"value": system} if system else {},
        "max_new_tokens": {
            "maximum": max(8192, keys.max_new_tokens),
            "value": keys.max_new_tokens or keys.max_length,
        },
        "top_p": {"value": keys.top_p},
        "temperature": {
            "maximum": max(2, keys.temperature),
            "value": keys.temperature if keys.do_sample else 0,
        },
        "skip_special_tokens": {"value": keys.skip_special_tokens},
        "enable_thinking": {"visible": False, "value": True} if loaded is None else _thinking(loaded),
    }
    return found


def _thinking(loaded: Loaded) -> dict[str, Any]:
    """The switch of thoughts, for models that know some: whether an answer begins with one unless it says otherwise."""
    template, asked = loaded.engine.template, loaded.args.data.enable_thinking
    chat = getattr(template, "chat", None)
    waits = chat is not None and chat.asked_prompt is not None
    value = asked not in (False, None) and not (waits and asked == "default")
    return {"visible": template.thought is not None, "value": value}


class _Builder:
    """Builds the parts of the chat; each puts its elements into a table by name."""

    def __init__(self, gr: Any, language: str, known: dict[str, dict[str, Any]]) -> None:
        self._gr, self._language, self._known = gr, language, known

    def _make(self, kind: Any, name: str, **more: Any) -> Any:
        return kind(**{**more, **parts(self._language, f"infer.{name}"), **self._known.get(name, {})})

    def columns(self, elems: dict[str, Any], pairs: bool) -> list[Any]:
        """One conversation or two, and who answers."""
        gr, who = self._gr, []
        if pairs:
            with self._make(gr.Row, "who", elem_id="who") as elems["who"]:
                answers = self._make(gr.Dropdown, "answers", elem_id="answers", scale=2, interactive=True)
                beside = self._make(gr.Checkbox, "side_by_side", value=False, elem_id="side-by-side", scale=1)
                other = self._make(gr.Dropdown, "compared", elem_id="compared", scale=2, interactive=True)
            who = [answers, beside, other]
            elems |= {"answers": answers, "side_by_side": beside, "compared": other}
        shared: dict[str, Any] = {
            "scale": 1, "min_width": 320, "height": "60vh", "resizable": True, "buttons": ["copy", "copy_all"],
            "sanitize_html": True, "allow_tags": False, "feedback_options": None,
        }  # fmt: skip
        with gr.Row(elem_id="columns", scale=1):
            elems["chatbot"] = self._make(
                gr.Chatbot, "chatbot", elem_id="chat", editable="user", examples=examples(self._language), **shared
            )
            if pairs:
                elems["beside"] = gr.Chatbot(label="", elem_id="beside", visible=False, **shared)
        return who

    def question(self, elems: dict[str, Any]) -> None:
        """The box for the question, and its button."""
        gr = self._gr
        with gr.Row(elem_id="ask"):
            # One line at first: so Enter sends, and Shift-Enter breaks the line.
            elems["query"] = self._make(
                gr.Textbox, "query", show_label=False, lines=1, max_lines=12, scale=8, min_width=120,
                elem_id="question", autofocus=True,
            )  # fmt: skip
            elems["submit"] = self._make(gr.Button, "submit", variant="primary", scale=1, min_width=72, elem_id="send")

    def files(self, elems: dict[str, Any], kinds: tuple[str, ...]) -> None:
        """A box for files of each kind."""
        if not kinds:
            return
        with self._gr.Row():
            for kind in kinds:
                elems[kind] = self._make(
                    self._gr.File,
                    kind,
                    file_count="multiple",
                    file_types=[kind],
                    type="binary",
                    height=110,
                    elem_id=kind,
                )

    def buttons(self, elems: dict[str, Any]) -> None:
        """What may be done with an answer."""
        with self._gr.Row(elem_id="more"):
            for name, elem_id in (("stop_answer_btn", "stop"), ("again_btn", "again"), ("clear_btn", "clear")):
                elems[name] = self._make(self._gr.Button, name, size="sm", min_width=72, elem_id=elem_id)

    def settings(self, elems: dict[str, Any]) -> list[Any]:
        """The controls; gives the role, then the others in the order of :class:`Settings` (all but its language)."""
        gr, made = self._gr, {}

        def add(kind: Any, name: str, **more: Any) -> None:
            made[name] = self._make(kind, name, interactive=True, elem_id=f"infer-{name}", **more)

        with self._make(gr.Accordion, "settings", open=False) as elems["settings"]:
            add(gr.Dropdown, "role", choices=list(ROLES), value="user")
            add(gr.Textbox, "system", lines=2)
            add(gr.Textbox, "tools", lines=2, max_lines=12)
            with gr.Row():
                add(gr.Slider, "max_new_tokens", minimum=1, step=1)
                add(gr.Slider, "top_p", minimum=0.01, maximum=1, step=0.01)
                add(gr.Slider, "temperature", minimum=0, step=0.01)
                add(gr.Number, "seed", value=-1, precision=0)
            with gr.Row():
                add(gr.Checkbox, "skip_special_tokens")
                add(gr.Checkbox, "enable_thinking")
                add(gr.Checkbox, "escape_html", value=True)
        elems |= made
        order = ("role", "system", "tools", "max_new_tokens", "top_p", "temperature", "skip_special_tokens",
                 "enable_thinking", "seed", "escape_html")  # fmt: skip
        assert len(order) == SETTINGS, "the role and all settings but the language"
        return [made[name] for name in order]


def _connect(
    gr: Any, handler: ChatHandler, elems: dict[str, Any], talk: Any, error: Any,
    settings: list[Any], boxes: list[Any], who: list[Any], second: list[Any], limit: int,
) -> None:  # fmt: skip
    """Let the buttons do what they say."""
    chatbot, question = elems["chatbot"], elems["query"]
    shared: dict[str, Any] = {
        "outputs": [chatbot, question, error, talk, *boxes, *second],
        "show_progress": "hidden",
        "show_progress_on": [chatbot],
        "trigger_mode": "once",
        "concurrency_limit": limit,
        "concurrency_id": "answers",
    }
    inputs = [talk, question, *settings, *boxes, *who]
    submit = gr.on([elems["submit"].click, question.submit], handler.respond, inputs, api_name="chat", **shared)
    kept = [talk, question, *settings[1:], *who]
    shared["api_visibility"] = "private"
    retried = [column.retry for column in (chatbot, *second)]
    anew = gr.on([elems["again_btn"].click, *retried], handler.regenerate, kept, **shared)
    edited = chatbot.edit(_with_event(gr.EditData, handler.edit), kept, **shared)
    quick: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "show_progress_on": []}
    private = {**quick, "api_visibility": "private"}
    chatbot.example_select(_with_event(gr.SelectData, _example), None, question, **private)
    running = [submit, anew, edited]

    def show(said: Talk, escaped: bool, language: str) -> tuple[Any, ...]:
        """A cancelled response ends in the conversation as far as it came."""
        look = Look(escaped, language)
        return shown(said[0], look), "", *([shown(said[-1], look)] if second else [])

    told, (escaped, language) = [chatbot, error, *second], settings[-2:]
    elems["stop_answer_btn"].click(show, [talk, escaped, language], told, cancels=running, **private)
    escaped.input(show, [talk, escaped, language], told, **private)
    language.input(lambda chosen: gr.update(examples=examples(chosen)), language, chatbot, **private)
    gr.on(
        [elems["clear_btn"].click, *(column.clear for column in (chatbot, *second))],
        lambda: ([], "", *[[] for _ in second], [[]], *[None] * len(boxes)),
        None,
        [*told, talk, *boxes],
        cancels=running,
        api_name="clear",
        **quick,
    )


def _connect_columns(gr: Any, elems: dict[str, Any], said: list[Any], who: list[Any]) -> None:
    """Show the second column when it is wanted, and whose each is."""

    def look(first: str, beside: bool, other: str, said: Talk, escaped: bool, language: str) -> tuple[Any, ...]:
        bubbles = shown(said[-1], Look(escaped, language)) if beside else []
        second = gr.update(visible=beside, label=other, value=bubbles)
        return gr.update(label=first), second

    gr.on(
        [element.input for element in who],
        look,
        [*who, *said],
        [elems["chatbot"], elems["beside"]],
        concurrency_limit=None,
        show_progress="hidden",
        show_progress_on=[],
        api_visibility="private",
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


def examples(language: str) -> list[dict[str, str]]:
    """Questions to begin with."""
    return [{"text": text(language, name)} for name in EXAMPLES]


def _example(event: Any) -> str:
    """The text of an example, for the box."""
    return str(event.value["text"])
