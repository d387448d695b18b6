"""Written searches of Countdown, replayed by an interpreter of their text."""

import itertools
import random
import re

import numpy as np
import pytest
from attempt_texts import judge, mutated, rows_of, texts, write

from sitrain.configs import backtracking, four_habits
from sitrain.evaluate import behaviours, compute
from sitrain.rollout import contexts
from sitrain.tasks import countdown_habits as writer
from sitrain.tasks import countdown_traces
from sitrain.tasks.countdown_habits import HABITS, Style

MADE = {
  "direct": {"habits": ""},
  "search": {"habits": "backtracking"},
  "unpruned": {"habits": "backtracking", "prune": False},
  "shuffled": {"habits": "backtracking,verification", "order": "random"},
  "think": {"habits": "backtracking", "skip": True},
  "backward": {"habits": "backtracking,backward,verification"},
  "all": {"habits": ",".join(HABITS)},
  "at_once": {"habits": "verification,subgoals"},
  "undone": {"habits": "verification,backward"},
  "wrong": {"habits": ",".join(HABITS), "right": 0.0},
  "four": {"habits": ",".join(HABITS), "numbers": 4, "length": 200},
}
TOKEN = re.compile(r" \d+|<\w+>|[-+*=.]")


def value_of(left, sign, right):
  return eval(f"{left}{sign}{right}")


def brute_force(numbers, target):
  """Texts of all lines from left to right that meet the target in range.

  The larger number stands first, where the first step is a sum or a product.
  """
  found = set()
  for order in itertools.permutations(numbers):
    for signs in itertools.product("+-*", repeat=len(numbers) - 1):
      values = list(itertools.accumulate(
        zip(signs, order[1:]), lambda v, step: value_of(v, *step),
        initial=order[0],
      ))
      fits = min(values) >= 0 and max(values) <= 99
      if fits and values[-1] == target and order[0] >= order[1]:
        steps = zip(signs, order[1:], values[1:])
        found.add(f" {order[0]}" + "".join(
          f"{sign} {number}= {value}" for sign, number, value in steps
        ))
  return found


class Replay:
  """Reads a search token by token; raises AssertionError for what is untrue."""

  def __init__(self, numbers, target):
    self.rest, self.goal, self.value = list(numbers), target, None
    self.target, self.undone, self.steps = target, [], []
    self.stack, self.tried, self.goals = [], set(), []

  def push(self, name, used):
    place = tuple(one for one, *_ in self.stack)
    assert (place, name) not in self.tried, f"{name} is tried again"
    self.tried.add((place, name))
    self.stack.append((
      name, list(self.rest), self.goal, self.value, list(self.undone),
      list(self.steps),
    ))
    for number in used:
      self.rest.remove(number)

  def step(self, left, sign, right, value):
    assert value_of(left, sign, right) == value and 0 <= value <= 99
    first = self.value is None
    used = [left, right] if first else [right]
    assert first or left == self.value
    self.push((left, sign, right), used)
    if len(self.rest) == 1 and self.goals:
      (last,) = self.rest
      ways = [value_of(self.goals[-1], s, last) for s in "+-*"]
      assert self.target in ways
    self.value = value
    self.steps.append((left, sign, right, value))

  def undo(self, start, sign, number):
    assert self.value is None and value_of(start, sign, number) == self.goal
    self.push((start, sign, number), [number])
    self.goal = start
    self.undone.append((sign, number))

  def back(self):
    _, self.rest, self.goal, self.value, self.undone, self.steps = (
      self.stack.pop()
    )

  def line(self):
    """The text of the whole line at this place; steps undone are done again."""
    assert not self.rest
    steps, value = list(self.steps), self.value
    for sign, number in reversed(self.undone):
      after = value_of(value, sign, number)
      steps.append((value, sign, number, after))
      value = after
    return f" {steps[0][0]}" + "".join(
      f"{sign} {number}= {after}" for _, sign, number, after in steps
    )


def replayed(prompt, text):
  """(the lines that a trace has tried, its answer), all of it checked."""
  *numbers, target = map(int, re.findall(r"\d+", prompt))
  trace, answer = re.fullmatch(r"(.*)<answer>(.*)<end>", text).groups()
  tokens, at = TOKEN.findall(trace), 0
  assert "".join(tokens) == trace
  reader, lines = Replay(numbers, target), []
  number = lambda i: int(tokens[i])
  while at < len(tokens):
    token = tokens[at]
    if token == "<back>":
      reader.back()
    elif token in ("<yes>", "<no>"):
      assert (token == "<yes>") == (reader.value == reader.goal)
      assert not reader.rest
    elif token == "<goal>":
      reader.goals.append(number(at + 1))
      at += 1
    elif token == "<from>":
      reader.undo(number(at + 1), tokens[at + 2], number(at + 3))
      at += 3
    else:
      start = at if token in "+-*" else at + 1
      left = reader.value if start == at else number(at)
      assert tokens[start + 2] == "="
      reader.step(left, tokens[start], number(start + 1), number(start + 3))
      at = start + 3
      if not reader.rest:
        lines.append(reader.line())
    at += 1
  if tokens:
    line = reader.line()
    assert answer == line or reader.value != reader.goal, "not the last line"
  return lines, answer


