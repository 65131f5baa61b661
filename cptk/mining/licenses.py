"""Licences by the names that SPDX gives them, read from what packages and files declare."""

from __future__ import annotations

import email.parser
import json
import re
from typing import Final

LICENSE_FILE: Final = re.compile(r"(licen[sc]e|copying|unlicense)([-._].*)?", re.IGNORECASE)
"""Names of files that hold the licence of what lies beside them."""
HEAD = 4_000
"""Letters of a file among which its licence is looked for."""
LONGEST_NAME = 100
_IDENTIFIER = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() -]+)")
_CLASSIFIER = "License :: "

# The first that has all its phrases: longer conditions stand before what they contain.
_PHRASES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("AGPL-3.0-only", ("gnu affero general public license", "version 3")),
    ("LGPL-3.0-only", ("gnu lesser general public license", "version 3")),
    ("LGPL-2.1-only", ("gnu lesser general public license", "version 2.1")),
    ("GPL-3.0-only", ("gnu general public license", "version 3")),
    ("GPL-2.0-only", ("gnu general public license", "version 2")),
    ("MPL-2.0", ("mozilla public license", "2.0")),
    ("Artistic-2.0", ("artistic license 2.0",)),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("CC-BY-SA-4.0", ("attribution-sharealike 4.0 international",)),
    ("CC-BY-4.0", ("attribution 4.0 international",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("BSL-1.0", ("boost software license - version 1.0",)),
    ("Zlib", ("provided 'as-is', without any express or implied warranty", "misrepresented")),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software",)),
    ("ISC", ("permission to use, copy, modify, and distribute this software for any purpose",)),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "neither the name")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",)),
    ("MIT", ("permission is hereby granted, free of charge", "without restriction")),
)
_NAMES: Final = {
    "expat": "MIT",
    "mit license": "MIT",
    "the mit license": "MIT",
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "bsd-2": "BSD-2-Clause",
    "bsd-3": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "psf": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
    "gnu general public license v2 (gplv2)": "GPL-2.0-only",
    "gnu general public license v2 or later (gplv2+)": "GPL-2.0-or-later",
    "gnu general public license v3 (gplv3)": "GPL-3.0-only",
    "gnu general public license v3 or later (gplv3+)": "GPL-3.0-or-later",
    "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0-only",
    "gnu lesser general public license v3 or later (lgplv3+)": "LGPL-3.0-or-later",
    "gnu affero general public license v3": "AGPL-3.0-only",
    "gnu affero general public license v3 or later (agplv3+)": "AGPL-3.0-or-later",
}
_GNU = re.compile(r"(A|L)?GPL[-v ]*(\d(?:\.\d)?)(?:\.0)?(\+|-or-later|-only)?", re.IGNORECASE)


def spdx_name(name: str) -> str:
    """A licence's name as SPDX has it where it is known, on one line; "" for what is no name."""
    if len(name) > 10 * LONGEST_NAME:
        return ""
    name = " ".join(name.split())
    if name.lower() in ("", "unknown", "other", "see license in license", "unlicensed"):
        return ""
    known = _NAMES.get(name.lower())
    gnu = _GNU.fullmatch(name)
    if gnu:
        version = gnu[2] if "." in gnu[2] else f"{gnu[2]}.0"
        later = "or-later" if gnu[3] in ("+", "-or-later") else "only"
        known = f"{(gnu[1] or '').upper()}GPL-{version}-{later}"
    return known or (name if len(name) <= LONGEST_NAME and name.isprintable() else "")


def of_file(text: str) -> str:
    r"""The licence that a file of code or text declares for itself by SPDX's line; "" if none.

    Example:

    ```pycon
    >>> from cptk.mining.licenses import of_file
    >>> of_file("/* SPDX-License-Identifier: GPL-2.0-only */\nint x;")
    'GPL-2.0-only'

    ```
    """
    found = _IDENTIFIER.search(text[:HEAD])
    return spdx_name(found[1].rstrip(" -")) if found else ""


def of_license_file(text: str) -> str:
    r"""The licence whose text this is, by its well-known phrases; "" where none is known.

    Example:

    ```pycon
    >>> from cptk.mining.licenses import of_license_file
    >>> of_license_file("Permission is hereby granted, free of\n charge, ... without restriction")
    'MIT'

    ```
    """
    words = " ".join(text[:HEAD].lower().replace("’", "'").split())
    found = (name for name, phrases in _PHRASES if all(each in words for each in phrases))
    return of_file(text) or next(found, "")


def of_metadata(text: str) -> tuple[str, str]:
    r"""What `METADATA` or `PKG-INFO` says: "name-version", and the licence.

    The fields count in this order: `License-Expression`, the classifiers, `License`.
    """
    fields = email.parser.HeaderParser().parsestr(text)
    classifiers = [
        str(each).removeprefix(_CLASSIFIER).removeprefix("OSI Approved :: ")
        for each in fields.get_all("Classifier", [])
        if str(each).startswith(_CLASSIFIER) and str(each) != "License :: OSI Approved"
    ]
    found = [str(fields.get("License-Expression", "")), " AND ".join(map(spdx_name, classifiers))]
    stated = str(fields.get("License", ""))
    found += [spdx_name(stated) or of_license_file(stated)]
    return _with_version(fields.get("Name"), fields.get("Version")), next(filter(None, found), "")


def of_package_json(text: str) -> tuple[str, str]:
    """What npm's `package.json` says: "name-version", and the licence."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(fields, dict):
        return "", ""
    stated = fields.get("license") or fields.get("licenses")
    stated = stated[0] if isinstance(stated, list) and stated else stated
    stated = stated.get("type") if isinstance(stated, dict) else stated
    license_ = spdx_name(stated) if isinstance(stated, str) else ""
    return _with_version(fields.get("name"), fields.get("version")), license_


def of_debian_control(text: str) -> str:
    """What the `control` file of a Debian package says: "name-version"."""
    fields = email.parser.HeaderParser().parsestr(text)
    return _with_version(fields.get("Package"), fields.get("Version"))


def of_debian_copyright(text: str) -> str:
    """The licence of `Files: *` in Debian's `copyright`, or the one whose text stands there."""
    paragraphs = re.split(r"\n[ \t]*\n", text)
    named = [
        (re.search(r"^Files:\s*\*\s*$", each, re.MULTILINE) is not None, found[1])
        for each in paragraphs
        if (found := re.search(r"^License:[ \t]*(\S.*)$", each, re.MULTILINE))
    ]
    if not named:
        return of_license_file(text)
    return spdx_name(next((name for everything, name in named if everything), named[0][1]))


def _with_version(name: object, version: object) -> str:
    return f"{name}-{version}" if isinstance(name, str) and isinstance(version, str) else ""
