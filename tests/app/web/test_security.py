"""The HTTP port against who means harm: any bytes, foreign pages, guessed tokens, secrets in answers."""

from __future__ import annotations

import ast
import contextlib
import hmac
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftgraph.app.config.settings import load
from driftgraph.app.web import routes
from driftgraph.app.web.openapi import ROUTES
from driftgraph.app.web.routes import HEADERS
from driftgraph.app.web.unreadable import UNREADABLE
from tests.app.web.serving import TOKEN, Port, served, updater_says

ROOT = Path(__file__).resolve().parents[3]
SECRETS = {name: f"secret-of-{name}-9f3" for name in ("redis", "kafka", "registry", "token")}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """Nothing that it asks is there, so that every error is made; secrets are everywhere."""
    folder = tmp_path_factory.mktemp("web")
    configuration = {
        "data_dir": str(folder),
        "relations": {"click": {}},
        "redis": {"url": f"redis://user:{SECRETS['redis']}@127.0.0.1:1/0?password={SECRETS['redis']}"},
        "kafka": {
            "bootstrap_servers": "127.0.0.1:1",
            "options": {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "log_level": 0,
                        "sasl.username": "shop"},
            "secrets": {"sasl.password": SECRETS["kafka"]},
        },
        "web": {"listen": "127.0.0.1:0", "token": SECRETS["token"]},
    }  # fmt: skip
    updater_says(folder)
    with served(load(None, configuration)) as found:
        yield found


def raw(port: Port, sent: bytes, within_s: float = 30, *, until: bytes | None = None) -> bytes:
    """What the server says to these bytes before it closes or says ``until``, or within so long."""
    host, _, number = port.address.removeprefix("http://").partition(":")
    found = b""
    with (
        socket.create_connection((host, int(number)), timeout=within_s) as line,
        contextlib.suppress(OSError),
    ):
        line.sendall(sent)
        while (until is None or until not in found) and (chunk := line.recv(1 << 16)):
            found += chunk
    return found


def is_sound(answer: bytes) -> bool:
    """Nothing, or answers that are meant: no 500, and no word of what is inside."""
    statuses = {int(one) for one in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)}
    return not statuses - {
        200,
        400,
        401,
        403,
        404,
        405,
        408,
        409,
        413,
        415,
        417,
        429,
        501,
        503,
        505,
    } and not any(
        word in answer for word in (b"Traceback", b".py", *(one.encode() for one in SECRETS.values()))
    )


ENDING = [one for one in ROUTES if one.name != "stream"]  # whose answers end
PATHS = st.sampled_from([one.path.format(user="u", item="i", file="page.css").encode() for one in ENDING])
TARGETS = st.one_of(PATHS, st.binary(max_size=40), st.tuples(PATHS, st.binary(max_size=20)).map(b"".join))
METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"TRACE", b"PRI", b"G\x00T", b""])
NAMES = st.sampled_from(
    [b"Authorization", b"Content-Type", b"Content-Length", b"Transfer-Encoding", b"Content-Encoding",
     b"Range", b"Expect", b"Upgrade", b"Connection", b"Host", b"Cookie", b"X-Forwarded-For", b"Origin"]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from([b"application/json", b"application/x-ndjson", b"chunked", b"gzip", b"100-continue",
                     b"close", b"3", b"-1", b"9" * 20, b"h2c", b"Bearer a guess"]),
    st.binary(max_size=30),
)  # fmt: skip
HEADER_LINES = st.lists(st.tuples(NAMES, VALUES), max_size=6)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.one_of(st.binary(max_size=60), JSONS.map(lambda one: json.dumps(one).encode()))
BOUNDED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@BOUNDED
@given(method=METHODS, target=TARGETS, lines=HEADER_LINES, body=BODIES)
def test_whatever_is_sent_the_answer_is_meant_and_the_port_lives(
    port: Port, method: bytes, target: bytes, lines: list[tuple[bytes, bytes]], body: bytes
) -> None:
    head = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
    begin = method + b" " + target + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    answer = raw(port, begin + head + b"\r\n" + body, within_s=0.3)
    assert is_sound(answer), answer
    assert port.ask("/metrics")[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Mine: my-own \x00 secret\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nmy-own secret\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: my-own secret\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Mine: " + b"my-own secret" * 1_000 + b"\r\n\r\n",
        b"GET /my-own secret HTTP/9.z\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00my-own secret\r\n\r\n",
    ],
    ids=["null", "no colon", "length", "long", "first line", "tls"],
)
def test_what_is_no_http_is_refused_in_our_words_and_not_sent_back(port: Port, sent: bytes) -> None:
    head, _, body = raw(port, sent).partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 400 ", head), head
    assert b"content-type: application/json" in head.lower()
    assert b"nosniff" in head
    assert json.loads(body) == {"error": UNREADABLE}
    assert b"my-own" not in head


