"""Examples of tasks against independent solvers, and the sides of their questions."""

import numpy as np
import pytest

from sweeper.data import TaskData, make_task, open_data, prepare_data, task_of
from sweeper.data.addition import Addition
from sweeper.data.phop import PHop
from sweeper.data.spec import DataSpec, TokenizerSpec
from sweeper.data.tasks import manifest_of
from sweeper.errors import UserError

PHOP = PHop((1, 2, 3, 4), (6, 8), alphabet=4, length=32)
ADDITION = Addition((1, 2, 3, 4), (5, 6))
TASKS = pytest.mark.parametrize("task", [PHOP, ADDITION], ids=lambda task: task.NAME)
EXAMPLES = 10_000  # a task, at the bar of the solvers
TRAINING = {"phop": 200_000, "addition": 1_000_000}  # questions; a million of p-hop took 28 s, and none was found
SYMBOLS = "0123456789+=#."
FIRST_PHOP = [[4, 5, 2, 1, 0, 1, 3, 2, 1, 3], [4, 5, 3, 2, 0, 2, 1, 0, 2, 3]]
FIRST_ADDITION = [[8, 4, 10, 8, 4, 11, 8, 6, 1], [6, 3, 10, 9, 9, 11, 2, 6, 1]]


def spec(task) -> DataSpec:
    return DataSpec(task.NAME, None, "text", TokenizerSpec("symbols", task.vocab_size), 1, 0.125, task=task)


def hop(letters: list[int], i: int) -> int | None:
    """The place after the last earlier place with the letter of place i, by search."""
    return next((j for j in range(i, 0, -1) if letters[j - 1] == letters[i]), None)


def solve_phop(inputs: list[int]) -> list[int]:
    """The targets of a row, from its text alone and letter by letter."""
    hops, letters = inputs.count(4), inputs[PHOP.most_hops :]
    assert inputs[: PHOP.most_hops] == [4] * hops + [5] * (PHOP.most_hops - hops)
    targets = []
    for i in range(len(letters)):
        place: int | None = i
        for _ in range(hops):
            place = None if place is None else hop(letters, place)
        targets.append(-1 if place is None else letters[place])
    return [-1] * PHOP.most_hops + targets


def solve_addition(inputs: list[int]) -> list[int]:
    """The targets of a row, from its text alone and with Python's own sums."""
    text = "".join(SYMBOLS[token] for token in inputs)
    question, _, written = text.partition("=")
    first, second = question.split("+")
    assert len(first) == len(second)
    assert str(int(first)) == first
    answer = str(int(first) + int(second))[::-1] + "#"
    assert answer.ljust(len(written) + 1, ".") == written + answer.ljust(len(written) + 1, ".")[-1]
    targets = [-1] * len(question) + [SYMBOLS.index(sign) for sign in answer]
    return targets + [-1] * (len(inputs) - len(targets))


