"""Every array of the goldens of detectors on features is compared with ours somewhere."""

import re
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent
# What names of arrays begin with, behind a case where there is one, and the test file that reads them.
COMPARED = {
    "tokencut/": "test_token_cut.py",
    "lost/": "test_lost.py",
    "found/": "test_found.py",
    "found_unweighted/": "test_found.py",
    "maskcut/": "test_mask_cut.py",
    "spectral/": "test_self_mask.py",
    "vote/": "test_self_mask.py",
    "solver/": "test_bilateral_solver.py",
    "pick/": "test_bilateral_solver.py",
    "position/": "test_published_weights.py",
    "metrics/": "test_saliency_metrics.py",
}
# What the cases are made of.
INPUTS = ("qkv", "dims", "heads", "planted")


def test_every_array_is_compared_somewhere(shared_data: Path) -> None:
    goldens = np.load(shared_data / "feature-goldens.npz", allow_pickle=False)
    for name in goldens.files:
        rest = re.sub(r"^(one|two|large)/", "", name)
        if rest in INPUTS:
            continue
        (prefix,) = [prefix for prefix in COMPARED if rest.startswith(prefix)]
        source = (TESTS / COMPARED[prefix]).read_text()
        assert "feature-goldens.npz" in source
        assert prefix.rstrip("/") in source, f"{COMPARED[prefix]} reads nothing of {name}"
