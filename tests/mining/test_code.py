import ast
import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cptk
from cptk.data import Pairs
from cptk.mining import (
    deduplicate,
    exclude_copies,
    functions_in_source,
    mine_functions,
    split_by_module,
)
from cptk.mining.code import first_paragraph, is_generated
from tests.test_checks import Frame

DOC = '"""Adds two numbers together."""'


def _mine(source):
    return functions_in_source(textwrap.dedent(source), "module.py")


def _write(root, files):
    for path, source in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(source if isinstance(source, bytes) else source.encode())
    return root


def _function(name="add", doc="Adds two numbers together.", body="return a + b"):
    return f'def {name}(a, b):\n    """{doc}"""\n    {body}\n'


def _without_docstring(source):
    """The slow way: the tree, less the first statement of its function."""
    function = ast.parse(textwrap.dedent(source)).body[0]
    del function.body[0]
    return ast.dump(function)


def test_pair_holds_the_source_without_docstring():
    (pair,) = _mine(
        '''
        @decorated(
            1
        )
        def add(a, b):  # plain
            """Adds two
            numbers together.

            Never seen: the second paragraph.
            """
            # kept
            return a + b

        x = 1
        '''
    )
    assert pair == {
        "query": "Adds two numbers together.",
        "document": "@decorated(\n    1\n)\ndef add(a, b):  # plain\n    # kept\n    return a + b",
        "name": "add",
        "path": "module.py",
        "line": 5,
    }


def test_methods_and_guarded_functions_are_found_and_nested_ones_are_not():
    pairs = _mine(
        f'''
        class Outer:
            class Inner:
                async def method(self):
                    """Says what the method does."""
                    return 1
        try:
            if True:
                def guarded():
                    """Stands below a guard here."""
                    def nested():
                        {DOC}
                        return 1
                    return nested
        except ImportError:
            def fallback():
                """Stands in for the other one."""
                return 2
        '''
    )
    assert pairs["name"] == ["Outer.Inner.method", "guarded", "fallback"]
    assert pairs["document"][0] == "async def method(self):\n    return 1"
    assert "def nested" in pairs["document"][1]
    assert "Adds two numbers" in pairs["document"][1]


@pytest.mark.parametrize(
    "body",
    [
        f"def f(): {DOC}; return 1",
        f"def f():\n    {DOC}  # noqa\n    return 1",
        f"def f():\n    {DOC}; x = 1; return x",
        f"def f():\n    ({DOC}\n    )\n    return 1",
        "def f():\n    'Adds two ' 'numbers together.'\n    return 1",
        "def f():\n    'Adds two numbers \\\n together.'\n    return 1",
        'def f():\n    """Ünïcödé text: 你好 and more words"""; x = "é"\n    return x',
        f'def f():\n    {DOC}\n    return """\n  not indented\n        """',
        f'def f():\n    {DOC}\n    return f"""\n  {{1 + 1}}\n        """',
        f'def f():\n    {DOC}\n    return """a  \n  \n"""',
        f"def f():\n    {DOC}\n    return 'a \\\n        b'",
        f"def f():\n    {DOC}\n    x = 1\n\x0c\n    return x",
        f"def f():\n    {DOC}\n# at the margin\n    return 1",
        f"def f():\n\t{DOC}\n\treturn 1",
    ],
)
@pytest.mark.parametrize("indent", [0, 4])
def test_code_means_the_same_as_the_original(body, indent):
    source = body
    if indent:  # indented by hand: textwrap would move the lines inside strings apart
        inside = {"  not indented", "  {1 + 1}", "  ", '"""'}
        lines = [line if line in inside else "    " + line for line in body.split("\n")]
        source = "class C:\n" + "\n".join(lines)
    (pair,) = functions_in_source(source)
    expected = ast.parse(source).body[0]
    expected = expected.body[0] if indent else expected
    del expected.body[0]
    assert ast.dump(ast.parse(pair["document"]).body[0]) == ast.dump(expected)
    assert "Adds two" not in pair["document"]
    assert not pair["document"].startswith(" ")


