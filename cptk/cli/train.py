"""`cptk train`: an embedder out of a base and pairs."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import click

from cptk import checks
from cptk.cli.commands import reporting
from cptk.cli.inputs import INPUT, OUTPUT, dtype_option, embedder_of, not_there, pairs_of
from cptk.files import replacing

STEPS_PER_BACKUP = 50
PLAIN = 64
"""Pairs in a batch that passes at once; a larger one goes in micro-batches."""


@click.command()
@click.argument("pairs", type=INPUT, nargs=-1, required=True)
@click.option("--base", required=True, help="Preset, folder or .gguf file to begin with.")
@click.option("--out", type=OUTPUT, required=True, help="Folder of the embedder.")
@click.option("--query", help="Column of the queries, if it is another one.")
@click.option("--document", help="Column of the documents, if it is another one.")
@click.option("--negatives", help="Column of hard negatives, if it is another one.")
@click.option("--epochs", type=click.IntRange(1), default=1, show_default=True)
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True)
@click.option("--learning-rate", type=float, default=2e-4, show_default=True)
@click.option("--temperature", type=float, default=0.05, show_default=True, help="At the start.")
@click.option("--loss", default="InfoNCE", show_default=True, help="A loss of cptk.losses.")
@click.option("--sequence-length", type=click.IntRange(1), help="Tokens of a text, at most.")
@click.option("--pooling", help="eos, cls, mean, weighted_mean or max, of a new embedder.")
@click.option("--lora-rank", type=click.IntRange(1), help="Train LoRA of this rank alone.")
@click.option("--validation", type=INPUT, help="File of pairs, measured after training.")
@click.option("--seed", type=int, default=0, show_default=True)
@dtype_option
@reporting
def command(
    pairs: tuple[Path, ...], base: str, out: Path, query: str | None, document: str | None,
    negatives: str | None, epochs: int, batch_size: int, learning_rate: float, temperature: float,
    loss: str, sequence_length: int | None, pooling: str | None, lora_rank: int | None,
    validation: Path | None, seed: int, compute_dtype: str,
) -> tuple[dict[str, Any], str]:  # fmt: skip
    r"""Train an embedder on PAIRS: files (.csv, .tsv, .jsonl, .parquet), or token stores.

    Of several, each batch is from one. The learning rate rises for a tenth of the steps and then
    falls. Killed and given again, training goes on with the last backup, beside the output.

    \b
    Examples:
        cptk train pairs.csv --base all_minilm_l6_v2_en --out my_embedder
        cptk train a.parquet b.parquet --base gpt2_base_en --batch-size 256 --out my_embedder
    """
    import keras

    import cptk

    not_there(out)
    checks.positive("--learning-rate", learning_rate)
    objective = cptk.losses.get(loss)
    names = {"query": query, "document": document, "negatives": negatives}
    data = {path.stem: _read(path, names) for path in pairs}
    if len(data) != len(pairs):
        raise ValueError(f"PAIRS should have different names. Received: {_listed(pairs)}.")
    held_out = None if validation is None else _read(validation, names)
    backup = out.with_name(out.name + ".backup")
    _check_same(backup, click.get_current_context().params)
    keras.utils.set_random_seed(seed)
    embedder = embedder_of(base, compute_dtype, sequence_length=sequence_length, pooling=pooling)
    if lora_rank is not None:
        cptk.training.enable_lora(embedder, lora_rank)
    steps = epochs * sum(-(-len(each) // batch_size) for each in data.values())
    parts = -(-steps // STEPS_PER_BACKUP)  # an "epoch" is the time between two backups
    steps = -(-steps // parts) * parts
    trainer = cptk.ContrastiveTrainer(
        embedder,
        head=cptk.layers.ContrastiveHead(temperature),
        seed=seed,
        micro_batch_size="auto" if batch_size > PLAIN else None,
    )
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=learning_rate, warmup_steps=max(1, steps // 10)
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0)
    trainer.compile(optimizer, loss=objective)
    start = time.perf_counter()
    history = trainer.fit(
        data if len(data) > 1 else next(iter(data.values())),
        batch_size=batch_size,
        epochs=parts,
        steps_per_epoch=steps // parts,
        callbacks=[cptk.training.ExactBackupAndRestore(backup, delete_checkpoint=False)],
    )
    found: dict[str, Any] = {
        "out": str(out), "pairs": sum(map(len, data.values())), "steps": steps,
        "loss": history.history["loss"][-1], "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip
    if held_out is not None:
        measured: Any = trainer.evaluate(held_out, batch_size=batch_size, return_dict=True)
        found["validation"] = {name: float(value) for name, value in measured.items()}
    embedder.save_to_preset(out)
    shutil.rmtree(backup)
    text = f"{steps:,} steps on {found['pairs']:,} pairs in {found['seconds']:.0f} s, loss " + (
        f"{found['loss']:.3f}. The embedder is in {out}."
    )
    for name, value in found.get("validation", {}).items():
        text += f"\n{name}: {value:.3f}"
    return found, text


def _check_same(backup: Path, params: dict[str, Any]) -> None:
    """Note the arguments beside the backups, or raise `ValueError` where they are others."""
    given = {name: str(value) for name, value in params.items() if name != "as_json"}
    file = backup / "arguments.json"
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        other = [name for name, value in given.items() if before.get(name) != value]
        if other:
            raise ValueError(
                f"{str(backup)!r} holds backups of a training with other arguments: "
                f"{checks.shown(other)}. Give the same, or delete it."
            )
        return
    backup.mkdir(parents=True, exist_ok=True)
    with replacing(file) as stream:
        stream.write(json.dumps(given).encode())


def _read(path: Path, names: dict[str, str | None]) -> Any:
    import cptk

    return cptk.data.TokenStore(path) if path.is_dir() else pairs_of(path, **names)


def _listed(paths: tuple[Path, ...]) -> str:
    return checks.shown([str(path) for path in paths])
