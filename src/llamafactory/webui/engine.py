# SPDX-License-Identifier: Apache-2.0
"""What stands behind the page: its elements, runs and chat; what it shows when it opens, and in another language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .chatting.chatter import Chatter
from .common import language
from .jobs_page import JobsPage
from .manager import Manager
from .runner import Runner
from .texts.texts import parts

if TYPE_CHECKING:
    from gradio.blocks import Block


class Engine:
    """All that the handlers of one page share.

    Args:
        demo_mode: The page is shown to everybody: nothing is run or exported.
        pure_chat: The page is a chat alone.
        chatter: Holds the model that the page talks to.
    """

    def __init__(self, demo_mode: bool = False, pure_chat: bool = False, chatter: Chatter | None = None) -> None:
        self.demo_mode, self.pure_chat = demo_mode, pure_chat
        self.language = language()  # of the page as it is built
        self.manager = Manager()
        self.runner = Runner(self.manager, demo_mode)
        self.jobs_page = JobsPage(self.runner)
        self.chatter = Chatter() if chatter is None else chatter

    def resume(self) -> Any:
        """What a page that opens must show beside what it was built with: its language, and the run that goes on."""
        from gradio import skip

        chosen = language()
        changes = {} if chosen == self.language else self.change_lang(chosen)
        if not self.pure_chat:
            changes |= self.manager.updates(self.runner.resume(chosen))
        return changes or skip()

    def change_lang(self, lang: str) -> dict[Block, Any]:
        """Every text of the page in another language."""
        import gradio as gr

        changes = {}
        for elem in self.manager.get_elem_list():
            found = parts(lang, self.manager.get_id_by_elem(elem))
            if found:
                changes[elem] = gr.update(**found)
        lang_box = "top.lang"
        if self.manager.has(lang_box):
            changes[self.manager.get_elem_by_id(lang_box)] = gr.update(value=lang)
        return changes

    def close(self) -> None:
        """The server ends: the model's memory and processes are given back. Runs go on: they are no part of it."""
        self.chatter.close()
