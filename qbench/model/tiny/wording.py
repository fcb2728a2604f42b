"""Two-digit arithmetic as word problems in GSM8K's form, drawn by a seed: what the tiny model learns and is asked.

A sum or a difference of two numbers of 10 to 99, told in one of several stories. Held out are pairs of numbers, in both
orders and for both operations: a problem of the held-out set has never been seen with other names or in another story.
"""

from __future__ import annotations

import random

from qbench.model.accuracy.problems import Problem

NAMES = ("Ann", "Ben", "Cara", "Dan", "Eva", "Finn", "Gita", "Hugo", "Ines", "Jon", "Kim", "Lena")
THINGS = ("apples", "books", "coins", "eggs", "marbles", "pens", "shells", "stamps")
MORE = (
    "{name} has {a} {things} and buys {b} more. How many now?",
    "{name} found {a} {things}, then {b} more. How many in all?",
    "One box has {a} {things}, another has {b}. How many in both?",
)
LESS = (
    "{name} has {a} {things} and gives {b} to {other}. How many are left?",
    "A box has {a} {things}; {name} takes {b}. How many are left?",
    "{name} has {a} {things}, {other} has {b}. How many more has {name}?",
)

Pair = tuple[int, int]


def split(seed: int, held_out: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs a > b of 10..99 for training, and `held_out` random ones kept from it."""
    pairs = [(a, b) for a in range(10, 100) for b in range(10, a)]
    random.Random(seed).shuffle(pairs)
    return pairs[held_out:], pairs[:held_out]


def tell(pair: Pair, draw: random.Random) -> Problem:
    """One problem about the pair: the operation, the story and, for a sum, the order are drawn."""
    a, b = pair
    name, other = draw.sample(NAMES, 2)
    things = draw.choice(THINGS)
    add = draw.random() < 0.4  # differences are learned later
    if add and draw.random() < 0.5:
        a, b = b, a
    story = draw.choice(MORE if add else LESS)
    question = story.format(name=name, other=other, things=things, a=a, b=b)
    return Problem(question, worked(a, b, add))


def worked(a: int, b: int, add: bool) -> str:
    """The steps on paper, ones first, then the result: without them a model of this size loses its carries.

    `37+48\n7+8=15\n3+4+1=8\n#### 85` and `52-25\n12-5=7\n5-2-1=2\n#### 27`.
    """
    if add:
        ones = a % 10 + b % 10
        carry = ones // 10
        lines = f"{a}+{b}\n{a % 10}+{b % 10}={ones}\n{a // 10}+{b // 10}+{carry}={a // 10 + b // 10 + carry}"
        return f"{lines}\n#### {a + b}"
    borrow = int(a % 10 < b % 10)
    top = a % 10 + 10 * borrow
    lines = (
        f"{a}-{b}\n{top}-{b % 10}={top - b % 10}\n{a // 10}-{b // 10}-{borrow}={a // 10 - b // 10 - borrow}"
    )
    return f"{lines}\n#### {a - b}"
