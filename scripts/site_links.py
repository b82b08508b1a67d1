# SPDX-License-Identifier: Apache-2.0
"""A hook of MkDocs: a link to a file outside of docs/, which the site does not hold, becomes the file's name."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Rewrite links that leave the folder."""

    def name(link: re.Match[str]) -> str:
        text, path = link[1], link[2]
        return text if path.strip("/") in text else f"{text} (`{path}`)"

    return _OUTSIDE.sub(name, markdown)