def test_every_function_of_real_modules_means_the_same():
    for module in (json.decoder, textwrap, ast):
        source = Path(module.__file__).read_text(encoding="utf-8")
        originals = {
            node.lineno: node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef)
        }
        pairs = functions_in_source(source)
        assert pairs
        for pair in pairs:
            original = originals[pair["line"]]
            del original.body[0]
            assert ast.dump(ast.parse(pair["document"]).body[0]) == ast.dump(original)


@pytest.mark.parametrize("body", ["", "pass", "...", "raise NotImplementedError", "'more'"])
def test_functions_that_only_declare_are_left_out(body):
    assert _mine(f"def f():\n    {DOC}\n    {body}\n")["query"] == []


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("One.\n\nTwo.", "One."),
        ("\n  One\n  line.\n  \t\n  Two.", "One line."),
        (">>> f(1)\n2", ""),
        (":param x: what", ""),
        ("labels (`Tensor` of shape `(batch,)`, *optional*):\n    What is right.", ""),
        ("Labels (those of `y`) are read.", "Labels (those of `y`) are read."),
        ("TODO(me): write this.", ""),
        ("Todo lists are read.", "Todo lists are read."),
        ("", ""),
    ],
)
def test_first_paragraph(docstring, expected):
    assert first_paragraph(docstring) == expected


def test_go_says_that_it_was_generated_behind_its_licence():
    licence = "// Permission is hereby granted, free of charge, to any person.\n" * 30
    mark = "// Code generated by protoc-gen-go. DO NOT EDIT.\n"
    assert is_generated(f"{licence}\n{mark}\npackage a\n")
    assert not is_generated(f"{licence}\npackage a\n")
    assert not is_generated(f"{licence}\npackage a\n\nconst head = `\n{mark}`\n")
    assert not is_generated(f"{licence}\n// {mark}\npackage a\n")


def test_short_and_unencodable_docstrings_are_left_out():
    assert len(_mine('def f():\n    """Two words."""\n    return 1\n')) == 0
    assert len(_mine('def f():\n    """See https://example.org/some/page."""\n    return 1\n')) == 0
    assert len(_mine('def f():\n    """Three whole words \\ud800."""\n    return 1\n')) == 0
    assert len(functions_in_source('def f():\n    """Word."""\n    return 1\n', min_words=1)) == 1


@given(st.text())
def test_any_string_survives(text):
    source = f"def f():\n    {DOC}\n    return {text!r}\n"
    (pair,) = functions_in_source(source)
    assert _without_docstring(source) == ast.dump(ast.parse(pair["document"]).body[0])


def test_source_that_is_not_python():
    with pytest.raises(ValueError, match="not valid Python"):
        functions_in_source("def f(:")


def test_files_are_read_in_order_by_their_encoding_and_reasons_given(tmp_path):
    root = _write(
        tmp_path,
        {
            "b.py": _function("b", "Comes second in the order."),
            "a/x.py": _function("x", "Comes first in the order."),
            "latin.py": b"# -*- coding: latin-1 -*-\n"
            + _function("l", "Caf\u00e9 in Latin letters here.").encode("latin-1"),
            "bom.py": b"\xef\xbb\xbf" + _function("bom", "Opens with a byte mark.").encode(),
            "crlf.py": _function("crlf", "Ends its lines otherwise.").replace("\n", "\r\n"),
            "wrong.py": b"# caf\xe9\n",
            "coding.py": b"# coding: klingon\n",
            "two.py": "print 'python 2'\ndef f(): pass\n",
            "null.py": "def f(): pass\0",
            "test_it.py": _function(),
            "x_pb2.py": _function(),
            "gen.py": "# This file was autogenerated by x.\n" + _function(),
            "tests/in_tests.py": _function(),
            "vendored/v.py": _function(),
            ".hidden/h.py": _function(),
            "note.txt": _function(),
        },
    )
    skipped, progress = {}, []
    pairs = mine_functions(
        str(root), on_skip=skipped.__setitem__, on_file=lambda *args: progress.append(args)
    )
    assert pairs["path"] == ["b.py", "bom.py", "crlf.py", "latin.py", "a/x.py"]
    assert pairs["query"][3] == "Caf\u00e9 in Latin letters here."
    assert pairs["document"][2] == "def crlf(a, b):\n    return a + b"
    assert set(skipped) == {
        "wrong.py", "coding.py", "two.py", "null.py", "test_it.py", "x_pb2.py", "gen.py"
    }  # fmt: skip
    assert skipped["two.py"].startswith("not valid Python")
    assert skipped["gen.py"].startswith("a generated file")
    assert skipped["wrong.py"].startswith("not text in its encoding")
    assert progress[-1] == (12, 12)
    assert pairs == mine_functions([root])


