"""Progress that is told to a function instead of being drawn."""

import pytest

from backdrop.progress import Progress, progress_to, stage_bar


def test_a_function_hears_of_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[Progress] = []
    with progress_to(heard.append):
        assert list(stage_bar(range(3), stage="read", unit="row")) == [0, 1, 2]
        with stage_bar(stage="write", unit="part", total=5, initial=2) as bar:
            bar.update(3)
    ends = {progress.stage: progress for progress in heard}
    assert ends["read"] == Progress(stage="read", unit="row", done=3, total=3)
    assert ends["write"] == Progress(stage="write", unit="part", done=5, total=5)
    assert next(progress for progress in heard if progress.stage == "write").done == 2
    assert capsys.readouterr().err == ""


def test_what_it_raises_ends_the_work() -> None:
    def stop(progress: Progress) -> None:
        raise InterruptedError(progress.stage)

    with pytest.raises(InterruptedError, match="read"), progress_to(stop):
        list(stage_bar(range(3), stage="read", unit="row"))


def test_afterwards_bars_are_drawn_again(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_to(lambda progress: None):
        pass
    list(stage_bar(range(3), stage="read", unit="row"))
    assert "read" in capsys.readouterr().err
