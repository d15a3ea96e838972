"""FineWeb-Edu's `sample-10BT` from the Hugging Face hub: parquet files pinned by revision and by their hash.

The hub's client resumes an interrupted download. A file's hash is checked once, before the file gets its final name, so
every file below `root/hub` is complete.
"""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.data.manifest import file_sha256
from sweeper.data.pypi import Report
from sweeper.errors import UserError

REPOSITORY = "HuggingFaceFW/fineweb-edu"
REVISION = "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9"
_WAY_OUT = "or set data.path=DIR to a copy of its parquet files"


@dataclass(frozen=True)
class HubFile:
    """A file of the repository, pinned by the sha256 that the hub lists."""

    name: str
    sha256: str


FILES = tuple(
    HubFile(f"sample/10BT/{number:03d}_00000.parquet", sha256)
    for number, sha256 in enumerate(
        (
            "b1ba7b2ce4cb5ea6ef42dca40263eabb85f37700d01693a68e9b30a31d78e871",
            "3fcf2dc69cd52503986276d3d2d26a8c356d0f2ea28a0de4fdbda8cf87755693",
            "547ae182d132c9f06b6ce63149567208ea9f57630bfd9b1a2938e504f0c9ebd7",
            "22184e6eb25759ddd97783751ffc73e1705dfa2542e630dae1f2a8bac8ee6ddb",
            "33557ddd87a07a4ae6fcaf7a4789c7b484e5cc0c273ca12a65b74200e6d8748b",
            "e08d79927ecb377786572cd854817c748ceb8880878b1a0eb91abf8c85d505ea",
            "554fa2613c9261d6c9c396caab881de3160175794c6c3e1856bf28a0e9cb9b76",
            "4b7d1f697d4afff7f5f65cb7aa4d83acc6db716da4d46ea23399d0c50608c6e3",
            "a6d9dcc0c72ecd7c7f0173c2d06b3a4249a2ccaa94961469d1a522ca689bbf1a",
            "f836cd3c70b95776699eb6c356b2dbf702816e25dcf39992f5c80a29029d23c3",
            "e5a2eae25f057f0856a10bfae314c6ca8ea8bb08456d2131e9e89b2b8305e2f6",
            "db71cf0425bb3d1813a09f12ff1acd6dabdfb91a2e4f141960254ee5a7f036e7",
            "08b47a3e1c25161f796d2f8dbf99ccf60affdebdcea4910833d0d5783315551f",
            "b393f51fefab26cd6f4c8f65707c1924f6666c4961a0ebebe04bb57f7ec832de",
        )
    )
)


def chosen(limit: int | None) -> tuple[HubFile, ...]:
    """The first `limit` files; all 14 (28.5 GB) for None. Raises `UserError` if `limit` is too large."""
    if limit is not None and limit > len(FILES):
        raise UserError(f"data.files={limit} must be at most {len(FILES)}, which is all files; so is null")
    return FILES[:limit]


def fetch(files: Sequence[HubFile], root: Path, report: Report) -> list[Path]:
    """Paths of the files below `root/hub`. Missing files are downloaded.

    Raises `UserError` if the hub cannot be reached or refuses, or if a file's hash is not the pinned one.
    """
    paths = []
    for number, file in enumerate(files, start=1):
        path = root / "hub" / REPOSITORY / REVISION / file.name
        if not path.is_file():
            report(f"fetching {REPOSITORY} {file.name} from the hub, file {number} of {len(files)}")
            downloaded = _download(file, root / "hub" / ".fetching")
            if (digest := file_sha256(downloaded)) != file.sha256:
                downloaded.unlink()
                raise UserError(
                    f"{file.name}: sha256 {digest}, must be {file.sha256}; the file was deleted: run again to fetch it "
                    f"again, {_WAY_OUT}"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            downloaded.replace(path)
        paths.append(path)
    return paths


def provenance(files: Sequence[HubFile]) -> dict[str, object]:
    """The origin of the text, for the manifest."""
    hashes = {file.name: file.sha256 for file in files}
    return {"name": "fineweb_edu", "repository": REPOSITORY, "revision": REVISION, "files": hashes}


def _download(file: HubFile, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(REPOSITORY, file.name, repo_type="dataset", revision=REVISION, local_dir=folder))
    except Exception as error:  # of the client, its HTTP library, its transfer library or the system
        causes = list(_causes(error))
        if any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in causes):
            raise OSError(errno.ENOSPC, "no space left") from error
        raise _refusal(causes) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refusal(causes: Sequence[BaseException]) -> UserError:
    statuses = [getattr(getattr(cause, "response", None), "status_code", None) for cause in causes]
    status = next((status for status in statuses if status), None)
    if status in (401, 403):
        return UserError(
            f"the hub refused {REPOSITORY} (HTTP {status}): the HF token is expired or wrong, or a required token is "
            f"missing; renew or unset HF_TOKEN (`hf auth login`, `hf auth logout`), {_WAY_OUT}"
        )
    answer = f"answered HTTP {status}" if status else f"cannot be reached ({type(causes[-1]).__name__})"
    return UserError(
        f"the Hugging Face hub {answer}: check the network, HF_ENDPOINT and HF_HUB_OFFLINE and run again (finished "
        f"downloads are kept), {_WAY_OUT}"
    )
