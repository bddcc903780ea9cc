"""Mends for transformers 4.57, the last line with TensorFlow models, whose own code will not change any more."""
from __future__ import annotations

import functools
import importlib
import sys
import warnings

from transformers import modeling_tf_pytorch_utils
from transformers.utils import import_utils

METRICS = "transformers.data.metrics"
DEFERRED = {"f1_score": "sklearn.metrics", "matthews_corrcoef": "sklearn.metrics", "pearsonr": "scipy.stats", "spearmanr": "scipy.stats"}
"""What these metrics take from where."""


def defer_metrics() -> None:
    """Let transformers import scikit-learn and SciPy when its GLUE metrics are computed, and not with every model: 53 MB and a second."""
    if METRICS in sys.modules or not import_utils.is_sklearn_available():
        return
    import_utils._sklearn_available = False
    try:
        metrics = importlib.import_module(METRICS)
    finally:
        import_utils._sklearn_available = True
    for name, module in DEFERRED.items():
        setattr(metrics, name, _deferred(name, module))


def _deferred(name, module):
    return lambda *args, **kwargs: getattr(importlib.import_module(module), name)(*args, **kwargs)


class _IterableArchive:
    """A `safetensors.safe_open` handle over whose names one can loop."""

    def __init__(self, archive):
        self._archive = archive

    def __iter__(self):
        return iter(self._archive.keys())

    def __getattr__(self, name):
        return getattr(self._archive, name)


def mend_safetensors_loading() -> None:
    """Let every TF model of transformers load safetensors files in PyTorch's names.

    `load_pytorch_state_dict_in_tf2_model` loops over a `safe_open` handle, which no release of safetensors allows
    (https://github.com/huggingface/transformers/issues/40028), so `from_pretrained` fails for every file of this, the usual, format.
    """
    load = modeling_tf_pytorch_utils.load_pytorch_state_dict_in_tf2_model
    if hasattr(load, "__wrapped__"):
        return

    @functools.wraps(load)
    def mended(tf_model, pt_state_dict, *args, **kwargs):
        if getattr(tf_model.config, "adaptation", None) and not hasattr(tf_model, "adaptation"):
            warnings.warn(f"{type(tf_model).__name__} knows nothing of what config.json tells under `adaptation`, and leaves it out: this is another function; "
                          "load the folder by tfgpt.load_model or GPTLMHeadModel.from_pretrained", stacklevel=2)
        is_archive = hasattr(pt_state_dict, "get_tensor") and not hasattr(pt_state_dict, "__iter__")
        return load(tf_model, _IterableArchive(pt_state_dict) if is_archive else pt_state_dict, *args, **kwargs)

    modeling_tf_pytorch_utils.load_pytorch_state_dict_in_tf2_model = mended
