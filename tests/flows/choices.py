"""What a person chooses who chooses nothing."""

from pathlib import Path

from flows.choosing.choice import Choice

CHOICE = Choice(
    preset="nano",
    settings=(),
    only=None,
    start_from=None,
    until=(),
    list_file=None,
    instruct=None,
    images=None,
    data=None,
    removal_list=None,
    allow_hosts=(),
    home=Path(),
    ray_address=None,
    init=None,
    options=(),
    promote="first",
    bundle=False,
)
