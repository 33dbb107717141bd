# What `import backdrop` offers, and where each name is: read by type checkers, and by __init__.py.

from backdrop.errors import UserError as UserError
from backdrop.open_sets import use_plugin as use_plugin
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings as BuildSettings
from backdrop.pipeline.build.masks_and_backgrounds import build_store as build_store
from backdrop.pipeline.export_store import export_store as export_store
from backdrop.pipeline.loader.loader_options import LoaderOptions as LoaderOptions
from backdrop.pipeline.loader.view_loader import ViewLoader as ViewLoader
from backdrop.pipeline.masked_images import MaskedImages as MaskedImages
from backdrop.pipeline.views.augment_backgrounds import augment_backgrounds as augment_backgrounds
from backdrop.pipeline.views.augment_backgrounds import composite as composite
from backdrop.pipeline.views.view_plan import Background as Background
from backdrop.pipeline.views.view_plan import View as View
from backdrop.pipeline.views.view_plan import ViewPlan as ViewPlan
from backdrop.progress import progress_to as progress_to
from backdrop.saliency.detectors import open_detector as open_detector
from backdrop.stores.datasets import open_index as open_index
from backdrop.stores.format.reader import Store as Store
from backdrop.stores.maintenance.verify import verify as verify
from backdrop.stores.sharing.store_cache import open_for_reading as open_store  # noqa: F401
from backdrop.trainer.run.loop import RunRequest as RunRequest
from backdrop.trainer.run.loop import pretrain as pretrain
