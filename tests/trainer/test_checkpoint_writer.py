"""Checkpoints are written while training goes on: of the step they are of, one at a time, and none is lost quietly."""

import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from backdrop.disk_errors import disk_errors
from backdrop.errors import UserError
from backdrop.tensor_files import read_tensors, write_tensors
from backdrop.trainer.parts import checkpoint_files
from backdrop.trainer.run import checkpoint, training
from backdrop.trainer.run.checkpoint_writer import checkpoint_writer
from tests.material.interrupted_runs import Interrupted, assert_same_end, run
from tests.material.tiny_runs import tiny

SETTINGS = replace(tiny("moco", checkpoint_steps=1), epochs=1)
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def snapshot_of(folder: Path, step: int) -> checkpoint.Snapshot:
    tensors = {"method.x": torch.full((3,), float(step))}
    return checkpoint.Snapshot(folder=folder, step=step, tensors=tensors, state="{}", keep=2, keep_every_steps=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps and as many checkpoints."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(SETTINGS, out)
    return out


def test_training_goes_on_while_a_checkpoint_is_written(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk answers only after the run has changed its weights again; the file has them as they were."""
    settings = replace(SETTINGS, checkpoint_steps=2)
    has_stepped, take_step, written = threading.Event(), training.take_step, []

    def slow(path: Path, *words: object) -> None:
        assert has_stepped.wait(60)
        write_tensors(path, *words)
        written.append(path.name)

    def stepping(state: training.Training, *words: object) -> tuple:
        assert state.step < 2 or not written, "the checkpoint of step 2 is on its way"
        done = take_step(state, *words)
        if state.step == 3:
            has_stepped.set()
        return done

    monkeypatch.setattr(checkpoint, "write_tensors", slow)
    monkeypatch.setattr(training, "take_step", stepping)
    run(settings, tmp_path)
    assert written[0] == "step-00000002.safetensors"
    assert_same_end(whole, tmp_path)
    a, b = (load_file(checkpoint_files.checkpoint_path(folder, 2)) for folder in (whole, tmp_path))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_one_copy_at_a_time_and_the_end_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order, go_on = [], threading.Event()

    def slow(path: Path, *words: object) -> None:
        go_on.wait(60)
        write_tensors(path, *words)
        order.append(f"wrote {checkpoint_files.step_of(path)}")

    def take(step: int) -> checkpoint.Snapshot:
        order.append(f"took {step}")
        return snapshot_of(tmp_path, step)

    monkeypatch.setattr(checkpoint, "write_tensors", slow)
    with checkpoint_writer() as writer:
        writer.start(lambda: take(1))
        writer.check()
        assert order == ["took 1"], "check does not wait"
        go_on.set()
        for step in (2, 3, 4):
            writer.start(lambda step=step: take(step))
        writer.start(lambda: None)  # a process that writes nothing
    assert order == [f"{word} {step}" for step in (1, 2, 3, 4) for word in ("took", "wrote")]
    assert [checkpoint_files.step_of(path) for path in checkpoint_files.checkpoints(tmp_path)] == [3, 4]


def test_a_full_disk_at_the_last_checkpoint_ends_the_run_in_a_sentence_and_it_goes_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, *words: object) -> None:
        if checkpoint_files.step_of(path) == 3:
            raise FULL
        write_tensors(path, *words)

    monkeypatch.setattr(checkpoint, "write_tensors", write)
    with pytest.raises(UserError, match=r"the disk that holds .* is full"), disk_errors(tmp_path):
        run(SETTINGS, tmp_path)
    assert checkpoint_files.step_of(checkpoint_files.latest(tmp_path)) == 2
    assert not (tmp_path / checkpoint.BACKBONE_FILE).exists(), "the run is not finished"
    monkeypatch.undo()
    run(SETTINGS, tmp_path, resume=True)
    assert_same_end(whole, tmp_path)


@pytest.mark.parametrize("ask", ["check", "start", "wait"])
def test_a_full_disk_is_said_when_training_asks_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: str) -> None:
    monkeypatch.setattr(checkpoint.Snapshot, "write", lambda snapshot: _raise(FULL))
    with checkpoint_writer() as writer:
        writer.start(lambda: snapshot_of(tmp_path, 1))
        writer.close()  # the thread has ended
        words = [lambda: pytest.fail("no copy is taken of a run that ends")] if ask == "start" else []
        with pytest.raises(OSError, match="No space left"):
            getattr(writer, ask)(*words)


def test_what_ended_a_run_is_said_first_and_a_lost_checkpoint_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint.Snapshot, "write", lambda snapshot: _raise(FULL))

    def interrupted() -> None:
        with checkpoint_writer() as writer:
            writer.start(lambda: snapshot_of(tmp_path, 1))
            raise Interrupted

    with pytest.raises(Interrupted):
        interrupted()
    assert "the latest checkpoint was not written ([Errno 28] No space left" in capsys.readouterr().err


def _raise(error: OSError) -> None:
    raise error


def test_files_are_those_of_safetensors_byte_for_byte(tmp_path: Path) -> None:
    """Also in another layout in memory, of every type, empty, and without dimensions."""
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "b.weight": torch.randn(4, 3, 2, 2, generator=draw).to(memory_format=torch.channels_last),
        "a.weight": torch.randn(5, 3, generator=draw).T,
        "num": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "é": torch.ones(2),
    }
    kinds = (
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.float16,
        torch.bfloat16,
        torch.float64,
    )
    tensors |= {str(kind): torch.tensor([0, 1, 1], dtype=kind) for kind in kinds}
    write_tensors(tmp_path / "file", tensors, {"state": '{"step": 1}'})
    expected = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"state": '{"step": 1}'})
    assert (tmp_path / "file").read_bytes() == expected
    found, texts = read_tensors(tmp_path / "file", "delete it")
    assert texts == {"state": '{"step": 1}'}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
