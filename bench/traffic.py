"""What answers netbench on the host: guest/netbench.c asks it for transfers, connections and round trips."""
import os
import selectors
import socket
import struct
import subprocess
import threading

from peers import CACHE

MIB, UNITS = 1 << 20, {  # what a figure is of, and how many of those the guest does
    "download": ("MiB/s", 512), "download8": ("MiB/s", 512), "upload": ("MiB/s", 512), "upload8": ("MiB/s", 512),
    "iperf_r": ("MiB/s", 512), "iperf_r8": ("MiB/s", 512), "iperf": ("MiB/s", 512), "iperf_8": ("MiB/s", 512),
    "connect": ("connections/s", 2000), "roundtrip": ("round trips/s", 5000),
}

PERIOD = 1000003


def make_pattern():
    """Two periods of what guest/netbench.c sends and expects."""
    x, block = 1, bytearray(PERIOD)
    for i in range(PERIOD):
        x = (x * 1103515245 + 12345) & 0xFFFFFFFF
        block[i] = x >> 16 & 0xFF
    return bytes(block + block)


def move(connection, kind, left):
    """A long transfer, as guest/netbench.c asks for it."""
    with connection:
        connection.setblocking(True)
        block, at, answer = bytearray(MIB), 0, b"x"
        pattern = make_pattern() if kind in b"PQ" else None
        try:
            while left and kind in b"DP":
                data = block if pattern is None else memoryview(pattern)[at % PERIOD:at % PERIOD + PERIOD]
                count = connection.send(data[:min(left, MIB)])
                at, left = at + count, left - count
            while left and (count := connection.recv_into(block, min(left, PERIOD))):
                if pattern and block[:count] != pattern[at % PERIOD:at % PERIOD + count]:
                    answer = b"w"
                at, left = at + count, left - count
            if kind in b"UQ":
                connection.sendall(answer)
        except OSError:
            pass  # the guest is gone: its own report says so


class Server:
    """Sends back what comes, on one thread; long transfers have threads of their own."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        threading.Thread(target=self._loop, daemon=True).start()

    def _loop(self):
        heads = {}
        while True:
            for key, _ in self._selector.select():
                try:
                    if key.fileobj is self._listener:
                        connection, _ = self._listener.accept()
                        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        connection.setblocking(False)
                        heads[connection] = b""
                        self._selector.register(connection, selectors.EVENT_READ)
                    elif (head := heads.get(key.fileobj)) is None:
                        if data := key.fileobj.recv(65536):
                            key.fileobj.send(data)  # little enough for the socket
                        else:
                            self._forget(key.fileobj).close()
                    elif not (more := key.fileobj.recv(9 - len(head))):
                        del heads[key.fileobj]
                        self._forget(key.fileobj).close()
                    elif len(head := head + more) < 9:
                        heads[key.fileobj] = head
                    else:
                        del heads[key.fileobj]
                        if head[:1] != b"E":
                            threading.Thread(target=move, args=(self._forget(key.fileobj), head[:1], struct.unpack("<Q", head[1:])[0]), daemon=True).start()
                except BlockingIOError:
                    pass
                except OSError:  # reset
                    heads.pop(key.fileobj, None)
                    self._forget(key.fileobj).close()

    def _forget(self, connection):
        self._selector.unregister(connection)
        return connection


def start_iperf():
    """The server of the package that the guest's client is of."""
    packages = CACHE / "packages"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(packages / "libraries")}
    return subprocess.Popen([packages / "usr/bin/iperf3", "-s", "-B", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, env=environment), port
