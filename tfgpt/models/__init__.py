"""The causal language model and its forward pass; the only room that touches the internals of transformers."""
from tfgpt.models import compat

compat.defer_metrics()
compat.mend_safetensors_loading()