def test_links_and_loops_are_followed_once(tmp_path):
    root = _write(tmp_path / "root", {"a/x.py": _function()})
    _write(tmp_path / "elsewhere", {"y.py": _function("y", "Lies behind a link here.", "return 7")})
    os.symlink(root, root / "a" / "loop")
    os.symlink(tmp_path / "elsewhere", root / "link")
    os.symlink(tmp_path / "nowhere.py", root / "dangling.py")
    skipped = {}
    pairs = mine_functions([root, root], on_skip=skipped.__setitem__)
    assert pairs["path"] == ["a/x.py", "link/y.py"]
    assert skipped["dangling.py"].startswith("not readable")


def test_duplicates_by_normalised_text_and_code():
    first = {"query": "Adds two numbers.", "document": "def f(a):\n    return a", "name": "f"}
    same_text = {**first, "query": "adds  two NUMBERS", "document": "def g(): return 1"}
    same_code = {**first, "query": "Other words.", "document": "def f(a):\n\n  # x\n  return a"}
    other = {**first, "query": "Other text altogether.", "document": "def h(): return 3"}
    found = deduplicate(Pairs([first, same_text, same_code, other]))
    assert list(found) == [first, other]
    near = {"query": "Adds two of numbers.", "document": "def f(b): return -b", "name": "C.f"}
    several = Pairs([same_text, same_code, near, other])
    assert list(exclude_copies(several, of=Pairs([first]))) == [other]
    unlike = {**near, "name": "g"}
    assert list(exclude_copies(Pairs([unlike]), of=Pairs([first]))) == [unlike]
    nameless = Pairs([(row["query"], row["document"]) for row in (near, other)])
    assert len(exclude_copies(nameless, of=Pairs([first]))) == 2


@pytest.mark.parametrize("call", [deduplicate, lambda p: split_by_module(p, 1)])
def test_what_is_no_pairs_is_refused(call):
    with pytest.raises(TypeError, match=r"`pairs` should be Pairs. Received: \[\('a', 'b'\)\]"):
        call([("a", "b")])


def test_modules_are_told_by_the_column_path():
    with pytest.raises(ValueError, match=r"column 'path'.*Columns: ..query', 'document'"):
        split_by_module(Pairs([("a", "b"), ("c", "d")]), 1)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 15), st.integers(0, 15)), min_size=2),
    st.integers(1, 30),
    st.integers(0, 3),
)
def test_split_shares_no_module_text_or_code(rows, size, seed):
    pairs = Pairs(
        {
            "query": [f"text number {'xyz'[t % 3] * (t + 1)}" for _, t, _ in rows],
            "document": [f"code {'k' * (c + 1)}" for _, _, c in rows],
            "path": [str(m) for m, _, _ in rows],
            "name": [f"f{index}" for index in range(len(rows))],
        }
    )
    if size >= len(pairs):
        with pytest.raises(ValueError, match="`size` must be between 1 and"):
            split_by_module(pairs, size, seed=seed)
        return
    held_out, rest = split_by_module(pairs, size, seed=seed)
    assert len(held_out) == size
    for column in ("path", "query", "document"):
        assert not set(held_out[column]) & set(rest[column])
    assert (held_out, rest) == split_by_module(pairs, size, seed=seed)


