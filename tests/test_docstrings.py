import ast
import inspect
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptk import docstrings
from cptk.docstrings import LANGUAGES, strip_docstring, strip_docstrings

CASES = [
    ("python", 'def f():\n    """Doc.\n\n    More."""\n    return "a"', 'def f():\n    return "a"'),
    ("python", "def f():\n    r'doc'\n    return 1\n", "def f():\n    return 1"),
    ("python", 'def f(): "a" "b"; return 1', "def f(): return 1"),
    ("python", 'def f():\n    """é"""', "def f():"),
    ("python", 'def f():\n    # why\n    """Doc."""\n    pass', "def f():\n    # why\n    pass"),
    (
        "python",
        '    def f(self):\n        """D"""\n        print "x"',
        '    def f(self):\n        print "x"',
    ),
    (
        "python",
        '@d("""x""")\nasync def f(a="y"):\n    """D"""\n    1',
        '@d("""x""")\nasync def f(a="y"):\n    1',
    ),
    ("python", 'class A:\n    """D"""\n    x = 1', "class A:\n    x = 1"),
    ("java", "/** Doc. */\npublic int f() { return 1; }", "public int f() { return 1; }"),
    (
        "java",
        "@Override\n/** Doc. */\npublic int f() { return 1; }",
        "@Override\npublic int f() { return 1; }",
    ),
    ("go", "// F is.\n// More.\nfunc F() int { return 1 }", "func F() int { return 1 }"),
    ("go", "/* F is. */ func (s *S) F() {}", "func (s *S) F() {}"),
    (
        "php",
        "/** Doc. */\npublic function f($a) { return 1; }",
        "public function f($a) { return 1; }",
    ),
    ("php", "<?php\n/** D */\nfunction f() {}", "<?php\nfunction f() {}"),
    ("ruby", "# Doc.\n# More.\ndef f(a)\n  a\nend", "def f(a)\n  a\nend"),
    ("ruby", "=begin\nDoc.\n=end\ndef f; 1; end", "def f; 1; end"),
    ("javascript", "/** Doc. */\nfunction (a) { return a; }", "function (a) { return a; }"),
    ("javascript", "// Doc.\nfoo: function (a) { return a; }", "foo: function (a) { return a; }"),
    ("javascript", "/** Doc. */\nfoo(a) { return a; }", "foo(a) { return a; }"),
]

UNTOUCHED = [
    ("python", 'def f():\n    x = """no"""\n    return x'),
    ("python", 'def f():\n    b"no"\n    return 1'),
    ("python", 'def f(y):\n    f"""no {y}"""\n    return 1'),
    ("python", 'def f():\n    """no""".strip()\n    return 1'),
    ("python", 'def f():\n    return 1\n    """no"""'),
    ("python", 'def f():\n    def g():\n        """inner"""\n    return g'),
    ("java", 'public String f() { /* in */ // in\n /** in */ return "/** s */ // s"; }'),
    ("go", 'func F() string { // in\n return "// no" }'),
    ("php", "public function f() { /** in */ return '# /** no */'; }"),
    ("ruby", 'def f(a)\n  # in\n  a + "# no #{a}"\nend'),
    ("javascript", 'function f() { /** in */ return "// no" + `/** no */`; }'),
    ("javascript", "(a, b) => a + b"),
]


@pytest.mark.parametrize(("language", "code", "expected"), CASES)
def test_the_documentation_goes(language, code, expected):
    assert strip_docstring(code, language) == expected
    assert strip_docstring(expected, language) == expected
    assert strip_docstrings([code, expected], language) == ([expected, expected], 1, 0)


@pytest.mark.parametrize(("language", "code"), UNTOUCHED)
def test_everything_else_stays(language, code):
    assert strip_docstrings([code], language) == ([code], 0, 0)


def test_real_functions_equal_pythons_own_parser():
    functions = [f for _, f in inspect.getmembers(textwrap, inspect.isfunction)]
    functions += [f for _, f in inspect.getmembers(inspect, inspect.isfunction)]
    checked = 0
    for function in functions:
        code = textwrap.dedent(inspect.getsource(function))
        tree = ast.parse(code)
        definition = tree.body[0]
        if not isinstance(definition, ast.FunctionDef) or ast.get_docstring(definition) is None:
            continue
        definition.body = definition.body[1:]
        if definition.body:
            assert ast.dump(ast.parse(strip_docstring(code, "python"))) == ast.dump(tree)
            checked += 1
    assert checked > 50


def test_code_that_does_not_parse_is_counted():
    broken = 'def f(:\n    """Doc."""\n    return (('
    assert strip_docstrings([broken], "python") == (["def f(:\n    return (("], 1, 1)
    fragment = 'for x in y:\n    """Doc."""\n    z'  # no function: the first string after a colon
    assert strip_docstrings([fragment], "python") == (["for x in y:\n    z"], 1, 1)
    assert strip_docstrings(["/** D */ public int f( {"], "java") == (["public int f( {"], 1, 1)


def test_a_comment_alone_leaves_nothing():
    assert strip_docstring("// F is.", "go") == ""
    assert strip_docstring("", "ruby") == ""


@given(st.text(max_size=60), st.sampled_from(LANGUAGES))
def test_any_text_goes_through(code, language):
    stripped = strip_docstrings([code], language)
    assert len(stripped.codes[0]) <= len(code)


def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match=r"'python', 'java'.*Received: 'cobol'"):
        strip_docstring("x", "cobol")
    docstrings._known_parsers.cache_clear()
    monkeypatch.setitem(sys.modules, "tree_sitter_ruby", None)
    with pytest.raises(ImportError, match=r"cptk\[code\]"):
        strip_docstring("x", "ruby")
