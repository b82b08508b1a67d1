# SPDX-License-Identifier: Apache-2.0
"""Feature rows written as they come."""

from __future__ import annotations

from typing import Any


class ArrowFile:
    """An Arrow stream that grows by batches of columns."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> ArrowFile:
        import pyarrow as pa

        ids, text = pa.list_(pa.int32()), pa.string()
        self.types = {
            "input_ids": ids,
            "labels": ids,
            "seq_lens": ids,
            "desirable": ids,
            "weights": pa.list_(pa.float32()),
            "sample": pa.int64(),
            "source": text,
            "reference": text,
            "rollout": text,
        }
        self.sink = pa.OSFile(self.path, "wb")
        self.stream: Any = None
        return self

    def write(self, columns: dict[str, Any]) -> None:
        """Append rows given as lists or Arrow arrays; every call gives the same columns."""
        import pyarrow as pa

        schema = pa.schema([(name, self.types[name]) for name in columns])
        if self.stream is None:
            self.stream = pa.ipc.new_stream(self.sink, schema)
        self.stream.write_table(pa.table(columns, schema=schema))

    def __exit__(self, *error: object) -> None:
        if self.stream is not None:
            self.stream.close()
        self.sink.close()
