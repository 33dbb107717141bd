"""What a user can get wrong about a run ends in one sentence, before a network is built or a folder is made."""

import re
from pathlib import Path

import pytest

from backdrop.errors import UserError
from backdrop.pipeline.beton import beton_of_store
from backdrop.pipeline.beton.beton_of_store import StoreSource
from backdrop.pipeline.beton.writer import export_beton
from backdrop.stores.format.reader import open_store
from backdrop.trainer.run import loop
from backdrop.trainer.run.loop import RunRequest, pretrain
from tests.material import small_scenes
from tests.material.small_store import small_store, write_parts


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any attempt to train fail in another way than expected."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr(loop, "train", refuse)


def refused(tmp_path: Path, store: Path | str, command: str, **more: object) -> str:
    """Return the message that the words of a command line (method, background, --cast, settings) are refused with."""
    method, background, *words = command.split()
    recipe = next((word.removeprefix("--recipe=") for word in words if word.startswith("--recipe=")), "smoke")
    with pytest.raises(UserError) as caught:
        pretrain(
            RunRequest(
                method=method,
                background=background,
                with_cast="--cast" in words,
                recipe=recipe,
                overrides=[word for word in words if not word.startswith("--")],
            ),
            StoreSource(store=store, **more),
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        # unknown names: what is allowed, and the nearest
        ("simclr none", "Allowed: byol, cast, moco"),
        ("moco blur", "unknown background 'blur'. Allowed: none, random, recombine, rm, swaps"),
        ("moco none --recipe=moco_v3", "unknown recipe 'moco_v3'. Did you mean moco_v2_800? Allowed: byol_1000"),
        ("moco none --recipe=byol_300", "recipe 'byol_300' is for method 'byol', not 'moco'"),
        ("moco none optimizer.lr=1", "Did you mean optimiser.lr?"),
        ("moco none algorithm.num_prototypes=3", "unknown setting 'algorithm.num_prototypes'"),
        ("moco none views.7.size_px=64", "there are 2 views"),
        ("moco none backbone=resnet19", "unknown backbone 'resnet19'. Did you mean resnet18?"),
        ("moco none optimiser.name=adam", "allowed: sgd, lars"),
        ("moco none crop_fallback=corner", "allowed: center, bbox, best"),
        ("moco none crop_proposal=random", "allowed: uniform, centroid"),
        ("moco none precision=fp8", "allowed: auto, fp32, bf16, fp16"),
        ("moco none geometry=gpu", "allowed: host, device"),
        ("moco none bad_rows=ignore", "allowed: error, skip"),
        ("moco none device_form=fast", "allowed: rows, dense, compiled"),
        ("moco none probe.every_epochs=-1", "probe.every_epochs=-1 must be 0 or more"),
        ("moco none geometry=device shrink_on_decoding=true", "goes with geometry=host"),
        ("moco none algorithm.head=cnn", "allowed: mlp, linear, bn_mlp"),
        ("moco swaps background.applies_to=local", "allowed: global, query, key, all"),
        ("moco swaps background.pair_draw=both", "allowed: independent, coupled, same"),
        ("moco random --cast cast.region=union", "allowed: query, intersection"),
        # another type
        ("moco none epochs=many", "epochs='many' is no int"),
        ("moco none epochs=1.5", "is no int"),
        ("moco none cifar_stem=maybe", "true or false"),
        ("moco none optimiser.lr=nan", "is no float"),
        ("moco none views.scale=0.5", "is no tuple"),
        ("moco none views.scale=a,b", "is no tuple"),
        ("moco none views.jitter=0.4,0.4,0.4", "is no tuple"),
        ("moco none schedule.tenth_at_epochs=2.5", "is no tuple"),
        # out of range
        ("moco random background.probability=1.5", "must be in [0, 1]"),
        ("moco swaps background.negative_probability=-0.1", "must be in [0, 1]"),
        ("moco swaps background.num_negatives=0", "must be in [1, 64]"),
        ("moco random background.warmup_epochs=-1", "must be 0 or more"),
        ("moco random background.mask.flip_probability=2", "must be in [0, 1]"),
        ("moco none views.min_foreground=1.1", r"views.0.min_foreground=1.1 must be in [0, 1]"),
        ("moco none views.flip_probability=-0.5", r"must be in [0, 1]"),
        ("moco none views.1.size_px=4", "views.1.size_px=4 must be in [8, 4096]"),
        ("moco none views.1.size_px=8192", "views.1.size_px=8192 must be in [8, 4096]"),
        ("moco none views.blur_sigma_px=0,2", "must be rising numbers above 0"),
        ("moco none algorithm.head=mlpp", "Did you mean mlp?"),
        ("moco none views.scale=0.5,0.2", "must be rising numbers above 0, 1 at most"),
        ("moco none views.scale=0.5,1.2", "must be rising numbers above 0, 1 at most"),
        ("moco none views.aspect_ratio=0,1", "must be rising numbers above 0"),
        ("moco none views.blur_sigma_px=2,1", "must be rising numbers above 0"),
        ("moco none views.jitter=0.4,0.4,0.4,0.6", "0.5 at most"),
        ("moco none views.jitter=-1,0,0,0", "must be 0 or more"),
        ("moco none epochs=0", "epochs=0 must be 1 or more"),
        ("moco none batch_size=0", "batch_size=0 must be 1 or more"),
        ("moco none seed=-1", "seed=-1 must be in [0, 9223372036854775807]"),
        ("moco none optimiser.lr=-1", "optimiser.lr=-1.0 must be in [0, 1e+30]"),
        ("moco none seed=9223372036854775808", "seed=9223372036854775808 must be in [0, 9223372036854775807]"),
        ("moco none optimiser.lr=inf", "is no float"),
        ("moco none optimiser.lr=1e999", "is no float"),
        ("moco none optimiser.lr=1e300", "optimiser.lr=1e+300 must be in [0, 1e+30]"),
        ("moco none views.blur_sigma_px=1,1e999", "is no tuple"),
        ("moco none algorithm.embedding_dim=0", "algorithm.embedding_dim=0 must be 1 or more"),
        ("byol none algorithm.hidden_dim=0", "algorithm.hidden_dim=0 must be 1 or more"),
        ("byol none algorithm.embedding_dim=-1", "algorithm.embedding_dim=-1 must be 1 or more"),
        ("swav none algorithm.hidden_dim=0", "algorithm.hidden_dim=0 must be 1 or more"),
        ("swav none algorithm.embedding_dim=0", "algorithm.embedding_dim=0 must be 1 or more"),
        ("swav none algorithm.num_prototypes=1", "algorithm.num_prototypes=1 must be 2 or more"),
        ("swav none algorithm.sinkhorn_iterations=0", "algorithm.sinkhorn_iterations=0 must be 1 or more"),
        ("rotnet none algorithm.hidden_dim=0", "algorithm.hidden_dim=0 must be 1 or more"),
        ("moco none algorithm.temperature=0", "must be above 0"),
        ("moco none algorithm.momentum=1.5", r"in [0, 1]"),
        ("byol none algorithm.momentum=1.5", r"in [0, 1]"),
        ("swav none algorithm.sinkhorn_epsilon=0", "must be above 0"),
        ("cast none cast.weight=-1", "cast.weight=-1.0 must be 0 or more"),
        ("moco none schedule.warmup_epochs=99", "epochs="),
        ("supervised none schedule.tenth_at_epochs=4,2", "rising epochs"),
        # each possible, not together
        ("byol swaps", "method 'byol' has no negatives"),
        ("swav swaps", "method 'swav' has no negatives"),
        ("supervised swaps", "method 'supervised' has no negatives"),
        ("rotnet none --cast", "--cast is not defined for method 'rotnet'"),
        ("moco none cast.weight=1", "CAST is off; add --cast"),
        ("moco none algorithm.queue_size=100", "multiple of batch_size="),
        ("moco none batch_size=48", "multiple"),
        ("swav none algorithm.queue_size=100", "multiple of batch_size="),
        ("byol none batch_size=1", "give 2 or more"),
        ("moco none batch_size=1", "batch_size=1: MoCo normalises over the images of a step"),
        ("swav none batch_size=1", "give 2 or more"),
        ("supervised none batch_size=1", "give 2 or more"),
        ("byol none cifar_stem=true backbone=drn_d_22", "cifar_stem is for resnet18"),
        ("cast none views.size_px=32 cifar_stem=false", "feature map of resnet18 is one cell"),
        ("supervised none algorithm.trained=classifier", "algorithm.start_from=RUN"),
        ("supervised none algorithm.start_from=nowhere", "nowhere is no folder of a run"),
        # chosen by an option of its own
        ("moco none method=byol", "--method"),
        ("moco none background.name=rm", "--bg"),
        ("moco none algorithm=byol", "--method"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(tmp_path: Path, command: str, message: str) -> None:
    found = refused(tmp_path, tmp_path / "never-opened.zarr", command)
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.zarr", "there is no store at .*missing.zarr; make it: python cli.py build-store"),
        ("missing.beton", "there is no file .*missing.beton; make it: python cli.py store export"),
        ("images", "is neither a .zarr store nor a .beton;"),
        ("half.zarr", "half.zarr is half built"),
        ("whole.zarr", "there is no file .*whole.beton; make it: python cli.py store export"),
    ],
)
def test_stores_that_cannot_be_read_are_refused(tmp_path: Path, name: str, message: str) -> None:
    write_parts(tmp_path / "half.zarr", [0])
    (tmp_path / "half.beton").touch()
    small_store(tmp_path / "whole.zarr")
    assert re.search(message, refused(tmp_path, tmp_path / name, "moco none"))


def test_a_store_of_another_dataset_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, index = small_scenes.build(tmp_path)
    zarr = folder.rename(tmp_path / "toys.zarr")
    beton = export_beton(open_store(zarr), index, tmp_path / "toys.beton")
    for given in (zarr, beton):
        found = refused(tmp_path, given, "moco none", dataset="imagenet")
        assert found.startswith(f"--dataset is imagenet, but {given} is a store of folder; name a store of imagenet")
    # A published one before anything but its manifest is fetched.
    monkeypatch.setattr(beton_of_store, "open_published", lambda url, cache: open_store(zarr))
    monkeypatch.setattr(beton_of_store, "cached_beton", None)
    found = refused(tmp_path, "s3://bucket/toys", "moco none", dataset="imagenet", cache=tmp_path / "cache")
    assert "s3://bucket/toys is a store of folder" in found
