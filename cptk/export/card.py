"""The model card: what an embedder is, what it learned from, how good it is, who may use it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from cptk import checks
from cptk.export.parts import check_embedder, take_apart
from cptk.models.keras_hub_embedders import text_reader
from cptk.types import Model
from cptk.version import __version__

if TYPE_CHECKING:
    from cptk.evaluation import Report


_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")


def model_card(
    embedder: Model,
    *,
    name: str = "",
    base: str = "",
    license: str = "",  # noqa: A002
    data: str | Iterable[str] = (),
    recipe: str | Mapping[str, object] = "",
    report: Report | str | None = None,
) -> str:
    """The model card of an embedder, in Markdown, as the Hugging Face hub shows it.

    Every export writes one as its README.md: this one without further arguments, unless `card=` is
    given. What is not stated is said to be missing, not guessed.

    Args:
        embedder: A `cptk.models.TextEmbedder` or one of KerasHub's own.
        name: Its title; that of the class by default.
        base: The model that it was trained from: "SmolLM2-135M-Instruct".
        license: The licence of the weights, which is the base's unless you may give another:
            "apache-2.0", as the hub spells it.
        data: What it was trained on: a text, or a list of data sets.
        recipe: How: a text, or settings by name.
        report: A `cptk.evaluation.Report`, shown with its intervals, or a text.

    Returns:
        The card.

    Raises:
        TypeError: No embedder, or an argument of another type.
        ValueError: A name or licence of several lines.

    Example:

    ```pycon
    >>> import cptk
    >>> card = cptk.export.model_card(
    ...     embedder, name="My embedder", license="apache-2.0", recipe={"batch size": 256}
    ... )
    >>> "license: apache-2.0" in card, "| batch size | 256 |" in card
    (True, True)

    ```

    References:
        Mitchell et al. 2019, Model Cards for Model Reporting, arXiv:1810.03993.
    """
    check_embedder(embedder)
    for key, value in {"name": name, "base": base, "license": license}.items():
        _check_line(key, value)
    if license and not _LICENSE.fullmatch(license):
        raise ValueError(
            '`license` should be a name such as "apache-2.0", as the hub spells it. Received: '
            f"{checks.shown(license)}."
        )
    title = name or type(embedder).__name__
    front = ["---", "library_name: cptk", "pipeline_tag: sentence-similarity"]
    front += ["tags: [cptk, feature-extraction, sentence-similarity, sentence-transformers]"]
    front += [f"license: {license}"] if license else []
    origin = f"from {base}" if base else "(its base is not stated)"
    parts = [
        "\n".join([*front, "---"]),
        f"# {title}",
        f"A text embedder, made {origin} with cptk {__version__}.",
        "## The model\n\n" + _table(_about(embedder)),
        "## Roles\n\n" + _roles(embedder),
        "## Data\n\n" + _prose("data", data, "What it was trained on is not stated."),
        "## Recipe\n\n" + _recipe(recipe),
        "## Results\n\n" + _results(report),
        "## Licence\n\n"
        + (
            f"{license}. It is that of the weights; data may have terms of its own."
            if license
            else "Not stated. The weights are under the licence of their base: look it up before "
            "you share them."
        ),
    ]
    return "\n\n".join(parts) + "\n"


def checked_card(card: object, embedder: Model) -> str:
    """The card that is written: the user's own text, or one of the embedder alone."""
    if card is None:
        return model_card(embedder)
    if not isinstance(card, str) or not card.strip():
        raise TypeError(
            "`card` should be a text in Markdown, such as cptk.export.model_card(embedder, …) "
            f"makes. Received: {checks.shown(card)}."
        )
    return card.rstrip() + "\n"


def with_use(card: str, use: str, notes: Iterable[str] = ()) -> str:
    """The card with a section on how this export is used."""
    listed = "".join(f"\n- {note}" for note in notes)
    return f"{card.rstrip()}\n\n## Use\n\n{use.strip()}\n" + (f"{listed}\n" if listed else "")


def _check_line(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"`{name}` should be a string. Received: {checks.shown(value)}.")
    if len(value.splitlines()) > 1 or value != value.strip():
        raise ValueError(f"`{name}` should be one line. Received: {checks.shown(value)}.")


def _about(embedder: Model) -> dict[str, object]:
    parts = take_apart(embedder)
    weights = {id(weight): weight for weight in embedder.weights}.values()
    numbers = sum(int(np.prod(weight.shape)) for weight in weights)
    reader = text_reader(embedder)
    about: dict[str, object] = {
        "backbone": f"{type(parts.backbone).__name__}, {parts.backbone.num_layers} layers",
        "weights": f"{numbers:,}",
        "size of a vector": int(embedder.output.shape[-1]),
        "pooling": parts.pooling,
        "attention": "bidirectional" if parts.bidirectional else "causal",
        "unit length": "yes" if parts.normalize else "no",
    }
    if reader is not None:
        about["longest text, in tokens"] = reader.sequence_length
    if getattr(embedder, "trained_dims", ()):
        about["may be cut to"] = ", ".join(map(str, embedder.trained_dims))
    return about


def _roles(embedder: Model) -> str:
    reader = text_reader(embedder)
    if reader is None:
        return "It takes token ids."
    lines = ["| role | before the text | after it | prompt |", "| --- | --- | --- | --- |"]
    for name, role in reader.roles.items():
        cells = [name, *(_cell(part) for part in (*role, "", "")[:3])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(part: object) -> str:
    text = checks.shown(part if isinstance(part, str) else list(part))  # type: ignore[call-overload]
    return "" if not part else f"`{_escaped(text)}`"


def _escaped(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def _table(rows: Mapping[str, object]) -> str:
    lines = [f"| {_escaped(key)} | {_escaped(value)} |" for key, value in rows.items()]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _prose(name: str, value: str | Iterable[str], missing: str) -> str:
    if isinstance(value, str):
        return value.strip() or missing
    found = [str(item) for item in checks.items(value, name, "strings")]
    return "\n".join(f"- {_escaped(item)}" for item in found) or missing


def _recipe(recipe: str | Mapping[str, object]) -> str:
    if isinstance(recipe, Mapping):
        return _table(recipe) if recipe else "Not stated."
    if not isinstance(recipe, str):
        raise TypeError(
            "`recipe` should be a text, or settings by name. Received: " + checks.shown(recipe)
        )
    return recipe.strip() or "Not stated."


def _results(report: Report | str | None) -> str:
    if report is None:
        return "Not measured: `cptk.evaluation.evaluate(embedder, [...])` gives a report."
    if isinstance(report, str):
        return report.strip()
    if not callable(getattr(report, "to_markdown", None)) or not hasattr(report, "intervals"):
        raise TypeError(
            "`report` should be a `cptk.evaluation.Report` or a text. Received: "
            f"{checks.shown(report)}."
        )
    return report.to_markdown().strip()
