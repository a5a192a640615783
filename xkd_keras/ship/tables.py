"""The tables of a TFLite file: read to be changed, and written."""

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

_ALIGNED = 16  # bytes: `force_align` of Buffer.data in the schema; kernels may load vectors from it


class _Builder(flatbuffers.Builder):
    """A builder that aligns bytes as the schema asks, which Python's own does not know."""

    def StartVector(self, elemSize, numElems, alignment):  # noqa: N802, N803 - its own names
        if elemSize == 1:
            alignment = max(alignment, _ALIGNED)
        return super().StartVector(elemSize, numElems, alignment)


def read(model: bytes) -> schema.ModelT:
    """Return the tables of a TFLite file."""
    return schema.ModelT.InitFromPackedBuf(model)


def write(tables: schema.ModelT) -> bytes:
    """Return tables as a TFLite file."""
    builder = _Builder(1024)
    builder.Finish(tables.Pack(builder), b"TFL3")
    return bytes(builder.Output())
