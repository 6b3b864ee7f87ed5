"""A port for a server that opens it itself."""

import socket


def kept_port() -> int:
    """A port of loopback that the system gives to nobody for a minute, but lets a server take that asks for it.

    It is that of a connection which has just ended: such a port is not handed out, and `SO_REUSEADDR`, which servers
    set, opens it. One that was only seen to be free may be anybody's by then.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as caller:
        caller.connect(listening.getsockname())
        accepted, _ = listening.accept()
        accepted.close()  # the side that ends first is the one that waits
        return listening.getsockname()[1]
