"""A token store: the ids of the preprocessor, on disk, written once however often it was killed."""

import json
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cptk.data import Pairs, TokenStore, store_writing
from cptk.data.columns import SIDES
from cptk.data.store_batches import StoreBatches
from tests import toys
from tests.tiers import FULL


def pairs_of(count, distinct=None, seed=0, **columns):
    """Pairs of different texts, or of `distinct` different ones drawn again and again."""
    rng = random.Random(seed)

    def text(number):  # the number first: texts are cut at 24 tokens
        words = rng.choices("the thing in a row of x y z café".split(), k=rng.randint(1, 9))
        return f"{seed}.{number} {' '.join(words)}"

    texts = [text(number) for number in range(distinct or count)]
    sides = {side: rng.choices(texts, k=count) if distinct else texts for side in SIDES}
    return Pairs({**sides, **{name: make(count) for name, make in columns.items()}})


@pytest.fixture(scope="module")
def reader():
    return toys.preprocessor()


def write(folder, pairs, reader, **options):
    return TokenStore.write(
        folder, pairs, reader, **{"rows_per_shard": 16, "verbose": 0, **options}
    )


def contents(folder):
    """The bytes of all files, locks left out."""
    return {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.is_file()}


# === Ids ===


def test_ids_are_the_preprocessors(tmp_path, reader):
    pairs = pairs_of(50)
    store = write(tmp_path / "s", pairs, reader)
    assert len(store) == 50
    assert store.columns == ["query", "document"]
    rows = [49, 0, 16, 16, 31]
    for side in SIDES:
        expected = reader.tokenize([pairs[side][row] for row in rows], side)
        found = store.tokens(side, rows)
        got = [
            r[m].tolist() for r, m in zip(found["token_ids"], found["padding_mask"], strict=True)
        ]
        assert got == [list(row) for row in expected]
        assert found["token_ids"].dtype == np.int32
        assert store.lengths(side, rows).tolist() == list(map(len, expected))
        assert store.decode(rows, reader)[side] == [
            reader.tokenizer.detokenize(r) for r in expected
        ]
    assert store.tokens("query", [1], 40)["token_ids"].shape == (1, 40)


def test_other_columns_are_kept(tmp_path, reader):
    pairs = pairs_of(
        40,
        score=lambda n: [i / n for i in range(n)],
        group=lambda n: [f"g{i % 3}" for i in range(n)],
        path=lambda n: [f"file{i}.py" for i in range(n)],
        negatives=lambda n: [["no"] * (i % 3) for i in range(n)],
    )
    store = write(tmp_path / "s", pairs, reader, keep_text=True)
    assert store.pairs() == pairs
    assert store.pairs([39, 2])["path"] == ["file39.py", "file2.py"]
    np.testing.assert_allclose(store.numbers("score", [4, 20]), [0.1, 0.5])
    (row,) = reader.tokenize(["no"], "document")
    assert [[list(ids) for ids in each] for each in store.negatives([0, 5, 17])] == [
        [],
        [list(row)] * 2,
        [list(row)] * 2,
    ]
    batch = StoreBatches(store, 8, columns=("negatives", "score", "group"), seed=1).batch_at(2)
    rows = StoreBatches(store, 8, seed=1).rows_at(2)
    np.testing.assert_allclose(batch["score"], rows / 40, rtol=1e-6)
    assert batch["negatives"]["padding_mask"].any(2).sum(1).tolist() == (rows % 3).tolist()
    same = batch["group"][:, None] == batch["group"]
    assert (same == (rows[:, None] % 3 == rows % 3)).all()


def test_other_tools_open_a_shard(tmp_path, reader):
    pairs = pairs_of(20)
    store = write(tmp_path / "s", pairs, reader)
    with pa.ipc.open_file(tmp_path / "s" / "shard-000001.arrow") as file:
        table = file.read_all()
    assert table["query"].to_pylist() == [
        list(r) for r in reader.tokenize(pairs["query"][16:], "query")
    ]
    assert table.schema.field("query").type == pa.list_(pa.uint16())
    assert store.manifest["rows"] == 20
    assert store.manifest["shards"][1]["rows"] == 4


