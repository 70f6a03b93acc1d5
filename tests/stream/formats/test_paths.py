"""Paths and conditions: what is read, what is refused with which sentence, and what they find."""

from __future__ import annotations

import pytest

from driftgraph.stream.formats.paths import ABSENT, Condition, NotComparableError, Path, look_up

MESSAGE = {
    "user": {"id": "u1", "tags": ["a", "b"]},
    "odd.name": 1,
    'a"b': 2,
    "rating": 4,
    "verified": True,
    "no": None,
    "text": "10",
}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("user", (("user",),)),
        ("user.id", (("user", "id"),)),
        ("a[0].b", (("a", 0, "b"),)),
        ("a[*].b", (("a",), ("b",))),
        ("a.b[*].c[*].d[2]", (("a", "b"), ("c",), ("d", 2))),
        ("a[*]", (("a",), ())),
        ('"odd.name"."a\\"b"', (("odd.name", 'a"b'),)),
        ("naïve-name_1:x", (("naïve-name_1:x",),)),
    ],
)
def test_a_path_is_read(text: str, parts: tuple[tuple[object, ...], ...]) -> None:
    assert Path.parse(text).parts == parts
    assert Path.parse(text).depth == len(parts) - 1


def test_a_path_beside_the_message() -> None:
    assert [Path.parse(t).record for t in ("$key", "$timestamp", "$header.ce_id", '"$key"')] == [
        "key", "timestamp", "header.ce_id", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no name at character 1"),
        ("a..b", "no name at character 3"),
        ("a.", "no name at character 3"),
        (".a", "no name at character 1"),
        ("a[x]", "character 2 is '\\['"),
        ("a[-1]", "character 2 is '\\['"),
        ("a[*", "character 2 is '\\['"),
        ("a b", "character 2 is ' '"),
        ('"open', "no name at character 1"),
        ("[*].a", "no name at character 1"),
        ("$user", r"\$key, \$timestamp or \$header"),
        ("$header.", r"\$key, \$timestamp or \$header"),
    ],
)
def test_what_is_no_path_is_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Path.parse(text)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("user.id", "u1"),
        ("user.tags[1]", "b"),
        ("user.tags[2]", ABSENT),
        ("user.tags.id", ABSENT),
        ("user[0]", ABSENT),
        ("user.id.more", ABSENT),
        ("nobody", ABSENT),
        ("no", None),
        ("no.more", ABSENT),
        ('"odd.name"', 1),
    ],
)
def test_a_path_finds_what_is_there(path: str, value: object) -> None:
    found = look_up(MESSAGE, Path.parse(path).parts[0])
    assert found is value or found == value


def holds(text: str) -> bool:
    tests = Condition.parse(text).tests
    return all(test.holds(look_up(MESSAGE, test.path.parts[0])) for test in tests)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("rating >= 4", True),
        ("rating > 4", False),
        ("rating<4.5", True),
        ("rating <= 3", False),
        ("rating == 4.0", True),
        ("rating != 4", False),
        ("verified == true", True),
        ("verified == 1", False),
        ("rating == true", False),
        ('text == "10"', True),
        ("text == 10", False),
        ('text < "2"', True),
        ('user.id in ["u1", "u2"]', True),
        ("verified in [1]", False),
        ("no exists", False),
        ("no missing", True),
        ("nobody missing", True),
        ("user exists", True),
        ("nobody != 1", True),
        ("no == null", True),
        ("nobody == null", False),
        ("rating >= 4 and verified == true", True),
        ("rating >= 4 and verified == false", False),
        ('"odd.name" == 1 and user.id == "u1" and rating exists', True),
        ('text == "a and b"', False),
    ],
)
def test_a_condition_holds_or_not(text: str, answer: bool) -> None:
    assert holds(text) is answer


@pytest.mark.parametrize("text", ["text >= 4", "nobody >= 4", "verified > 0", "no < 4", 'rating > "4"'])
def test_only_like_is_compared_with_like(text: str) -> None:
    """A rating that is a text is a broken producer, and not a rating below four."""
    with pytest.raises(NotComparableError, match="must be a"):
        holds(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a condition reads like"),
        ("rating", "a condition reads like"),
        ("rating ~ 4", "a condition reads like"),
        ("rating >=", "after >= comes a JSON value"),
        ("rating == track", "after == comes a JSON value"),
        ("rating >= [4]", "after >= comes a number or a text"),
        ("rating in 4", "after in comes a list"),
        ("rating >= 4 or x == 1", "comes 'and' or the end, not ' or x == 1'"),
        ("rating >= 4 and", "a condition reads like"),
        ("a..b == 1", "no name at character 3"),
    ],
)
def test_what_is_no_condition_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Condition.parse(text)
