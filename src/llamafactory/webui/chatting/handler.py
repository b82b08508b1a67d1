# SPDX-License-Identifier: Apache-2.0
"""What the page's buttons do: one question of one page to its answer, or to two of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from ...chat.chat_model import to_messages, to_tools
from ...data.messages import Message, Part, PartType
from ...extras.errors import ConfigError
from .chatter import Chatter, Loaded
from .columns import Column, fill, merged
from .conversation import Look, escape, message_at, shown, stream_response

# Names that users know: what a tool returned is an observation.
ROLES = {"user": "user", "observation": "tool"}
# The model as it was loaded, among the names of adapters; no adapter's name has brackets.
BASE = "(base)"
# Media of one conversation, which lives in memory and is decoded again for each response.
MOST_FILES, MOST_BYTES = 64, 64 * 2**20
MOST_SEED = 2**31 - 1  # what every engine takes

Talk = list[list[Message]]  # a conversation for each column


@dataclass(frozen=True)
class Settings:
    """How to answer: the controls of the page, in its order."""

    system: str
    tools: str
    max_new_tokens: float
    top_p: float
    temperature: float
    skip_special_tokens: bool
    enable_thinking: bool
    seed: float | None
    escape_html: bool
    language: str

    @property
    def look(self) -> Look:
        """How answers are shown."""
        return Look(self.escape_html, self.language)

    def overrides(self, thinks: bool) -> dict[str, Any]:
        """The same for an engine; ``thinks``: its model knows thoughts.

        Raises:
            ConfigError: The seed is none.
        """
        seed = -1 if self.seed is None else self.seed
        if not -1 <= seed <= MOST_SEED:
            raise ConfigError(
                f"seed: {seed} is out of range; expected 0 to {MOST_SEED}, or -1 for another one each time"
            )
        return {
            "do_sample": self.temperature > 0,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": int(self.max_new_tokens),
            "enable_thinking": self.enable_thinking if thinks else None,
            "seed": None if seed < 0 else int(seed),
        }


SETTINGS = len(fields(Settings))


class ChatHandler:
    """Handles what a page asks. Its methods are asynchronous generators of what the page shows.

    They yield the first column, what stays in the box, an error line, the conversations, what becomes of the boxes of
    files, and the second column if there is one. When gradio cancels the event, or nobody reads it any more, the
    generator is closed, and with it the requests.

    Args:
        chatter: Holds the model.
        kinds: The page has a box of files for each of these kinds.
        pairs: The page can show two columns. Then the last three arguments of each method are who answers, whether
            another answers beside it, and who that is.
    """

    def __init__(self, chatter: Chatter, kinds: Sequence[str], pairs: bool) -> None:
        self._chatter, self._kinds, self._pairs = chatter, kinds, pairs

    async def respond(
        self, talk: Talk, question: str, role: str, *inputs: Any
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        """Answer a question; the files that were sent with it stand before it.

        A question that cannot be answered stays in the box and does not join the conversation.
        """
        settings, rest = Settings(*inputs[:SETTINGS]), inputs[SETTINGS:]
        files, who = rest[: len(self._kinds)], self._who(rest[len(self._kinds) :])
        befores = _conversations(talk, len(who))
        if not question.strip():
            yield self._nothing(befores, question, settings)
            return
        taken = self._taken()
        media = [
            Part(cast(PartType, kind), one)
            for kind, some in zip(self._kinds, files, strict=True)
            for one in some or ()
            if kind in taken
        ]
        message = Message(ROLES[role], (*media, Part("text", question)))  # type: ignore[arg-type]
        columns = [
            Column(before, [*before, message], settings.look, adapter)
            for before, adapter in zip(befores, who, strict=True)
        ]
        async with aclosing(self._answer(columns, question, "", settings)) as states:
            async for state in states:
                yield state

    async def regenerate(self, talk: Talk, question: str, *inputs: Any) -> AsyncGenerator[tuple[Any, ...], None]:
        """Answer the last question once more; what stands in the box stays there."""
        settings, who = Settings(*inputs[:SETTINGS]), self._who(inputs[SETTINGS:])
        befores = _conversations(talk, len(who))
        columns = []
        for before, adapter in zip(befores, who, strict=True):
            asked = list(before)
            while asked and asked[-1].role == "assistant":
                asked.pop()
            if asked:
                columns.append(Column(before, asked, settings.look, adapter))
        if len(columns) < len(who):
            yield self._nothing(befores, question, settings)
            return
        async with aclosing(self._answer(columns, question, question, settings)) as states:
            async for state in states:
                yield state

    async def edit(self, event: Any, talk: Talk, question: str, *inputs: Any) -> AsyncGenerator[tuple[Any, ...], None]:
        """Put another text in the place of an earlier question of the first column, and go on from there in both."""
        settings, who = Settings(*inputs[:SETTINGS]), self._who(inputs[SETTINGS:])
        befores = _conversations(talk, len(who))
        place = message_at(befores[0], event.index)
        text = event.value if isinstance(event.value, str) else ""
        if place is None or befores[0][place].role == "assistant" or not text.strip():
            yield self._nothing(befores, question, settings)
            return
        columns = []
        for before, adapter in zip(befores, who, strict=True):
            # A column that went another way goes on from what the first one said.
            past = before if before[place : place + 1] == befores[0][place : place + 1] else befores[0]
            media = [part for part in past[place].parts if part.type != "text"]
            new = replace(past[place], parts=(*media, Part("text", text)))
            columns.append(Column(before, [*past[:place], new], settings.look, adapter))
        async with aclosing(self._answer(columns, question, question, settings)) as states:
            async for state in states:
                yield state

    def _taken(self) -> tuple[str, ...]:
        """Kinds of media that the model takes now; the boxes of others are not seen."""
        loaded = self._chatter.loaded
        return () if loaded is None else loaded.engine.media

    def _who(self, inputs: Sequence[Any]) -> list[str | None]:
        """Who answers in each column."""
        if not self._pairs:
            return [None]
        first, beside, second = inputs
        names = [first, second] if beside else [first]
        return [None if name in (BASE, None) else str(name) for name in names]

    def _nothing(self, befores: Talk, question: str, settings: Settings) -> tuple[Any, ...]:
        bubbles = [shown(before, settings.look) for before in befores]
        return self._state(bubbles, question, "", befores, keep=True)

    def _state(
        self, bubbles: list[list[dict[str, Any]]], box: str, error: str, talk: Talk, keep: bool
    ) -> tuple[Any, ...]:
        """What the page gets; ``keep``: files stay in their boxes."""
        from gradio import skip

        files = [skip() if keep else None] * len(self._kinds)
        second = [bubbles[1] if len(bubbles) > 1 else []] if self._pairs else []
        return bubbles[0], box, error, talk, *files, *second

    async def _answer(
        self, columns: list[Column], question: str, left: str, settings: Settings
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        """Answer in all columns; ``left`` stays in the box when an answer has begun, until then ``question`` does."""

        def state() -> tuple[Any, ...]:
            begun = any(column.begun for column in columns)
            line = _error_line(columns)
            talk = [column.said for column in columns]
            bubbles = [column.bubbles for column in columns]
            return self._state(bubbles, left if begun else question, line, talk, keep=not begun or left != "")

        yield state()
        try:
            with self._chatter.borrowed() as loaded:
                tools = to_tools(settings.tools)
                streams = [fill(column, _responses(loaded, column, tools, settings)) for column in columns]
                async with aclosing(merged(streams)) as news:
                    async for _ in news:
                        yield state()
        except ConfigError as error:
            for column in columns:
                column.fail(str(error))
            yield state()


def _responses(loaded: Loaded, column: Column, tools: list[dict], settings: Settings) -> AsyncGenerator[Any, None]:
    """One column's answer."""
    _check_media(column.asked)
    engine = loaded.engine
    overrides = settings.overrides(engine.template.thought is not None)
    if column.adapter is not None:
        overrides["adapter"] = column.adapter
    prompt = to_messages(column.asked, settings.system)
    return stream_response(engine, prompt, tools, not settings.skip_special_tokens, overrides, lambda: loaded.ending)


def _error_line(columns: list[Column]) -> str:
    """Why columns stay empty: once if it is the same for all."""
    errors = {column.error for column in columns}
    if len(errors) == 1:
        line = errors.pop()
    else:
        line = "; ".join(f"{column.adapter or BASE}: {column.error}" for column in columns if column.error)
    return f"**Error:** {escape(line)}" if line else ""


def _conversations(talk: Talk, count: int) -> Talk:
    """A conversation for each column; one that is new begins as the first."""
    return [talk[number] if number < len(talk) else talk[0] for number in range(count)]


def _check_media(conversation: list[Message]) -> None:
    sizes = [len(part.value) for message in conversation for part in message.parts if part.type != "text"]
    if len(sizes) > MOST_FILES or sum(sizes) > MOST_BYTES:
        most = f"{MOST_FILES} files or {MOST_BYTES // 2**20} MiB"
        raise ConfigError(f"files: the conversation holds more than {most}; clear it, or send fewer")