def test_a_text_is_known_on_both_sides(tmp_path):
    """Whatever stands around it in its role; where roles have prompts, too."""
    texts = ["the thing", "a much longer text than there is room for in here", "row", "column"]
    pairs = Pairs({"query": [*texts, "x"], "document": ["one", "two", texts[0], texts[1], "x"]})
    prompts = {"query": ("", "", "find: "), "document": ("", "", "this: ")}
    uneven = {"query": ("[[[", "]"), "document": ("", "")}
    for number, roles in enumerate([None, uneven, prompts]):
        reader = toys.preprocessor(**({} if roles is None else {"roles": roles}))
        store = write(tmp_path / f"{number}", pairs, reader, rows_per_shard=2)
        rows, groups = store.repeated()
        assert rows.tolist() == [0, 1, 2, 3]  # "x" stands in one pair alone
        assert groups["query"][:2].tolist() == groups["document"][2:].tolist()
        assert len({*groups["query"].tolist(), *groups["document"].tolist()}) == 6
        batches = StoreBatches(store, 5, seed=0)
        for place in range(len(batches)):
            both = {0: 2, 1: 3}  # pairs that share a text
            found = batches.rows_at(place).tolist()
            assert not any(one in found and other in found for one, other in both.items())


# === Written once ===


def test_any_form_of_pairs_makes_the_same_files(tmp_path, reader):
    pairs = pairs_of(50)
    write(tmp_path / "whole", pairs, reader)
    parts = (pairs[start : start + 7] for start in range(0, 50, 7))
    write(tmp_path / "parts", parts, reader)
    write(tmp_path / "mapping", {side: pairs[side] for side in SIDES}, reader)
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")
    assert contents(tmp_path / "whole") == contents(tmp_path / "mapping")


def test_several_processes_write_parts(tmp_path, reader):
    pairs = pairs_of(100)
    write(tmp_path / "one", pairs, reader)
    for k in (2, 0):
        assert write(tmp_path / "three", pairs, reader, part=(k, 3)) is None
        with pytest.raises(FileNotFoundError, match="not written to its end"):
            TokenStore(tmp_path / "three")
    assert len(write(tmp_path / "three", pairs, reader, part=(1, 3))) == 100
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_missing_shards_alone_are_written_again(tmp_path, reader):
    pairs = pairs_of(60)
    folder = tmp_path / "s"
    write(folder, pairs, reader)
    before = contents(folder)
    (folder / "shard-000001.arrow").unlink()
    (folder / "manifest.json").unlink()
    (folder / ".scratch-of-a-killed-process").write_bytes(b"half a shard")
    stamp = (folder / "shard-000002.arrow").stat().st_mtime_ns
    write(folder, pairs, reader)
    assert contents(folder) == before
    assert (folder / "shard-000002.arrow").stat().st_mtime_ns == stamp


KILLS = 20 if FULL else 6  # each begins with an import of some seconds

WRITER = """
import sys
from cptk.data import TokenStore
from tests import toys
from tests.data.test_token_store import pairs_of
pairs = pairs_of(4000)
print("ready", flush=True)
TokenStore.write(sys.argv[1], pairs, toys.preprocessor(), rows_per_shard=16, verbose=0)
"""


@pytest.mark.slow
@pytest.mark.once
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path, reader):
    write(tmp_path / "whole", pairs_of(4000), reader)
    rng = random.Random(0)
    command = [sys.executable, "-c", WRITER, str(tmp_path / "killed")]
    ended = 0
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        process.stdout.readline()
        try:
            process.wait(rng.uniform(0.05, 1.0))
            ended += 1
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
    assert ended < KILLS  # some were killed
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], capture_output=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_more_pairs_after_its_own(tmp_path, reader):
    first, second = pairs_of(20), pairs_of(30, seed=1)
    store = write(tmp_path / "s", first, reader, keep_text=True)
    more = store.append(second, reader, rows_per_shard=16, verbose=0)
    assert more.pairs() == Pairs.concat([first, second])
    assert len(more) == len(TokenStore(tmp_path / "s")) == 50
    longer = toys.preprocessor(sequence_length=64)  # may read the store, and not write into it
    with pytest.raises(ValueError, match=r"differ in sequence_length \(of the store 24, of the"):
        more.append(second, longer, verbose=0)
    with pytest.raises(ValueError, match="Nothing was added"):
        more.append(pairs_of(3, score=lambda n: [0.5] * n), reader, verbose=0)
    assert len(TokenStore(tmp_path / "s")) == 50


