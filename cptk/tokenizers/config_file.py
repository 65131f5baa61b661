"""The name of the JSON file that a preprocessor or tokenizer has in a preset."""

from __future__ import annotations

import re

from cptk.checks import shown

#: The name of a file directly in the preset: no folder and no `..`, which would lead out of it.
_PLAIN_JSON = re.compile(r"[A-Za-z0-9_-]+\.json")
_RESERVED = ("config.json", "task.json", "metadata.json", "model.weights.json")


def check_config_file(name: object) -> None:
    """Raise `ValueError` for a `config_file` that is no plain name of a JSON file.

    KerasHub joins the name to the preset's folder when it reads and when it writes. A name such as
    `../../x.json`, or an absolute path, would be read, and overwritten, outside the preset.
    """
    if not isinstance(name, str) or not _PLAIN_JSON.fullmatch(name) or name in _RESERVED:
        raise ValueError(
            "`config_file` should be the plain name of a file in the preset's folder, such as "
            f"'preprocessor.json'. Received: {shown(name)}."
        )
