"""Files at URLs, of any kind that fsspec reads."""

from typing import Any

from tinygptv_core.plain import ConfigError


def file_system_of(url: str) -> tuple[Any, str]:
    """(the file system that has `url`, the path in it).

    Raises:
        ConfigError: nothing here reads such URLs, or what is connected to at once (ftp) does not answer.
    """
    import fsspec

    try:
        return fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{url} cannot be used: {error}\n  for s3://  pip install 'tinygptv[s3]'") from error
    except OSError as error:
        raise ConfigError(f"{url} cannot be reached: {error.strerror or error}") from error
