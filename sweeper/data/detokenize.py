"""Join WikiText's space-separated tokens into ordinary English text."""

import re
from collections.abc import Iterator

# Where a rule is ambiguous, it takes the reading that is more frequent in WikiText.
_CONTRACTION = re.compile(r" ['’] ?(?=(?:s|t|re|ve|m|ll|d)\b)| '(?=\w)(?<=\w ')")  # game 's, O 'Brien
# A space is removed if one of these patterns matches around it.
_JOINED = re.compile(
    " (?:"
    + "|".join(
        (
            r"(?=[,;:!?)\]}”’%])",
            r"(?=\.(?!\d))",  # .69 caliber keeps its space
            r"(?<=[(\[{“$£€₹] )",
            r"(?=\$)(?<=\bUS )",
            r"(?=°)(?<=\d )",
            r"(?<=° )(?=[CFNSEW]\b)",
            r"(?<=\d : )(?=\d)",  # 2 : 30 p.m.
            r"(?=– \d)(?<=\d )|(?<=\d – )(?=\d)",  # 2013 – 14; between words an en dash keeps its spaces
            r"(?=[—/])|(?<=[—/] )",
            r"(?=& [A-Z]\b)(?<=\b[A-Z] )|(?<=\b[A-Z] & )(?=[A-Z]\b)",  # R & B
            r"(?<=# )(?=\d)",
            r"(?<=[^\d] − )(?=\d)",  # at − 20 °C, but not 10 − 7
            r"(?= )",
        )
    )
    + ")"
)
_QUOTE = re.compile(r""" (["'])(?= )""")
_CLIPPED_YEAR = re.compile(r"\d\ds?\b")
_AFTER_CLOSING = re.compile(r"[,;:)\]!?]|\.(?!\.)")
_HEADING = re.compile(r"=(?: =)* (.+?) =(?: =)*")


def detokenize(line: str) -> str:
    """One line of WikiText as ordinary text: punctuation, quotes and numbers are joined to their words."""
    text = f" {line} ".replace("\ufeff", "")
    for mark in "-,.":
        text = text.replace(f" @{mark}@ ", mark)  # role @-@ playing, 2 @,@ 700, 0 @.@ 7
    text = _CONTRACTION.sub(lambda match: match[0].strip(), text)
    return _JOINED.sub("", _join_quotes(text)).strip()


def articles(text: str) -> Iterator[tuple[str, str]]:
    """Split a WikiText file into (title, text) pairs, detokenized.

    An article starts at a level-1 heading (` = Title = `) between blank lines. Without blank lines it is part of a
    table. Headings become plain lines. Blank lines are dropped.
    """
    lines = ["", *(line.strip() for line in text.split("\n")), ""]
    title = ""
    body: list[str] = []
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if not line:
            continue
        heading = None if before or after else _HEADING.fullmatch(line)
        if heading and not line.startswith("= ="):
            if title:
                yield title, "\n".join(body)
            title, body = detokenize(heading[1]), []
        body.append(detokenize(heading[1] if heading else line))
    if title:
        yield title, "\n".join(body)


def _join_quotes(text: str) -> str:
    """Join each free-standing quote mark to the word it opens or closes."""
    parts: list[str] = []
    open_marks: set[str] = set()
    done = 0
    for match in _QUOTE.finditer(text):
        mark = match[1]
        before, after = text[: match.start()], text[match.end() + 1 :]
        if _opens(mark, before, after, mark in open_marks):
            open_marks.add(mark)
            parts.append(text[done : match.end()])
            done = match.end() + 1
        else:
            open_marks.discard(mark)
            parts.append(f"{text[done : match.start()]}{mark}")
            done = match.end()
    parts.append(text[done:])
    return "".join(parts)


def _opens(mark: str, before: str, after: str, is_open: bool) -> bool:
    """Whether a free-standing mark opens a quotation. If the neighbouring text does not decide it, marks alternate."""
    if not before.strip() or before.endswith(("(", "[")):
        return True
    if not after.strip() or _AFTER_CLOSING.match(after) or is_open:
        return False
    # A single mark may also be a plural's possessive (characters ' turns) or a clipped year (the ' 90s).
    plural = before.endswith("s") and not before.endswith("'s")
    return mark == '"' or bool(_CLIPPED_YEAR.match(after)) or (not plural and " ' " in after)
