"""The stack machine against an interpreter in plain Python."""

import itertools
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attempt_texts import close, draw, judge, mutated, texts, write

from sitrain.tasks import stack_machine

TASK = stack_machine.make(instructions=(1, 3), mistake=0.0)
OPTIONS = stack_machine.Options((1, 3), 2, 3, 0.0, 0.1, 0.15)


def run(program, inputs):
  """The stack at the end, or the number of the instruction that failed."""
  stack = list(inputs)
  for k, sign in enumerate(program, 1):
    try:
      if sign == "1":
        stack.append(1)
      elif sign == "d":
        stack.append(stack[-1])
      else:
        top, below = stack.pop(), stack.pop()
        if sign == "s":
          stack += [top, below]
        else:
          stack.append(
            {"+": below + top, "-": below - top, "*": below * top}[sign] % 10
          )
    except IndexError:
      return k
  return stack


def said(prompt, attempt, longest=3):
  """What the interpreter says, from the texts of prompt and attempt."""
  program = attempt.removesuffix("<end>")
  if not re.fullmatch(rf"[-+*ds1]{{1,{longest}}}<end>", attempt):
    return "<bad>"
  for k, example in enumerate(prompt[:-1].split(","), 1):
    inputs, output = example.split(">")
    ended = run(program, map(int, inputs))
    if isinstance(ended, int):
      return f"<empty><bad@{ended}>"
    if len(ended) != 1:
      return f"<left>{len(ended)}<bad>"
    if ended[0] != int(output):
      return f"<got>{ended[0]}<bad@{k}>"
  return "<ok>"


@pytest.fixture(scope="module")
def drawn():
  problems = draw(TASK, 1024)
  return problems, texts(TASK, problems.prompt)


def test_every_program_is_judged_as_python_does(drawn):
  """All strings of up to three, and longer or malformed ones."""
  problems, prompts = drawn
  signs = stack_machine.OPERATIONS
  tries = [
    "".join(one) + "<end>" for n in range(4)
    for one in itertools.product(signs, repeat=n)
  ]
  source = random.Random(0)
  change = lambda text: mutated(
    source, text.replace("<end>", "|"), "+d1|0,"
  ).replace("|", "<end>")
  tries += [change(source.choice(tries[1:])) for _ in range(1024 - len(tries))]
  solved = [text.split("<end>")[0] + "<end>" for text in
            texts(TASK, problems.solution)]
  finals = {}
  told = stack_machine.make(instructions=(1, 3), feedback="full")
  reply, final = jax.jit(told.reply), jax.jit(TASK.final, static_argnums=1)
  seen = set()
  order = np.arange(1024)
  for part, pick in (
    (tries, np.array(source.choices(order, k=1024))),
    (list(map(change, solved)), order),
  ):
    given = [prompts[i] for i in pick]
    rows = write(TASK, given, part, ["sss+<end>"] * 1024, again="<retry>")
    answer = problems.answer[pick]
    want = [said(p, t) for p, t in zip(given, part)]
    right = [w == "<ok>" for w in want]
    reward = judge(TASK, answer, rows, 2)
    np.testing.assert_array_equal(reward[:, 0], right)
    assert not reward[:, 1].any() and sum(right) > 3
    answered = reply(answer, rows, jnp.ones(1024, jnp.int32))
    assert texts(TASK, answered.tokens) == [w + "<retry>" for w in want]
    np.testing.assert_array_equal(answered.done, right)
    seen |= {w[:5] for w in want}
    for text, code in zip(part, np.asarray(final(rows, 1))[:, 0]):
      assert (code == -1) == (said("00>0:", text) == "<bad>")
      assert code == -1 or finals.setdefault(text, code) == code
  assert seen == {"<ok>", "<bad>", "<empt", "<left", "<got>"}
  assert len(set(finals.values())) == len(finals) == 6 + 36 + 216