@pytest.fixture(scope="module", params=MADE, ids=str)
def made(request):
  options = {"rows": 32, "length": 128} | MADE[request.param]
  task = countdown_traces.make(**options)
  prompts = texts(task, task.table.prompt)
  return request.param, task, prompts, texts(task, task.table.solution)


def test_traces_are_true_and_their_answers_right_by_brute_force(made):
  name, task, prompts, solutions = made
  episodes = contexts.given(
    task.table, reply=task.reply, turns=(task.table.solution.shape[1],),
    eos=task.eos,
  )
  reward = judge(task, task.table.answer, episodes, 1)[:, 0]
  lengths = []
  for prompt, text, row, paid in zip(
    prompts, solutions, task.table.answer, reward
  ):
    *numbers, target = map(int, re.findall(r"\d+", prompt))
    right = brute_force(numbers, target)
    lines, answer = replayed(prompt, text)
    assert row[-1] == len(right) and sorted(numbers) == row[:-2].tolist()
    assert (answer in right) == (name != "wrong") == (paid == 1)
    assert paid in (1, np.float32(0.1))
    assert all(line not in right for line in lines[:-1])
    assert len(set(lines)) == len(lines)
    lengths.append(len(lines))
  few = {"direct": 0, "at_once": 1, "undone": 1, "think": 1}
  assert np.mean(lengths) == few.get(name, pytest.approx(4, abs=3))
  tries = [line for text in solutions for line in re.findall("<from>", text)]
  assert bool(tries) == (name in ("backward", "all", "undone", "wrong", "four"))


def test_pruning_loses_no_solution_and_misses_no_line():
  source = random.Random(1)
  boards = countdown_traces.boards(3, 9, "train", source)
  for board in itertools.islice(boards, 25):
    lines = {"".join(writer.written(x)) for x in writer.lines_of(board)}
    assert lines == brute_force(*board)
    for tries in (writer.forward, writer.backward):
      for prune, skip in itertools.product((True, False), repeat=2):
        style = Style(("backtracking",), "random", prune, skip)
        every = ["".join(writer.written(line)) for _, line in
                 tries(board, style, source, True)]
        assert lines == {x for x in every if x.endswith(f"= {board.target}")}
        assert len(set(every)) == len(every)


def test_corpora_of_all_arms_have_the_same_boards_and_as_many_tokens():
  tables = {}
  for arm, options in four_habits.ARMS.items():
    options = backtracking.TASK | options | {"rows": 96}
    options.pop("name")
    tables[arm] = countdown_traces.make(**options).table
  for arm, table in tables.items():
    if arm == "none":
      continue
    config = four_habits.get_config(arm)
    assert config.stages == ("base", "prime", "rl")
    tokens = (table.solution >= 0).sum() / 96
    rows = config.stage.prime.method.problems
    assert rows * tokens == pytest.approx(four_habits.TOKENS, rel=0.2), arm
  same = [tables[arm] for arm in ("all", "dots")]
  np.testing.assert_array_equal(same[0].prompt, same[1].prompt)
  counts = [(table.solution >= 0).sum(axis=1) for table in same]
  np.testing.assert_array_equal(*counts)
  dotted = countdown_traces.ID["."]
  assert {dotted} == set(same[1].solution[0][: counts[0][0] - 11].tolist())
  ends = [row[n - 11 : n] for row, n in zip(same[0].solution, counts[0])]
  np.testing.assert_array_equal(
    ends, [row[n - 11 : n] for row, n in zip(same[1].solution, counts[0])]
  )
  long = {arm: np.mean((t.solution >= 0).sum(axis=1))
          for arm, t in tables.items()}
  assert abs(long["no_positive"] - long["all"]) < 6
  options = backtracking.TASK | {"part": "test", "rows": 64}
  options.pop("name")
  unseen = countdown_traces.make(**options).table
  keys = lambda table: {tuple(row) for row in table.answer.tolist()}
  assert not any(keys(unseen) & keys(table) for table in tables.values())


def test_no_positive_has_the_habits_without_a_right_line():
  counts = {}
  for name in ("all", "wrong"):
    task = countdown_traces.make(**MADE[name] | {"rows": 96, "length": 64})
    counts[name] = behaviours.means(texts(task, task.table.solution))
  for habit, count in counts["all"].items():
    assert count > 0.1
    assert counts["wrong"][habit] == pytest.approx(count, rel=0.8), habit


