# SPDX-License-Identifier: Apache-2.0
"""A service that a run asks over HTTP: JSON there, JSON back, and one line for whatever goes wrong."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from ...extras.errors import ConfigError


def post(url: str, body: dict[str, Any], seconds: float, key: str) -> Any:
    """Return what a service answers to a JSON object.

    Args:
        url: Of the service.
        body: What it is asked.
        seconds: That an answer may take.
        key: The configuration key that names the service, for errors.

    Raises:
        ConfigError: It cannot be reached, refuses, takes too long or answers something else than JSON.
    """
    request = urllib.request.Request(url, json.dumps(body).encode("utf-8"), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=seconds) as reply:
            return json.loads(reply.read())
    except urllib.error.HTTPError as error:
        detail = " ".join(error.read().decode("utf-8", "replace").split())[:200]
        raise ConfigError(f"{key}: {url}: status {error.code}: {detail or error.reason}") from error
    except TimeoutError as error:
        raise ConfigError(f"{key}: {url}: no answer in {seconds:g} s") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        if isinstance(getattr(error, "reason", None), TimeoutError):
            raise ConfigError(f"{key}: {url}: no answer in {seconds:g} s") from error
        raise ConfigError(f"{key}: {url}: {getattr(error, 'reason', error)}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: {url}: its answer is not JSON: {error}") from error
