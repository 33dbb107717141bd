# %% [markdown]
# # Background augmentations in your own training
#
# The store of `masks_of_your_images.py` feeds a contrastive loss of one's own: views with random backgrounds
# (BG_Random, Ryali et al. 2021), crops that hold some of the foreground, and what the model sees as pictures.

# %%
import numpy as np
import torch
from PIL import Image
from torchvision.models import resnet18

import backdrop

backdrop.export_store("photos.zarr", root="photos")  # photos.beton, which the loader reads

# %% [markdown]
# Two views of each image. A fifth of them get another image's background by default; here half, to see some.

# %%
view = backdrop.View(size_px=64, min_foreground=0.2)
plan = backdrop.ViewPlan(views=(view, view), background=backdrop.Background(name="random", probability=0.5))
loader = backdrop.ViewLoader("photos.zarr", plan, backdrop.LoaderOptions(batch_size=4, seed=0), device="cpu")

# %%
views = next(iter(loader))
mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
rows = [torch.cat([*(image * std + mean).clamp(0, 1)], dim=2) for image in views.images]
Image.fromarray(np.uint8(255 * torch.cat(rows, dim=1).permute(1, 2, 0))).save("views.png")

# %% [markdown]
# A SimCLR step: the two views of an image are each other's positives, all else in the batch negatives.

# %%
model = resnet18(num_classes=32)
optimiser = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)


def simclr_loss(images: list[torch.Tensor], temperature: float = 0.5) -> torch.Tensor:
    """NT-Xent (Chen et al. 2020). Args: images: two views, (B, 3, H, W) each."""
    z = torch.nn.functional.normalize(model(torch.cat(images)), dim=1)
    similarity = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return torch.nn.functional.cross_entropy(similarity, torch.arange(len(z)).roll(len(z) // 2))


# %%
for _ in range(2):
    for views in loader:  # each pass is the next epoch, with draws of its own
        loss = simclr_loss(views.images)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    print(f"epoch {views.epoch}: loss {loss.item():.3f}")
loader.close()