@pytest.mark.parametrize(("task", "solve"), [(PHOP, solve_phop), (ADDITION, solve_addition)], ids=["phop", "addition"])
def test_every_target_is_what_an_independent_solver_finds(task, solve) -> None:
    share = EXAMPLES // 5
    drawn = [task.training(0, 3 * share, seed=1), task.validation(share)]
    drawn += [task.validation_at(level, share // len(task.all_levels)) for level in task.all_levels]
    for examples in drawn:
        for inputs, targets in zip(examples.inputs.tolist(), examples.targets.tolist(), strict=True):
            assert solve(inputs) == targets


def test_a_row_of_each_task_by_hand() -> None:
    rows = PHop((2,), (), alphabet=3, length=8).rows(np.array([[0, 1, 0, 2, 0, 1, 2, 0]]), np.array([2]))
    assert rows.inputs.tolist() == [[3, 3, 0, 1, 0, 2, 0, 1, 2, 0]]
    # The letter at place 8 is 0, last seen at 5: hop to 6. There is 1, last seen at 2: hop to 3. There is 0.
    assert rows.targets.tolist() == [[-1, -1, -1, -1, -1, -1, -1, 1, 2, 0]]
    sums = Addition((2,), (3,)).rows(np.array([[57, 62], [10, 11]]), np.array([2, 2]))
    assert ["".join(SYMBOLS[token] for token in row) for row in sums.inputs] == ["57+62=911#..", "10+11=12#..."]
    assert sums.targets.tolist()[0] == [-1] * 5 + [9, 1, 1, 12] + [-1] * 3


@TASKS
def test_no_validation_question_is_among_the_training_questions(task) -> None:
    held_out = [task.validation(2_000), *(task.validation_at(level, 500) for level in task.all_levels)]
    known = {asked for examples in held_out for asked in asked_in(task, examples)}
    for first in range(0, TRAINING[task.NAME], 50_000):
        assert not known & asked_in(task, task.training(first, 50_000, seed=first % 3))


def asked_in(task, examples) -> set[bytes]:
    """The questions without their answers, and in p-hop without the number of hops."""
    inputs = examples.inputs.astype(np.uint8)
    if isinstance(task, PHop):
        return set(map(bytes, inputs[:, task.most_hops :]))
    return {row[: row.index(11)] for row in map(bytes, inputs)}


@TASKS
def test_an_example_depends_on_seed_and_index_alone(task) -> None:
    whole = task.training(0, 64, seed=3)
    parts = [task.training(first, 16, seed=3) for first in (48, 0, 32, 16)]
    assert np.array_equal(np.vstack([parts[i].inputs for i in (1, 3, 2, 0)]), whole.inputs)
    assert not np.array_equal(task.training(0, 64, seed=4).inputs, whole.inputs)


def test_the_examples_are_fixed_for_good() -> None:
    assert PHop((1, 2), (), 4, 8).training(0, 2, seed=0).inputs.tolist() == FIRST_PHOP
    assert Addition((2,), ()).training(0, 2, seed=0).inputs.tolist() == FIRST_ADDITION


@TASKS
def test_trained_levels_are_drawn_equally_often_and_others_never(task) -> None:
    levels, counts = np.unique(task.training(0, 40_000, seed=0).levels, return_counts=True)
    assert tuple(levels) == task.levels
    assert np.abs(counts / 10_000 - 1).max() < 0.05  # six standard deviations


@TASKS
def test_a_task_is_prepared_by_its_manifest_alone_and_found_by_the_hash(task, tmp_path) -> None:
    manifest = prepare_data(spec(task), tmp_path, print)
    assert [path.name for path in (tmp_path / manifest.directory).iterdir()] == ["manifest.json"]
    data = open_data(manifest.hash, tmp_path)
    assert isinstance(data, TaskData)
    assert data.task == task == task_of(manifest)
    assert manifest.hash == manifest_of(task, "elsewhere").hash
    rows = data.sequences(5, 3, task.row_tokens, seed=2)
    assert rows.shape == (3, 2, task.row_tokens)
    assert np.array_equal(rows[:, 0], task.training(5, 3, 2).inputs)
    assert data.validation(task.row_tokens, 7 * task.row_tokens).shape == (7, 2, task.row_tokens)


def test_another_parameter_is_another_manifest() -> None:
    tasks = [PHOP, PHop((1, 2, 3, 4), (6,), 4, 32), PHop((1, 2, 3, 4), (6, 8), 5, 32), ADDITION, Addition((1,), ())]
    assert len({manifest_of(task, "").hash for task in tasks}) == len(tasks)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("phop", {"length": None}, "data.task.length=null needs a value"),
        ("addition", {"alphabet": 4}, "data.task.alphabet=4 is no parameter of data=addition; set it to null"),
        ("phop", {"alphabet": 2}, "data.task.alphabet=2 must be from 3 to 1000"),
        ("phop", {"length": 4}, "data.task.length=4 must be at least 8"),
        ("phop", {"beyond": [4]}, "must be different whole numbers from 1"),
        ("addition", {"beyond": [18]}, "must be at most 17 digits"),
    ],
)
def test_a_wrong_parameter_is_named(name, changes, message) -> None:
    of_phop = {"alphabet": 4, "length": 16} if name == "phop" else {"alphabet": None, "length": None}
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        make_task(name, {"levels": [1, 4], "beyond": [6], **of_phop, **changes})
