"""Files for --config that hold no settings, impossible ones, or have no end."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.material.hostile_cells import Allowed, cells, done, put_no_plain_file, refused, run_cell

NAMED = r"given\.(toml|json)"
# name -> suffix, content, what may come of it where the setting exists
CONFIGS: dict[str, tuple[str, bytes, Allowed]] = {
    "empty.toml": (".toml", b"", done()),
    "byte-order-mark.toml": (".toml", b"\xef\xbb\xbfepochs = 3\n", refused(NAMED)),
    "windows-lines.toml": (".toml", b"\r\n# nothing\r\n", done()),
    "latin-1.toml": (".toml", "# Größe\n".encode("latin-1"), refused(NAMED)),
    "binary.toml": (".toml", bytes(range(256)), refused(NAMED)),
    "a-picture.toml": (".toml", b"\x89PNG\r\n\x1a\n" + bytes(100), refused(NAMED)),
    "twice.toml": (".toml", b"epochs = 1\nepochs = 2\n", refused(NAMED)),
    "deep-list.toml": (".toml", b"epochs = " + b"[" * 100_000, refused(NAMED)),
    "deep-name.toml": (".toml", b".".join([b"a"] * 5000) + b" = 1\n", refused("unknown setting|" + NAMED)),
    "long-name.toml": (".toml", b"a" * 100_000 + b" = 1\n", refused("unknown setting")),
    "long-text.toml": (".toml", b'epochs = "' + b"9" * 100_000 + b'"\n', refused("epochs")),
    "huge-number.toml": (".toml", b"epochs = " + b"9" * 5000 + b"\n", refused("epochs|" + NAMED)),
    "hexadecimal.toml": (".toml", b"epochs = 0x" + b"f" * 5000 + b"\n", refused("epochs|" + NAMED)),
    "infinite.toml": (".toml", b"epochs = inf\n", refused("epochs")),
    "no-number.toml": (".toml", b"epochs = nan\n", refused("epochs")),
    "negative.toml": (".toml", b"epochs = -3\n", refused("epochs")),
    "a-date.toml": (".toml", b"epochs = 2020-01-01\n", refused("epochs")),
    "control-characters.toml": (".toml", b'"\\u001b[2J" = 1\n', refused("unknown setting")),
    "foreign-names.toml": (".toml", b"[tool.poetry]\nname = 'x'\n", refused("unknown setting|no setting")),
    "mixed-tables.toml": (".toml", b"epochs = [{a = 1}, 3]\n", refused("epochs|unknown|" + NAMED)),
    "tables-of-many.toml": (".toml", b"epochs = [" + b"{a = 1}," * 2000 + b"]\n", refused("epochs|unknown")),
    "empty.json": (".json", b"", refused(NAMED)),
    "null.json": (".json", b"null", refused(NAMED)),
    "list.json": (".json", b"[1, 2]", refused(NAMED)),
    "deep.json": (".json", b'{"a":' * 100_000, refused(NAMED)),
    "deep-list.json": (".json", b"[" * 100_000, refused(NAMED)),
    "nan.json": (".json", b'{"epochs": NaN}', refused("epochs")),
    "infinity.json": (".json", b'{"epochs": -Infinity}', refused("epochs")),
    "huge-number.json": (".json", b'{"epochs": ' + b"9" * 5000 + b"}", refused("epochs|" + NAMED)),
    "huge-exponent.json": (".json", b'{"epochs": 1e999}', refused("epochs")),
    "lone-surrogate.json": (".json", b'{"\\ud800": 1}', refused("unknown setting")),
    "nested-settings.json": (
        ".json",
        b'{"settings": {"settings": {"epochs": 1}}}',
        refused("unknown setting|settings"),
    ),
    "object-for-number.json": (".json", b'{"epochs": {"a": 1}}', refused("epochs")),
    "list-of-lists.json": (".json", b'{"epochs": [[1], [2]]}', refused("epochs")),
}

COMMANDS: dict[str, Callable[[Path], list[object]]] = {
    "pretrain": lambda file: ["pretrain", "--method", "moco", "--recipe", "smoke", "--show-settings", "--config", file],
    "loader-bench": lambda file: [
        "loader-bench", "--method", "moco", "--recipe", "smoke", "--store", file.parent / "none.zarr", "--config", file,
    ],
    "evaluate": lambda file: ["evaluate", "linear", "--show-settings", "--config", file],
    "saliency-train": lambda file: ["saliency", "train", "--preset", "found", "--show-settings", "--config", file],
    "table1": lambda file: ["saliency", "table1", "--preset", "tiny", "--show-settings", "--config", file],
}  # fmt: skip


@cells(CONFIGS, COMMANDS, {("deep-list.toml", "evaluate"), ("huge-number.json", "evaluate")})
def test_settings_of_a_file_are_taken_or_refused(given: str, command: str, tmp_path: Path) -> None:
    suffix, content, allowed = CONFIGS[given]
    file = tmp_path / f"given{suffix}"
    file.write_bytes(content)
    if command == "loader-bench" and allowed.exit_code == 0:
        allowed = refused("none.zarr")
    if command == "table1" and allowed.exit_code == 2:
        allowed = refused("unknown setting|" + allowed.words)  # of DeepUSPS2: its epochs are its phases'
    run_cell(COMMANDS[command](file), allowed, tmp_path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "endless", "folder", "link to itself", "link to nowhere"])
@pytest.mark.parametrize("command", ["evaluate", *(pytest.param(c, marks=pytest.mark.slow) for c in COMMANDS)])
def test_what_is_no_plain_file_is_refused_without_reading_it(kind: str, command: str, tmp_path: Path) -> None:
    file = tmp_path / "given.toml"
    put_no_plain_file(kind, file)
    run_cell(COMMANDS[command](file), refused(NAMED), tmp_path)
