"""Every array type that the code names, by its numbers.

A name says the dtype, not the shape: the shape stands beside the name of the variable.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]  # what numpy answers with where it names elements: argsort, flatnonzero
Instants = npt.NDArray[np.datetime64]  # in milliseconds, UTC
