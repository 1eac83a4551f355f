"""docs/configuration.md, written from the settings themselves: `python -m tests.docs_config --write` after a change."""

from __future__ import annotations

import ast
import inspect
import sys

from raftcluster import limits
from raftcluster.config import rules
from raftcluster.errors import Rejected
from raftcluster.greylist.settings import Settings
from tests.checkout import ROOT

PAGE = ROOT / "docs" / "configuration.md"
HEADER = """# Configuration

Written from the code by `python -m tests.docs_config --write`; a test compares the two. The commands are in
[cli.md](cli.md).

## Keys

| key | is | set with | read with |
|---|---|---|---|
| `a/b` | the cluster's: the same on every node | `config set` | `config get` |
| `nodes/NAME/a/b` | what `a/b` is on the node NAME | `config set --node NAME` | `config get`, there |
| `local/a/b` | a node's own: never in the log, in no backup | `config set --local` | `config get`, there |
| `local/maillog/...` | of these, the mail log's settings: [logs.md](logs.md) | the same | the same |
| `greylist/...` | not used: these settings are checked together, see below | `node.greylist.configure` | |

## Bounds
"""
SCHEMA = """
## Settings of the embedding product

It registers them with their types (`node.config.register`); `raftcluster config schema` shows what each takes, on every node.

## Refusals

All are of the class `Rejected`, exit code 4; `code` is in the answer of `--json`.

| code | class in `raftcluster.config.rules` | when |
|---|---|---|
"""
GREYLIST = """
## Greylist settings

Times are in seconds.

| setting | takes | default | is |
|---|---|---|---|
"""
BOUNDS = {
    "CONFIG_KEY_BYTES": "characters of a key",
    "CONFIG_VALUE_BYTES": "bytes of a value, as msgpack has it; from `CONFIG_INLINE_BYTES` on it is uploaded in parts",
    "CONFIG_INLINE_BYTES": "bytes of a value that travels in one piece",
    "CONFIG_VALUE_ITEMS": "items of a value, those within items among them",
    "NESTING": "levels of nesting in what is sent, some of them ours",
    "TRANSACTION_KEYS": "keys in one transaction",
    "TRANSACTION_BYTES": "bytes of all its values",
    "TRANSACTION_ITEMS": "items of them",
    "SCHEMA_STEPS": "steps that judging them by their schemas may take",
    "HISTORY_REVISIONS": "versions kept of each key",
    "HISTORY_BYTES": "bytes of them; of a key's versions the newest is always kept",
    "CONFIG_CHANGES": "changes listed, and bound to each other, in the log of all keys",
    "CONFIG_UPLOAD_BYTES": "bytes of large values that are being uploaded",
    "CONFIG_UPLOAD_SECONDS": "seconds after which an upload that was given up is removed",
}


def meanings(kind: type = Settings) -> dict[str, str]:
    """What the source says below each field of a class, by default the greylist's settings, in order."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    field = None
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            field = node.target.id
            found[field] = ""
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and field is not None:
            found[field] = " ".join(str(node.value.value).split())
    return found


def page() -> str:
    """The text of docs/configuration.md."""
    bounds = [f"* {getattr(limits, name):,} {meaning}" for name, meaning in BOUNDS.items()]
    kinds = [each for each in vars(rules).values() if isinstance(each, type) and issubclass(each, Rejected)]
    refusals = [f"| `{each.code}` | `{each.__name__}` | {each.__doc__} |" for each in kinds if each is not Rejected]
    takes, defaults = inspect.get_annotations(Settings), Settings().values()
    settings = [
        f"| `{name}` | {_cell(takes[name])} | `{defaults[name]!r}` | {_cell(meaning)} |"
        for name, meaning in meanings().items()
    ]
    return (
        HEADER
        + "\n"
        + "\n".join(bounds)
        + "\n"
        + SCHEMA
        + "\n".join(refusals)
        + "\n"
        + GREYLIST
        + "\n".join(settings)
        + "\n"
    )


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|")


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page())
    else:
        sys.exit("usage: python -m tests.docs_config --write")
