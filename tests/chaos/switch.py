"""`python -m tests.chaos.switch SEED NAMESPACE=ADDRESS ...`: the network between namespaces, with faults per directed link.

The kernel here has no netem, so every host has a TUN device whose other end is this program. Driven by JSON lines on
standard input: {"SOURCE>DESTINATION": {"cut": true, "loss": 0.1, "delay": 0.05, "jitter": 0.02}, ...} (addresses, seconds,
probabilities) replaces all rules; each line is answered with the counts of what was done to packets so far. Ends with
its input.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from itertools import count
from random import Random
from socket import AF_INET, inet_ntop
from typing import Any

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
DEVICE = "tun0"
PACKET_BYTES = 65536
BURST = 64
"""Packets taken from one device before the others get their turn."""


def attach(namespace: str, address: str) -> int:
    """A new TUN device in the namespace, with the address, up; the descriptor is non-blocking."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as own, open(f"/run/netns/{namespace}") as other:
        if libc.setns(other.fileno(), 0):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
        try:
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            flags = (IFF_TUN | IFF_NO_PI).to_bytes(2, sys.byteorder)
            fcntl.ioctl(device, TUNSETIFF, DEVICE.encode().ljust(16, b"\0") + flags.ljust(24, b"\0"))
            for command in (
                f"address add {address}/24 dev {DEVICE}",
                f"link set {DEVICE} up mtu 1400",
                "link set lo up",
            ):
                subprocess.run(["ip", *command.split()], check=True)
        finally:
            libc.setns(own.fileno(), 0)
    return device


class Switch:
    """Forwards packets until its input ends."""

    def __init__(self, hosts: dict[str, int], random: Random) -> None:
        self._devices, self._random = hosts, random
        self._rules: dict[tuple[str, str], dict[str, Any]] = {}
        self._counts: Counter[str] = Counter()
        self._later: list[tuple[float, int, int, bytes]] = []
        self._number = count()
        self._selector = selectors.DefaultSelector()
        self._commands = b""
        for device in hosts.values():
            self._selector.register(device, selectors.EVENT_READ)
        os.set_blocking(0, False)
        self._selector.register(0, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            wait = max(0.0, self._later[0][0] - time.monotonic()) if self._later else None
            for key, _ in self._selector.select(wait):
                if key.fd != 0:
                    self._take(key.fd)
                elif not self._command():
                    return
            while self._later and self._later[0][0] <= time.monotonic():
                _, _, device, packet = heapq.heappop(self._later)
                self._put(device, packet)

    def _command(self) -> bool:
        text = os.read(0, PACKET_BYTES)
        *lines, self._commands = (self._commands + text).split(b"\n")
        for line in lines:
            self._rules = {
                (link.partition(">")[0], link.partition(">")[2]): rule for link, rule in json.loads(line).items()
            }
            print(json.dumps(self._counts), flush=True)
        return bool(text)

    def _take(self, device: int) -> None:
        for _ in range(BURST):
            try:
                packet = os.read(device, PACKET_BYTES)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4:
                continue
            source, destination = inet_ntop(AF_INET, packet[12:16]), inet_ntop(AF_INET, packet[16:20])
            target = self._devices.get(destination)
            if target is not None:
                self._forward(target, packet, self._rules.get((source, destination)))

    def _forward(self, target: int, packet: bytes, rule: dict[str, Any] | None) -> None:
        if rule is None:
            self._put(target, packet)
        elif rule.get("cut"):
            self._counts["cut"] += 1
        elif self._random.random() < rule.get("loss", 0):
            self._counts["lost"] += 1
        elif delay := rule.get("delay", 0) + self._random.random() * rule.get("jitter", 0):
            self._counts["delayed"] += 1
            heapq.heappush(self._later, (time.monotonic() + delay, next(self._number), target, packet))
        else:
            self._put(target, packet)

    def _put(self, device: int, packet: bytes) -> None:
        try:
            os.write(device, packet)
            self._counts["forwarded"] += 1
        except OSError:  # its queue is full, or the host's device is down
            self._counts["dropped"] += 1


def main() -> None:
    seed, *hosts = sys.argv[1:]
    devices = {}
    for host in hosts:
        namespace, _, address = host.partition("=")
        devices[address] = attach(namespace, address)
    switch = Switch(devices, Random(int(seed)))
    print(json.dumps("ready"), flush=True)
    switch.run()


if __name__ == "__main__":
    main()
