"""Loads and stores that numba does not offer. Other processes can rely on the order of most of them.

numba compiles plain array accesses to plain loads and stores, and LLVM may move these. A structure that one
process writes while others read needs two more guarantees. A process that sees a release store also sees all
that was written before it. An acquire load reads memory each time.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

compiled: Any = intrinsic  # its own type would describe the Python call, not the compiled one


def _element_pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array)
    return builder.gep(data.data, [index])


def _is_flat_integer_array(array: Any) -> bool:
    return isinstance(array, types.Array) and array.ndim == 1 and isinstance(array.dtype, types.Integer)


@compiled
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """Read ``array[index]`` of a flat array of numbers. Nothing notices a negative index, which is an error.

    numba makes ``array[-1]`` the last element, three instructions for each access of a hot loop.
    """
    if not (isinstance(array, types.Array) and array.ndim == 1 and isinstance(array.dtype, types.Number)):
        return None

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_element_pointer(context, builder, signature.args[0], *arguments))

    return array.dtype(array, types.intp), build


@compiled
def load_acquire(typing_context: Any, array: Any, index: Any) -> Any:
    """Read ``array[index]`` of a flat integer array; nothing after it is read earlier."""
    if not _is_flat_integer_array(array):
        return None

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _element_pointer(context, builder, signature.args[0], *arguments)
        return builder.load_atomic(pointer, "acquire", array.dtype.bitwidth // 8)

    return array.dtype(array, types.intp), build


@compiled
def load_word(typing_context: Any, array: Any, index: Any) -> Any:
    """Read the eight bytes of a flat array of bytes from ``index`` on, as they stand in memory."""
    if not (_is_flat_integer_array(array) and array.dtype.bitwidth == 8):
        return None

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _element_pointer(context, builder, signature.args[0], *arguments)
        word = builder.load(builder.bitcast(pointer, ir.IntType(64).as_pointer()))
        word.align = 1
        return word

    return types.uint64(array, types.intp), build


@compiled
def trailing_zeros(typing_context: Any, word: Any) -> Any:
    """The number of zero bits at the low end of a 64-bit word."""
    if word != types.uint64:
        return None

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), build


@compiled
def bit_length(typing_context: Any, word: Any) -> Any:
    """The number of bits from the highest one of a 64-bit word down to the lowest; 0 for a word of zeros."""
    if word != types.uint64:
        return None

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zeros = builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))
        return builder.sub(ir.Constant(ir.IntType(64), 64), zeros)

    return types.int64(types.uint64), build


@compiled
def store_word(typing_context: Any, array: Any, index: Any, word: Any) -> Any:
    """Write the eight bytes of a word to a flat array of bytes, from ``index`` on."""
    if not (_is_flat_integer_array(array) and array.dtype.bitwidth == 8):
        return None

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_value, index_value, new_value = arguments
        pointer = _element_pointer(context, builder, signature.args[0], array_value, index_value)
        stored = builder.store(new_value, builder.bitcast(pointer, ir.IntType(64).as_pointer()))
        stored.align = 1
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64), build


@compiled
def store_release(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Write ``array[index] = value`` of a flat integer array, after everything written before it."""
    if not _is_flat_integer_array(array):
        return None

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_value, index_value, new_value = arguments
        pointer = _element_pointer(context, builder, signature.args[0], array_value, index_value)
        builder.store_atomic(new_value, pointer, "release", array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), build


@compiled
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of ``array[index]``. It is a hint, without an effect on any result."""
    if not _is_flat_integer_array(array):
        return None

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _element_pointer(context, builder, signature.args[0], *arguments)
        byte_pointer = ir.IntType(8).as_pointer()
        int32 = ir.IntType(32)
        prefetch_type = ir.FunctionType(ir.VoidType(), [byte_pointer, int32, int32, int32])
        function = cgutils.get_or_insert_function(builder.module, prefetch_type, "llvm.prefetch.p0")
        read, keep, data = (int32(number) for number in (0, 3, 1))  # rw, locality 3 of 3, data cache
        builder.call(function, [builder.bitcast(pointer, byte_pointer), read, keep, data])
        return context.get_dummy_value()

    return types.void(array, types.intp), build


@compiled
def fence(typing_context: Any) -> Any:
    """Keep every load and store before it before every one after it."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), build
