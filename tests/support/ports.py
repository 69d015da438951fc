"""Ports for servers: none that the system gives to clients, for one would take it while its server is away."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

_FIRST, _CLIENTS = 10000, 32768  # Linux gives clients what is above; see net.ipv4.ip_local_port_range
_chance = random.SystemRandom()


def free_port(*above: int) -> int:
    """One that is free on loopback, and so are those that many above it."""
    while True:
        port = _chance.randrange(_FIRST, _CLIENTS - max(above, default=0))
        if all(_free(port + more) for more in (0, *above)):
            return port


def _free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False
