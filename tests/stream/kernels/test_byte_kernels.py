"""Eight bytes at a time against one byte at a time: the same answers wherever the bytes stand."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from driftgraph.stream.arrays import U8
from driftgraph.stream.kernels.byte_kernels import equal_bytes, gather, plain_text
from driftgraph.stream.kernels.compile import kernel
from driftgraph.stream.kernels.hashing import hash_bytes, other_hash_bytes

TEXTS = st.binary(max_size=40)
PADS = st.binary(max_size=9)


@kernel  # type: ignore[untyped-decorator]
def _hash(data: U8, start: int, stop: int, other: bool) -> np.uint64:
    hashed: np.uint64 = other_hash_bytes(data, start, stop) if other else hash_bytes(data, start, stop)
    return hashed


@kernel  # type: ignore[untyped-decorator]
def _equal(a: U8, a_start: int, b: U8, b_start: int, length: int) -> bool:
    same: bool = equal_bytes(a, a_start, b, b_start, length)
    return same


@kernel  # type: ignore[untyped-decorator]
def _plain(data: U8, at: int, stop: int) -> int:
    end: int = plain_text(data, at, stop)
    return end


def array(data: bytes) -> U8:
    return np.frombuffer(data, np.uint8)


@given(TEXTS, PADS, PADS)
def test_a_hash_is_of_the_bytes_and_not_of_what_is_around_them(
    text: bytes, before: bytes, after: bytes
) -> None:
    for other in (False, True):
        alone = _hash(array(text), 0, len(text), other)
        assert alone == _hash(array(before + text + after), len(before), len(before) + len(text), other)


def test_no_two_of_many_like_ids_have_one_hash_by_either_hash() -> None:
    """Zeros and lengths count, too; and nearly all halves are different, which an index of 32 bits needs."""
    texts = [b"%b%d" % (kind, n) for kind in (b"u", b"item-", b"2024-11-25T") for n in range(20_000)]
    texts += [bytes(n) for n in range(40)] + [b"a" * n for n in range(1, 40)]
    for other in (False, True):
        hashes = {int(_hash(array(text), 0, len(text), other)) for text in texts}
        assert len(hashes) == len(texts)
        assert len({h >> 32 for h in hashes}) > len(texts) - 10


@example(a=b"12345678", b=b"12345679", before=b"")
@example(a=b"123456789", b=b"123456780", before=b"x")
@given(TEXTS, TEXTS, PADS)
def test_equal_is_equal(a: bytes, b: bytes, before: bytes) -> None:
    length = min(len(a), len(b))
    assert _equal(array(before + a), len(before), array(b), 0, length) == (a[:length] == b[:length])
    assert _equal(array(before + a), len(before), array(a), 0, len(a))
    for at in range(length):
        changed = bytearray(a)
        changed[at] ^= 0x80
        assert not _equal(array(before + a), len(before), array(bytes(changed)), 0, len(a))


@given(st.lists(st.integers(0x20, 0x7E), max_size=30), st.lists(st.integers(0, 255), max_size=6), PADS)
def test_a_plain_text_ends_at_its_first_odd_byte_or_in_its_last_word(
    usual: list[int], rest: list[int], before: bytes
) -> None:
    text = bytes(usual + rest)
    odd = [at for at, byte in enumerate(text) if byte in b'"\\' or not 0x20 <= byte < 0x80]
    end = _plain(array(before + text), len(before), len(before) + len(text)) - len(before)
    words = len(text) // 8 * 8
    assert end == (odd[0] if odd and odd[0] < words else words)


@given(st.lists(TEXTS, max_size=12))
def test_gather_is_the_join_of_the_spans(texts: list[bytes]) -> None:
    data = b"-".join(texts)
    ends = np.cumsum([len(text) + 1 for text in texts]).astype(np.int64)
    spans = np.zeros((len(texts), 2, 2), np.int64)
    spans[:, 1, 1] = ends - 1
    spans[:, 1, 0] = ends - 1 - [len(text) for text in texts]
    offsets, out = gather(array(data), spans, 1)
    assert out.tobytes() == b"".join(texts)
    assert np.diff(offsets).tolist() == [len(text) for text in texts]
