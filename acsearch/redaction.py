"""No password, key or token in what is printed, logged or kept: they are taken out of every text on its way there.

In two ways, for each misses something: what stands where addresses have their password, whatever it is; and the secrets
that this process was given, wherever they stand.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from types import TracebackType
from urllib.parse import unquote

_HIDDEN = "***"
_VARIABLES = (
    "PGPASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
# To the last @ of a word: of a password with an @ or a / that nobody encoded, the rest must not be seen either.
_PASSWORD = re.compile(r"(://[^\s:/@]*:)([^\s'\"]+)(?=@)")
_TOKEN = re.compile(r"(https?://)([^\s:/@]+)(?=@)")
_OPTION = re.compile(r"(?i)([?&][^\s=&]*(?:passw|secret|token)[^\s=&]*=)([^\s&'\"]+)")
_given: set[str] = set()


def redact(address: str) -> str:
    """An address without its password."""
    return "(not a URL)" if _garbled(address) else _masked(address)


def _garbled(address: str) -> bool:
    return "@" in address and "://" not in address


def _masked(text: str) -> str:
    for pattern in (_PASSWORD, _TOKEN, _OPTION):
        text = pattern.sub(rf"\1{_HIDDEN}", text)
    return text


def register_secret(address: str) -> str:
    """The same address. What is secret in it will not be shown alone either, as drivers may quote it."""
    for pattern in (_PASSWORD, _TOKEN, _OPTION):
        for match in pattern.finditer(address):
            _given.update((match[2], unquote(match[2])))
    if _garbled(address):
        _given.add(address)
    return address


def without_userinfo(address: str) -> str:
    """For clients that take user and password for a part of the host's name."""
    return re.sub(r"(?<=://).*@", "", address)


def holds_secret(address: str) -> bool:
    return redact(address) != address


def without_secrets(text: str) -> str:
    secrets = _given | {os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    for secret in sorted(secrets, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _HIDDEN, text)
    return _masked(text)


def guard() -> None:
    """Take secrets out of what this process logs, and of the tracebacks of errors that nobody expected."""
    logging.setLogRecordFactory(_Record)
    sys.excepthook = _print


class _Record(logging.LogRecord):
    def getMessage(self) -> str:
        if self.exc_info and not self.exc_text:
            self.exc_text = without_secrets("".join(traceback.format_exception(*self.exc_info)).rstrip())
        return without_secrets(super().getMessage())


def _print(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    sys.stderr.write(without_secrets("".join(traceback.format_exception(kind, error, where))))
