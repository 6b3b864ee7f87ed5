"""Paths as people type them."""

from pathlib import Path


def typed_path(text: str) -> Path:
    """`text` as an absolute path without `..`; `~` at its beginning is a user's own folder."""
    path = Path(text).expanduser().absolute()
    if ".." not in path.parts:
        return path
    return path.resolve() if path.name == ".." else path.parent.resolve() / path.name  # which keeps a link's own name
