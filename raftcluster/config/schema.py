"""What values may be, as data: a part of JSON Schema (draft 2020-12), with `bytes` as a type of its own. Pure.

A document describes the keys below a prefix: `{"properties": {name: schema, ...}, ...}`; `antispam/threshold` is the
property `threshold` of the schema of `antispam`. Only what is judged here is taken: a schema with another keyword is
refused, so none is half in force.

`pattern` is judged by whoever makes a change and not by every node: a regular expression may take for ever, and what all
nodes do between two log entries must not. Nor is it for them to say whether it is one: that depends on their Python.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.config.rules import InvalidValue, canonical

Document = Mapping[str, Any]

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "bytes": (bytes,),
    "array": (list,),
    "object": (dict,),
}
_NUMBERS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_COUNTS: Final = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NOTES: Final = ("title", "description", "default", "examples", "format", "deprecated")
_SEGMENT: Final = re.compile(r"[a-z0-9_.-]+", re.ASCII)


def check_document(document: Value, *, patterns: bool = False) -> None:
    """Raise `InvalidValue` unless `document` describes settings; with `patterns`, also when this Python cannot read one."""
    if type(document) is not dict or type(document.get("properties")) is not dict:
        raise _bad("a schema describes the settings below a prefix, by name")
    if unknown := set(document) - {"properties", "title", "description", "type", "required", "additionalProperties"}:
        raise _bad(f"{min(map(str, unknown))} is no keyword of a schema of settings")
    for name, schema in document["properties"].items():
        if type(name) is not str or not _SEGMENT.fullmatch(name):
            raise _bad(f"{name!a:.80} cannot be the last part of a key")
        _check_schema(schema, name, patterns)


class Judge:
    """One judgement, of one or several values: whether patterns are part of it, and how much may be looked at yet."""

    def __init__(self, *, patterns: bool = False) -> None:
        self.patterns = patterns
        self._left = limits.SCHEMA_STEPS

    def step(self) -> None:
        """Raise `InvalidValue` when it takes longer than all nodes may wait between two log entries."""
        self._left -= 1
        if self._left < 0:
            raise InvalidValue(
                f"what is set takes more than {limits.SCHEMA_STEPS} steps to be judged",
                subject="schema",
                remedy="fewer items at once, or fewer kinds of them",
            )


def check_setting(document: Document, prefix: str, key: str, value: Value, judge: Judge) -> None:
    """Raise `InvalidValue`, naming key, place and bound, unless `value` may be what `key` is."""
    name = key.removeprefix(f"{prefix}/")
    schema = document["properties"].get(name)
    if schema is None:
        known = ", ".join(sorted(document["properties"])[:20])
        raise InvalidValue(f"{prefix} has no setting {name}", subject=key, remedy=f"there are {known}")
    problem = _problem(schema, value, judge)
    if problem is not None:
        raise InvalidValue(f"{key}{problem}", subject=key)


def _problem(schema: Document, value: Value, judge: Judge) -> str | None:
    """What is wrong, beginning with its place; None when nothing is."""
    judge.step()
    types = schema.get("type")
    if types is not None:
        names = [types] if type(types) is str else types
        if not any(_is(value, name) for name in names):
            return f" takes {' or '.join(names)}, not {value!a:.60}"
    for keyword in ("enum", "const"):
        if keyword in schema:
            allowed = schema["enum"] if keyword == "enum" else [schema["const"]]
            if canonical(value) not in map(canonical, allowed):
                return f" takes one of {', '.join(ascii(each) for each in allowed)}, not {value!a:.60}"
    if either := schema.get("anyOf"):
        problems = [_problem(each, value, judge) for each in either]
        if None not in problems:
            return problems[0]
    if (one := schema.get("oneOf")) is not None:
        fitting = sum(_problem(each, value, judge) is None for each in one)
        if fitting != 1:
            return f" fits {fitting} of its kinds, not one: {value!a:.60}"
    if type(value) in (int, float):
        return _number_problem(schema, value)
    if isinstance(value, str | bytes):
        if (
            (problem := _count_problem(schema, "Length", len(value))) is None
            and judge.patterns
            and isinstance(value, str)
        ):
            if "pattern" in schema and not _compiles(schema["pattern"]):
                return f" cannot be judged here: this Python cannot read the pattern {schema['pattern']!a:.60}"
            if "pattern" in schema and not re.search(schema["pattern"], value):
                return f" does not match {schema['pattern']}: {value!a:.60}"
        return problem
    if isinstance(value, list):
        return _count_problem(schema, "Items", len(value)) or _items_problem(schema, value, judge)
    if isinstance(value, dict):
        return _count_problem(schema, "Properties", len(value)) or _fields_problem(schema, value, judge)
    return None


def _is(value: Value, name: str) -> bool:
    return type(value) in _TYPES[name]


def _number_problem(schema: Document, value: float) -> str | None:
    for keyword in _NUMBERS:
        if keyword in schema and not _within(keyword, value, schema[keyword]):
            return f" is {value}, out of range: {keyword} {schema[keyword]}"
    return None


def _within(keyword: str, value: float, bound: float) -> bool:
    match keyword:
        case "minimum":
            return value >= bound
        case "maximum":
            return value <= bound
        case "exclusiveMinimum":
            return value > bound
        case "exclusiveMaximum":
            return value < bound
        case _:
            return value % bound == 0


def _count_problem(schema: Document, what: str, count: int) -> str | None:
    least, most = schema.get(f"min{what}", 0), schema.get(f"max{what}", count)
    return None if least <= count <= most else f" has a length of {count}, out of range: {least} to {most}"


def _items_problem(schema: Document, value: list[Value], judge: Judge) -> str | None:
    first = schema.get("prefixItems", [])
    rest = schema.get("items", True)
    for place, item in enumerate(value):
        each = first[place] if place < len(first) else rest
        if each is False:
            return f"[{place}] is one too many"
        if each is not True and (problem := _problem(each, item, judge)):
            return f"[{place}]{problem}"
    return None


def _fields_problem(schema: Document, value: dict[str, Value], judge: Judge) -> str | None:
    for name in schema.get("required", []):
        if name not in value:
            return f" lacks {name}"
    properties, other = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name, item in value.items():
        each = properties.get(name, other)
        if each is False:
            return f" has no field {name}"
        if each is not True and (problem := _problem(each, item, judge)):
            return f".{name}{problem}"
    return None


def _check_schema(schema: Value, place: str, patterns: bool) -> None:
    """Of one value."""
    if type(schema) is not dict:
        raise _bad(f"{place}: a schema is a dict, not {schema!a:.60}")
    for keyword, given in schema.items():
        if keyword in _NOTES:
            continue
        good = False
        if keyword == "type":
            names = [given] if type(given) is str else given
            good = type(names) is list and bool(names) and all(type(name) is str and name in _TYPES for name in names)
        elif keyword in _NUMBERS:
            good = type(given) in (int, float) and (keyword != "multipleOf" or given > 0)
        elif keyword in _COUNTS:
            good = type(given) is int and given >= 0
        elif keyword == "pattern":
            good = type(given) is str and (not patterns or _compiles(given))
        elif keyword == "const":
            good = True
        elif keyword in ("enum", "required"):
            good = type(given) is list and (keyword == "enum" or all(type(each) is str for each in given))
        elif keyword in ("anyOf", "oneOf", "prefixItems"):
            good = type(given) is list and (bool(given) or keyword == "prefixItems")
            for number, each in enumerate(given if good else []):
                _check_schema(each, f"{place}.{keyword}[{number}]", patterns)
        elif keyword == "properties":
            good = type(given) is dict
            for name, each in (given if good else {}).items():
                _check_schema(each, f"{place}.{name}", patterns)
        elif keyword in ("items", "additionalProperties"):
            good = True
            if type(given) is not bool:
                _check_schema(given, f"{place}.{keyword}", patterns)
        else:
            raise _bad(f"{place}: {keyword!a:.60} is no keyword that every node can judge")
        if not good:
            raise _bad(f"{place}: {keyword} cannot be {given!a:.60}")


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _bad(problem: str) -> InvalidValue:
    return InvalidValue(problem, subject="schema")
