"""The shared look: colours ordered by N and told apart, no effect of user settings."""

from pathlib import Path

import matplotlib as mpl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from analysis.plotting import style
from sweeper.errors import UserError


def luminance(color: str) -> float:
    red, green, blue = to_rgb(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@given(exponents=st.sets(st.integers(0, 6), min_size=1))
def test_larger_loop_counts_are_darker(exponents: set[int]) -> None:
    loop_counts = [2**exponent for exponent in sorted(exponents)]
    colors = style.loop_colors(loop_counts)
    shades = [luminance(colors[n]) for n in loop_counts]
    assert shades == sorted(shades, reverse=True)
    assert len(set(colors.values())) == len(loop_counts)
    assert len({style.loop_marker(n) for n in loop_counts}) == len(loop_counts)


def test_architectures_are_told_apart_by_colour_and_marker_and_rules_by_their_line() -> None:
    known = style.stabiliser_looks((architecture, "none") for architecture in style.ARCHITECTURE_LOOKS)
    assert len({look["marker"] for look in known.values()}) == len(known)
    looks = style.stabiliser_looks([*known, ("LT+sandwich", "none"), ("FLT+rezero", "none")])
    assert len({look["color"] for look in looks.values()}) == len(known) + 2
    rules = style.stabiliser_looks([("FLT", "none"), ("FLT", "linear"), ("FLT", "sqrt"), ("FLT", "alpha=0.75")])
    assert len({str(look["linestyle"]) for look in rules.values()}) == 4
    assert {look["color"] for look in rules.values()} == {looks["FLT", "none"]["color"]}


def test_style_overrides_the_users_settings_and_gives_them_back() -> None:
    with mpl.rc_context({"font.size": 31.0, "lines.dashed_pattern": [9.0, 9.0]}):
        with style.context():
            assert mpl.rcParams["font.size"] == 8.0
            assert mpl.rcParams["lines.dashed_pattern"] != [9.0, 9.0]
        assert mpl.rcParams["font.size"] == 31.0


def test_a_long_footer_stays_on_the_page() -> None:
    with style.context():
        figure = Figure(figsize=(style.TEXT_WIDTH, 2.0))
        style.add_footer(figure, "preset quick  ·  $L=2$")
        style.add_footer(figure, "preset quick  ·  $L=2$  ·  sweep " + "architectures-" * 12)
        short, long = figure.texts
        assert short.get_fontsize() == style.FOOTER_SIZE
        box = long.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert 0 < box.x0 < box.x1 < figure.bbox.width


def test_unwritable_out_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the directory should be")
    with pytest.raises(UserError, match=r"--out: cannot write to .*taken"):
        style.save(Figure(), tmp_path / "taken", "fig", ["png"])


def test_formats_drawn_side_by_side_are_those_drawn_alone(tmp_path: Path) -> None:
    def drawn(stem: str, formats: list[str]) -> dict[str, bytes]:
        with style.context():
            figure = Figure()
            figure.subplots().plot([1, 2, 4], label="$N$")
            return {file.suffix: file.read_bytes() for file in style.save(figure, tmp_path, stem, formats)}

    alone = drawn("fig", ["pdf"]) | drawn("fig", ["png"]) | drawn("fig", ["svg"])
    assert drawn("fig", ["pdf", "png", "svg"]) == alone


def test_error_in_a_file_drawn_aside_is_raised(tmp_path: Path) -> None:
    (tmp_path / "fig.png").mkdir()
    with pytest.raises(UserError, match="--out: cannot write"):
        style.save(Figure(), tmp_path, "fig", ["pdf", "png"])
