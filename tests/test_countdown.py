"""Countdown against a Python judge that reads the text of an attempt."""

import random
import re

import numpy as np
import pytest
from attempt_texts import (
  close,
  draw,
  judge,
  mutated,
  pack,
  rows_of,
  texts,
  write,
)

from sitrain.tasks import countdown


def right(prompt, text, count, width):
  """Whether an attempt reaches the target with all numbers, by eval."""
  numbers, target = prompt[:-1].split(">")
  given = [
    int(numbers[i : i + width]) for i in range(0, len(numbers), width)
  ]
  shape = rf"\d{{{width}}}([-+*]\d{{{width}}}=\d\d){{{count - 1}}};"
  if not re.fullmatch(shape, text):
    return False
  value, *steps = re.split(r"(?=[-+*])", text[:-1])
  used, value = [int(value)], int(value)
  for step in steps:
    number, written = step[1:].split("=")
    used.append(int(number))
    if eval(f"{value} {step[0]} {int(number)}") != int(written):
      return False
    value = int(written)
  return sorted(used) == sorted(given) and value == int(target)


@pytest.fixture(scope="module", params=[(3, 9), (2, 25), (4, 25)])
def drawn(request):
  count, largest = request.param
  task = countdown.make(numbers=count, largest=largest)
  return task, draw(task, 2048), count, len(str(largest))


def halves(task, problems):
  """The two attempts of each solution."""
  n = task.turn_length
  return [[text[:n], text[n:]] for text in texts(task, problems.solution)]


def test_attempts_are_judged_as_python_does(drawn):
  task, problems, *sizes = drawn
  source = random.Random(0)
  prompts = texts(task, problems.prompt)
  tries = [
    mutated(source, one, countdown.ALPHABET)
    for one, _ in halves(task, problems)
  ]
  again = [mutated(source, one, countdown.ALPHABET) for one in tries]
  reward = judge(task, problems.answer, write(task, prompts, tries, again), 2)
  for k, given in enumerate((tries, again)):
    expected = np.array([right(p, t, *sizes) for p, t in zip(prompts, given)])
    assert 40 < expected.sum() < 1500
    np.testing.assert_array_equal(reward[:, k], expected)


def test_swapped_numbers_and_signs_are_judged_as_python_does():
  task = countdown.make(numbers=2, largest=9)
  problems = draw(task, 1)
  prompt = texts(task, problems.prompt)[0]
  every = [
    f"{a}{sign}{b}={value:02d};" for a in range(10) for b in range(10)
    for sign in "+-*" for value in range(100)
  ]
  answer = rows_of(problems, [0] * len(every)).answer
  both = write(task, [prompt] * len(every), every)
  reward = judge(task, answer, both, 1)[:, 0]
  expected = np.array([right(prompt, text, 2, 1) for text in every])
  assert 0 < expected.sum() < 5
  np.testing.assert_array_equal(reward, expected)
  code = np.asarray(task.final(both, 1))[:, 0]
  assert np.all(code >= 0) and len(set(code.tolist())) == 300


def test_every_problem_can_be_solved(drawn):
  task, problems, *sizes = drawn
  prompts = texts(task, problems.prompt)
  width = sizes[1]
  for prompt in prompts[:50]:
    numbers, target = prompt[:-1].split(">")
    parts = [numbers[i : i + width] for i in range(0, len(numbers), width)]
    reached = {(int(p), tuple(sorted(parts[:i] + parts[i + 1 :])))
               for i, p in enumerate(parts)}
    for _ in parts[1:]:
      reached = {
        (value, rest[:i] + rest[i + 1 :])
        for before, rest in reached
        for i, number in enumerate(rest)
        for value in (before + int(number), before - int(number),
                      before * int(number))
        if 0 <= value <= 99
      }
    assert int(target) in {value for value, _ in reached}


def test_corpus_has_its_probabilities():
  task = countdown.make(numbers=3, largest=9, solved=1.0)
  problems = draw(task, 4096)
  prompts, pairs = texts(task, problems.prompt), halves(task, problems)
  assert all(right(p, a, 3, 1) for p, (a, _) in zip(prompts, pairs))
  second = [right(p, b, 3, 1) for p, (_, b) in zip(prompts, pairs)]
  spoiled = ~np.array(second)
  assert close(spoiled, 0.15)
  for (first, second), is_spoiled in zip(pairs, spoiled):
    places = [i for i in range(task.turn_length) if first[i] != second[i]]
    assert len(places) == is_spoiled and set(places) <= {5, 10}
  task = countdown.make(numbers=3, largest=9, solved=0.0, copied=0.0)
  problems = draw(task, 4096)
  marks = [right(p, a, 3, 1) for p, (a, _) in
           zip(texts(task, problems.prompt), halves(task, problems))]
  assert 0.02 < np.mean(marks) < 0.2  # what luck is worth


def test_levels_count_products(drawn):
  task, problems, count, _ = drawn
  level = np.asarray(task.level(problems))
  assert set(level.tolist()) <= set(range(count)) and len(task.levels) == count
  whole = countdown.make(numbers=3, largest=9, solved=1.0)
  problems = draw(whole, 512)
  found = [text.count("*") for text, _ in halves(whole, problems)]
  np.testing.assert_array_equal(whole.level(problems), found)


def test_malformed_attempts_have_no_final_answer():
  task = countdown.make()
  rows = ["3*5=15+4=19;", "3*5=15+4=19", "3*5=15+4=1;", "345;", "3*5=15+4>19;",
          "3*5=15+4=19;;"]
  final = task.final(write(task, ["354>19:"] * 6, rows), 1)[:, 0]
  np.testing.assert_array_equal(np.asarray(final) >= 0, [1, 0, 0, 0, 0, 0])
  beyond = pack([[99] * 12], [[1] * 12])
  assert task.final(beyond, 1)[0, 0] == -1


@pytest.mark.parametrize("options,message", [
  ({"numbers": 1}, "numbers=1 .*2 or more"),
  ({"largest": 1}, "largest=1 .*2 to 99"),
  ({"largest": 100}, "largest=100 .*2 to 99"),
  ({"numbers": 5, "largest": 99}, "numbers=5 .*lower one"),
  ({"solved": 1.2}, "solved=1.2 .*0 to 1"),
  ({"copied": 0.9, "corrupted": 0.2}, "copied=0.9 .*lower one"),
])
def test_impossible_options_name_the_fix(options, message):
  with pytest.raises(ValueError, match=message):
    countdown.make(**options)
