"""What keeps a fine-tune near its start: which of its weights can be held where they began."""
from __future__ import annotations

from tfgpt.models.surgery import moved_blocks
from tfgpt.recipe import AdaptConfig


def new_weights(config: AdaptConfig, layers: int) -> tuple[str, ...]:
    """Return patterns of the weights that an adapted model has and its starting model had not, or had with other numbers.

    Args:
        config: by which it was adapted.
        layers: blocks of the starting model.

    >>> new_weights(AdaptConfig(insert_blocks=(0, 2), reinitialize=("h.1.mlp",)), layers=2)
    ('h.0', 'h.3', 'h.1.mlp')
    """
    blocks = set(range(layers + len(config.insert_blocks))) - set(moved_blocks(layers, config.insert_blocks).values())
    patterns = {
        "**.lora": config.lora.rank,
        "**.bottleneck_*": config.bottleneck.width,
        "**.prefix": config.prefix.tokens,
        "prompt": config.prefix.tokens,
        "head": config.head.kind != "none",
        "**.crossattention": config.encoder.kind != "none",
        "**.ln_cross_attn": config.encoder.kind != "none",
        "encoder": config.encoder.kind == "new",
    }
    return (*(f"h.{block}" for block in sorted(blocks)), *config.reinitialize, *(pattern for pattern, there in patterns.items() if there))
