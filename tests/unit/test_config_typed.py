"""Settings that have a type: what every node refuses, and what only the type can tell."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest

from raftcluster.config.api import Config
from raftcluster.config.machine import ConfigMachine
from raftcluster.config.rules import InvalidValue
from raftcluster.config.schema import Judge, check_document, check_setting
from raftcluster.errors import Rejected
from tests.local_host import LocalHost, MemoryRows


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    """One of several."""

    name: Annotated[str, msgspec.Meta(min_length=1, pattern="^[a-z]+$")]
    score: float = 1.0


class Antispam(msgspec.Struct):
    """What the filter does."""

    low: Annotated[int, msgspec.Meta(ge=0, le=10)] = 2
    high: Annotated[int, msgspec.Meta(ge=0, le=10)] = 8
    mode: Literal["tag", "drop"] = "tag"
    rules: list[Rule] = []
    seal: bytes = b""
    note: str | None = None

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")


class Modern(pydantic.BaseModel):
    """The same as pydantic has it."""

    low: int = pydantic.Field(2, ge=0, le=10)
    high: int = pydantic.Field(8, ge=0, le=10)
    mode: Literal["tag", "drop"] = "tag"
    note: str | None = None

    @pydantic.model_validator(mode="after")
    def ordered(self) -> Modern:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


@pytest.fixture
def host() -> LocalHost:
    return LocalHost([ConfigMachine()])


@pytest.fixture
def config(host: LocalHost) -> Config:
    return Config(host, MemoryRows())


@pytest.mark.parametrize("model", [Antispam, Modern])
def test_a_value_out_of_range_is_refused_here_and_by_every_node(host: LocalHost, config: Config, model: Any) -> None:
    assert config.register("antispam", model) == 1
    bystander = Config(host, MemoryRows())  # a process that has registered nothing
    before = host.index
    for key, value in (
        ("antispam/low", 11),
        ("antispam/low", -1),
        ("antispam/low", "2"),
        ("antispam/low", True),
        ("antispam/low", 2.0),
        ("antispam/mode", "burn"),
        ("antispam/note", 5),
        ("antispam/lwo", 5),
        ("antispam/low/deeper", 5),
        ("nodes/mx2/antispam/low", 11),
    ):
        for each in (config, bystander):
            with pytest.raises(InvalidValue):
                each.set(key, value)
        assert host.index == before
        with pytest.raises(Rejected) as caught:  # whatever a client leaves out, the state machine does not
            host.propose("config", ["set", key, value, "", "", "mx1", None])
        assert caught.value.code == "invalid-value"
        before = host.index
    good: dict[str, Any] = {"antispam/low": 5, "antispam/mode": "drop", "antispam/note": None, "other/low": 99}
    for key, value in good.items():
        bystander.set(key, value)


@pytest.mark.parametrize("model", [Antispam, Modern])
def test_what_must_hold_between_fields_is_judged_where_the_change_is_made(config: Config, model: Any) -> None:
    config.register("antispam", model)
    config.set("antispam/high", 4)
    with pytest.raises(InvalidValue, match="low 5 is above high 4"):
        config.set("antispam/low", 5)
    with pytest.raises(InvalidValue, match="low 5 is above high 4"):
        config.set("antispam/low", 5, node="mx2")
    config.transact([], [("set", "antispam/low", 5), ("set", "antispam/high", 6)])
    with pytest.raises(InvalidValue, match="low 5 is above high 3"):
        config.transact([], [("set", "antispam/high", 3)])
    config.set("antispam/high", 9, node="mx2")
    assert (config.load("antispam").high, config.load("antispam", node="mx2").high) == (6, 9)
    config.transact([], [("delete", "antispam/low"), ("set", "antispam/high", 3)])
    assert (config.load("antispam").low, config.load("antispam").high) == (2, 3)


def test_a_document_in_a_field(config: Config) -> None:
    config.register("antispam", Antispam)
    config.set("antispam/rules", [{"name": "a", "score": 2.5}, {"name": "b"}])
    config.set("antispam/seal", b"\0\xff")
    assert config.load("antispam") == Antispam(rules=[Rule("a", 2.5), Rule("b")], seal=b"\0\xff")
    for rules, problem in (
        ([{"score": 1.0}], r"\[0\] lacks name"),
        ([{"name": "a"}, {"name": ""}], r"\[1\]\.name has a length of 0"),
        ([{"name": "A"}], r"\[0\]\.name does not match"),
        ([{"name": "a", "score": "x"}], r"\[0\]\.score takes number, not 'x'"),
        ([{"name": "a", "scroe": 1}], r"\[0\] has no field scroe"),
        ({"name": "a"}, "takes array"),
    ):
        with pytest.raises(InvalidValue, match=f"^antispam/rules{problem}|takes array"):
            config.set("antispam/rules", rules)
    with pytest.raises(InvalidValue, match="takes bytes"):
        config.set("antispam/seal", "AP8=")


def test_the_highest_version_holds(host: LocalHost, config: Config) -> None:
    class Wider(msgspec.Struct):
        low: int = 2

    assert config.register("antispam", Antispam, version=1) == 1
    proposals = host.proposals
    assert Config(host, MemoryRows()).register("antispam", Antispam, version=1) == 1
    assert host.proposals == proposals, "what is in force is not proposed again"
    with pytest.raises(InvalidValue, match="raise its version"):
        config.register("antispam", Wider, version=1)
    assert config.register("antispam", Wider, version=2) == 2
    assert Config(host, MemoryRows()).register("antispam", Antispam, version=1) == 2
    config.set("antispam/low", 99)
    assert [(each.prefix, each.version) for each in config.schemas()] == [("antispam", 2)]
    with pytest.raises(InvalidValue, match="antispam/low is 99, out of range: maximum 10"):
        config.register("antispam", Antispam, version=3)
    assert config.schemas()[0].version == 2


def test_what_cannot_be_registered(config: Config) -> None:
    class Tree(msgspec.Struct):
        children: list[Tree] = []

    class Upper(msgspec.Struct):
        Low: int = 0

    Tree.__annotations__["children"] = list[Tree]
    config.register("a/b", Antispam)
    for prefix, model in (("c", int), ("c", Upper), ("local/ui", Antispam), ("a", Antispam), ("a/b/c", Antispam)):
        with pytest.raises(Rejected):
            config.register(prefix, model)
    with pytest.raises(InvalidValue, match="contains itself"):
        config.register("c", Tree)
    with pytest.raises(Rejected, match="no type was registered"):
        config.load("c")
    assert [each.prefix for each in config.schemas()] == ["a/b"]


@pytest.mark.parametrize(
    "schema",
    [
        5,
        {"type": "text"},
        {"type": []},
        {"minimum": "0"},
        {"multipleOf": 0},
        {"maxLength": -1},
        {"pattern": 5},
        {"anyOf": []},
        {"items": 5},
        {"properties": []},
        {"required": [1]},
        {"enum": 5},
        {"$ref": "#/elsewhere"},
        {"if": {}},
    ],
)
def test_a_schema_that_not_every_node_could_judge_is_none(schema: Any) -> None:
    with pytest.raises(InvalidValue):
        check_document({"properties": {"a": schema}})


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 2}, [1, 1.5], [0, 2]),
        ({"multipleOf": 5}, [0, 10], [3]),
        ({"const": 1}, [1], [True, 1.0, 2]),
        ({"oneOf": [{"type": "integer"}, {"minimum": 5}]}, [1, 5.5], [7, 1.5]),
        ({"prefixItems": [{"type": "integer"}], "items": False}, [[], [1]], [[1, 2], ["x"]]),
        ({"minProperties": 1, "additionalProperties": {"type": "null"}}, [{"a": None}], [{}, {"a": 1}]),
        ({"minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3]]),
    ],
)
def test_keywords(schema: Any, good: list[Any], bad: list[Any]) -> None:
    document = {"properties": {"a": schema}}
    check_document(document)
    for value in good:
        check_setting(document, "p", "p/a", value, Judge())
    for value in bad:
        with pytest.raises(InvalidValue):
            check_setting(document, "p", "p/a", value, Judge())


def test_a_pattern_is_judged_by_who_makes_the_change_only() -> None:
    """A regular expression may take for ever, and what all nodes do between two log entries must not."""
    document = {"properties": {"a": {"pattern": "^(a+)+$"}}}
    check_setting(document, "p", "p/a", "a" * 60 + "!", Judge())
    with pytest.raises(InvalidValue, match="does not match"):
        check_setting(document, "p", "p/a", "b", Judge(patterns=True))


@pytest.mark.parametrize("pattern", ["(", "\\Q", "(" * 5_000 + ")" * 5_000])
def test_whether_a_pattern_can_be_read_is_for_who_registers_it_to_say(
    host: LocalHost, config: Config, pattern: str
) -> None:
    """What a Python can read differs from version to version, and how deep it can nest from call to call: nodes would keep a
    schema, or not, from the same log."""
    document = {"properties": {"a": {"items": {"pattern": pattern}}}}
    with pytest.raises(InvalidValue, match="pattern cannot be"):
        check_document(document, patterns=True)
    assert host.propose("config", ["schema", "p", 1, document]) == 1
    with pytest.raises(InvalidValue, match="this Python cannot read the pattern"):
        config.set("p/a", ["x"])
    assert host.propose("config", ["set", "p/a", ["x"], "", "", "mx2", None]) == 1, "another node's could"
