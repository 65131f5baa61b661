"""Stores of other stores: merged, split, sampled, without tokenising again."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cptk.data import Pairs, TokenStore, store_locks, store_parts
from cptk.data.columns import SIDES
from tests import toys
from tests.data.test_token_store import contents, pairs_of, write


@pytest.fixture(scope="module")
def reader() -> Any:
    return toys.preprocessor()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 16 pairs, so that a few pairs have several."""
    monkeypatch.setattr(store_parts, "ROWS_PER_SHARD", 16)


def more(n: int) -> dict[str, Any]:
    return {
        "score": lambda n: [i / n for i in range(n)],
        "path": lambda n: [f"file{i}.py" for i in range(n)],
        "negatives": lambda n: [["no"] * (i % 3) for i in range(n)],
    }


# === Merged ===


def test_merged_stores_are_the_store_of_all_their_pairs(tmp_path, reader):
    parts = [pairs_of(32, 20, seed=seed, **more(32)) for seed in (0, 1, 0)]
    stores = [write(tmp_path / f"{k}", x, reader, keep_text=True) for k, x in enumerate(parts)]
    found = TokenStore.merge(tmp_path / "all", stores)
    whole = write(tmp_path / "whole", Pairs.concat(parts), reader, keep_text=True)
    assert contents(tmp_path / "all") == contents(tmp_path / "whole")
    assert found.pairs() == whole.pairs()
    found.verify()
    one, other = (tmp_path / x / "shard-000000.arrow" for x in ("0", "all"))
    assert one.samefile(other)  # no copy
    before = {name: stat(tmp_path / "all" / name) for name in contents(tmp_path / "all")}
    TokenStore.merge(tmp_path / "all", stores)  # again: nothing is linked anew
    assert stat(tmp_path / "all" / "shard-000001.arrow") == before["shard-000001.arrow"]


