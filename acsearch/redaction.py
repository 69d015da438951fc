"""Passwords, keys and tokens are removed from everything that is printed, logged or stored.

There are two ways, because each alone misses something: by place (whatever stands where an address has its password)
and by value (the secrets that this process was given, wherever they appear).
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from types import TracebackType
from urllib.parse import unquote

from trainers.errors import printable

_HIDDEN = "***"
_VARIABLES = (
    "PGPASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
# Up to the last @ of a word, because a password may hold an @ or a / that is not percent-encoded.
_PASSWORD = re.compile(r"(://[^\s:/@]*:)([^\s'\"]+)(?=@)")
_TOKEN = re.compile(r"(https?://)([^\s:/@]+)(?=@)")
_OPTION = re.compile(r"(?i)([?&][^\s=&]*(?:passw|secret|token)[^\s=&]*=)([^\s&'\"]+)")
_registered: set[str] = set()


def redact(address: str) -> str:
    """Replace the password or token in an address by `***`."""
    return "(not a URL)" if _garbled(address) else _masked(address)


def _garbled(address: str) -> bool:
    return "@" in address and "://" not in address


def _masked(text: str) -> str:
    for pattern in (_PASSWORD, _TOKEN, _OPTION):
        text = pattern.sub(rf"\1{_HIDDEN}", text)
    return text


def register_secret(address: str) -> str:
    """Remember the secrets in an address, so that they are also redacted where a driver quotes them alone.

    Returns:
        The address, unchanged.
    """
    for pattern in (_PASSWORD, _TOKEN, _OPTION):
        for match in pattern.finditer(address):
            _registered.update((match[2], unquote(match[2])))
    if _garbled(address):
        _registered.add(address)
    return address


def without_userinfo(address: str) -> str:
    """Remove user and password from an address, for clients that take them for a part of the host name."""
    return re.sub(r"(?<=://).*@", "", address)


def holds_secret(address: str) -> bool:
    """Whether an address contains a password or token."""
    return redact(address) != address


def without_secrets(text: str) -> str:
    """Replace by `***` every registered secret, every secret environment variable, and passwords in addresses."""
    secrets = _registered | {os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    for secret in sorted(secrets, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _HIDDEN, text)
    return _masked(text)


def guard() -> None:
    """Redact all log records of this process, and the tracebacks of uncaught exceptions."""
    logging.setLogRecordFactory(_Record)
    sys.excepthook = _print


class _Record(logging.LogRecord):
    def getMessage(self) -> str:
        if self.exc_info and not self.exc_text:
            self.exc_text = printable(without_secrets("".join(traceback.format_exception(*self.exc_info)).rstrip()))
        return printable(without_secrets(super().getMessage()))


def _print(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    sys.stderr.write(printable(without_secrets("".join(traceback.format_exception(kind, error, where)))))
