"""`name=value` texts applied to frozen records of settings: what `--set` means in every command that has it."""

import ast
import difflib
import math
import types
import typing
from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from backdrop.errors import UserError


def split_override(override: str) -> tuple[str, str]:
    """Return (name, value) of a `name=value` text.

    Raises: UserError: there is no "=".
    """
    path, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"{override!r} is no setting; write name=value, as in epochs=10")
    return path, text


def with_override(record: Any, path: str, text: str, *, fixed: Collection[str] = ()) -> Any:
    """Return a frozen dataclass with one value replaced.

    `section.name` reaches into a record inside; in a tuple of records `name` changes every one, `0.name` the first.
    Tuples are written 0.2,1 and an absent value none.

    Args:
        record: the settings.
        path: of the value.
        text: the new value.
        fixed: paths that a message does not offer, being chosen elsewhere.

    Raises:
        UserError: an unknown name, or a value of another type.
    """
    return _with_value(record, path.split("."), text, path, tuple(setting_paths(record, fixed=fixed)))


def _with_value(record: Any, path: list[str], text: str, full_path: str, allowed: tuple[str, ...]) -> Any:
    name, *rest = path
    if isinstance(record, tuple):
        if not name.isdecimal():
            return tuple(_with_value(item, path, text, full_path, allowed) for item in record)
        if int(name) >= len(record):
            section = full_path.partition(f".{name}")[0]
            raise UserError(f"{full_path}: there are {len(record)} {section}, counted from 0")
        changed = _with_value(record[int(name)], rest or [""], text, full_path, allowed)
        return (*record[: int(name)], changed, *record[int(name) + 1 :])
    if name not in {field.name for field in fields(record)}:
        raise _unknown(full_path, allowed)
    current = getattr(record, name)
    if _is_section(current):
        if not rest:
            raise UserError(f"{full_path} is a section; set one of: {', '.join(setting_paths(current, full_path))}")
        return replace(record, **{name: _with_value(current, rest, text, full_path, allowed)})
    if rest:
        raise _unknown(full_path, allowed)
    return replace(record, **{name: _parse(text, typing.get_type_hints(type(record))[name], full_path)})


def setting_paths(record: Any, prefix: str = "", *, fixed: Collection[str] = ()) -> Iterator[str]:
    """Yield the path of every single setting; those of records in a tuple once, without their index.

    Args:
        record: the settings.
        prefix: path of the record itself.
        fixed: paths left out.
    """
    record = record[0] if isinstance(record, tuple) else record
    for field in fields(record):
        value, path = getattr(record, field.name), f"{prefix}.{field.name}".lstrip(".")
        if _is_section(value):
            yield from setting_paths(value, path, fixed=fixed)
        elif path not in fixed:
            yield path


def _is_section(value: object) -> bool:
    return is_dataclass(value) or (isinstance(value, tuple) and bool(value) and is_dataclass(value[0]))


def _unknown(path: str, allowed: tuple[str, ...]) -> UserError:
    near = difflib.get_close_matches(path, allowed, n=1, cutoff=0.6) or [
        name for name in allowed if name.split(".")[-1] == path.split(".")[-1]
    ]
    suggestion = f" Did you mean {near[0]}?" if near else ""
    return UserError(f"unknown setting {path!r}.{suggestion} Allowed: {', '.join(allowed)}")


def _parse(text: str, kind: Any, path: str) -> Any:
    try:
        return _convert(text, kind)
    except (ValueError, SyntaxError) as error:
        name = kind.__name__ if isinstance(kind, type) else str(kind)
        example = {bool: "true or false", int: "10", float: "0.2"}.get(kind, "0.2,1.0")
        raise UserError(f"{path}={text!r} is no {name}; write it like {example}") from error


def _convert(text: str, kind: Any) -> Any:
    """Read a text as bool, int, float, str, a tuple of them, or one of those or nothing."""
    if isinstance(kind, types.UnionType):
        if text.lower() == "none":
            return None
        return _convert(text, next(option for option in typing.get_args(kind) if option is not types.NoneType))
    if kind is str:
        return text
    if kind is bool:
        words = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]
    if kind in (int, float):
        value = kind(text)
        if kind is float and not math.isfinite(value):
            raise ValueError(text)
        return value
    return _convert_tuple(text, typing.get_args(kind))


def _convert_tuple(text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    inside = text.strip("()[] ").rstrip(",")
    parts = [part.strip() for part in inside.split(",")]
    if kinds[-1] is Ellipsis:
        return () if not inside and text.strip() else tuple(_convert(part, kinds[0]) for part in parts)
    if len(parts) != len(kinds):
        raise ValueError(text)
    return tuple(_convert(str(ast.literal_eval(part)), kind) for part, kind in zip(parts, kinds, strict=True))
