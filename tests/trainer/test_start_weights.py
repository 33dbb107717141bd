"""`pretrain --start-weights`: the backbone begins with a file's or a run's weights, is recorded, and is read once."""

import json
from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch
from safetensors.torch import save_file

from backdrop import cli
from backdrop.errors import UserError
from backdrop.ranks import Ranks
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.run import checkpoint, run_folder
from backdrop.trainer.run.read_start_weights import start_weights
from backdrop.trainer.run.training import start, train
from backdrop.trainer.settings import RunSettings
from tests.material.interrupted_runs import CPU, Interrupted, StoppingLoader, assert_same_end
from tests.material.published_resnets import RESNET_FILES
from tests.material.published_vits import dino_tensors
from tests.material.tiny_runs import tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tensorboard"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def encoder() -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return build_backbone("resnet18").eval()


@pytest.fixture
def moco_file(encoder: Backbone, tmp_path: Path) -> Path:
    own = encoder.state_dict()
    path = tmp_path / "moco_v2_800ep_pretrain.pth.tar"
    torch.save(RESNET_FILES["moco-v2 and cast"](own, {name: value + 1 for name, value in own.items()}), path)
    return path


def run_from(
    given: Path | None,
    settings: RunSettings,
    out: Path,
    *,
    resume: bool = False,
    stop_at: tuple[int, int] | None = None,
) -> None:
    """As `pretrain` does it, on made-up batches."""
    origin = run_folder.Origin(recipe="smoke", start_weights=start_weights(given, settings, out))
    loader = StoppingLoader(settings.plan, num_rows=24, batch_size=settings.batch_size)
    loader.stop_at = stop_at
    train(settings, loader, out, origin=origin, resume=resume, ranks=Ranks(device="cpu"))


@pytest.mark.parametrize("method", ["moco", "byol", "swav", "supervised"])
def test_every_copy_of_the_backbone_begins_with_the_weights(method: str, encoder: Backbone, tmp_path: Path) -> None:
    """Supervised training would otherwise begin with zeros in the last BatchNorms of its blocks."""
    settings, own = tiny(method), encoder.state_dict()
    training = start(settings, steps_per_epoch=1, device=CPU, backbone_weights=own)
    state = training.method.state_dict()
    firsts = [name for name in state if name.endswith("conv1.weight") and "layer" not in name]
    copies = {name.removesuffix("conv1.weight") for name in firsts}
    assert "backbone." in copies
    for prefix in copies:
        for name, value in own.items():
            assert torch.equal(state[f"{prefix}{name}"], value), f"{prefix}{name}"
    heads = [name for name in state if not name.startswith(tuple(copies))]
    drawn = start(settings, steps_per_epoch=1, device=CPU).method.state_dict()
    assert all(torch.equal(state[name], drawn[name]) for name in heads), "the other draws are those of the seed"


def test_a_file_is_read_once_and_its_run_ends_as_one_that_was_never_stopped(
    moco_file: Path, encoder: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(tiny("moco", checkpoint_steps=2), epochs=1)
    run_from(moco_file, settings, tmp_path / "whole")
    said = "moco_v2_800ep_pretrain.pth.tar: resnet18; 128 other tensors left, such as module.encoder_k.bn1.bias"
    assert said in capsys.readouterr().err
    record = run_folder.read_run(tmp_path / "whole")["start_weights"]
    assert (record["file"], record["recognised"], record["num_left"]) == (str(moco_file), "resnet18", 128)
    with pytest.raises(Interrupted):
        run_from(moco_file, settings, tmp_path / "parts", stop_at=(0, 2))
    moco_file.rename(tmp_path / "elsewhere.pth.tar")
    run_from(moco_file, settings, tmp_path / "parts", resume=True)
    assert said not in capsys.readouterr().err.partition("what to expect")[2]
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    run_from(None, settings, tmp_path / "parts", resume=True)
    assert run_folder.read_run(tmp_path / "parts")["start_weights"] == record
    with pytest.raises(Interrupted):
        run_from(None, settings, tmp_path / "random", stop_at=(0, 0))
    assert run_folder.read_run(tmp_path / "random")["start_weights"] is None


def test_a_run_killed_before_its_first_checkpoint_begins_again_with_the_same(moco_file: Path, tmp_path: Path) -> None:
    settings = tiny("moco", checkpoint_steps=2)
    with pytest.raises(Interrupted):
        run_from(moco_file, settings, tmp_path / "run", stop_at=(0, 0))
    found = start_weights(None, settings, tmp_path / "run")
    assert found is not None
    assert found.record == run_folder.read_run(tmp_path / "run")["start_weights"]
    torch.save(build_backbone("resnet18").state_dict(), moco_file)
    with pytest.raises(UserError, match=r"holds other weights than the run in .* began with"):
        start_weights(None, settings, tmp_path / "run")
    with pytest.raises(UserError, match=r"began with .*moco_v2.*give the same to go on with it"):
        start_weights(tmp_path / "other.pth", settings, tmp_path / "run")


def test_a_runs_own_weights_are_taken_from_its_folder_or_its_file(encoder: Backbone, tmp_path: Path) -> None:
    settings, run = tiny("byol"), tmp_path / "first"
    run_from(None, replace(tiny("moco"), epochs=1, batch_size=24), run)
    trained = checkpoint.load_backbone(run).state_dict()
    for given in (run, run / "backbone.safetensors"):
        found = start_weights(given, settings, tmp_path / "second")
        assert found is not None
        assert found.record["recognised"] == "resnet18 of a run"
        assert all(torch.equal(value, trained[name]) for name, value in found.tensors.items())
    with pytest.raises(UserError, match="began with random weights; give the same to go on with it"):
        start_weights(tmp_path / "other.pth", settings, run)


def test_what_does_not_fit_says_what_does(moco_file: Path, encoder: Backbone, tmp_path: Path) -> None:
    settings, out = tiny("moco"), tmp_path / "out"
    other = replace(settings, backbone="resnet50")
    with pytest.raises(UserError, match=r"holds a resnet18, the run's backbone is resnet50: add --backbone resnet18,"):
        start_weights(moco_file, other, out)
    with pytest.raises(UserError, match=r"add --backbone resnet18 --set cifar_stem=false"):
        start_weights(moco_file, replace(settings, cifar_stem=True), out)
    with pytest.raises(UserError, match="there is nothing at"):
        start_weights(tmp_path / "absent.pth", settings, out)
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"no weights of a resnet18, the run's backbone: there is no conv1\.weight"):
        start_weights(tmp_path / "other.pth", settings, out)
    supervised = tiny("supervised")
    supervised = replace(supervised, algorithm=replace(supervised.algorithm, start_from=str(tmp_path)))
    with pytest.raises(UserError, match=r"algorithm\.start_from=.* already says"):
        start_weights(moco_file, supervised, out)