# === Batches ===


def text_of(pairs, side):
    return np.unique(pairs[side], return_inverse=True)[1]


@pytest.mark.parametrize("distinct", [None, 150, 30])
@pytest.mark.parametrize("size", [2, 7, 64, 500])
def test_a_pass_is_the_store_once_and_no_batch_has_a_text_twice(tmp_path, reader, distinct, size):
    pairs = pairs_of(301, distinct)
    batches = StoreBatches(write(tmp_path / "s", pairs, reader, rows_per_shard=50), size, seed=3)
    seen = [batches.rows_at(place) for place in range(2 * batches.batches_per_pass)]
    half = len(seen) // 2
    for rows in (seen[:half], seen[half:]):
        assert sorted(np.concatenate(rows).tolist()) == list(range(301))
    for rows in seen:
        assert len(rows) >= 2
        for side in SIDES:
            texts = text_of(pairs, side)[rows]
            if distinct != 30 or len(rows) < 300:  # one batch of all has what it has
                assert len({*texts.tolist()}) == len(rows), side
    assert not np.array_equal(np.concatenate(seen[:half]), np.concatenate(seen[half:]))
    if distinct is None:
        assert {len(rows) for rows in seen[: half - 1]} <= {size}


def test_a_batch_is_a_function_of_seed_and_place(tmp_path, reader):
    store = write(tmp_path / "s", pairs_of(200, 120), reader)
    one, other = StoreBatches(store, 16, seed=5), StoreBatches(store, 16, seed=5)
    places = list(range(30))
    expected = [one.rows_at(place).tolist() for place in places]
    random.Random(0).shuffle(places)
    for place in places:
        assert other.rows_at(place).tolist() == expected[place]
    assert StoreBatches(store, 16, seed=6).rows_at(0).tolist() != expected[0]


def test_in_order_for_evaluation(tmp_path, reader):
    batches = StoreBatches(write(tmp_path / "s", pairs_of(33), reader), 8, shuffle=False)
    rows = np.concatenate([batches.rows_at(place) for place in range(len(batches))])
    assert rows.tolist() == list(range(33))
    assert len(batches) == 4


def test_rows_come_evenly_from_everywhere(tmp_path, reader):
    store = write(tmp_path / "s", pairs_of(400, 300), reader)
    batches = StoreBatches(store, 40, seed=0)
    first = Counter()
    for number in range(60):
        first.update(batches.rows_at(number * batches.batches_per_pass).tolist())
    # Each row falls into the first of ten batches 6 times of 60, standard deviation 2.3.
    counts = np.array([first[row] for row in range(400)])
    assert counts.mean() == 6
    assert 2 < counts.std() < 2.6
    assert counts.max() <= 17


# === Bad input ===


def test_another_embedders_store_says_what_differs(tmp_path, reader):
    store = write(tmp_path / "s", pairs_of(5), reader)
    store.check_read_by(toys.preprocessor(sequence_length=64))  # longer: ids are only shorter
    with pytest.raises(ValueError, match=r"differ in sequence_length \(of the store 24"):
        store.check_read_by(toys.preprocessor(sequence_length=8))
    with pytest.raises(ValueError, match=r"differ in tokenizer .*LlamaBPE"):
        store.check_read_by(toys.preprocessor("llama3"))
    with pytest.raises(ValueError, match=r"differ in roles"):
        store.check_read_by(toys.preprocessor(roles={"query": ("Q", ""), "document": ("", "")}))