@pytest.mark.parametrize(
    ("roots", "error", "message"),
    [
        (None, TypeError, "must be a folder or a .py file.*Received: None"),
        ([3], TypeError, "Received: 3"),
        ([], ValueError, "Received none"),
        ("", FileNotFoundError, "No such file or folder: ''"),
        ("no/such/folder", FileNotFoundError, "No such file or folder: 'no/such/folder'"),
    ],
)
def test_bad_roots(roots, error, message):
    with pytest.raises(error, match=message):
        mine_functions(roots)


@pytest.mark.parametrize(
    "roots",
    [
        b"folder",
        {"folder": 1},
        {"folder": 1}.keys(),
        {"folder"},
        io.StringIO("folder"),
        Frame(folder=["x"]),
        [b"folder"],
    ],
)
def test_roots_that_iterate_over_something_else(roots, tmp_path, monkeypatch):
    monkeypatch.chdir(_write(tmp_path, {"folder/a.py": _function()}))
    assert len(mine_functions("folder")) == len(mine_functions(iter(["folder"]))) == 1
    with pytest.raises(TypeError, match=r"must be a folder or a .py file"):
        mine_functions(roots)


@pytest.mark.parametrize("folders", ["tests", b"tests", {"tests": 1}, [1], 3])
def test_skipped_folders_that_are_none(folders, tmp_path):
    with pytest.raises(TypeError, match="`skipped_folders` must be names of folders"):
        mine_functions(_write(tmp_path, {"a.py": _function()}), skipped_folders=folders)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(_write(tmp_path, {"code/a.py": _function()})))
    assert mine_functions("~/code")["path"] == ["a.py"]
    assert mine_functions(Path("~/code/a.py"))["path"] == ["a.py"]


def test_pipes_and_deep_nests_are_skipped(tmp_path):
    chain = "".join(f"    elif a == {i}:\n        pass\n" for i in range(2000))
    root = _write(
        tmp_path,
        {
            "deep.py": f"def f(a):\n    if a:\n        pass\n{chain}" + _function(),
            "chain.py": f"if a:\n    pass\n{textwrap.dedent(chain)}" + _function(),
            "good.py": _function(),
        },
    )
    os.mkfifo(root / "pipe.py")
    skipped = {}
    pairs = mine_functions(root, on_skip=skipped.__setitem__)
    assert pairs["name"] == ["add"]
    assert skipped["pipe.py"] == "no regular file"
    assert set(skipped) <= {"pipe.py", "chain.py", "deep.py"}
    with pytest.raises(ValueError, match="of another kind"):
        mine_functions(root / "pipe.py")


def test_mining_needs_no_keras(tmp_path):
    script = """
        import sys
        import cptk.datasets, cptk.mining
        from cptk.data import mine_functions, mine_halves

        mine_functions(sys.argv[1])
        mine_halves(["a film that is funny and warm and never once sentimental"])
        heavy = {"keras", "keras_hub", "tensorflow", "jax", "torch", "sklearn", "tokenizers"}
        print(sorted(heavy & {name.split(".")[0] for name in sys.modules}))
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), _write(tmp_path, {"a.py": _function()})],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[]"


def test_names_of_the_room():
    assert {"PairDataset", "Pairs", "mine_functions", "mine_halves"} <= set(dir(cptk.data))
    assert cptk.data.mine_functions is cptk.mining.mine_functions
    assert cptk.data.mine_halves is cptk.mining.mine_halves
    with pytest.raises(AttributeError, match="has no attribute 'mine'"):
        cptk.data.mine  # noqa: B018


def test_roots_without_python(tmp_path):
    with pytest.raises(ValueError, match="holds no Python file"):
        mine_functions(tmp_path)
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ValueError, match="a file of another kind"):
        mine_functions(tmp_path / "x.txt")
    with pytest.raises(ValueError, match="`min_words` must be an integer"):
        mine_functions(tmp_path, min_words=0)
