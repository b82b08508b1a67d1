# SPDX-License-Identifier: Apache-2.0
"""What commands report, as HTML in one line: rows with their trained tokens coloured, and what memory a run needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ...hparams.coercion import as_written

GIB = 2**30
_MOST_TEXT = 20_000  # characters of one row


def text(value: object) -> str:
    """A text for the inside of an element: escaped, line breaks kept, in one line of source; half characters as ?."""
    return (
        escape(str(value).encode("utf-8", "replace").decode())
        .replace("\r", "")
        .replace("\n", "<br>")
        .replace("\t", "&#9;")
    )


def rows(found: Sequence[Mapping[str, Any]], trained_word: str, context_word: str, numbered_from: int = 1) -> str:
    """Rows as the model will see them.

    Args:
        found: What ``preview`` says of each row.
        trained_word: What the legend calls tokens that are trained.
        context_word: What it calls the others.
        numbered_from: Number of the first.
    """
    legend = f'<p class="legend"><mark>{text(trained_word)}</mark> <span>{text(context_word)}</span></p>'
    shown = "".join(_row(row, number, trained_word) for number, row in enumerate(found, numbered_from))
    return f'<div class="tokens">{legend}{shown}</div>'


def _row(row: Mapping[str, Any], number: int, trained_word: str) -> str:
    trained = sum(label != -100 for label in row["labels"])
    heading = f"{number} · {row.get('source', '')} · {len(row['input_ids'])} tokens, {trained} {trained_word}"
    left, parts = _MOST_TEXT, []
    for place, sequence in enumerate(row["stretches"]):
        parts.append('<hr class="cut">' if place else "")
        for words, is_trained in sequence:
            cut = words[:left]
            left -= len(cut)
            parts.append(f"<mark>{text(cut)}</mark>" if is_trained else f"<span>{text(cut)}</span>")
    more = "<span>…</span>" if left <= 0 else ""
    return f'<section><h5>{text(heading)}</h5><div class="row">{"".join(parts)}{more}</div></section>'


def plan(found: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """What memory a run needs, part by part, and whether it fits.

    Args:
        found: What ``plan`` reports.
        words: The page's words: ``fits``, ``too_big``, ``of``, ``with``, ``speed``, ``none``.
    """
    peak, available = found["peak_bytes"], found["available_bytes"]
    widest = max(peak, available, 1)
    parts = "".join(
        f'<tr><td>{text(name)}</td><td class="number">{size / GIB:.2f} GiB</td>'
        f'<td><i style="width:{100 * size / widest:.1f}%"></i></td></tr>'
        for name, size in found["parts"].items()
        if size
    )
    verdict = "fits" if found["fits"] else "too_big"
    processes = f" × {found['processes']}" if found.get("processes", 1) > 1 else ""
    speed = _speed(found, words)
    head = (
        f'<p class="verdict {verdict}">{text(words[verdict])}: <b>{peak / GIB:.2f}</b> {text(words["of"])} '
        f"{available / GIB:.2f} GiB · {text(found['device'])}{processes}{speed}</p>"
    )
    others = "".join(
        f"<li>{text(words['with'])} <code>{text(_keys(other['change']))}</code>: {other['peak_bytes'] / GIB:.2f} GiB"
        f"{_speed(other, words)}</li>"
        for other in found.get("alternatives", ())
    )
    if not found["fits"] and not others:
        others = f"<li>{text(words['none'])}</li>"
    return f'<div class="plan">{head}<ul>{others}</ul><table>{parts}</table></div>'


def _speed(found: Mapping[str, Any], words: Mapping[str, str]) -> str:
    most = found.get("tokens_per_second_at_most")
    return f" · {text(words['speed'])} {most:,.0f} tokens/s" if most else ""


def _keys(change: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={as_written(value)}" for key, value in change.items())


def table(head: Sequence[str], lines: Sequence[Sequence[object]], kind: str = "") -> str:
    """A table whose cells are plain text."""
    heading = "".join(f"<th>{text(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return f'<div class="scroll"><table class="plain {kind}"><tr>{heading}</tr>{body}</table></div>'