def stat(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_without_hard_links_shards_are_copied(tmp_path, reader, monkeypatch):
    stores = [write(tmp_path / f"{seed}", pairs_of(20, seed=seed), reader) for seed in (0, 1)]

    def no_links(*args: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    found = TokenStore.merge(tmp_path / "all", stores)
    found.verify()
    assert len(found) == 40
    assert not (tmp_path / "all" / "shard-000000.arrow").samefile(stores[0].shards[0].path)


def test_a_killed_merge_goes_on(tmp_path, reader, monkeypatch):
    stores = [write(tmp_path / f"{seed}", pairs_of(40, seed=seed), reader) for seed in (0, 1)]
    TokenStore.merge(tmp_path / "whole", stores)
    links, link = [], os.link

    def killed(source: Any, target: Any) -> None:
        if len(links) == 4:
            raise KeyboardInterrupt
        links.append(target)
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", killed)
        with pytest.raises(KeyboardInterrupt):
            TokenStore.merge(tmp_path / "all", stores)
    with pytest.raises(FileNotFoundError, match=r"not written to its end.*pairs or stores"):
        TokenStore(tmp_path / "all")
    TokenStore.merge(tmp_path / "all", stores)
    assert contents(tmp_path / "all") == contents(tmp_path / "whole")


def test_what_cannot_be_merged(tmp_path, reader):
    store = write(tmp_path / "s", pairs_of(20), reader)
    longer = write(tmp_path / "longer", pairs_of(5), toys.preprocessor(sequence_length=30))
    scored = write(tmp_path / "scored", pairs_of(5, score=lambda n: [0.5] * n), reader)
    texts = write(tmp_path / "texts", pairs_of(5), reader, keep_text=True)
    for other, message in (
        (longer, r"one embedder.*differ in sequence_length\."),
        (scored, r"same columns.*\['query', 'document', 'score'\].*`Mixture`"),
        (texts, "differ in text"),
    ):
        with pytest.raises(ValueError, match=message):
            TokenStore.merge(tmp_path / "all", [store, other])
    assert not (tmp_path / "all").exists()
    with pytest.raises(TypeError, match="should hold token stores"):
        TokenStore.merge(tmp_path / "all", [store, "longer"])
    with pytest.raises(ValueError, match="is empty"):
        TokenStore.merge(tmp_path / "all", [])
    with pytest.raises(ValueError, match="use `append`"):
        TokenStore.merge(tmp_path / "s", [store, store])
    before = contents(tmp_path / "longer"), contents(tmp_path / "s")
    with pytest.raises(ValueError, match="the folder holds another store"):
        TokenStore.merge(tmp_path / "longer", [store])
    with pytest.raises(ValueError, match="more shards"):
        TokenStore.merge(tmp_path / "s", [texts])
    assert before == (contents(tmp_path / "longer"), contents(tmp_path / "s"))


# === Parts ===


def test_a_subset_is_the_store_of_its_pairs(tmp_path, reader, small):
    pairs = pairs_of(60, 40, **more(60))
    store = write(tmp_path / "s", pairs, reader, keep_text=True)
    rows = np.random.default_rng(0).permutation(60)[:37]
    found = store.subset(tmp_path / "part", rows)
    assert found.pairs() == store.pairs(rows)
    assert len(found.shards) == 3
    found.verify()
    direct = write(tmp_path / "direct", store.pairs(rows), reader, keep_text=True)
    for number, shard in enumerate(direct.shards):
        assert shard.batch.equals(found.shards[number].batch)  # digests and negatives too
    for mine, other in zip(found.repeated(), direct.repeated(), strict=True):
        np.testing.assert_equal(mine, other)
    found.append(pairs_of(3, seed=9, **more(3)), reader, verbose=0)
    (tmp_path / "part" / "manifest.json").unlink()
    (tmp_path / "part" / "shard-000003.arrow").unlink()
    (tmp_path / "part" / "shard-000001.arrow").unlink()
    again = store.subset(tmp_path / "part", rows)  # goes on
    assert again.pairs() == store.pairs(rows)


def test_a_sample_is_drawn_evenly_and_again_the_same(tmp_path, reader):
    store = write(tmp_path / "s", pairs_of(50), reader)
    found = store.sample(tmp_path / "a", 20, seed=4)
    rows = store_parts.drawn(store, 20, 4)
    assert len({*rows.tolist()}) == 20
    for side in SIDES:
        np.testing.assert_array_equal(
            found.tokens(side, np.arange(20), 24)["token_ids"],
            store.tokens(side, rows, 24)["token_ids"],
        )
    draws = [store_parts.drawn(store, 10, seed) for seed in range(400)]
    counts = np.bincount(np.concatenate(draws), minlength=50)
    assert counts.min() > 40  # 80 expected, standard deviation 8
    assert counts.max() < 120
    with pytest.raises(ValueError, match="differs in pairs"):
        store.sample(tmp_path / "a", 20, seed=5)
    with pytest.raises(ValueError, match="at most the number of pairs, 50"):
        store.sample(tmp_path / "b", 51)


def hang_together(pairs: Pairs) -> list[set[int]]:
    """Groups of pairs that share texts, over others too: a loop until nothing changes."""
    groups = [{row} for row in range(len(pairs))]
    texts = [{pairs[side][row] for side in SIDES} for row in range(len(pairs))]
    changed = True
    while changed:
        changed = False
        for i in range(len(groups)):
            for j in range(i + 1, len(groups)):
                if groups[i] and texts[i] & texts[j]:
                    groups[i] |= groups[j]
                    texts[i] |= texts[j]
                    groups[j], texts[j] = set(), set()
                    changed = True
    return [group for group in groups if group]


@pytest.mark.parametrize("distinct", [None, 250, 150])
def test_no_text_is_on_both_sides_of_a_split(tmp_path, reader, distinct):
    pairs = pairs_of(80, distinct)
    store = write(tmp_path / "s", pairs, reader)
    groups = hang_together(pairs)
    for seed in range(20):
        drawn, others = store_parts.split(store, 0.25, seed)
        assert sorted([*drawn, *others]) == list(range(80))
        assert len(drawn) <= 20
        if min(map(len, groups)) == 1:
            assert len(drawn) >= 18
        for group in groups:
            assert len(group & {*drawn.tolist()}) in (0, len(group))
    held_out, training = store.split((tmp_path / "a", tmp_path / "b"), 0.25, seed=19)
    assert (len(held_out), len(training)) == (len(drawn), len(others))
    one, other = (
        {text.strip("[]{}") for side in SIDES for text in x.decode(np.arange(len(x)), reader)[side]}
        for x in (held_out, training)
    )
    assert not one & other


def test_a_query_of_one_part_is_no_document_of_the_other(tmp_path, reader):
    """A chain of pairs, each the answer to the one before, and pairs by themselves."""
    chain = [(f"text {i}", f"text {i + 1}") for i in range(6)]
    alone = [(f"query {i}", f"document {i}") for i in range(6)]
    pairs = Pairs([*chain, *alone])
    store = write(tmp_path / "s", pairs, reader)
    for seed in range(20):
        drawn, _ = store_parts.split(store, 5, seed)
        assert len(drawn) == 5
        assert drawn.min() >= 6  # the chain does not fit
        parts = pairs.split(5, seed)
        assert [len(part) for part in parts] == [5, 7]
        texts = [{text for side in SIDES for text in part[side]} for part in parts]
        assert not texts[0] & texts[1]
    with pytest.raises(ValueError, match="all hang together in larger groups"):
        Pairs(chain).split(2)


def test_every_pair_is_drawn_as_often(tmp_path, reader):
    store = write(tmp_path / "s", pairs_of(40), reader)
    counts = sum(
        np.bincount(store_parts.split(store, 10, seed).drawn, minlength=40) for seed in range(200)
    )
    assert counts.sum() == 2000
    assert counts.min() > 25  # 50 expected, standard deviation 6
    assert counts.max() < 75


def test_wrong_parts_are_refused(tmp_path, reader):
    store = write(tmp_path / "s", Pairs([("same", f"other {i}") for i in range(8)]), reader)
    with pytest.raises(ValueError, match="hang together"):
        store.split((tmp_path / "a", tmp_path / "b"), 4)
    for size, error in ((0, ValueError), (8, ValueError), (1.5, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="`size` should be"):
            store.split((tmp_path / "a", tmp_path / "b"), size)
    with pytest.raises(TypeError, match="two folders"):
        store.split(tmp_path / "a", 4)
    with pytest.raises(ValueError, match="should differ"):
        store.split((tmp_path / "a", tmp_path / "a"), 4)
    for rows in ([], [1, 1]):
        with pytest.raises(ValueError, match="each once"):
            store.subset(tmp_path / "a", rows)
    with pytest.raises(IndexError, match="pairs 0 to 7"):
        store.subset(tmp_path / "a", [8])
    with pytest.raises(ValueError, match="differs in"):
        store.subset(tmp_path / "s", [0])
    assert not (tmp_path / "a").exists()


# === Full disks and several writers ===


def test_a_full_disk_is_said_and_what_was_written_is_kept(tmp_path, reader, monkeypatch):
    pairs = pairs_of(60)
    write(tmp_path / "whole", pairs, reader)
    left, fsync = [2], os.fsync

    def full(handle: int) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"The disk is full.*is kept: make room") as caught:
            write(tmp_path / "s", pairs, reader)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(contents(tmp_path / "s")) == ["shard-000000.arrow", "shard-000001.arrow"]
    write(tmp_path / "s", pairs, reader)
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_writers_that_count_on_other_numbers_of_parts(tmp_path, reader):
    def slow():
        yield pairs_of(16)
        with pytest.raises(ValueError, match=r"writes part 0 of 2 of the store.*on 1 in all"):
            write(tmp_path / "s", pairs_of(16), reader)
        yield pairs_of(16, seed=1)

    assert write(tmp_path / "s", slow(), reader, part=(0, 2)) is None
    store = write(tmp_path / "s", Pairs.concat([pairs_of(16), pairs_of(16, seed=1)]), reader)
    with store_locks.writing(tmp_path / "s", (0, 1)):
        for work in (
            lambda: store.append(pairs_of(3), reader, verbose=0),
            lambda: store.subset(tmp_path / "s", [0]),
        ):
            with pytest.raises(ValueError, match="Another process writes part 0 of 1"):
                work()
