"""Quantities as people say them."""


def duration(seconds: float) -> str:
    """0.31 -> "0.3 s", 75 -> "1 min 15 s", 7260 -> "2 h 1 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(number: float) -> str:
    """1_500_000_000 bytes -> "1.5 GB"."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= one:
            return f"{number / one:.1f} {unit}"
    return f"{number:.0f} bytes"
