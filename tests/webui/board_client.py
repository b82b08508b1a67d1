# SPDX-License-Identifier: Apache-2.0
"""A page of gradio as a browser without a screen has it: values of elements, and events that change them."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx


class PageClient:
    """One open page.

    Args:
        url: Its address.

    Attributes:
        values: What each element holds, by its ``elem_id``.
        props: Properties of elements that events have changed, by ``elem_id``.
    """

    def __init__(self, url: str) -> None:
        self.url, self.session = url, uuid.uuid4().hex
        self._config = httpx.get(f"{url}/config", timeout=30).json()
        self._names = {one["id"]: one["props"].get("elem_id") for one in self._config["components"]}
        self._raw: dict[int, Any] = {one["id"]: one["props"].get("value") for one in self._config["components"]}
        self.props: dict[str, dict[str, Any]] = {
            name: dict(one["props"])
            for one in self._config["components"]
            if (name := one["props"].get("elem_id")) is not None
        }

    @property
    def values(self) -> dict[str, Any]:
        """What each element holds, by its ``elem_id``."""
        return {name: self._raw[number] for number, name in self._names.items() if name is not None}

    def fill(self, elem_id: str, value: Any) -> None:
        """Type a value."""
        self._raw[self._number(elem_id)] = value

    def press(self, elem_id: str, event: str = "click", changes: str = "") -> list[dict[str, Any]]:
        """Let an event of an element happen; what it brought is what the page shows afterwards.

        Args:
            elem_id: Of the element.
            event: What happens to it.
            changes: An element that it changes, where several functions are bound to the event; else the first one.

        Returns:
            What the server said.
        """
        number, bound = self._number(elem_id), self._config["dependencies"]
        functions = (one for one in bound if [number, event] in one["targets"])
        return self._run(next(one for one in functions if not changes or self._number(changes) in one["outputs"]))

    def open(self) -> None:
        """Let happen what happens when a page opens."""
        for function in self._config["dependencies"]:
            if any(event == "load" for _, event in function["targets"]):
                self._run(function)

    def tick(self) -> None:
        """Let the timers of the page ring once."""
        for function in self._config["dependencies"]:
            if any(event == "tick" for _, event in function["targets"]):
                self._run(function)

    def _number(self, elem_id: str) -> int:
        return next(number for number, name in self._names.items() if name == elem_id)

    def _run(self, function: dict[str, Any]) -> list[dict[str, Any]]:
        data = [self._raw.get(number) for number in function["inputs"]]
        body = {"data": data, "fn_index": function["id"], "session_hash": self.session, "event_data": None}
        answer = httpx.post(
            f"{self.url}/gradio_api/queue/join",
            content=json.dumps(body),
            headers={"Content-Type": "application/json"},
            timeout=30,
        )
        assert answer.status_code == 200, answer.text
        said = []
        query = {"session_hash": self.session}
        with httpx.stream("GET", f"{self.url}/gradio_api/queue/data", params=query, timeout=60) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    said.append(json.loads(line.removeprefix("data: ")))
                    if said[-1]["msg"] == "process_completed":
                        break
        done = said[-1]
        assert done.get("success"), done
        for number, value in zip(function["outputs"], done["output"]["data"], strict=True):
            self._take(number, value)
        return said

    def _take(self, number: int, value: Any) -> None:
        if isinstance(value, dict) and value.get("__type__") == "update":
            name = self._names.get(number)
            if name is not None:
                self.props.setdefault(name, {}).update(value)
            if "value" in value:
                self._raw[number] = value["value"]
        else:
            self._raw[number] = value
