"""What a site says in a picture's headers about its use: that it is not for mining, or not for training."""

import re
from collections.abc import Iterator
from email.message import Message

NOT_FOR_MINING = "TDM-Reservation"
"""The header in which a site keeps text and data mining to itself (W3C's TDM Reservation Protocol)."""
ROBOTS = "X-Robots-Tag"
NOT_FOR_TRAINING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
"""What `ROBOTS` says of pictures that are not for training; `none` is short for noindex and nofollow."""
USER_AGENT = "tinygptv"
"""The name by which a site may speak to us alone."""

_EVERYONE = ("*", USER_AGENT)
_WITH_VALUE = re.compile(  # what stands before their colon is no robot's name, and a date may hold a comma and colons
    r"\b(max-snippet|max-image-preview|max-video-preview|unavailable_after)\s*:\s*((mon|tue|wed|thu|fri|sat|sun)[a-z]*,)?[^,]*"
)


def reservation(headers: Message) -> str | None:
    """The header and the word in it by which a site keeps its picture to itself, if it does."""
    if headers.get(NOT_FOR_MINING, "").strip() == "1":
        return f"{NOT_FOR_MINING}: 1"
    said = (word for line in headers.get_all(ROBOTS, []) for word in _said_to_us(line))
    return next((f"{ROBOTS}: {word}" for word in said if word in NOT_FOR_TRAINING), None)


def _said_to_us(line: str) -> Iterator[str]:
    """The words of one robots header that are for everyone or for us, in lower case.

    `NAME: WORD, WORD` is for one robot, until the next name. Source: Google's robots meta tag specification.
    """
    name = "*"
    for part in _WITH_VALUE.sub("", line.lower()).split(","):
        before, colon, after = part.partition(":")
        name = "".join(before.split()) if colon else name
        if name in _EVERYONE:
            yield (after if colon else before).strip()
