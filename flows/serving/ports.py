"""The ports of this machine."""

import socket

import psutil

from tinygptv_core.plain import ConfigError

HOST = "127.0.0.1"
MOST_PORT = 65_535


def check_free(option: str, port: int) -> None:
    """Refuse a port of loopback that somebody listens on.

    Raises:
        ConfigError: somebody does; says who, where that can be seen.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"{option} {port}: the port is taken{_by_whom(port)} ({error.strerror}).\n"
                f"  name another with {option} N"
            ) from None


def _by_whom(port: int) -> str:
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
            return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""
