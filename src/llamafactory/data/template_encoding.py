# SPDX-License-Identifier: Apache-2.0
"""From pieces of text to token segments, for a whole batch at once.

The text of each conversation is tokenized as one string, so the ids are those of ``tokenizer.apply_chat_template``;
only the borders between context and trained text are looked up in the encoding afterwards.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from ..extras.errors import ConfigError
from .messages import Message, Sample, Segment
from .template_pieces import GLUE, Options, Piece

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase


class _Run(NamedTuple):
    """Neighbouring text that is trained alike."""

    text: str
    weight: float
    message: int


class Template(ABC):
    """A chat template bound to a tokenizer.

    Attributes:
        name: Its name, or the path of its file.
        tokenizer: What it encodes with.
        stop_token_ids: Tokens at which generation ends, EOS first.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        *,
        enable_thinking: bool | None = True,
        preserve_thinking: bool = False,
    ) -> None:
        self.tokenizer, self.name = tokenizer, name
        self.options = Options(enable_thinking, preserve_thinking)
        self.stop_token_ids: list[int] = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        special.sort(key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)) or "(?!)")

    @abstractmethod
    def pieces(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], options: Options) -> list[Piece]:
        """Render one conversation. Raises ConfigError where the template has no place for something in it."""

    @abstractmethod
    def jinja(self) -> str:
        """The template as Jinja: it renders exactly what is trained."""

    @abstractmethod
    def parse(self, text: str) -> Message:
        """Read what the model answered: thought, text, tool calls."""

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), **flags: Any) -> str:
        """The text of a conversation.

        Args:
            messages: The conversation.
            tools: OpenAI tool objects.
            **flags: ``add_generation_prompt`` (False), ``enable_thinking`` and ``preserve_thinking`` (as configured).
        """
        return "".join(piece.text for piece in self.pieces(messages, tools, self.options._replace(**flags)))

    def encode_prompt(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), enable_thinking: bool | None = None
    ) -> list[int]:
        """Token ids of a prompt that ends where the model shall answer.

        Args:
            messages: The conversation.
            tools: OpenAI tool objects.
            enable_thinking: ``None`` takes the configured value.
        """
        options = self.options._replace(add_generation_prompt=True)
        if enable_thinking is not None:
            options = options._replace(enable_thinking=enable_thinking)
        pieces = self.pieces(messages, tools, options)
        (segments,) = self._encode([[(piece, 0.0) for piece in pieces]])
        return [token for segment in segments for token in segment.ids]

    def encode_after(self, messages: Sequence[Message], answer: int, tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Token ids of what follows an answer (tools' answers, say) up to where the model shall answer again.

        Args:
            messages: The conversation.
            answer: Index of the answer; its own tokens, the end of its turn included, are left out.
            tools: OpenAI tool objects.

        Raises:
            ConfigError: The template cannot tell where that answer ends.
        """
        pieces = self.pieces(messages, tools, self.options._replace(add_generation_prompt=True))
        if not any(piece.trained for piece in pieces):  # a Jinja template marks answers in finished conversations only
            asking, bare = "".join(piece.text for piece in pieces), self.render(messages, tools)
            if asking.startswith(bare):
                prompt = Piece(asking[len(bare) :], GLUE, False, True)
                pieces = [*self.pieces(messages, tools, self.options), prompt]
        written = [number for number, piece in enumerate(pieces) if piece.trained and piece.message == answer]
        if not written:
            raise ConfigError(f"template {self.name}: cannot tell what follows an answer; choose a named template")
        rest = [(piece, 0.0) for piece in pieces[written[-1] + 1 :]]
        # Behind a line break, for some tokenizers put a space before the first word of a text.
        (newline,), (segments,) = (
            self._encode([[(Piece("\n", GLUE, False, True), -1.0), *more]]) for more in ([], rest)
        )
        if segments[0] != newline[0]:  # it grew together with the text
            (segments,) = self._encode([rest])
            return [token for segment in segments for token in segment.ids]
        return [token for segment in segments[1:] for token in segment.ids]

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
        weighed = []
        for sample in samples:
            try:
                pieces = self.pieces(sample.messages, sample.tools, self.options)
            except ConfigError as error:
                raise ConfigError(f"{sample.origin}: {error}" if sample.origin else str(error)) from None
            weighed.append(_weigh(pieces, sample.messages, train_on_prompt, mask_history))
        return self._encode(weighed)

    def _encode(self, samples: list[list[tuple[Piece, float]]]) -> list[list[Segment]]:
        """Encode; special tokens that data (not the template) holds are encoded as the plain text they are."""
        search = self._special.search
        guarded = {
            number
            for number, pieces in enumerate(samples)
            if any(not piece.literal and search(piece.text) for piece, _ in pieces)
        }
        runs = [[] if number in guarded else _join(pieces) for number, pieces in enumerate(samples)]
        segments = self._encode_runs(runs)
        for number in guarded:
            segments[number] = self._encode_guarded(samples[number])
        return segments

    def _encode_runs(self, samples: list[list[_Run]]) -> list[list[Segment]]:
        texts = ["".join(run.text for run in runs) for runs in samples]
        if not self.tokenizer.is_fast:
            return [_cut_by_prefix(self.tokenizer, text, runs) for text, runs in zip(texts, samples, strict=True)]
        backend = self.tokenizer.backend_tokenizer
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        encodings = backend.encode_batch(texts, add_special_tokens=False)
        return [_cut(encoding, runs) for encoding, runs in zip(encodings, samples, strict=True)]

    def _encode_guarded(self, pieces: list[tuple[Piece, float]]) -> list[Segment]:
        """Encode a conversation in stretches, cut around special tokens that stand in data.

        A stretch inside the text is encoded after a line break that is then dropped: some tokenizers put a space before
        the first word of a text.
        """
        newline = self.tokenizer.encode("\n", add_special_tokens=False)
        out: list[Segment] = []
        for plain, group in groupby(_split_special(pieces, self._special), key=lambda item: item[0]):
            runs = _join([(piece, weight) for _, piece, weight in group])
            if plain:
                new = [Segment(_encode_plain(self.tokenizer, run.text), run.weight, run.message) for run in runs]
            elif not out:
                new = self._encode_runs([runs])[0]
            else:
                new = self._encode_runs([[_Run("\n", -1.0, GLUE), *runs]])[0]
                alone = new[0] == Segment(newline, -1.0, GLUE)  # else it grew together with the text
                new = new[1:] if alone else self._encode_runs([runs])[0]
            out += new
        return _merge(out)


def _weigh(
    pieces: list[Piece], messages: Sequence[Message], train_on_prompt: bool, mask_history: bool
) -> list[tuple[Piece, float]]:
    """Give each piece its loss weight."""
    context = 1.0 if train_on_prompt else 0.0
    trained, untrained = [], []
    last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=GLUE)
    for index, message in enumerate(messages):
        given = message.weight
        default = 0.0 if mask_history and index != last else 1.0
        trained.append(default if given is None else given)
        untrained.append(context if given is None or message.role == "assistant" else given)
    trained.append(context)  # GLUE == -1
    untrained.append(context)
    return [(piece, (trained if piece.trained else untrained)[piece.message]) for piece in pieces]


def _join(pieces: Iterable[tuple[Piece, float]]) -> list[_Run]:
    """Join neighbours of the same weight and message."""
    runs = []
    for (weight, message), group in groupby(pieces, key=lambda item: (item[1], item[0].message)):
        if text := "".join([piece.text for piece, _ in group]):
            runs.append(_Run(text, weight, message))
    return runs


def _merge(segments: list[Segment]) -> list[Segment]:
    return [
        Segment([token for segment in group for token in segment.ids], weight, message)
        for (weight, message), group in groupby(segments, key=lambda segment: segment[1:])
    ]


def _cut(encoding: Encoding, runs: list[_Run]) -> list[Segment]:
    """Cut one encoding at the borders of its runs.

    A token across a border belongs to the trained side, as in the assistant mask of transformers.
    """
    ids = encoding.ids
    out, start, position = [], 0, 0
    for number, run in enumerate(runs, start=1):
        position += len(run.text)
        end = len(ids)
        if number < len(runs):
            end = max(start, _token_at(encoding, position, start))
            span = encoding.token_to_chars(end) if end < len(ids) else None
            if span is not None and span[0] < position and run.weight:
                end += 1
        if end > start:
            out.append(Segment(ids[start:end], run.weight, run.message))
        start = end
    return out


def _token_at(encoding: Encoding, position: int, start: int) -> int:
    """The first token that holds a character at or after a position."""
    token = encoding.char_to_token(position)
    if token is not None:
        return token
    # A normalizer dropped the character, or the tokenizer does not count white space as part of its token.
    last = encoding.offsets[-1][1] if encoding.offsets else 0
    while token is None and position < last:
        position += 1
        token = encoding.char_to_token(position)
    token = len(encoding.ids) if token is None else token
    while token > start and encoding.offsets[token - 1][0] >= position:
        token -= 1
    return token


def _cut_by_prefix(tokenizer: PreTrainedTokenizerBase, text: str, runs: list[_Run]) -> list[Segment]:
    """The same for tokenizers that do not tell where a token stands: compare with the ids of each prefix."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    out, start, position = [], 0, 0
    for number, run in enumerate(runs, start=1):
        position += len(run.text)
        end = len(ids)
        if number < len(runs):
            prefix = tokenizer.encode(text[:position], add_special_tokens=False)
            same = next((i for i, (a, b) in enumerate(zip(prefix, ids, strict=False)) if a != b), len(prefix))
            end = max(start, min(same + (same < len(prefix) and run.weight > 0), len(ids)))
        if end > start:
            out.append(Segment(ids[start:end], run.weight, run.message))
        start = end
    return out


def _split_special(pieces: list[tuple[Piece, float]], special: re.Pattern[str]) -> Iterator[tuple[bool, Piece, float]]:
    """Cut special tokens out of data; yields (is such a token, piece, weight)."""
    for piece, weight in pieces:
        start = 0
        for found in () if piece.literal else special.finditer(piece.text):
            yield False, piece._replace(text=piece.text[start : found.start()]), weight
            yield True, piece._replace(text=found.group()), weight
            start = found.end()
        yield False, piece._replace(text=piece.text[start:]), weight


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode a text in the middle of a conversation as if the tokenizer had no added tokens."""
    backend = tokenizer.backend_tokenizer

    def ids(text: str) -> list[int]:
        text = backend.normalizer.normalize_str(text) if backend.normalizer else text
        words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)] if backend.pre_tokenizer else [text]
        return [token.id for word in words for token in backend.model.tokenize(word)]

    newline, found = ids("\n"), ids("\n" + text)
    return found[len(newline) :] if found[: len(newline)] == newline else ids(text)
