"""Which files of a dataset on the hub hold its texts: downloaded or from the cache, by config, split and revision."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from glob import escape
from pathlib import Path, PurePosixPath

from huggingface_hub import get_cached_repo_tree, metadata_load, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)

from capacity.files import first_line
from capacity.texts.documents import COLUMNAR, TextError

FORM = "hub:OWNER/NAME[:CONFIG[/SPLIT]][@REVISION][#COLUMN]"
_WORD = r"[\w.-]+"
_NAME = re.compile(
    rf"(?P<repo>{_WORD}/{_WORD})(?::(?P<config>{_WORD})(?:/(?P<split>{_WORD}))?)?(?:@(?P<revision>[\w./-]+))?"
    r"(?:#(?P<column>.+))?",
    re.ASCII,
)
_KINDS = (*COLUMNAR, ".txt")  # the first kind that a dataset has is read
# What the hub takes a file's split from, where the dataset's card doesn't say: a word in its path.
_SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
_SHARD = re.compile(r"(?:.*/)?([\w.]+)-\d{5}-of-\d{5}[^/]*")

Splits = dict[str, list[str]]  # split -> its files, sorted


@dataclass(frozen=True)
class Dataset:
    """The files of one split of a dataset at one commit, on this disk."""

    name: str  # the dataset's own and the first 8 digits of the commit
    paths: tuple[Path, ...]
    column: str | None


@lru_cache(maxsize=64)  # one answer a process: what a branch points to may move
def fetch(name: str) -> Dataset:
    """Return the files that `OWNER/NAME[:CONFIG[/SPLIT]][@REVISION][#COLUMN]` names, downloading what is not cached.

    HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN hold. Without a config the one called `default` is taken, or the
    only one; without a split the only one. Both come from the dataset's card, else from the names of its files.

    Raises TextError for a name of another form, a dataset, revision, config or split that is not there, and where
    there is nothing to read.
    """
    repo, config, split, revision, column = check_name(name).group("repo", "config", "split", "revision", "column")
    card = _snapshot(repo, revision, ["README.md"])
    commit = card.name
    splits = _splits(_files(repo, card), _cards_configs(card / "README.md"), config, repo)
    known = ", ".join(sorted(splits))
    if split is None and len(splits) > 1:
        raise TextError(f"{repo} has the splits {known}; say which: {repo}:{config or 'default'}/SPLIT")
    if split is not None and split not in splits:
        raise TextError(f"{repo} has no split {split!r}; it has {known}")
    chosen = splits[split] if split else next(iter(splits.values()))
    folder = _snapshot(repo, commit, [escape(path) for path in chosen])
    missing = [path for path in chosen if not (folder / path).is_file()]
    if missing:
        raise TextError(f"the cache of {repo} lacks {missing[0]}; get it where there is a network")
    return Dataset(f"{repo}@{commit[:8]}", tuple(folder / path for path in chosen), column)


def check_name(name: str) -> re.Match[str]:
    """Return the parts of a dataset's name; raises TextError for one of another form."""
    match = _NAME.fullmatch(name)
    if match is None or ".." in name.partition("#")[0]:
        raise TextError(f"{name[:200]!r} names no dataset; give {FORM}")
    return match


def _snapshot(repo: str, revision: str | None, patterns: list[str]) -> Path:
    """Return the folder of a commit, named by it, with the files that match."""
    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = first_line(error)
        raise TextError(
            f"dataset {repo[:120]!r}, revision {(revision or 'main')[:60]!r}, can't be had from hub or cache "
            f"({reason}). Check the name, or download it where there is a network; a gated dataset needs its terms "
            "accepted and HF_TOKEN"
        ) from error


def _files(repo: str, folder: Path) -> list[str]:
    """Return the paths of a commit's files, sorted; those in the cache where it has no list of all of them."""
    try:
        return sorted(file.path for file in get_cached_repo_tree(repo, repo_type="dataset", revision=folder.name))
    except CachedRepoTreeNotFoundError:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _cards_configs(card: Path) -> dict[str, dict]:
    """Return the configs that a dataset's card (README.md) lists, by name; none where it lists none."""
    try:
        configs = (metadata_load(card) or {}).get("configs") or [] if card.is_file() else []
    except ValueError as error:
        raise TextError(f"the dataset's card can't be read: {error}") from error
    return {str(config["config_name"]): config for config in configs if "config_name" in config}


def _splits(files: Sequence[str], configs: dict[str, dict], config: str | None, repo: str) -> Splits:
    """Return the files of a config's splits: as its card says, else by folder and name."""
    if configs:
        default = next((name for name, facts in configs.items() if facts.get("default")), "default")
        chosen = config or (default if default in configs or len(configs) > 1 else next(iter(configs)))
        if chosen not in configs:
            raise TextError(f"{repo} has no config {chosen!r}; it has {', '.join(configs)}: give {repo}:CONFIG")
        listed = configs[chosen].get("data_files")
        if listed:
            return _nonempty({name: _matching(files, globs) for name, globs in _globs(listed).items()}, repo)
        folder = str(configs[chosen].get("data_dir") or "").removeprefix("./").strip("/")
    else:
        folders = {path.parts[0] for file in files if len((path := PurePosixPath(file)).parts) > 1}
        folder = config or ""
        if config == "default" and config not in folders:
            folder = ""
        if folder and folder not in folders:
            raise TextError(f"{repo} has no config {config!r}; its card lists none, its folders are {sorted(folders)}")
    splits: Splits = {}
    for file in files:
        if not folder or file.startswith(f"{folder}/"):
            splits.setdefault(_split_of(file.removeprefix(f"{folder}/")), []).append(file)
    return _nonempty(splits, repo)


def _globs(listed: str | list | dict) -> dict[str, list[str]]:
    """Return the patterns of each split from a card's `data_files`: a path, paths, or splits with either."""
    if isinstance(listed, list) and all(isinstance(entry, dict) for entry in listed):
        listed = {entry.get("split", "train"): entry.get("path", []) for entry in listed}
    by_split = listed if isinstance(listed, dict) else {"train": listed}
    return {str(split): [globs] if isinstance(globs, str) else list(globs) for split, globs in by_split.items()}


def _matching(files: Sequence[str], globs: Sequence[str]) -> list[str]:
    """Return the files that patterns name; one that is a file's whole name is that file's, whatever stands in it."""
    return [
        file for file in files
        if file in globs or any(fnmatch(file, glob) or fnmatch(file, glob.replace("**/", "")) for glob in globs)
    ]  # fmt: skip


def _split_of(file: str) -> str:
    shard = _SHARD.fullmatch(file)
    if shard and shard[1].lower() not in _SPLITS:
        return shard[1]
    words = re.split(r"[^a-z]+", file.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), "train")


def _nonempty(splits: Splits, repo: str) -> Splits:
    """Return the splits with their files of one kind, the first of _KINDS that there is."""
    endings = {PurePosixPath(file).suffix.lower() for files in splits.values() for file in files}
    kind = next((kind for kind in _KINDS if kind in endings), None)
    if kind is None:
        raise TextError(f"{repo} has no files of texts here ({', '.join(_KINDS)}); it has {sorted(endings)}")
    kept = {name: [file for file in files if file.lower().endswith(kind)] for name, files in splits.items()}
    return {name: files for name, files in kept.items() if files}
