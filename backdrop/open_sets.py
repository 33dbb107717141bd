"""Open sets: folders in which every file is a member, and the file's name is the member's name on the command line.

Members also come from other repositories, without an edit here: an installed package names a module in the entry point
group `backdrop.<set>`, and a single file is given with `--plugin FILE.py` (or in `BACKDROP_PLUGINS`), which says in
`BACKDROP_SET` what it is a member of:

    BACKDROP_SET = "methods"    # simsiam.py: now --method simsiam

Listing a set imports no built-in member, so that `--help` is fast.
"""

import ast
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from inspect import get_annotations
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Generic, TypeVar, cast

from backdrop.errors import UserError, did_you_mean

# Paths of plug-in files, as PATH is written; in the environment, so that every process of a run has them.
PLUGINS_VARIABLE = "BACKDROP_PLUGINS"
# What BACKDROP_SET may say.
_SETS = ("methods", "backgrounds", "backbones", "datasets", "detectors", "engines", "evaluations", "recipes", "loggers")

Member = TypeVar("Member")


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A file outside the project that is a member of an open set."""

    path: Path
    # absolute
    set_name: str
    # of the open set: methods, backbones, ...
    sha256: str
    # of its text


@dataclass(frozen=True, kw_only=True)
class MemberOrigin:
    """Where a member that is not the project's own comes from, as it is kept beside what was made with it.

    source: the plug-in's file, without its folder, or the installed package with its version. sha256: of the file's
    text, "" where a package has none.
    """

    set_name: str
    member: str
    source: str
    is_file: bool
    sha256: str


class OpenSet(Generic[Member]):
    """The members of a folder, of the installed packages and of the plug-in files, found by name.

    `Member` is the `Protocol` that each of them, a module, fulfils: mypy reads that of the project's own
    (`python -m tests.check_members`), `load` looks whether a plug-in has all that it names.
    """

    def __init__(self, name: str, package: str, path: list[str], *, contract: type, hyphens: bool = False) -> None:
        """Describe the folder; nothing is imported.

        Args:
            name: of the set, in plural: methods, backgrounds, ...
            package: `__name__` of the folder's package.
            path: its `__path__`.
            contract: `Member` as a class.
            hyphens: whether names on the command line have hyphens where files have underscores.
        """
        self.name, self._package, self._path, self._hyphens = name, package, path, hyphens
        self._provided = _members_of(contract)

    def names(self) -> tuple[str, ...]:
        """Return the names of all members, sorted."""
        return tuple(sorted({*self.built_in(), *self._installed(), *self._plugins()}))

    def built_in(self) -> tuple[str, ...]:
        """Return the names of the project's own members, sorted."""
        files = (module.name for module in iter_modules(self._path) if not module.ispkg)
        return tuple(sorted(self._spoken(name) for name in files if not name.startswith("_")))

    def load(self, name: str) -> Member:
        """Import a member.

        Raises: UserError: there is none of that name, it cannot be imported, or it lacks what the set's members have.
        """
        if name in self.built_in():
            file = name.replace("-", "_") if self._hyphens else name
            return cast(Member, import_module(f"{self._package}.{file}"))
        if name in (plugins := self._plugins()):
            path = plugins[name].path
            return self._complete(plugin_module(path), f"--plugin {path}")
        if name in (installed := self._installed()):
            return self._complete(_installed_module(installed[name]), f"the installed plug-in {installed[name].value}")
        raise self.unknown(name)

    def unknown(self, name: str, *more: str) -> UserError:
        """Return the error about a name that no member has.

        Args: name: as given. more: what is allowed there besides the members.
        """
        return unknown(self.name[:-1], name, (*self.names(), *more))

    def origin(self, name: str) -> "MemberOrigin | None":
        """Return where a member comes from, None where it is the project's own.

        Raises: UserError: as `load`.
        """
        if name in self.built_in():
            return None
        if name in (plugins := self._plugins()):
            source, sha256 = plugins[name].path.name, plugins[name].sha256
            return MemberOrigin(set_name=self.name, member=name, source=source, is_file=True, sha256=sha256)
        module = self.load(name)
        distribution = self._installed()[name].dist
        source = f"{distribution.name} {distribution.version}" if distribution else self._installed()[name].value
        file = module.__file__ if isinstance(module, ModuleType) else None
        sha256 = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
        return MemberOrigin(set_name=self.name, member=name, source=source, is_file=False, sha256=sha256)

    def _complete(self, module: object, what: str) -> Member:
        missing = [name for name in self._provided if name not in dir(module)]
        if missing:
            raise UserError(
                f"{what} lacks {', '.join(missing)}. Every one of the {self.name} provides "
                f"{', '.join(self._provided)}: see CONTRIBUTING.md, and the files of {self._package}"
            )
        return cast(Member, module)

    def _spoken(self, file: str) -> str:
        return file.replace("_", "-") if self._hyphens else file

    def _installed(self) -> dict[str, metadata.EntryPoint]:
        found = {entry.name: entry for entry in _entry_points(f"backdrop.{self.name}", tuple(sys.path))}
        for name in sorted(set(found) & set(self.built_in())):
            raise UserError(
                f"the installed package of {found[name].value} calls a plug-in {name!r}, a name that the {self.name} "
                "of Backdrop have already. Give its entry point another name, or uninstall it."
            )
        return found

    def _plugins(self) -> dict[str, Plugin]:
        found: dict[str, Plugin] = {}
        for plugin in plugins():
            if plugin.set_name != self.name:
                continue
            name = self._spoken(plugin.path.stem)
            if name in self.built_in():
                raise UserError(
                    f"--plugin {plugin.path}: the {self.name} of Backdrop have a {name!r} already. Rename the file."
                )
            if name in found:
                raise UserError(f"--plugin {plugin.path} and {found[name].path} have the same name: rename one")
            found[name] = plugin
        return found


