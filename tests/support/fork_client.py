"""Stands in for python where `fork_server` serves: has a fork run what the command line says, and ends as it ends."""

import json
import os
import signal
import socket
import sys

arguments = [one for one in sys.argv[1:] if one != "-u"]
assert arguments[0] == "-m", sys.argv
server = socket.socket(socket.AF_UNIX)
server.connect(os.environ["FORKS_SOCKET"])
asked = json.dumps({"arguments": arguments[1:], "environment": dict(os.environ), "folder": os.getcwd()}).encode()
socket.send_fds(server, [len(asked).to_bytes(4, "big")], [0, 1, 2])
server.sendall(asked)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: server.sendall(bytes([number])))
answer = server.recv(1)
status = int.from_bytes(answer, "big", signed=True) if answer else -9  # nobody left to say
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
