"""Experiments as people write them down: YAML files, ``--set`` and ``--grid``, and the list of fields.

YAML is read by its 1.2 core rules: ``5e-4`` is a number and ``no`` is a word, unlike in PyYAML's own.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from liverseg_core.errors import SpecError
from liverseg_core.spec import ExperimentSpec
from liverseg_core.submission import set_path

Json = dict[str, Any]

AROUND_SPEC = ("spec", "grid", "variants", "folds", "seeds", "pool", "needs", "reuse", "references")
"""Keys of a file that holds a whole submission; a file without ``spec`` is a spec itself."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's core scalars; a key that appears twice is refused."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own shape


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value if not key.tag.endswith(":merge")]
    twice = [str(key) for key in keys if keys.count(key) > 1]
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} appears twice", node.start_mark)
    loader.flatten_mapping(node)  # what `<<` merges in; the mapping's own keys win
    return dict(loader.construct_mapping(node, deep=True))


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if "x" in text or "o" in text else int(text)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)))


def _teach(loader: type[_Loader]) -> None:
    scalars = (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
        ("merge", r"<<", ["<"]),
    )
    for name, pattern, first in scalars:
        loader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(rf"(?:{pattern})\Z"), first)
    loader.add_constructor("tag:yaml.org,2002:map", _mapping)
    loader.add_constructor("tag:yaml.org,2002:int", _integer)
    loader.add_constructor("tag:yaml.org,2002:float", _float)


_teach(_Loader)


def parse_yaml(text: str, where: str) -> Any:
    """One YAML (or JSON) value.

    Raises:
        SpecError: no YAML, with line and column.
    """
    try:
        return yaml.load(text, _Loader)  # nosec B506  # noqa: S506 - derived from SafeLoader
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise SpecError(where, f"is no YAML that can be read: {' '.join(str(error).split())}") from None


def read_submission(path: Path) -> Json:
    """The request body that a file describes: ``{"spec": ..., "grid": ...}``.

    Raises:
        SpecError: a file that cannot be read or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(str(path), f"cannot be read ({error})") from None
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise SpecError(
            str(path), "must hold fields such as `dataset: {id: NAME}`; see `liverseg submit --help`", value
        )
    body: Json = value if "spec" in value else {"spec": value}
    _check_shape(body)
    return body


def _check_shape(body: Json) -> None:
    """What the options of a command build upon; everything else is the API's to check."""
    unknown = sorted(str(key) for key in body if key not in AROUND_SPEC)
    if unknown:
        raise SpecError(unknown[0], f"does not belong beside `spec`; there may be {', '.join(AROUND_SPEC)}")
    if not isinstance(body["spec"], dict):
        raise SpecError("spec", "must hold fields such as `dataset: {id: NAME}`", body["spec"])
    if not isinstance(body.get("grid", {}), dict):
        raise SpecError("grid", "must map dotted paths to lists of values", body["grid"])
    variants = body.get("variants", [])
    if not isinstance(variants, list) or not all(isinstance(variant, dict) for variant in variants):
        raise SpecError("variants", "must be a list of mappings from dotted path to value", variants)


def read_spec(path: Path) -> Json:
    """The single spec in a file.

    Raises:
        SpecError: as :func:`read_submission`, or a file that describes many runs.
    """
    body = read_submission(path)
    if set(body) != {"spec"}:
        raise SpecError(str(path), "describes many runs; one spec alone is wanted here", sorted(body))
    return dict(body["spec"])


def change(body: Json, sets: Sequence[str], grids: Sequence[str]) -> None:
    """Apply ``--set path=value`` and ``--grid path=value,value`` to a request body.

    Raises:
        SpecError: an option that is no path=value, or a path that is multiplied already.
    """
    for text in grids:
        path, values = _split(text, "--grid")
        body.setdefault("grid", {})[path] = _values(values, f"--grid {path}")
    multiplied = [*body.get("grid", {}), *(path for variant in body.get("variants", []) for path in variant)]
    for text in sets:
        path, value = _split(text, "--set")
        if path in multiplied:
            raise SpecError(f"--set {path}", "grid or variants set it already; change it there")
        set_path(body["spec"], path, parse_yaml(value, f"--set {path}"))


def place(body: Json, pool: str | None, needs: Sequence[str]) -> None:
    """Apply ``--pool`` and ``--needs name=value`` to a request body.

    Raises:
        SpecError: an option that is no name=value.
    """
    if pool is not None:
        body["pool"] = pool
    for text in needs:
        name, equals, value = text.partition("=")
        if not equals:
            raise SpecError("--needs", "is written LABEL=VALUE, such as gpu=h200", text)
        body["needs"] = {**(body.get("needs") or {}), name: value}


def parse_seeds(text: str) -> int | list[int]:
    """``5`` -> 5 repeats, ``3,4,9`` -> those seeds.

    Raises:
        SpecError: something else.
    """
    values = _values(text, "--seeds")
    if not all(type(value) is int for value in values):
        raise SpecError("--seeds", "is how many repeats, such as 5, or the seeds, such as 3,4,9", text)
    return int(values[0]) if len(values) == 1 and "[" not in text else values


