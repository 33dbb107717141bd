"""Images of a folder or a list beside the masks of their store."""

from pathlib import Path

import pytest
import torch
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from backdrop.errors import UserError
from backdrop.pipeline.masked_images import MaskedImages
from backdrop.stores.format.reader import Store, open_store
from tests.material import small_scenes


@pytest.fixture(scope="module")
def store(scenes: Path) -> Store:
    return open_store(scenes)


@pytest.fixture(scope="module")
def folder(scenes: Path) -> ImageFolder:
    return ImageFolder(str(scenes.parent / "images"))


def test_an_image_folder_gets_the_masks_of_its_store(store: Store, folder: ImageFolder) -> None:
    images = MaskedImages(store, folder)
    assert images.num_left_out == 2
    assert len(images) == small_scenes.NUM_IMAGES - 2
    for place, row in enumerate(images.rows):
        image, mask, label = images[place]
        number = int(Path(store.key(row)).stem)
        assert label == number % 2
        assert isinstance(image, tv_tensors.Image)
        assert isinstance(mask, tv_tensors.Mask)
        assert image.shape[1:] == mask.shape[1:] == (store.height[row], store.width[row])
        assert (mask[0].numpy() == store.mask(row)).all()


def test_transforms_move_image_and_mask_alike(store: Store, folder: ImageFolder) -> None:
    transforms = v2.Compose(
        [v2.RandomResizedCrop(24), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
    )
    loader = torch.utils.data.DataLoader(MaskedImages(store, folder, transforms), batch_size=4)
    image_BCHW, mask_B1HW, label_B = next(iter(loader))
    assert (image_BCHW.shape, image_BCHW.dtype) == ((4, 3, 24, 24), torch.float32)
    assert (mask_B1HW.shape, label_B.tolist()) == ((4, 1, 24, 24), [0, 0, 0, 0])
    assert set(mask_B1HW.unique().tolist()) <= {0, 1}


def test_a_list_of_paths_has_the_classes_of_the_store_or_its_own(store: Store, folder: ImageFolder) -> None:
    paths = [path for path, _ in folder.samples][9:12]
    assert MaskedImages(store, paths, root=folder.root).classes == [0, 0, 1]
    assert MaskedImages(store, [(path, 7) for path in paths], root=folder.root).classes == [7] * 3
    assert (
        MaskedImages(store, paths).rows == MaskedImages(store, paths, root=folder.root).rows
    )  # two classes: above both


def test_what_does_not_fit_is_said(store: Store, folder: ImageFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no row of 'b/c.jpg'; its keys are paths like 'class0/000.jpg'"):
        MaskedImages(store, [tmp_path / "b" / "c.jpg"], root=tmp_path)
    with pytest.raises(UserError, match="no images"):
        MaskedImages(store, [])
    other = tmp_path / "class0" / "000.jpg"
    other.parent.mkdir()
    small_scenes.write_image(other, small_scenes.photograph(9, 9, 0), 0)
    with pytest.raises(UserError, match="it is not the image"):
        MaskedImages(store, [other], root=tmp_path)[0]


def test_names_of_classes_are_their_folders(store: Store) -> None:
    assert store.class_names == {0: "class0", 1: "class1"}
