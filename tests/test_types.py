"""Doors are typed: a parameter or return that says nothing of its type is rare."""

from any_share import PACKAGE, counted, share

import cptk

#: Of all parameters and returns; 8% is what the house allows itself, 25% is where it began.
MOST = 0.02


def test_bare_any_is_rare() -> None:
    counts = counted()
    assert len(counts) > 100
    assert share(counts) <= MOST, "python tests/any_share.py lists them by file"


def test_the_count_sees_any(tmp_path) -> None:
    (tmp_path / "module.py").write_text(
        "def f(x: Any, *args: int, y: list[Any], **kwargs: Any) -> None: ...\n"
        "class C:\n    async def g(self, x: typing.Any) -> Any: ...\n"
    )
    assert counted(tmp_path) == {"module.py": (4, 7)}
    assert PACKAGE.name == cptk.__name__
