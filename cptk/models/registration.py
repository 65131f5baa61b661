"""KerasHub's `TextEmbedder.from_preset`, taught to load the presets that cptk saves."""

from __future__ import annotations

import os

import keras_hub

from cptk.models.presets import find_saved_class, resolve_preset
from cptk.models.text_embedder import TextEmbedder


def register_with_text_embedder() -> None:
    """Let `keras_hub.models.TextEmbedder.from_preset` load every preset saved by cptk.

    KerasHub chooses the class of a task by the backbone in the preset. It has embedders of its own
    for Gemma 3 and Qwen 3, and ours takes any backbone. So for our presets the class that is named
    in `task.json` decides.
    """
    base = keras_hub.models.TextEmbedder
    if "from_preset" in vars(base):
        return

    def from_preset(
        cls: type[keras_hub.models.TextEmbedder],
        preset: str,
        load_weights: bool = True,
        **kwargs: object,
    ) -> keras_hub.models.TextEmbedder:
        saved = None
        if cls is base:
            preset, _ = resolve_preset(preset)
            if os.path.isdir(preset) or "://" in preset:
                saved = find_saved_class(preset, TextEmbedder)
        if saved is not None:
            return saved.from_preset(preset, load_weights, **kwargs)
        return super(base, cls).from_preset(preset, load_weights, **kwargs)

    from_preset.__doc__ = base.from_preset.__doc__
    base.from_preset = classmethod(from_preset)  # type: ignore[arg-type]
