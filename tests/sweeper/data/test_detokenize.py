"""WikiText's tokens become running English."""

import pytest

from sweeper.data.detokenize import articles, detokenize


@pytest.mark.parametrize(
    ("tokens", "written"),
    [
        ("a role @-@ playing game", "a role-playing game"),
        ("10 @,@ 000 lay 0 @.@ 7 – 2 @.@ 2 kg", "10,000 lay 0.7–2.2 kg"),
        ("Pippa 's and James ' hats didn 't fit", "Pippa's and James' hats didn't fit"),
        ("John O 'Brien and a nor 'easter", "John O'Brien and a nor'easter"),
        ("the reader ’ s power", "the reader’s power"),
        ('the " Nameless " , a unit', 'the "Nameless", a unit'),
        ('he said : " Go ! " ( then left )', 'he said: "Go!" (then left)'),
        ('A " B " and ( " C " ) .', 'A "B" and ("C").'),
        ("hear ' I Am Free , ' which", "hear 'I Am Free,' which"),
        ("the ' press conference ' began", "the 'press conference' began"),
        ("late in the ' 90s", "late in the '90s"),
        ("at 2 : 30 p.m. on Monday : rain", "at 2:30 p.m. on Monday: rain"),
        ("a .69 caliber gun ; fine .", "a .69 caliber gun; fine."),
        ("54 km / h , 50 % of £ 25 ( US $ 4 @.@ 3 million )", "54 km/h, 50% of £25 (US$4.3 million)"),
        ("at − 20 ° C facing 30 ° from it", "at −20°C facing 30° from it"),
        ("them — not us – Bodø – Harstad", "them—not us – Bodø – Harstad"),
        ("R & B , # 12 , Johnson & Johnson", "R&B, #12, Johnson & Johnson"),
        ("so [ sic ] it was", "so [sic] it was"),
        ("", ""),
    ],
)
def test_tokens_are_joined_as_they_are_written(tokens: str, written: str) -> None:
    assert detokenize(tokens) == written


def test_an_article_starts_at_a_heading_between_blank_lines_only() -> None:
    legend = " GP \n = Games played ; G \n = Goals ; A = \n 3 \n"
    text = f" \n = One = \n \n{legend} \n = = Sub = = \n \n end . \n \n = Two = \n \n b \n"
    one, two = articles(text)
    assert one[0] == "One"
    assert one[1].splitlines()[0] == "One"
    assert "Sub" in one[1].splitlines()
    assert two == ("Two", "Two\nb")


def test_headings_lose_their_marks_and_blank_lines_go() -> None:
    ((title, text),) = articles(" \n = A @-@ B = \n \n \n = = = C 's = = = \n \n d \n")
    assert (title, text) == ("A-B", "A-B\nC's\nd")