def parse_folds(text: str) -> int | str:
    """``3`` -> 3 folds, ``subject`` -> one fold a subject.

    Raises:
        SpecError: something else.
    """
    value = parse_yaml(text, "--folds")
    if type(value) is not int and value != "subject":
        raise SpecError("--folds", "is how many folds, such as 3, or the word subject: one fold a subject", text)
    return int(value) if type(value) is int else "subject"


def _values(text: str, where: str) -> list[Any]:
    """``0.001,0.005`` -> a list; a value with a comma in it is written as YAML: ``[[0, 1], [2]]``."""
    whole = parse_yaml(text, where) if text.lstrip().startswith("[") else None
    found = whole if isinstance(whole, list) else [parse_yaml(part, where) for part in text.split(",")]
    if not text.strip():
        raise SpecError(where, "needs at least one value, such as 0.001,0.005", text)
    return list(found)


def _split(text: str, option: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise SpecError(option, "is written PATH=VALUE, such as training.learning_rate=0.005", text)
    return path.strip(), value


# ---- the fields of a spec --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """One setting of a spec, from its JSON schema.

    Attributes:
        path: where it stands, dotted.
        required: whether it has no default.
        default: its default as plain data; None also where it is required.
        type: what it takes, in a few signs: ``adam | sgd``, ``number, > 0, ≤ 10``.
        about: what it means.
        limits: its bounds in words, empty where it has none.
        choices: the words it takes; empty where other things may be written.
        listed: whether it takes a list.
    """

    path: str
    required: bool
    default: Any
    type: str
    about: str
    limits: str
    choices: tuple[str, ...]
    listed: bool

    @property
    def told(self) -> str:
        """What it means and its limits."""
        return "; ".join(filter(None, [self.about, self.limits]))

    @property
    def section(self) -> str:
        """``training`` of ``training.schedule.kind``; empty for a label."""
        return self.path.partition(".")[0] if "." in self.path else ""

    @property
    def is_text(self) -> bool:
        """Whether it is free text, in which a comma or a colon means itself."""
        return self.type == "string"

    def value_of(self, text: str) -> Any:
        """What somebody wrote into the field, as plain data; the API checks it.

        Raises:
            SpecError: it cannot be read.
        """
        if self.is_text or self.path == "dataset.id":
            return text
        return _values(text, self.path) if self.listed else parse_yaml(text, self.path)

    def text_of(self, value: Any) -> str:
        """The other way round: what to write into the field for a value."""
        if isinstance(value, str):
            return value
        if self.listed and isinstance(value, list | tuple):
            return ", ".join(map(str, value))
        if value is None and self.default is None:
            return ""  # an empty field stands for the default
        return json.dumps(value)


@cache
def fields() -> tuple[Field, ...]:
    """Every field of a spec in its order."""
    schema = ExperimentSpec.model_json_schema()
    return tuple(_fields(schema, schema["$defs"], "", _defaults()))


def _defaults() -> Json:
    spec = ExperimentSpec.parse({"dataset": {"id": "x"}}).model_dump(mode="json")
    del spec["dataset"]["id"]  # it has none
    return spec


def _fields(schema: Json, sections: Json, prefix: str, defaults: Json) -> Iterator[Field]:
    for name, field in schema["properties"].items():
        section = sections.get(str(field.get("$ref", "")).rpartition("/")[2])
        if section:
            yield from _fields(section, sections, f"{prefix}{name}.", defaults[name])
        else:
            yield Field(
                path=prefix + name,
                required=name not in defaults,
                default=defaults.get(name),
                type=_type(field),
                about=field.get("description", ""),
                limits=_limits(field),
                choices=_choices(field),
                listed=field.get("type") == "array",
            )


def _choices(field: Json) -> tuple[str, ...]:
    if field.get("type") == "boolean":
        return ("true", "false")
    return tuple(map(str, field.get("enum", ())))


def _type(field: Json) -> str:
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    for several in ("anyOf", "oneOf"):
        if several in field:
            return " | ".join(_type(one) for one in field[several])
    if "$ref" in field:
        return "section " + str(field["$ref"]).rpartition("/")[2]
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[bound]:,}" for bound, sign in bounds.items() if bound in field]
    return ", ".join([str(field.get("type", "")), *limits])


def _limits(field: Json) -> str:
    """``one of a, b`` or ``1 to 256`` or ``more than 0, at most 10``."""
    options = [field, *field.get("anyOf", []), *field.get("oneOf", [])]
    found = {key: option[key] for option in reversed(options) for key in option}
    if "enum" in found:
        return "one of " + ", ".join(map(str, found["enum"]))
    words = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "more than"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "less than"),
    )
    return ", ".join(f"{word} {found[key]:,}" for key, word in words if key in found)