def test_answers_are_judged_as_python_does():
  task = countdown_traces.make(rows=150, habits="backtracking")
  prompts = texts(task, task.table.prompt)
  source, tries = random.Random(0), []
  for text in texts(task, task.table.solution):
    trace, answer = text.split("<answer>")
    letters = [["<end>"], ["+"], [" 7"], ["="]]
    changed = mutated(source, TOKEN.findall(answer), letters)
    tries.append(trace + "<answer>" + "".join(changed))
  expected = []
  for prompt, text in zip(prompts, tries):
    numbers = [int(x) for x in re.findall(r"\d+", prompt)]
    shape = r"[^;]*<answer>( \d+)([-+*] \d+= \d+){2}<end>"
    fits = re.fullmatch(shape, text) and text.count("<end>") == 1
    answer = text.split("<answer>")[1]
    start, *steps = re.split(r"(?=[-+*])", answer.replace("<end>", ""))
    value = int(start) if fits else -1
    right, used = bool(fits), [value]
    for step in steps if fits else ():
      number, written = map(int, re.findall(r"\d+", step))
      right &= value_of(value, step[0], number) == written
      used.append(number)
      value = written
    right = right and sorted(used) == sorted(numbers[:3])
    right = right and value == numbers[3]
    expected.append(1.0 if right else 0.1 if fits else 0.0)
  assert {0.0, 1.0, 0.1} == set(expected)
  twice = write(task, prompts, tries, tries, again="<retry>")
  reward = judge(task, task.table.answer, twice, 2)
  np.testing.assert_allclose(reward, np.stack([expected] * 2, axis=1))
  code = np.asarray(task.final(twice, 1))[:, 0]
  np.testing.assert_array_equal(code >= 0, np.array(expected) > 0)


def test_only_the_one_answer_counts():
  task = countdown_traces.make(rows=1)
  line = "<answer> 5* 3= 15+ 4= 19"
  given = [
    f"{line}<end>", f" 1+ 1= 7<back>{line}<end>", f"{line}{line}<end>",
    f"{line}", " 5* 3= 15+ 4= 19<end>", f"{line}<end><end>",
    "<answer> 5* 3= 15* 4= 60<end>", "<answer> 4+ 15= 19+ 0= 19<end>",
    "<answer> 3* 5= 15+ 4= 19<end>", "<answer> 5* 3= 16+ 4= 19<end>",
  ]
  rows = write(task, [" 3 5 4> 19:"] * len(given), given, again="<retry>")
  answer = np.array([[3, 4, 5, 19, 1]] * len(given))
  reward = judge(task, answer, rows, 1)[:, 0]
  np.testing.assert_allclose(reward, [1, 1, 0, 0, 0, 0, 0.1, 0.1, 1, 0.1])
  assert len(rows_of(task.table, [0]).prompt) == 1


@pytest.mark.parametrize("options,message", [
  ({"numbers": 5}, "numbers=5 .*2 to 4"),
  ({"largest": 26}, "largest=26 .*2 to 25"),
  ({"habits": "verify"}, "habits=verify: .*verification"),
  ({"order": "sorted"}, "order=sorted: .*fixed, random"),
  ({"part": "dev"}, "part=dev: .*train, test"),
  ({"length": 20}, "length=20 .*22 or more"),
  ({"rows": 0}, "rows=0"),
  ({"right": 1.5}, "right=1.5 .*0 to 1"),
  ({"formed": 1.0}, "formed=1: set it below 1"),
])
def test_impossible_options_name_the_fix(options, message):
  with pytest.raises(ValueError, match=message):
    countdown_traces.make(**options)


def test_compute_by_hand():
  # Two tokens are read and one written: positions 1 and 2 are computed.
  sizes = {"params": 10, "layers": 2, "width": 3}
  slow = sum(2 * 10 + 4 * 2 * 3 * seen for seen in (1, 2))
  assert compute.generation_flops(2, 1, **sizes) == slow
  right = np.array([[1.0, 0, 1], [0, 0, 1]])
  count = np.array([[3, 9, 5], [2, 2, 4]])
  rows = compute.by_budget(right, count, (3, 4, 9), prompt=2, **sizes)
  assert [r["accuracy"] for r in rows] == pytest.approx([1 / 6, 2 / 6, 3 / 6])
  assert rows[0]["tokens"] == pytest.approx((3 + 3 + 3 + 2 + 2 + 3) / 6)
  costs = [
    compute.generation_flops(2, n, **sizes) for n in count.reshape(-1).tolist()
  ]
  assert rows[2]["flops"] == pytest.approx(np.mean(costs))
  best = compute.by_samples(right, count, (1, 2, 3), prompt=2, **sizes)
  assert [r["accuracy"] for r in best] == pytest.approx([0.5, 5 / 6, 1.0])
  assert best[1]["flops"] == pytest.approx(2 * rows[2]["flops"])
  assert best[2]["tokens"] == pytest.approx(3 * count.mean())
  assert compute.jaccard({1, 2, 3}, {2, 3, 4}) == 0.5
  assert np.isnan(compute.jaccard(set(), set()))
