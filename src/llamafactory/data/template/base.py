# SPDX-License-Identifier: Apache-2.0
"""What a template promises, and the values that rendering and encoding hand to each other.

Everything else in this folder imports this file; it imports none of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..media.encoder import MediaEncoder, MediaPrompt
    from ..media.families import MediaFamily
    from ..messages import Medium, Message, Sample, Segment, ToolCall

GLUE = -1


class Piece(NamedTuple):
    """A stretch of the rendered text.

    Attributes:
        text: The characters.
        message: Index of the message it belongs to, or ``GLUE``.
        trained: The assistant wrote it.
        literal: The template wrote it, so special tokens in it are meant; else it is data, and they are mere text.
        is_call: It belongs to the calls of its turn, or comes after them.
        medium: The image, video or sound that it stands for, as tokens of the family's processor; ``None`` = text.
    """

    text: str
    message: int
    trained: bool
    literal: bool
    is_call: bool = False
    medium: Medium | None = None


class TextSpan(NamedTuple):
    """Neighbouring text of one message that has one loss weight.

    Attributes:
        text: The characters.
        weight: Its loss weight.
        message: Index of the message it belongs to, or ``GLUE``.
        begins: A trained answer begins with it. No token reaches across that border: the model is asked with the tokens
            of the prompt alone.
        medium: As that of :class:`Piece`.
    """

    text: str
    weight: float
    message: int
    begins: bool = False
    medium: Medium | None = None


class Options(NamedTuple):
    """How to render.

    Attributes:
        enable_thinking: False drops every thought and closes the prompt's thought; None closes it too, but an answer
            of the data that has a thought is written as True would ask for it; True lets the model think.
        preserve_thinking: Keep the thoughts of earlier turns.
        add_generation_prompt: End with the start of an assistant turn.
        asked: Thinking was switched on by name, so that families think that officially do not unless asked.
        for_training: The last answer follows the very prompt that asks for it, also where the official text shows an
            answer and its prompt differently.
    """

    enable_thinking: bool | None = True
    preserve_thinking: bool = False
    add_generation_prompt: bool = False
    asked: bool = False
    for_training: bool = False

    def switched(self, enable_thinking: bool | None) -> Options:
        """The same with the switch of one call."""
        return self._replace(enable_thinking=enable_thinking, asked=enable_thinking is True)

    def jinja_flags(self) -> dict[str, bool]:
        """What an official Jinja is told of thoughts; what is not said is as its authors chose."""
        flags = {"preserve_thinking": True} if self.preserve_thinking else {}
        whole = not self.add_generation_prompt
        if self.asked or not (self.enable_thinking or (self.enable_thinking is None and whole)):
            flags["enable_thinking"] = bool(self.enable_thinking)
        return flags


class ToolFormat(Protocol):
    """What is asked of a tool dialect, a row of ``plugins.TOOL_FORMATS``.

    Attributes:
        content_join: Between a turn's text and its calls.
        calls_open: Before the first call.
        call: One call; slots ``{{name}}``, ``{{arguments}}``, ``{{id}}``.
        start: Regular expression that ends where the arguments of a call start.
    """

    @property
    def content_join(self) -> str: ...

    @property
    def calls_open(self) -> str: ...

    @property
    def call(self) -> str: ...

    @property
    def start(self) -> str: ...

    def describe_pieces(self, tools: Sequence[dict[str, Any]]) -> Iterator[Piece]:
        """The tool list as the model reads it."""
        ...

    def call_pieces(self, calls: Sequence[ToolCall], message: int, first: int) -> Iterator[Piece]:
        """The calls of a turn as the model writes them; ``first``: how many calls came before."""
        ...

    def split(self, text: str, tools: Sequence[dict[str, Any]] = ()) -> tuple[str, list[ToolCall]]:
        """Tell the text of what the model wrote from its calls."""
        ...


class Template(ABC):
    """A chat template bound to a tokenizer.

    Attributes:
        name: Its name, or the path of its file.
        tokenizer: What it encodes with.
        options: How it renders unless a call says otherwise.
        stop_token_ids: Tokens at which generation ends, EOS first.
        tool_format: The dialect of tools and calls.
        thought: The words around a thought; ``None``: the family does not think.
        has_switch: ``enable_thinking`` changes its text.
        ends: What may close an assistant turn, as text.
        openings: What may stand before an assistant turn's text, in this order.
        trains_turn_break: The line break behind a trained turn is trained with it.
        parses_special: Special tokens that the text of a training row spells are those tokens.
        media: What expands the images, videos and sound of training rows; ``None``: only text is taken.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    options: Options
    stop_token_ids: list[int]
    tool_format: ToolFormat
    thought: tuple[str, str] | None
    has_switch: bool
    ends: tuple[str, ...]
    openings: tuple[str, ...]
    trains_turn_break: bool = False
    parses_special: bool = False
    media: MediaEncoder | None = None

    @abstractmethod
    def pieces(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], options: Options) -> list[Piece]:
        """Render one conversation. Raises ConfigError where the template has no place for something in it."""

    @abstractmethod
    def media_pieces(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], options: Options, family: MediaFamily
    ) -> list[Piece]:
        """The same for a conversation with media; each stands in a literal piece as its placeholder."""

    @abstractmethod
    def media_family(self, processor: Any) -> MediaFamily:
        """Where media stand in the text. Raises ConfigError where neither template nor processor tells."""

    @abstractmethod
    def jinja(self) -> str:
        """The template as Jinja: it renders exactly what is trained."""

    @abstractmethod
    def parse(self, text: str) -> Message:
        """Read what the model wrote: thought, text, tool calls."""

    def plain_text(self, message: Message) -> str | None:
        """The text of a message that is all there is to it and is written as it stands; ``None`` for other messages."""
        return None

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), **flags: Any) -> str:
        """The text of a conversation.

        Args:
            messages: The conversation.
            tools: OpenAI tool objects.
            **flags: ``add_generation_prompt`` (False), ``enable_thinking`` and ``preserve_thinking`` (as configured).
        """
        options = self.options
        if "enable_thinking" in flags:
            options = options.switched(flags["enable_thinking"])
        return "".join(piece.text for piece in self.pieces(messages, tools, options._replace(**flags)))

    @abstractmethod
    def encode_prompt(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), enable_thinking: bool | None = None
    ) -> list[int]:
        """Token ids of a prompt that ends where the model goes on.

        Args:
            messages: The conversation.
            tools: OpenAI tool objects.
            enable_thinking: ``None`` takes the configured value.
        """

    @abstractmethod
    def encode_media_prompt(
        self,
        messages: Sequence[Message],
        media: MediaEncoder,
        tools: Sequence[dict[str, Any]] = (),
        enable_thinking: bool | None = None,
    ) -> MediaPrompt:
        """A prompt with images, videos or sound in it; special tokens that texts spell stay text.

        Args:
            messages: The conversation.
            media: What the model makes of media.
            tools: OpenAI tool objects.
            enable_thinking: ``None`` takes the configured value.

        Raises:
            ConfigError: The model takes no such media, or one cannot be read.
        """

    @abstractmethod
    def encode_asked(self, sample: Sample) -> list[Segment]:
        """A conversation up to where the model goes on, each medium in a segment of its own; nothing is trained.

        Raises:
            ConfigError: The model takes no such media, or one cannot be read.
        """

    @abstractmethod
    def encode_running(self, sample: Sample) -> list[Segment]:
        """Running text with media: no turns, only what stands for each medium among the text; all text is trained.

        Raises:
            ConfigError: The model takes no such media, or one cannot be read; names the file and the row.
        """

    @abstractmethod
    def batch_media(self) -> Any:
        """The ``media.tensors.BatchMedia`` that makes the tensors of batches; only with :attr:`media`."""

    @abstractmethod
    def encode_after(self, messages: Sequence[Message], answer: int, tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Token ids of what follows an assistant turn (tool results, say) up to where the model goes on again.

        Args:
            messages: The conversation.
            answer: Index of that turn; its own tokens, its end included, are left out.
            tools: OpenAI tool objects.

        Raises:
            ConfigError: The template cannot tell where that turn ends.
        """

    @abstractmethod
    def rewritten(self, sample: Sample) -> frozenset[int]:
        """Indices of answers that the text of the whole conversation shows otherwise than when they were asked for.

        Many official texts drop the thoughts of earlier answers. Training such an answer would teach the model to
        begin without the thought that it is asked for.
        """

    @abstractmethod
    def encode_batch(
        self, samples: Sequence[Sample], train_on_prompt: bool = False, mask_history: bool = False
    ) -> list[list[Segment]]:
        """Encode conversations, all of them in one call of the tokenizer.

        Args:
            samples: Their ``messages`` and ``tools`` are read.
            train_on_prompt: Context is trained with weight 1.
            mask_history: Only the last assistant turn is trained.

        Returns:
            The segments of each sample, in order; a message's own weight goes before the two switches.

        Raises:
            ConfigError: A conversation does not fit the template; names the file and the row.
        """
