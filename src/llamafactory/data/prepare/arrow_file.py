# SPDX-License-Identifier: Apache-2.0
"""Feature rows written as they come."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np


class ArrowFile:
    """An Arrow stream that grows by batches of columns."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> ArrowFile:
        import pyarrow as pa

        self.types = column_types()
        self.sink = pa.OSFile(self.path, "wb")
        self.stream: Any = None
        return self

    def write(self, columns: dict[str, Any]) -> None:
        """Append rows given as lists or Arrow arrays; every call gives the same columns."""
        import pyarrow as pa

        schema = pa.schema([(name, self.types[name]) for name in columns])
        if self.stream is None:
            self.stream = pa.ipc.new_stream(self.sink, schema)
        arrays = [_to_array(column, self.types[name]) for name, column in columns.items()]
        self.stream.write_table(pa.Table.from_arrays(arrays, schema=schema))

    def __exit__(self, *error: object) -> None:
        if self.stream is not None:
            self.stream.close()
        self.sink.close()


def column_types() -> dict[str, Any]:
    """The Arrow type of each column of rows."""
    import pyarrow as pa

    ids, text = pa.list_(pa.int32()), pa.string()
    return {
        "input_ids": ids,
        "labels": ids,
        "seq_lens": ids,
        "desirable": ids,
        "seconds": ids,
        "channels": ids,
        "weights": pa.list_(pa.float32()),
        "margin": pa.list_(pa.float32()),
        "sample": pa.int64(),
        "source": text,
        "reference": text,
        "rollout": text,
        "classes": pa.list_(pa.list_(text)),
        "targets": pa.list_(pa.list_(pa.float32())),
        "grades": pa.list_(pa.float32()),
        "media": media_type(),
    }


def media_type() -> Any:
    """Of the column ``media``: for each sequence of a row its images, videos and sounds in order."""
    import pyarrow as pa

    text = pa.string()
    return pa.list_(pa.list_(pa.struct({"type": text, "source": text, "tokens": pa.int32(), "place": text})))


def _to_array(column: Any, kind: Any) -> Any:
    """Make an Arrow array; lists of integers go by way of one flat array, which is several times as fast."""
    import pyarrow as pa

    if isinstance(column, pa.Array | pa.ChunkedArray):
        return column
    if kind != pa.list_(pa.int32()):
        return pa.array(column, kind)
    offsets = np.zeros(len(column) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in column], out=offsets[1:])
    flat = np.fromiter(chain.from_iterable(column), dtype=np.int32, count=offsets[-1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))
