# SPDX-License-Identifier: Apache-2.0
"""A client that shows a picture: `llamafactory-cli api` with a model that sees must be running.

python scripts/api_example/test_image.py PICTURE.png ["What is this?"]
"""

from __future__ import annotations

import base64
import mimetypes
import os
import sys
from pathlib import Path
from typing import Any

from openai import OpenAI


def main() -> None:
    """Send the picture inside the request, as a data address, and print the answer."""
    if len(sys.argv) < 2:
        sys.exit((__doc__ or "").strip())
    picture, question = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "What is this?"
    kind = mimetypes.guess_type(picture.name)[0] or "image/png"
    address = f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"
    client = OpenAI(
        base_url=f"http://{os.environ.get('API_HOST', '127.0.0.1')}:{os.environ.get('API_PORT', '8000')}/v1",
        api_key=os.environ.get("API_KEY", "none"),
    )
    content: Any = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": question}]
    answer = client.chat.completions.create(
        model=client.models.list().data[0].id, messages=[{"role": "user", "content": content}]
    )
    print(answer.choices[0].message.content)


if __name__ == "__main__":
    main()
