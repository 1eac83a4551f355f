"""Settings that have a type: registering it, reading them as one value, and judging a change before it is proposed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.config.machine import NAME
from raftcluster.config.models import document_of, instance_of
from raftcluster.config.reading import Schema, read_entry, read_schema, read_schemas
from raftcluster.config.rules import check_key, override, pack_value, shared_key
from raftcluster.config.schema import Judge, check_document, check_setting
from raftcluster.errors import Rejected
from raftcluster.host import Consistency, Host
from raftcluster.machine import ReadTables

Model = TypeVar("Model")
Change = Sequence[Value]
"""["set", key, value] or ["delete", key]"""


class Typed:
    """The types that this process has registered, over the schemas that the cluster has. Thread: any."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._models: dict[str, type] = {}

    def register(self, prefix: str, model: type, version: int, deadline: float) -> int:
        """See `Config.register`."""
        document = document_of(model)
        check_key(prefix)
        if type(version) is not int or not 0 < version < 2**31:
            raise Rejected(f"{version!r:.40} is no version of a schema", subject=prefix, remedy="1, 2, 3, ...")
        pack_value(document, limits.CONFIG_INLINE_BYTES)
        check_document(document, patterns=True)
        known = {each.prefix: each for each in self.schemas()}.get(prefix)
        if known is None or known.version < version or (known.version == version and known.document != document):
            version = int(self._host.propose(NAME, ["schema", prefix, version, document], deadline=deadline))
        else:
            version = known.version
        self._models[prefix] = model
        return version

    def schemas(self, consistency: Consistency = "local") -> list[Schema]:
        """See `Config.schemas`."""
        return self._host.query(NAME, lambda tables, _: read_schemas(tables), consistency=consistency)

    def load(self, prefix: str, node: str, consistency: Consistency = "local") -> Any:
        """See `Config.load`."""
        model = self._models.get(prefix)
        if model is None:
            raise Rejected(f"no type was registered for {prefix}", subject=prefix, remedy="register it first")
        return instance_of(model, prefix, self._host.query(NAME, _values(prefix, node), consistency=consistency))

    def check(self, changes: Sequence[Change]) -> None:
        """Raise `InvalidValue` when a schema, or a type of this process, does not take what would be set."""

        def read(tables: ReadTables, now: int) -> list[Schema | None]:
            return [read_schema(tables, str(change[1])) for change in changes]

        judge = Judge(patterns=True)
        touched: dict[tuple[str, str], dict[str, Change]] = {}
        for change, schema in zip(changes, self._host.query(NAME, read), strict=True):
            if schema is None:
                continue
            key = str(change[1])
            shared = shared_key(key)
            if change[0] == "set":
                check_setting(schema.document, schema.prefix, shared, change[2], judge)
            if schema.prefix in self._models:
                node = "" if shared == key else key.split("/")[1]
                touched.setdefault((schema.prefix, node), {})[shared.removeprefix(f"{schema.prefix}/")] = change
        for (prefix, node), changed in touched.items():
            values = self._host.query(NAME, _values(prefix, node))
            for name, change in changed.items():
                values.pop(name, None)
                if change[0] == "set":
                    values[name] = change[2]
            instance_of(self._models[prefix], prefix, values)


def _values(prefix: str, node: str) -> Callable[[ReadTables, int], dict[str, Value]]:
    """The values below `prefix` by name: on `node`, or with no node the cluster's."""

    def read(tables: ReadTables, now: int) -> dict[str, Value]:
        schema = read_schema(tables, prefix)
        names: Mapping[str, Value] = {} if schema is None else schema.document["properties"]
        found = {}
        for name in names:
            key = f"{prefix}/{name}"
            entry = (read_entry(tables, override(node, key)) if node else None) or read_entry(tables, key)
            if entry is not None:
                found[name] = entry.value
        return found

    return read
