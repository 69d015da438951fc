"""Passwords, keys and tokens are removed from everything that is printed, logged or stored.

An address is read into its parts, and only those are shown that are no secret. The secrets of addresses that this
process was given are also removed where anything else quotes them, however it writes them. All text for a terminal, a
log, MLflow or a bundle passes `without_secrets`.

A password that is short or a plain word is only removed from addresses and where it is quoted or assigned: stars for
every "study" would tell what it is.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, TextIO, cast
from urllib.parse import quote, unquote, unquote_plus

from trainers.errors import printable

_HIDDEN = "***"
_VARIABLES = (
    "PGPASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
_ADDRESSES = ("ACSEARCH_STORAGE", "ACSEARCH_TRACKING", "MLFLOW_TRACKING_URI")  # variables that may hold a secret
_DATABASES = {"postgresql", "postgres", "mysql", "mariadb", "mssql", "oracle"}  # a login without a colon is a user
_FILES = {"sqlite", "file", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}  # an @ may be a part of a name
_PLAIN = {  # options that hold no secret
    *("application_name", "cache", "charset", "connect_timeout", "database", "dbname", "driver", "host", "hostaddr"),
    *("mode", "options", "port", "server", "sslmode", "target_session_attrs", "timeout", "uid", "uri", "user"),
}
_SCHEME = r"[A-Za-z][\w.+-]*"
_HOST = r"(\[[\w:.%]*\]|[\w.-]*)(:\d*)?"
_PLACE = re.compile(rf"{_HOST}(,{_HOST})*(/.*)?", re.DOTALL)
_WHOLE = r"(?:(?<!\w)|(?!\w)|(?<=%[0-9A-Fa-f][0-9A-Fa-f])|(?<=\\[nrt]))(?:{})(?:(?!\w)|(?<!\w))"  # no part of a word
_QUOTED = r"""(?<=['"`])(?:{})(?=['"`])"""
_ASSIGNED = r"""(?<==)(?:{})(?=['"`&;,)\s]|$)"""
_registered: set[str] = set()
_shown: dict[str, str] = {}  # by address


class _Address(NamedTuple):
    """What of an address may be shown, and what of it is secret, as it is written there."""

    shown: str
    secrets: list[str]


def _read(address: str) -> _Address:
    """Read an address into its parts. Where it is not clear which part is which, only its scheme is shown."""
    scheme, separator, rest = address.partition("://")
    if not separator or not re.fullmatch(_SCHEME, scheme):
        return _Address("(not a URL)", [address]) if re.search("[@:?=]", address) else _Address(address, [])
    kind = scheme.lower().partition("+")[0]
    mark = re.search("[?;]", rest)
    before, options = (rest[: mark.start()], rest[mark.end() :]) if mark else (rest, "")
    end = f"{mark[0]}{_HIDDEN}" if mark and options else ""
    secrets = list(_secret_values(options))
    if kind in _FILES and ":" not in before.partition("/")[0]:
        return _Address(f"{scheme}://{before}{end}", secrets)
    login, at, place = before.rpartition("@")  # the last one: who wrote it may have forgotten to encode others
    if "@" in options or not _PLACE.fullmatch(place):
        return _Address(f"{scheme}://{_HIDDEN}", [rest, rest.rpartition("@")[0].partition(":")[2], *secrets])
    user, _, password = login.partition(":")
    if not password and kind not in _DATABASES:  # a token
        user, password = (_HIDDEN if login else "", user)
    elif password:
        user = f"{user}:{_HIDDEN}"
    return _Address(f"{scheme}://{user}{at}{place}{end}", [password, *secrets])


def _secret_values(options: str) -> Iterator[str]:
    """The values of options that may be secret; also of those in the connection string of ODBC that is one value."""
    for option in re.split("[&;]", options):
        key, _, value = option.partition("=") if "=" in option else ("", "", option)
        if key.lower() not in _PLAIN:
            yield value
            if re.search("[=;]", inner := unquote(value)):
                yield from _secret_values(inner)


def redact(address: str) -> str:
    """What may be shown of an address: `***` is in place of its password or token and of all its options."""
    return _read(address).shown


def register_secret(address: str) -> str:
    """Remember the secrets of an address, so that they are also removed where a driver quotes them alone.

    Returns:
        The address, unchanged.
    """
    shown, secrets = _read(address)
    if shown != address:
        _shown[address] = shown
        if "://" in shown:
            _, _, rest = address.partition("://")
            _shown[rest] = _shown[unquote(rest)] = shown.partition("://")[2]  # as some clients quote it
    _registered.update(secrets)
    return address


def without_userinfo(address: str) -> str:
    """Remove user and password from an address, for clients that take them for a part of the host name."""
    return re.sub(r"(?<=://).*@", "", address)


def holds_secret(address: str) -> bool:
    """Whether an address contains a password or token."""
    return redact(address) != address


def without_secrets(text: str) -> str:
    """Replace by `***` what is secret in addresses, every registered secret, and secret environment variables."""
    for address in sorted(_shown, key=len, reverse=True):
        text = text.replace(address, _shown[address])
    text = re.sub(rf"{_SCHEME}://\S+", lambda found: _redact_quoted(found[0]), text)
    variables = (os.environ.get(name, "") for name in _VARIABLES)
    pattern = _pattern(frozenset(_registered.union(variables)))
    return pattern.sub(_HIDDEN, text)


def _redact_quoted(found: str) -> str:
    address = found.rstrip("'\"`.,;:)]}>")
    return redact(address) + found[len(address) :]


@functools.lru_cache(maxsize=1)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str]:
    """What matches any of these secrets, decoded or not, whole or a line of it."""
    every = {spelling for one in secrets for spelling in (one, unquote(one), unquote_plus(one), one.strip("{}"))}
    every |= {line for one in every for line in one.splitlines()}
    strong = {one for one in every if len(one) >= 16 or (len(one) >= 8 and not re.fullmatch("[a-z]+", one))}
    weak = {one for one in every - strong if len(one.strip()) >= 3}
    parts = ((_WHOLE, strong), (_QUOTED, weak), (_ASSIGNED, weak))
    return re.compile("|".join(around.format(_any_of(found)) for around, found in parts if found) or "(?!)")


def _any_of(secrets: set[str]) -> str:
    """A pattern of secrets, each character as it is, percent-encoded or escaped, and any blanks for blanks."""
    longest_first = sorted(secrets, key=lambda one: (-len(one), one))
    return "|".join("".join(map(_character, re.findall(r"\s+|\S", one))) for one in longest_first)


def _character(part: str) -> str:
    """A pattern of a character, or of blanks. No two alternatives are equal: a regex would try all combinations."""
    codes = {quote(one, safe="", errors="surrogateescape") for one in set(part)} - {part}
    encoded = [f"(?i:{re.escape(code)})" for code in sorted(codes)]
    if part.isspace():
        return "(?:" + "|".join([r"\s|\\[nrtfv]|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\+", *encoded]) + ")+"
    ways = {part, repr(part)[1:-1], json.dumps(part)[1:-1], f"\\{part}"}
    return "(?:" + "|".join([*encoded, *map(re.escape, sorted(ways, key=len, reverse=True))]) + ")"


def guard() -> None:
    """Redact all that this process prints and logs, and the tracebacks of uncaught exceptions."""
    for name in _ADDRESSES:
        register_secret(os.environ.get(name, ""))
    for argument in sys.argv[1:]:
        value = re.sub(r"^--[\w-]+=", "", argument)
        if re.search(r"://|:.*@|\?.*=", value, re.DOTALL):
            register_secret(value)
    logging.setLogRecordFactory(_Record)
    sys.excepthook = _print
    sys.stdout, sys.stderr = _Stream.around(sys.stdout), _Stream.around(sys.stderr)


class _Stream:
    """A text stream that shows no secret."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @classmethod
    def around(cls, stream: TextIO) -> TextIO:
        """The same stream without secrets; at most one such layer."""
        return stream if stream is None or isinstance(stream, cls) else cast(TextIO, cls(stream))

    def write(self, text: str) -> int:
        self._stream.write(without_secrets(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Record(logging.LogRecord):
    def getMessage(self) -> str:
        if self.exc_info and not self.exc_text:
            self.exc_text = printable(without_secrets("".join(traceback.format_exception(*self.exc_info)).rstrip()))
        return printable(without_secrets(super().getMessage()))


def _print(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    sys.stderr.write(printable(without_secrets("".join(traceback.format_exception(kind, error, where)))))