def test_an_expectation_that_nobody_knows_is_refused_and_not_sent_back(port: Port) -> None:
    sent = b"GET /livez HTTP/1.1\r\nHost: a\r\nExpect: my-own\r\nConnection: close\r\n\r\n"
    head, _, body = raw(port, sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 417 "), head
    assert json.loads(body) == {"error": "Expect may be 100-continue alone"}


@BOUNDED
@given(
    path=st.sampled_from(["/api/promote", "/api/rollback", "/api/events", "/api/rejected/retry"]), body=BODIES
)
def test_whatever_the_body_is_it_is_judged(port: Port, path: str, body: bytes) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {SECRETS['token']}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    answer = raw(port, head.encode() + body)
    assert is_sound(answer), answer
    assert re.match(rb"HTTP/1.1 (200|400|429|503) ", answer), answer


@pytest.mark.parametrize(
    "path",
    [
        "/api/recommend/u%0d%0aSet-Cookie:%20a=b", "/api/similar/i%00", "/api/recommend/%ff%fe",
        "/api/recommend/..%2f..%2fetc%2fpasswd", "/api/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd",
        "/api/events/recent/%0d%0a%0d%0a<script>", "/livez%0d%0aX:1", "/api/similar/i?top=%0d%0aX:1",
        "/api/recommend/u?why=%3Cscript%3E",
    ],
)  # fmt: skip
def test_nothing_of_a_path_gets_into_a_header_or_out_of_the_routes(port: Port, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {SECRETS['token']}\r\n"
    answer = raw(port, head.encode() + b"Connection: close\r\n\r\n")
    headers, _, body = answer.partition(b"\r\n\r\n")
    names = {line.split(b":")[0].lower() for line in headers.split(b"\r\n")[1:]}
    own = {name.lower().encode() for name in HEADERS}
    assert names <= own | {b"content-type", b"content-length", b"date", b"server", b"connection"}, answer
    assert own <= names
    assert b"content-type: application/json" in headers.lower(), "no browser takes it for a page"
    assert b"root:" not in body
    assert is_sound(answer)


@pytest.mark.parametrize("route", [one for one in ROUTES if one.method == "POST"], ids=lambda one: one.name)
def test_a_foreign_page_can_change_nothing(port: Port, route: object) -> None:
    """A form or a script of another site: without the header, or after asking first, which is not allowed."""
    path = route.path  # type: ignore[attr-defined]
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert port.ask(path, method="POST", body=b"{}", kind=kind)[0] == 401
        assert port.ask(path, method="POST", body=b"{}", kind=kind, token=SECRETS["token"])[0] == 415
    asked = (
        f"OPTIONS {path} HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example\r\nConnection: close\r\n"
        "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n\r\n"
    )
    answer = raw(port, asked.encode())
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"access-control" not in answer.lower()
    assert b"set-cookie" not in answer.lower()


def test_no_answer_has_a_secret(port: Port) -> None:
    """Of every route, also of those that fail since Redis, Kafka and the worker are away."""
    stream = raw(port, b"GET /api/stream HTTP/1.1\r\nHost: a\r\n\r\n", until=b"event: now")
    assert b"event: now" in stream
    assert not any(secret.encode() in stream for secret in SECRETS.values())
    for route in ENDING:
        path = route.path.format(user="u1", item="i1", file="page.css")
        if route.name == "recommend":
            path += "?why=true"
        body = b'[{"user_id": "u", "item_id": "i", "behavior": "click", "ts": 1}]' if route.body else None
        for token in (None, SECRETS["token"]):
            status, said = port.ask(path, method=route.method, body=body, token=token)
            text = said if isinstance(said, str) else json.dumps(said)
            assert status < 600
            for secret in SECRETS.values():
                assert secret not in text, (path, text)
    assert "127.0.0.1:1" in json.dumps(port.ask("/readyz")[1]), "the address is told, without the password"


def test_a_fault_of_ours_is_in_the_log_and_not_in_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    answer = routes._failure(ValueError(SECRETS["redis"]), "GET status")
    assert answer.status == 500
    assert json.loads(answer.text or "") == {"error": "an unexpected error, which the log has"}
    assert SECRETS["redis"] in caplog.text


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guess tells by no time how much of it is right: all bytes of both are compared by ``hmac``."""
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac_compare(one, other)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr("driftgraph.app.web.routes.hmac.compare_digest", compare)
    routes._check_token(f"Bearer {TOKEN}", TOKEN)
    for guess in ("", TOKEN[:-1], TOKEN + "x"):
        with pytest.raises(web.HTTPUnauthorized):
            routes._check_token(f"Bearer {guess}", TOKEN)
    assert compared == [(guess.encode(), TOKEN.encode()) for guess in (TOKEN, "", TOKEN[:-1], TOKEN + "x")]


# --- the code --------------------------------------------------------------------------------------------

PICKLING = {
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "jsonpickle",
}
OWN_PIPES = {  # file -> why its ``recv`` of a pipe of multiprocessing, which unpickles, is safe
    "stream/faust/normalize.py": "between a process and its own child; what others sent is bytes in it",
}


def code() -> list[Path]:
    return sorted(
        path for folder in ("app", "model", "snapshots", "stream") for path in (ROOT / folder).rglob("*.py")
    )


def unpickling(path: Path, text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import) and PICKLING & {one.name.split(".")[0] for one in node.names}:
            yield f"line {node.lineno} imports a pickler"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLING:
            yield f"line {node.lineno} imports from a pickler"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            named = {one.arg: ast.unparse(one.value) for one in node.keywords}
            if called in ("eval", "exec") or called.endswith(("yaml.load", "read_pickle")):
                yield f"line {node.lineno} runs what it reads"
            if called.endswith("torch.load") and named.get("weights_only") != "True":
                yield f"line {node.lineno} loads without weights_only"
            if called.endswith("np.load") and named.get("allow_pickle") != "False":
                yield f"line {node.lineno} loads arrays without allow_pickle=False"
            if called.endswith(".recv") and not node.args and path.as_posix() not in OWN_PIPES:
                yield f"line {node.lineno} unpickles what a pipe brings"


def test_nothing_is_unpickled() -> None:
    """What a file, Redis, Kafka or a client holds is data: nobody can make it run."""
    for path in code():
        named = path.relative_to(ROOT)
        assert not list(unpickling(named, path.read_text(encoding="utf-8"))), named


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from cloudpickle import loads", "import marshal as m", "torch.load(x)", "eval(x)",
        "np.load(x)", "np.load(x, allow_pickle=True)", "connection.recv()",
        "torch.load(x, weights_only=False)",
        "pandas.read_pickle(x)",
    ],
)  # fmt: skip
def test_the_scan_sees_each_way_to_unpickle(line: str) -> None:
    assert list(unpickling(Path("app/x.py"), line))
