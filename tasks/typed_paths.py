"""Paths as people type them."""

from pathlib import Path


def typed_path(text: str) -> Path:
    """`text` as an absolute path; `~` at its beginning is a user's own folder."""
    return Path(text).expanduser().absolute()
