"""The report: every claim with its verdict, every figure and every optimum, in one self-contained page.

    python -m analysis.report [--runs DIR] [--results DIR] [--out DIR]
    python -m analysis.report --sweep NAME         only this sweep of this machine, as `loopsweep watch --web` shows it
    python -m analysis.report --readme README.md   only the verdicts on stored results, see `write_verdicts`

Reads the newest sweeps of this machine and all stored results. Writes figures/report.html and figures/report.md.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import jinja2

from analysis import artifact
from analysis.claims.table import assess, by_source
from analysis.claims.verdict import Finding, Source, Verdict
from analysis.plotting import style
from analysis.records.result_sets import Records, find_records, one_sweep
from analysis.report import gallery, legend, tables
from analysis.report.gallery import Drawing
from analysis.report.runs import relative, run_table
from analysis.report.tables import Table
from sweeper.errors import UserError
from sweeper.files import check_writable, check_writable_file

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = Path(__file__).resolve().parents[1]
MARKER = "<!-- verdicts -->\n"
RESULTS_PAGE = Path("docs") / "results.md"


@dataclass(frozen=True)
class Section:
    """All parts of a report about one place and preset.

    Attributes:
        links: by figure, the name and the address of its script and of its records.
        runs: JSON of `run_table`.
    """

    anchor: str
    preset: str
    place: str
    findings: dict[str, Finding]
    drawings: list[Drawing]
    links: dict[str, list[tuple[str, str]]]
    runs: str
    optima: list[Table]
    progress: Table
    unfinished: Table
    provenance: Table

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many claims have each verdict."""
        counted = Counter(finding.verdict for finding in self.findings.values())
        return {verdict: counted[verdict] for verdict in Verdict}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report. Exit status 0, or 2 on a `UserError`."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="run directories (default: runs)")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="stored results (default: results)")
    add("--out", type=Path, default=Path("figures"), metavar="DIR", help="where to write (default: figures)")
    add("--sweep", metavar="NAME", help="a page of this one sweep of --runs, with the curves of its runs, for a server")
    add("--sweeps", type=Path, metavar="DIR", help="sweep manifests (default: sweeps/ beside --runs)")
    readme_help = "only put the verdicts on stored results into FILE and the docs/results.md beside it"
    add("--readme", type=Path, metavar="FILE", help=readme_help)
    args = parser.parse_args(argv)
    try:
        if args.readme is not None:
            write_verdicts(args.readme, args.results)
            if (page := args.readme.parent / artifact.PAGE).is_file():
                artifact.write(page, args.results)
            return 0
        check_writable(f"--out {args.out}", args.out)
        live = args.sweep is not None
        found = [one_sweep(args.runs, args.sweeps, args.sweep)] if live else find_records(args.runs, args.results)
        places = {f"s{n}": records for n, records in enumerate(found, start=1)}
        drawings, glyphs = gallery.share_glyphs(gallery.draw_all(places, curves=live))
        out = None if live else args.out
        sections = [section(records, key, drawings[key], out) for key, records in places.items()]
        files = write(sections, args.out, glyphs, live=live)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for one in sections:
        verdicts = ", ".join(f"{count} {plural(verdict, count)}" for verdict, count in one.counts.items() if count)
        print(f"{one.preset} ({one.place}): {verdicts}")
    print(f"wrote {', '.join(map(str, files))}")
    return 0


def section(records: Records, anchor: str, drawings: list[Drawing], out: Path | None) -> Section:
    """Judge and tabulate `records`. `anchor` is an id that is unique in the page, which is to be in `out`."""
    return Section(
        anchor,
        records.preset,
        records.place,
        {claim.id: finding for claim, finding in assess(records)},
        drawings,
        {one.key: _links(records, one, out) for one in drawings},
        json.dumps(run_table(records, out), separators=(",", ":")).replace("</", "<\\/"),
        list(tables.optimum_tables(records)),
        tables.progress_table(records),
        tables.unfinished_table(records),
        tables.provenance_table(records),
    )


def _links(records: Records, drawing: Drawing, out: Path | None) -> list[tuple[str, str]]:
    """The script and the records of a figure."""
    option, place, *_ = records.arguments[drawing.figure.experiment]
    script = SCRIPTS / f"plot_{drawing.figure.name}.py"
    if option != "--results":
        return [(script.name, relative(script, out)), (f"{place}/", relative(Path(place), out))]
    directory = Path(place) if Path(place).is_dir() else Path(place).parent
    files = [directory / f"{name}.parquet" for name in ("cells", *drawing.figure.tables)]
    return [(script.name, relative(script, out)), *((str(file), relative(file, out)) for file in files)]


def write(sections: Sequence[Section], out: Path, glyphs: str = "", *, live: bool = False) -> list[Path]:
    """Write report.html and report.md into `out`. A `live` page asks its server now and then for a newer one.

    `glyphs` are the letters of the drawings, see `gallery.share_glyphs`.

    Raises:
        UserError: if they cannot be written.
    """
    sections = sections or [section(Records("no records", "nothing here yet"), "s0", [], out)]
    files = [out / "report.html", out / "report.md"]
    with style.writing_to(out):
        for file in files:
            file.write_text(render(f"{file.name}.j2", sections, glyphs, live=live), encoding="utf-8")
    return files


def write_verdicts(readme: Path, results: Path) -> None:
    """Put the verdicts on stored `results` between the markers of `readme`, and in full of docs/results.md beside it.

    Raises:
        UserError: if one of the files does not have two markers. Both are then left as they are.
    """
    files = {readme: "verdicts.md.j2", readme.parent / RESULTS_PAGE: "claims.md.j2"}
    parts = {file: _around_markers(file) for file in files}
    for file in files:
        check_writable_file(f"--readme: {file}", file)
    sections = [section(one, "", [], readme.parent) for one in find_records(None, results)]
    for file, template in files.items():
        before, after = parts[file]
        text = render(template, sections).strip("\n")
        file.write_text(MARKER.join((before, f"\n{text}\n\n", after)), encoding="utf-8")


def _around_markers(file: Path) -> tuple[str, str]:
    """The text of a Markdown file before its first marker and after its second."""
    parts = file.read_text(encoding="utf-8").split(MARKER) if file.is_file() else []
    if len(parts) != 3:
        raise UserError(f"--readme: {file} has no two lines {MARKER.strip()} between which the verdicts belong")
    return parts[0], parts[2]


def render(template: str, sections: Sequence[Section], glyphs: str = "", *, live: bool = False) -> str:
    """The text of a template filled with `sections` and, in a page, the letters of their drawings."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=".html." in template,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"cell": markdown_cell, "tied": tied, "plural": plural, "linked": linked}
    environment.filters["decided_by"] = legend.decided_by
    return environment.get_template(template).render(
        sections=sections,
        glyphs=glyphs,
        groups=by_source(),
        meanings=legend.MEANINGS,
        live=live,
        today=date.today().isoformat(),
    )


def markdown_cell(text: str) -> str:
    """`text` as the cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def linked(source: Source) -> str:
    """The title of a source in Markdown, with its address if it has one."""
    return f"[{source.title}]({source.address})" if source.address else source.title


def tied(text: str) -> str:
    """`text` without line breaks around an equals sign."""
    return text.replace(" = ", "\u00a0=\u00a0")


def plural(verdict: Verdict, count: int) -> str:
    """1 holds, 2 hold."""
    return verdict if count == 1 else {Verdict.HOLDS: "hold", Verdict.FAILS: "fail"}.get(verdict, verdict)