def _members_of(contract: type) -> tuple[str, ...]:
    """The names that a Protocol states, in its order; those of the machinery of Protocols begin with "_"."""
    stated = [*get_annotations(contract), *vars(contract)]
    return tuple(dict.fromkeys(name for name in stated if not name.startswith("_")))


@cache
def _entry_points(group: str, search_path: tuple[str, ...]) -> metadata.EntryPoints:
    """The entry points of all installed packages, which lie on `search_path`: reading them takes milliseconds."""
    return metadata.entry_points(group=group)


def unknown(kind: str, name: str, allowed: Sequence[str]) -> UserError:
    """Return the error about a name that nothing has. Args: kind: of what, in singular. allowed: the names."""
    return UserError(
        f"unknown {kind} {name!r}.{did_you_mean(name, allowed)} Allowed: {', '.join(allowed)}; one of your own is "
        "given with --plugin FILE.py"
    )


def use_plugin(path: Path | str) -> Plugin:
    """Make a file's member known to this process and those that it starts.

    Raises: UserError: there is no such file, or it is no plug-in.
    """
    plugin = _read_plugin(Path(path).absolute())
    given = [text for text in os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep) if text]
    if str(plugin.path) not in given:
        os.environ[PLUGINS_VARIABLE] = os.pathsep.join([*given, str(plugin.path)])
    return plugin


def plugins() -> Iterator[Plugin]:
    """Yield the plug-in files in use, in the order in which they were given."""
    for text in os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep):
        if text:
            yield _read_plugin(Path(text))


@cache
def _read_plugin(path: Path) -> Plugin:
    """Read a file once a process, which imports it once too."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"--plugin {path} cannot be read: {error.strerror}. Give a Python file.") from error
    return Plugin(path=path, set_name=_set_of(path, content), sha256=hashlib.sha256(content).hexdigest())


def _set_of(path: Path, content: bytes) -> str:
    """What the file says in BACKDROP_SET, read without running it."""
    try:
        body = ast.parse(content, filename=str(path)).body
    except (SyntaxError, ValueError) as error:
        raise UserError(f"--plugin {path} is no Python file: {error}") from error
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id="BACKDROP_SET")], value=ast.Constant(value=str(set_name))):
                _check_set(path, set_name)
                return set_name
    raise UserError(
        f'--plugin {path} does not say what it is: write BACKDROP_SET = "methods" in it, or another of: '
        f"{', '.join(_SETS)}"
    )


def _check_set(path: Path, set_name: str) -> None:
    if set_name not in _SETS:
        meant = did_you_mean(set_name, _SETS)
        raise UserError(
            f"--plugin {path} says BACKDROP_SET = {set_name!r}, which is no set.{meant} Allowed: {', '.join(_SETS)}"
        )


def _installed_module(entry: metadata.EntryPoint) -> object:
    try:
        return entry.load()
    except Exception as error:
        raise UserError(
            f"the installed plug-in {entry.name!r} of {entry.value} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def plugin_module(path: Path) -> object:
    """Import a plug-in file, once a process.

    Raises: UserError: it raises while it is imported.
    """
    # Of its own for each file: two sets may have a plug-in of one name.
    name = f"backdrop_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"--plugin {path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
