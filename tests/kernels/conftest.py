"""The kernels in Triton's interpreter, where no GPU is (``tests/conftest.py`` turns it on): the same source, on CPU tensors."""

from __future__ import annotations

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")


@pytest.fixture(autouse=True, scope="session")
def bfloat16_as_on_a_gpu() -> None:
    """The interpreter keeps bfloat16 as 16-bit integers: it would multiply those, and cuts digits off instead of rounding."""
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    create_dot, cast_impl = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def widened(x: TensorHandle) -> TensorHandle:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def rounded(self: InterpreterBuilder, source: TensorHandle, to: tl.dtype) -> TensorHandle:
        if source.dtype.scalar != tl.float32 or to.scalar != tl.bfloat16:
            return cast_impl(self, source, to)
        data = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16().view(torch.int16).numpy().view(np.uint16)
        return TensorHandle(data.reshape(source.data.shape), tl.bfloat16)

    InterpreterBuilder.create_dot = lambda self, a, b, *rest: create_dot(self, widened(a), widened(b), *rest)
    InterpreterBuilder.cast_impl = rounded
