"""Settings that exist are valid, alone and together."""

from __future__ import annotations

from typing import Any

import pytest

from raftcluster.errors import Rejected
from raftcluster.greylist.settings import NAMES, Settings


def test_defaults() -> None:
    settings = Settings()
    assert settings.waits() == (180_000, 48 * 3_600_000, 36 * 86_400_000)
    assert (settings.network4, settings.network6, settings.on_unavailable) == (24, 64, "pass")
    assert tuple(settings.values()) == NAMES


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"delay": 0}, ["delay"]),
        ({"delay": -1}, ["delay"]),
        ({"delay": "180"}, ["delay", "180"]),
        ({"delay": True}, ["delay"]),
        ({"delay": float("nan")}, ["delay"]),
        ({"delay": 59.9}, ["59.9", "60", "no lab"]),
        ({"delay": 0.5, "lab": True}, ["0.5", "1 s"]),
        ({"delay": 600, "window": 600}, ["window", "600", "delay"]),
        ({"delay": 600, "window": 599}, ["window", "599", "600"]),
        ({"window": 3600, "life": 3600}, ["life", "3600", "window"]),
        ({"life": 1e12}, ["life"]),
        ({"network4": 0}, ["network4", "32"]),
        ({"network4": 33}, ["network4", "33"]),
        ({"network6": 129}, ["network6", "128"]),
        ({"network6": 64.0}, ["network6"]),
        ({"on_unavailable": "wait"}, ["on_unavailable", "pass, defer or local"]),
        ({"text": ""}, ["text"]),
        ({"text": "later"}, ["text", "%s"]),
        ({"text": "100 % in %s s"}, ["text", "%"]),
        ({"text": "%d s"}, ["text", "%s"]),
        ({"text": "in %s s\r\nRCPT TO"}, ["text", "one line"]),
        ({"text": "später, %s s"}, ["text", "ASCII"]),
        ({"text": 5}, ["text"]),
        ({"privacy": 1}, ["privacy"]),
        ({"training": 1}, ["training"]),
        ({"header": "delayed"}, ["header", "%s"]),
        ({"header": "%h %h %s"}, ["header", "at most once"]),
        ({"header": "%s %d"}, ["header", "%s"]),
        ({"header": "%s\r\nBcc: x"}, ["header", "one line"]),
        ({"header": 5}, ["header"]),
        ({"recipients": "some"}, ["recipients", "all or opted-in"]),
        ({"skip_spf": "yes"}, ["skip_spf"]),
        ({"delay": 60, "window": 60.0004}, ["window", "60.0004", "delay", "60"]),  # equal when time is counted
        ({"window": 172800, "life": 172800.0004}, ["life", "172800.0004", "window", "172800"]),
        ({"colour": "grey"}, ["colour", "there are"]),
        ({"ack": "fr\u00fch"}, ["'fr\\xfch'"]),  # kept in the ring: the same text with every Python
    ],
)
def test_what_does_not_fit_is_refused_and_named(values: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(Rejected) as caught:
        Settings.of(values)
    for part in named:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"delay": 60},
        {"delay": 1, "lab": True},
        {"delay": 60, "window": 60.001, "life": 60.002},
        {"network4": 32, "network6": 128},
        {"on_unavailable": "defer"},
        {"text": "Come back in %s s"},
    ],
)
def test_the_edges_are_taken(values: dict[str, Any]) -> None:
    settings = Settings.of(values)
    assert {name: getattr(settings, name) for name in values} == values
