"""An export to the Hugging Face hub, with a look at what would be sent first."""

from __future__ import annotations

import re
from typing import NamedTuple

from cptk import checks, files, optional
from cptk.export.target import RECORD, strangers
from cptk.types import Path

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Upload(NamedTuple):
    """What an upload sends, or would send.

    Attributes:
        repo_id: Where to.
        files: Bytes of each file, by its path in the folder.
        sent: Whether they were sent.
        address: Where the model stands then; empty after a dry run.

    Example:

    ```pycon
    >>> import cptk
    >>> exported = cptk.export.to_sentence_transformers(embedder, "st_dry", roles=["query"])
    >>> upload = cptk.export.upload("st_dry", "somebody/my-embedder")
    >>> upload.sent, upload.files == exported.files
    (False, True)

    ```
    """

    repo_id: str
    files: dict[str, int]
    sent: bool
    address: str


def upload(
    folder: Path,
    repo_id: str,
    *,
    dry_run: bool = True,
    private: bool = True,
    token: str | None = None,
) -> Upload:
    """List what of an export would be sent to the Hugging Face hub, or send it.

    Nothing is ever sent unless `dry_run=False`. The files of the export are sent, and no others
    that may stand in its folder.

    Args:
        folder: A folder that `cptk.export` wrote.
        repo_id: `"user/name"` on the hub; made where it does not exist.
        dry_run: Only list the files: nothing is sent, no network and no library is needed.
        private: Whether a repository that is made is private.
        token: A token of the hub's; the one of `hf auth login` by default.

    Returns:
        The files, and whether they were sent.

    Raises:
        FileNotFoundError: There is no such folder, or a file of the export is missing.
        ValueError: The folder is no export, or `repo_id` no name of a repository.
        ImportError: huggingface_hub is not installed, and `dry_run` is False.

    Example:

    ```python title="Needs an account"
    cptk.export.upload("my_st_model", "somebody/my-embedder")  # lists the files
    cptk.export.upload("my_st_model", "somebody/my-embedder", dry_run=False)
    ```
    """
    checks.switch("dry_run", dry_run)
    checks.switch("private", private)
    if token is not None and (not isinstance(token, str) or not token):
        raise TypeError("`token` should be a token of the hub's, or None.")  # which is not shown
    if not isinstance(repo_id, str) or not _REPO.fullmatch(repo_id):
        raise ValueError(
            f'`repo_id` should be a name such as "somebody/my-embedder". Received: '
            f"{checks.shown(repo_id)}."
        )
    place = checks.path(folder, "folder")
    if not place.is_dir():
        raise FileNotFoundError(f"`folder` should be an export. There is none at {str(place)!r}.")
    if not (place / RECORD).is_file():
        raise ValueError(
            f"`folder` should be an export: {str(place)!r} has no {RECORD}. "
            "cptk.export.to_sentence_transformers and its like write one."
        )
    record = files.read_json(place / RECORD)
    names = record.get("files") if isinstance(record, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{str(place / RECORD)!r} is damaged: it lists no files. Export again.")
    inside = place.resolve()
    missing = [
        name
        for name in names
        if not (place / name).is_file() or inside not in (place / name).resolve().parents
    ]
    if missing:
        raise FileNotFoundError(
            f"The export {str(place)!r} is incomplete: {checks.shown(missing)} are missing. Export "
            "it again."
        )
    sizes = {name: (place / name).stat().st_size for name in [*names, RECORD]}
    if dry_run:
        return Upload(repo_id, sizes, False, "")
    hub = optional.load("huggingface_hub", "Uploading", "huggingface_hub 1.0 or newer", "hub")
    api = hub.HfApi(token=token)
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    others = strangers(place)
    api.upload_folder(
        repo_id=repo_id,
        folder_path=str(place),
        allow_patterns=list(sizes),
        ignore_patterns=others or None,
        commit_message="Upload by cptk.export",
    )
    return Upload(repo_id, sizes, True, str(url))
