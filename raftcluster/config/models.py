"""Settings as an embedder's type has them: msgspec structs, and pydantic models where pydantic is installed.

The type becomes a schema document (`config.schema`) for all nodes, and is itself asked before a change is made: so what
only it can tell, such as what must hold between two fields, is refused too, where the change is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from raftcluster.codec import Value
from raftcluster.config.rules import InvalidValue

REFERENCE: Final = "#/$defs/"


def document_of(model: type) -> dict[str, Value]:
    """The schema document of a msgspec struct or pydantic model. Raises `InvalidValue` when it is neither, or recursive."""
    try:
        if _is_struct(model):
            import msgspec

            schema = msgspec.json.schema(model)
        elif _is_pydantic(model):
            schema = model.model_json_schema()  # type: ignore[attr-defined]
        else:
            raise InvalidValue(f"{model!r:.80} is no msgspec struct and no pydantic model", subject="schema")
    except (
        NameError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # of both: what is in it has no schema, or no name here
        raise InvalidValue(
            f"{model!r:.80} has no schema: {' '.join(str(error).split())[:300]}", subject="schema"
        ) from error
    whole = _plain(schema, schema.get("$defs", {}), ())
    kept = {name: whole[name] for name in ("title", "description") if name in whole}
    return {**kept, "properties": whole.get("properties", {})}


def instance_of(model: type, prefix: str, values: Mapping[str, Value]) -> Any:
    """A `model` with these values by name, and its defaults. Raises `InvalidValue` with what the model says."""
    problem: Exception
    try:
        if _is_struct(model):
            import msgspec

            return msgspec.convert(dict(values), model)
        return model.model_validate(dict(values))  # type: ignore[attr-defined]
    except ValueError as error:  # of both: msgspec.ValidationError and pydantic.ValidationError are such
        problem = error
    raise InvalidValue(f"{prefix}: {' '.join(str(problem).split())[:500]}", subject=prefix)


def _is_struct(model: object) -> bool:
    try:
        import msgspec
    except ImportError:
        return False
    return isinstance(model, type) and issubclass(model, msgspec.Struct)


def _is_pydantic(model: object) -> bool:
    try:
        import pydantic
    except ImportError:
        return False
    return isinstance(model, type) and issubclass(model, pydantic.BaseModel)


def _plain(schema: Any, definitions: Mapping[str, Any], above: tuple[str, ...]) -> Any:
    """Without references, and with bytes as such: in JSON they are text."""
    if isinstance(schema, list):
        return [_plain(each, definitions, above) for each in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.removeprefix(REFERENCE)
        if name in above:
            raise InvalidValue(f"{name} contains itself: a schema cannot", subject="schema")
        beside = {keyword: each for keyword, each in schema.items() if keyword in ("description", "default", "title")}
        return {**_plain(definitions[name], definitions, (*above, name)), **_plain(beside, definitions, above)}
    if schema.get("contentEncoding") == "base64" or schema.get("format") == "binary":
        return {"type": "bytes"}
    left = {keyword: each for keyword, each in schema.items() if keyword not in ("$defs", "discriminator")}
    return {keyword: _plain(each, definitions, above) for keyword, each in left.items()}
