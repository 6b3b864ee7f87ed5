"""Whether an error comes of memory that could not be had."""

from collections.abc import Iterator

NO_MEMORY_WORDS = ("CUDA out of memory", "can't allocate memory", "Cannot allocate memory", "std::bad_alloc")


def has_no_memory(error: BaseException) -> bool:
    """Whether `error` comes of memory that could not be had, of a GPU or of the machine."""
    return any(
        isinstance(one, MemoryError) or any(words in str(one) for words in NO_MEMORY_WORDS) for one in chain(error)
    )


def chain(error: BaseException) -> Iterator[BaseException]:
    """`error`, and what it came of."""
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        seen.append(one)
        yield one
        one = one.__cause__ or one.__context__
