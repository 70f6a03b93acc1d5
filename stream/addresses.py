"""Addresses such as ``redis://user:password@host/0``: the one place that prints them and finds their faults.

The results of these functions never contain a user name, a password, or the query behind a ``?``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

HIDDEN: Final = "…"
ENCODE: Final = "in a user name or password write %2F for /, %3F for ?, %23 for #, %40 for @ and %25 for %"
REDIS_SCHEMES: Final = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")
_ADDRESS_AS_PATH: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # two letters: C:/ is a folder
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def fault_of(url: str, schemes: Collection[str]) -> str | None:
    """What is wrong with an address and what to do, without quoting it; None if it can be used.

    A ``/``, ``?`` or ``#`` in a password ends the host part, and the rest of the password is then taken for a
    port, a path or a query. So addresses that look like that are refused.
    """
    if "://" not in url or url.partition("://")[0].lower() not in schemes:
        named = [f"{scheme}://" for scheme in schemes]
        return f"should begin with {' or '.join([', '.join(named[:-1]), named[-1]] if named[1:] else named)}"
    if len(single := _by_host(url)) > 1:
        return next((fault for one in single if (fault := fault_of(one, schemes)) is not None), None)
    parts = _split(url)
    if parts is None:
        return _fault_of_port(url) or f"is no address that can be taken apart; {ENCODE}"
    is_file = parts.scheme == "unix"
    after = parts.query if is_file and not parts.netloc else parts.path + parts.query
    fault = None
    if "#" in url:
        fault = "has a # in it"
    elif "@" in after:
        fault = "has an @ behind a / or ?"
    elif is_file and parts.netloc.rpartition("@")[2]:
        fault = "should have three slashes and a path, as unix:///run/redis.sock"
    elif not is_file and parts.netloc and not parts.hostname:
        fault = "has no host"
    elif parts.port == 0:
        return "has a port that is no number from 1 to 65535"
    return fault and f"{fault}; {ENCODE}"


def _fault_of_port(url: str) -> str | None:
    """What is wrong with the port, if that is what cannot be taken apart, and not a password as it seems."""
    netloc = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    rest = url.partition("://")[2][len(netloc) :]
    host, colon, port = netloc.rpartition("@")[2].rpartition(":")
    if "@" in rest or "#" in rest or not colon or not host or port.endswith("]"):
        return None
    if ":" in host and not host.startswith("["):
        return "has several colons in its host: put an IPv6 address in brackets, as in [::1]:6379"
    is_port = port.isascii() and port.isdecimal() and int(port[:9]) <= 65_535
    if is_port or "[" in host[1:] or _CONTROL.search(url):
        return None
    login = "" if "@" in netloc else "; a user and a password stand before the host, with an @ between"
    return f"has a port that is no number from 1 to 65535{login}"


def looks_like_address(text: str) -> bool:
    """Whether a text that should be a path is an address, also as a ``Path`` writes it: ``s3:/bucket``."""
    return _ADDRESS_AS_PATH.match(text) is not None


def public_url(url: str) -> str:
    """An address without secrets. Of an address that cannot be parsed safely only the scheme is left."""
    scheme = url.partition("://")[0].lower()
    if not _SCHEME.fullmatch(scheme) or "://" not in url:
        return HIDDEN
    single = _by_host(url)
    parts = _split(single[0])
    if fault_of(url, [scheme]) is not None or parts is None:
        return f"{scheme}://{HIDDEN}"
    is_odd = scheme in ("redis", "rediss") and not parts.path.strip("/").isdecimal()
    path = f"/{HIDDEN}" if is_odd and parts.path.strip("/") else parts.path
    query = f"?{HIDDEN}" if parts.query else ""
    hosts = ",".join(urlsplit(one).netloc.rpartition("@")[2] for one in single)
    return f"{scheme}://{hosts}{path}{query}"


def without_addresses(text: str) -> str:
    """A text with every address in it as ``public_url`` gives it."""
    return _ADDRESS.sub(lambda found: public_url(found[0]), text)


def secrets_in(url: str) -> set[str]:
    """The secrets in an address: the password and the values of the query, each also decoded."""
    parts = _split(_by_host(url)[0])
    if parts is None:
        return {url}
    found = {parts.password or "", *(value for _, value in parse_qsl(parts.query))}
    return {text for one in found for text in (one, unquote(one)) if text}


def _by_host(url: str) -> list[str]:
    """An address with several hosts, which has a + in its scheme, as addresses with one host each."""
    scheme, _, rest = url.partition("://")
    if "+" not in scheme:
        return [url]
    netloc = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login, at, hosts = netloc.rpartition("@")
    return [f"{scheme}://{login}{at}{host}{rest[len(netloc) :]}" for host in hosts.split(",")]


def _split(url: str) -> SplitResult | None:
    """The parts of an address; None where Python's parser fails, whose error would quote the address."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  the parser checks the port only when it is read
    except ValueError:
        return None
    return None if _CONTROL.search(url) else parts
