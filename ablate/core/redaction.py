"""Texts without the secrets that URIs, settings and commands can carry."""

from __future__ import annotations

import re

_SECRETS = (
    # A password may hold : @ and /, and so may the keys of a bucket: all up to the last @ goes.
    (re.compile(r"(?<=://)[^/:@\s'\"]+:[^\s'\"]*@"), "***@"),
    (re.compile(r"(?<=://)[^/\s'\"]+@"), "***@"),
    (re.compile(r"(?i)((?:password|passwd|secret|token|access_key|api_key)[\w-]*[=:]\s*)[^\s&'\"]+"), r"\1***"),
)


def redact(text: str) -> str:
    """The text without the user names, passwords and tokens that URIs and settings can carry.

    Args:
        text: A URI, a command or a message.

    Returns:
        The same with `***` in their place.
    """
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def without_login(uri: str) -> str:
    """An address that a link may lead to: where the login stood stands nothing."""
    return redact(uri).replace("://***@", "://")
