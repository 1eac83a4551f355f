"""X-Greylist: on the first pass, for one recipient of a message only."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from raftcluster.greylist.request import Request

INSTANCES_KEPT: Final = 10_000  # SMTP transactions whose header is remembered; they live for seconds


class Headers:
    """Of one node. Thread: any."""

    def __init__(self, name: str) -> None:
        """`name` is the node's."""
        self._name = name
        self._lock = threading.Lock()
        self._owners: OrderedDict[str, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._owners)

    def header(self, request: Request, seconds: int) -> str | None:
        """The header, unless another recipient of the same message has it, or nothing was delayed: in training."""
        settings = request.current.settings
        if settings.training:
            return None
        if request.instance and request.id is not None:
            with self._lock:
                owner = self._owners.setdefault(request.instance, request.id)
                if len(self._owners) > INSTANCES_KEPT:
                    self._owners.popitem(last=False)
            if owner != request.id:
                return None
        return "X-Greylist: " + settings.header.replace("%s", str(seconds)).replace("%h", self._name)
