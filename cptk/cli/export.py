"""`cptk export`: an embedder for other people's tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cptk.cli.commands import reporting
from cptk.cli.inputs import OUTPUT, embedder_of

TARGETS = {
    "sentence-transformers": "to_sentence_transformers",
    "onnx": "to_onnx",
    "saved-model": "to_saved_model",
    "litert": "to_litert",
    "gguf": "to_gguf",
}


@click.command()
@click.argument("embedder")
@click.option("--to", "target", type=click.Choice([*TARGETS]), required=True)
@click.option("--out", type=OUTPUT, required=True, help="Folder of the export.")
@click.option("--quantize", type=click.Choice(["int8"]), help="Weights in 8 bits.")
@click.option("--role", "roles", multiple=True, help="Roles that it should have; all by default.")
@click.option("--base", default="", help="For the model card: the model that it was trained from.")
@click.option("--license", "license_", default="", help="For the model card, as an SPDX name.")
@click.option("--data", "data", multiple=True, help="For the model card: what it was trained on.")
@click.option("--overwrite", is_flag=True, help="Replace an export that stands there.")
@reporting
def command(
    embedder: str, target: str, out: Path, quantize: str | None, roles: tuple[str, ...], base: str,
    license_: str, data: tuple[str, ...], overwrite: bool,
) -> tuple[dict[str, Any], str]:  # fmt: skip
    r"""Export EMBEDDER, a preset or a folder, and check the result against it.

    \b
    Examples:
        cptk export my_embedder --to sentence-transformers --out for_others
        cptk export my_embedder --to onnx --quantize int8 --out onnx
    """
    from cptk import export

    model = embedder_of(embedder)
    card = export.model_card(
        model, name=Path(embedder).name, base=base, license=license_, data=list(data)
    )
    options: dict[str, Any] = {"card": card, "overwrite": overwrite}
    if quantize is not None:
        if target == "sentence-transformers":
            raise ValueError("sentence-transformers takes whole numbers of bits: no --quantize.")
        options["quantize"] = quantize
    if roles:
        if target in ("onnx", "litert"):
            raise ValueError(f"{target} takes token ids, whatever the role: leave --role out.")
        options["roles"] = list(roles)
    exported = getattr(export, TARGETS[target])(model, out, **options)
    lines = [f"Written to {exported.folder}:"]
    lines += [f"  {name}  {size:,} bytes" for name, size in exported.files.items()]
    if exported.difference is not None:
        lines.append(f"Largest difference of a number of its vectors: {exported.difference:.1e}")
    if exported.cosine is not None:
        lines.append(f"Smallest cosine of its vectors: {exported.cosine:.6f}")
    return exported._asdict(), "\n".join([*lines, *exported.notes])
