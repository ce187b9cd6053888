"""No secret in what is logged or said: values that the environment names as secret, and the key of the pseudonyms."""

from __future__ import annotations

import logging
import os
import re

HIDDEN = "[hidden]"
# Names of variables whose values nobody may read in a log: credentials of object stores, keys of ours.
SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|(ACCESS|API|ACCOUNT|USER|SAS|PRIVATE)_?KEY|CREDENTIAL", re.IGNORECASE)
# Spark shows the padded key (64 bytes) of the pseudonyms where it shows a plan.
PADDED_KEY = re.compile(r"(?:0x|X')?[0-9A-Fa-f]{128}'?")
SHORTEST = 6


def redacted(text: str) -> str:
    """The text without secrets. Values of fewer than six characters are no secrets, and may be any word."""
    values = {value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= SHORTEST}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return PADDED_KEY.sub(HIDDEN, text)


class Redacting(logging.Formatter):
    """Another formatter, its lines without secrets."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self.inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return redacted(self.inner.format(record))