def test_a_vit_with_other_heads_is_no_vit_s(tmp_path: Path) -> None:
    """MoCo-v3's would load into one and attend to something else."""
    own = dino_tensors()
    own["pos_embed"][:, 0] = 0
    save_file(own, tmp_path / "vit-s.safetensors")
    with pytest.raises(UserError, match="holds a vit_s16_moco_v3, the run's backbone is vit_s16"):
        start_weights(tmp_path / "vit-s.safetensors", replace(tiny("moco"), backbone="vit_s16"), tmp_path / "out")


def test_networks_that_no_name_tells_apart_are_read_by_the_runs_backbone(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    settings = replace(tiny("moco"), backbone="timm:test_convnext")
    own = build_backbone("timm:test_convnext").state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in own.items()}}, tmp_path / "convnext.pth")
    found = start_weights(tmp_path / "convnext.pth", settings, tmp_path / "out")
    assert found is not None
    assert json.dumps(found.record)
    assert all(torch.equal(value, found.tensors[name]) for name, value in own.items())
    own["stem.0.weight"] = own["stem.0.weight"][:3].clone()
    torch.save(own, tmp_path / "convnext.pth")
    with pytest.raises(UserError, match=r"no weights of a timm:test_convnext, .*: stem\.0\.weight is \(3"):
        start_weights(tmp_path / "convnext.pth", settings, tmp_path / "out")


@pytest.mark.slow
def test_the_command_begins_with_a_vit_and_says_so_in_its_run(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = dino_tensors(width=192)
    torch.save({"teacher": {f"backbone.{name}": value for name, value in own.items()}}, tmp_path / "dino.pth")
    tiny_run = ["views.size_px=32", "epochs=1", "batch_size=4", "optimiser.lr=0", "algorithm.queue_size=8"]
    tiny_run += ["algorithm.shuffle_bn_group=0"]
    command = ["pretrain", "--method", "moco", "--bg", "none", "--store", str(scenes), "--recipe", "smoke"]
    command += [
        "--backbone",
        "vit_ti16",
        *(f"--set={change}" for change in [*tiny_run, "algorithm.shuffle_bn_group=0"]),
    ]
    command += ["--out", str(tmp_path / "run"), "--start-weights"]
    cli.main([*command, str(tmp_path / "dino.pth")], standalone_mode=False)
    assert "dino.pth: vit_ti16 (DINO: width 192, 3 heads, 12 blocks, patch 16)" in capsys.readouterr().err
    record = run_folder.read_run(tmp_path / "run")
    assert record["start_weights"]["file"] == str(tmp_path / "dino.pth")
    assert f"--start-weights {tmp_path / 'dino.pth'}" in record["command"]
    trained = checkpoint.load_backbone(tmp_path / "run").state_dict()
    assert trained.keys() == own.keys()
    assert all(torch.allclose(value, own[name], atol=1e-6) for name, value in trained.items()), "at a rate of 0"
    with pytest.raises(click.ClickException, match=r"began with .*dino\.pth"):
        cli.main([*command, str(tmp_path / "other.pth")], standalone_mode=False)