def test_other_pairs_in_one_folder(tmp_path, reader):
    write(tmp_path / "s", pairs_of(40), reader)
    before = contents(tmp_path / "s")
    for other in (pairs_of(40, seed=1), pairs_of(40)[:20], pairs_of(40)[:16]):
        with pytest.raises(ValueError, match="other pairs"):
            write(tmp_path / "s", other, reader)
    with pytest.raises(ValueError, match="text"):
        write(tmp_path / "s", pairs_of(40), reader, keep_text=True)
    assert contents(tmp_path / "s") == before


def test_a_damaged_store(tmp_path, reader):
    folder = tmp_path / "s"
    store = write(folder, pairs_of(40), reader)
    store.verify()
    shard = folder / "shard-000001.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"Damaged shards .*shard-000001\.arrow\."):
        store.verify()
    shard.write_bytes(content[:100])
    with pytest.raises(ValueError, match=r"shard-000001\.arrow' is cut short"):
        TokenStore(folder)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-000001\.arrow' is missing"):
        TokenStore(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="no manifest of a token store"):
        TokenStore(folder)
    with pytest.raises(FileNotFoundError, match="holds no token store"):
        TokenStore(tmp_path / "nowhere")


def test_two_writers_at_once(tmp_path, reader):
    def slow():
        yield pairs_of(16)
        with pytest.raises(ValueError, match="Another process writes part 0 of 1"):
            write(tmp_path / "s", pairs_of(16), reader)
        yield pairs_of(16, seed=1)

    assert len(write(tmp_path / "s", slow(), reader)) == 32


def test_what_is_no_pairs_no_preprocessor_and_no_part(tmp_path, reader):
    for wrong, kind in ((7, TypeError), ([], ValueError), (iter(()), ValueError)):
        with pytest.raises(kind):
            write(tmp_path / "s", wrong, reader)
    with pytest.raises(TypeError, match="`preprocessor` should be"):
        write(tmp_path / "s", pairs_of(3), None)
    for part in ((2, 2), (-1, 2), (0,), "01", None):
        with pytest.raises(ValueError, match=r"`part` should be \(k, n\)"):
            write(tmp_path / "s", pairs_of(3), reader, part=part)
    with pytest.raises(ValueError, match="rows_per_shard"):
        write(tmp_path / "s", pairs_of(3), reader, rows_per_shard=0)
    mixed = [pairs_of(3), pairs_of(3, score=lambda n: [1.0] * n)]
    with pytest.raises(ValueError, match="same columns"):
        write(tmp_path / "s", iter(mixed), reader, rows_per_shard=3)
    store = write(tmp_path / "t", pairs_of(3), reader)
    with pytest.raises(IndexError, match="pairs 0 to 2"):
        store.tokens("query", [3])
    with pytest.raises(TypeError, match="integers"):
        store.tokens("query", ["a"])
    with pytest.raises(KeyError, match="query"):
        store.tokens("score", [0])
    with pytest.raises(ValueError, match="without its texts"):
        store.pairs()
    with pytest.raises(ValueError, match=r"columns \['score'\]"):
        StoreBatches(store, 2, columns=("score",))
    assert json.loads((tmp_path / "t" / "manifest.json").read_text())["rows"] == 3


def test_shards_of_another_version_are_not_taken_over(reader, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(store_writing, "VERSION", 1)
        write(tmp_path / "s", pairs_of(5), reader)
    with pytest.raises(ValueError, match="Write the store again, into another folder"):
        TokenStore(tmp_path / "s")
    with pytest.raises(ValueError, match="differs in version"):
        write(tmp_path / "s", pairs_of(5), reader)


@pytest.mark.parametrize("cuts", [[2, 4], [1, 2, 3, 4], [4], [3]])
def test_where_parts_end_does_not_change_the_bytes(reader, tmp_path, cuts):
    """Also where a part ends with a shard, and leaves nothing of itself for the next."""
    score, source = (lambda n: [i / n for i in range(n)]), (lambda _: ["a", None, "a", None, "b"])
    pairs = pairs_of(5, score=score, source=source)
    bounds = [0, *cuts, 5]
    parts = (pairs[a:b] for a, b in pairwise(bounds))
    write(tmp_path / "whole", pairs, reader, rows_per_shard=2)
    write(tmp_path / "parts", parts, reader, rows_per_shard=2)
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")