def test_the_solver_finds_all_programs_and_no_other(drawn):
  problems, prompts = drawn
  every = stack_machine.programs(2, 3)
  written = ["".join(stack_machine.OPERATIONS[i] for i in p) for p in every]
  runs = [
    "".join(one) for n in (1, 2, 3)
    for one in itertools.product(stack_machine.OPERATIONS, repeat=n)
    if isinstance(run(one, [2, 3]), list) and len(run(one, [2, 3])) == 1
  ]
  assert sorted(written) == sorted(runs)
  solve = jax.jit(stack_machine.solve, static_argnums=1)
  found = np.asarray(solve(problems.answer, OPTIONS))
  assert found.any(axis=1).all()
  for prompt, row in zip(prompts[:100], found):
    want = [said(prompt, text + "<end>") == "<ok>" for text in written]
    np.testing.assert_array_equal(row, want)


def test_the_corpus_has_its_probabilities(drawn):
  problems, prompts = drawn
  pairs = [
    [half + "<end>" for half in text.split("<end>")[:2]]
    for text in texts(TASK, problems.solution)
  ]
  assert {said(p, one) for p, (one, _) in zip(prompts, pairs)} == {"<ok>"}
  changed = [
    sum(a != b for a, b in zip(one, two, strict=True)) for one, two in pairs
  ]
  assert set(changed) == {0, 1} and close(np.array(changed) == 1, 0.15)
  level = np.asarray(TASK.level(problems))
  lengths = [len(one.removesuffix("<end>")) - 1 for one, _ in pairs]
  assert level.tolist() == lengths
  assert all(close(level == k, 1 / 3) for k in range(3))
  program = jnp.array([3, 0, -1])
  chance = jnp.arange(1000.0) / 1000
  other = jax.jit(jax.vmap(
    lambda c: stack_machine._other(program, jnp.array([1, 0, 1], bool), c)
  ))(chance)
  assert np.bincount(other[:, 0]).tolist() == [200, 200, 200, 0, 200, 200]
  assert np.all(other[:, 1:] == program[1:])


def test_a_critic_is_right_where_it_says_what_the_interpreter_says():
  task = stack_machine.critic(
    instructions=(2, 3), inputs=1, examples=2, mistake=0.3
  )
  problems = draw(task, 512)
  prompts = texts(task, problems.prompt)
  tries, claims = [], []
  kinds = set()
  for b, text in enumerate(texts(task, problems.solution)):
    first, rest = text.split("<end>", 1)
    first += "<end>"
    want = said(prompts[b], first)
    kinds.add(want[:5])
    assert rest.startswith(want) and (want == "<ok>") == (rest == want)
    if want != "<ok>":
      second, last = rest[len(want) :].split("<end>")
      assert last == said(prompts[b], second + "<end>")
    tries.append(first)
    others = ["<ok>", "<got>1<bad@1>", "<bad>"]
    claims.append(want if b % 3 else others[b % 9 // 3])
  assert kinds > {"<ok>", "<left", "<got>"}
  rows = write(task, prompts, tries, claims, again="")
  reward = judge(task, problems.answer, rows, 2)
  want = [said(p, t) for p, t in zip(prompts, tries)]
  np.testing.assert_array_equal(reward[:, 0], [w == "<ok>" for w in want])
  right = [w == c for w, c in zip(want, claims)]
  np.testing.assert_array_equal(reward[:, 1], right)
  assert 0 < 512 - sum(right) < 180


def test_a_turn_of_a_critic_has_room_for_every_critique():
  assert stack_machine.critic(instructions=(1, 1)).turn_length == 3
  assert stack_machine.critic(instructions=(1, 4)).turn_length == 5


@pytest.mark.parametrize("options,message", [
  ({"instructions": (0, 2)}, "instructions=.* 1 <= fewest"),
  ({"instructions": (1, 6)}, "instructions=.* most <= 5"),
  ({"inputs": 1}, "no program of 1 turns 1 inputs"),
  ({"inputs": 5}, "inputs=5: use 1 to 4"),
  ({"examples": 0}, "examples=0: use 1 to 9"),
  ({"mistake": -0.1}, "mistake=-0.1 .*0 to 1"),
  ({"feedback": "all"}, "feedback='all': choose one of none"),
])
def test_impossible_options_name_the_fix(options, message):
  with pytest.raises(ValueError, match=message):
    stack_machine.make(**options)
