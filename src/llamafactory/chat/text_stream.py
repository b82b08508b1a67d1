# SPDX-License-Identifier: Apache-2.0
"""From token ids that arrive one by one to text that will not change any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A tokenizer writes this for bytes that are not a whole character yet.
INCOMPLETE = "\ufffd"


class TextStream:
    """Decodes one response token by token and ends it at the first stop word.

    Text is handed out when neither a later token nor a stop word can change it: half characters wait for their other
    bytes, and an ending that could be the beginning of a stop word waits until it is decided.

    Args:
        tokenizer: Decodes the ids.
        stop: Stop words; the response ends before the first of them.
        skip_special_tokens: Leave special tokens out of the text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = (), skip_special_tokens: bool = True
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._skip = skip_special_tokens
        self._ids: list[int] = []
        self._context = 0  # ids[context:read] are decoded again with the new ones: spaces depend on the left neighbour
        self._read = 0
        self._held = ""  # decoded, not handed out
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Take the next token; return the text that became certain (may be empty)."""
        if self.stopped:
            return ""
        self._ids.append(token_id)
        text = self._decode(self._context, len(self._ids))
        if text.endswith(INCOMPLETE):
            return ""
        return self._advance(text, final=False)

    def finish(self) -> str:
        """Return what is still held when generation is over."""
        if self.stopped:
            return ""
        return self._advance(self._decode(self._context, len(self._ids)), final=True)

    def name(self, token_id: int) -> str:
        """Return the text of one token alone, special tokens included."""
        return self._tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _advance(self, text: str, final: bool) -> str:
        self._held += text[len(self._decode(self._context, self._read)) :]
        self._context, self._read = self._read, len(self._ids)
        cuts = [at for word in self._stop if (at := self._held.find(word)) >= 0]
        if cuts:
            self.stopped = True
            ready = self._held[: min(cuts)]
            self._held = ""
            return ready
        keep = 0 if final else self._undecided()
        ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return ready

    def _undecided(self) -> int:
        """Length of the longest ending of the held text that begins a stop word."""
        ends = ((size, word) for word in self._stop for size in range(1, min(len(word), len(self._held) + 1)))
        return max((size for size, word in ends if self._held.endswith(word[:size])), default=0)

    def _decode(self, start: int, end: int) -> str:
        return self._tokenizer.decode(
            self._ids[start:end], skip_special_tokens=self._skip, clean_up_tokenization_spaces=False
        )
