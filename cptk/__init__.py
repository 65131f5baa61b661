"""cptk: any KerasHub decoder or encoder becomes an embedder of text or code through `fit`.

`import cptk` is quick: it imports neither Keras nor a backend and sets no environment variable.
Each name below is imported when it is first read (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cptk._register import register_with_keras_hub as _register_with_keras_hub
from cptk.version import __version__

if TYPE_CHECKING:
    from cptk import data as data
    from cptk import datasets as datasets
    from cptk import distribution as distribution
    from cptk import evaluation as evaluation
    from cptk import export as export
    from cptk import integrations as integrations
    from cptk import layers as layers
    from cptk import losses as losses
    from cptk import metrics as metrics
    from cptk import mining as mining
    from cptk import models as models
    from cptk import quantization as quantization
    from cptk import search as search
    from cptk import training as training
    from cptk import vectors as vectors
    from cptk import visualization as visualization
    from cptk.models.encode import encode as encode
    from cptk.training import ContrastiveTrainer as ContrastiveTrainer

_ROOMS = (
    "data",
    "datasets",
    "distribution",
    "evaluation",
    "export",
    "integrations",
    "layers",
    "losses",
    "metrics",
    "mining",
    "models",
    "quantization",
    "search",
    "training",
    "vectors",
    "visualization",
)

__all__ = [
    "ContrastiveTrainer",
    "__version__",
    "data",
    "datasets",
    "distribution",
    "encode",
    "evaluation",
    "export",
    "integrations",
    "layers",
    "losses",
    "metrics",
    "mining",
    "models",
    "quantization",
    "search",
    "training",
    "vectors",
    "visualization",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"cptk.{name}")
    if name == "ContrastiveTrainer":
        return import_module("cptk.training").ContrastiveTrainer
    if name == "encode":
        return import_module("cptk.models.encode").encode
    raise AttributeError(f"module 'cptk' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)


_register_with_keras_hub()
