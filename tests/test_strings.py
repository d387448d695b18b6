"""Strings under constraints against all strings, judged by Python."""

import itertools
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attempt_texts import close, draw, judge, mutated, texts, write

from sitrain.tasks import roles, string_solutions, strings
from sitrain.types import PAD

LONGEST = 4
TASK = strings.make(constraints=(1, 6), longest=LONGEST, mistake=0.0)
LETTERS = "aeiobcdfgh"


def rules_of(prompt):
  """(kind, argument) of each constraint of a prompt."""
  found, rest = [], prompt[:-1]
  while rest:
    size = 3 if rest[0] == "+" else 2
    found.append((rest[0], rest[1:size]))
    rest = rest[size:]
  return found


def meets(kind, argument, text):
  return {
    "#": lambda: len(text) == int(argument),
    "%": lambda: sum(text.count(v) for v in "aeio") == int(argument),
    "+": lambda: argument in text, "^": lambda: text[0] == argument,
    "$": lambda: text[-1] == argument, "-": lambda: argument not in text,
  }[kind]()


def diagnosis(prompt, attempt, longest=LONGEST):
  """What is wrong with an attempt, read as text."""
  text = attempt.removesuffix("<end>")
  formed = text != attempt and 1 <= len(text) <= longest
  if not formed or set(text) - set(LETTERS):
    return "<bad>"
  for k, (kind, argument) in enumerate(rules_of(prompt), 1):
    if not meets(kind, argument, text):
      return f"<bad@{k}>"
  return "<ok>"


@pytest.fixture(scope="module")
def drawn():
  problems = draw(TASK, 1024)
  return problems, texts(TASK, problems.prompt)


def halves(task, problems):
  return np.array([
    [text + "<end>" for text in one.split("<end>")[:2]]
    for one in texts(task, problems.solution)
  ])


def test_solutions_are_counted_as_by_trying_all_strings(drawn):
  problems, prompts = drawn
  count = jax.jit(string_solutions.solutions, static_argnums=1)
  counted = np.asarray(count(problems.answer, LONGEST))
  every = [
    "".join(one) for n in range(1, LONGEST + 1)
    for one in itertools.product(LETTERS, repeat=n)
  ]
  for prompt, count in zip(prompts[:25], counted):
    rules = rules_of(prompt)
    want = sum(
      all(meets(kind, argument, text) for kind, argument in rules)
      for text in every
    )
    assert count == want > 0


def test_the_oracle_draws_every_solution_equally_often(drawn):
  problems, prompts = drawn
  count = jax.jit(string_solutions.solutions, static_argnums=1)
  counts = np.asarray(count(problems.answer, LONGEST))
  pick = int(np.argmax((counts > 20) & (counts < 60)))
  rule = string_solutions.rule_of(problems.answer[pick])
  chance = jax.random.uniform(jax.random.key(3), (6000, LONGEST + 1))
  found = jax.jit(jax.vmap(
    lambda one: string_solutions.sample(
      rule, string_solutions.ways(rule, LONGEST), one
    )
  ))(chance)
  written, seen = np.unique(texts(TASK, found), return_counts=True)
  assert {diagnosis(prompts[pick], one + "<end>") for one in written} == {
    "<ok>"
  }
  assert len(written) == counts[pick]
  mean = 6000 / len(written)
  chi = np.sum((seen - mean) ** 2 / mean)
  assert chi < len(written) + 5 * np.sqrt(2 * len(written))


def test_attempts_are_judged_as_python_does(drawn):
  problems, prompts = drawn
  source = random.Random(0)
  alphabet = [*strings.LETTERS, "#", "<end>", "<bad@1>"]
  tries = []
  for one, _ in halves(TASK, problems):
    text = one
    for _ in range(source.randrange(3)):
      text = mutated(source, text.replace("<end>", "|"), "aeiobcdfgh#|")
      text = text.replace("|", "<end>") or source.choice(alphabet)
    tries.append(text)
  rows = write(TASK, prompts, tries, tries[::-1], again="<retry>")
  reward = judge(TASK, problems.answer, rows, 2)
  right = [diagnosis(p, t) == "<ok>" for p, t in zip(prompts, tries)]
  assert 200 < sum(right) < 900
  np.testing.assert_array_equal(reward[:, 0], right)
  told = strings.make(constraints=(1, 6), longest=LONGEST, feedback="full")
  answered = jax.jit(told.reply)(
    problems.answer, rows, jnp.ones(len(tries), jnp.int32)
  )
  said = texts(TASK, answered.tokens)
  want = [diagnosis(p, t) for p, t in zip(prompts, tries)]
  assert said == [one + "<retry>" for one in want]
  assert {"<bad>", "<bad@1>", "<bad@2>", "<bad@5>"} < set(want)
  np.testing.assert_array_equal(answered.done, right)
  finals = np.asarray(jax.jit(TASK.final, static_argnums=1)(rows, 1))[:, 0]
  code = {}
  for text, final in zip(tries, finals):
    assert (final == -1) == (diagnosis(":", text) == "<bad>")
    assert final == -1 or code.setdefault(text, final) == final
  assert len(set(code.values())) == len(code)


def test_points_are_added_for_constraints_that_hold(drawn):
  problems, prompts = drawn
  dense = strings.make(constraints=(1, 6), longest=LONGEST, point=0.1)
  tries = ["ab<end>", "ab"] * 512
  rows = write(TASK, prompts, tries, again="<retry>")
  verdict = jax.jit(dense.verify, static_argnums=2)(problems.answer, rows, 1)
  formed = np.array([text == "ab<end>" for text in tries])
  points = formed * [
    0.1 * sum(meets(*rule, "ab") for rule in rules_of(p)) for p in prompts
  ]
  right = [diagnosis(p, t) == "<ok>" for p, t in zip(prompts, tries)]
  assert set(verdict.parts) == set(dense.rewards) and any(right)
  np.testing.assert_allclose(verdict.parts["points"][:, 0], points, atol=1e-6)
  np.testing.assert_allclose(
    verdict.reward[:, 0], np.add(points, right), atol=1e-6
  )


def test_the_corpus_has_its_probabilities(drawn):
  problems, prompts = drawn
  pairs = halves(TASK, problems)
  assert all(diagnosis(p, one) == "<ok>" for p, (one, _) in zip(prompts, pairs))
  same = [one == two for one, two in pairs]
  assert 0.1 < np.mean(same)  # copies, and problems of one solution
  text = jnp.array([1, 2, 3, PAD])
  chance = jax.random.uniform(jax.random.key(1), (2000, 5))
  spoil = jax.vmap(lambda c: strings._with_mistakes(text, c, 0.3))
  found = np.asarray(jax.jit(spoil)(chance))
  assert close(np.any(found[:, :2] != text[:2], axis=1), 1 - 0.7**2)
  assert close(found[:, 2] == PAD, 0.3) and np.all(found[:, 3] == PAD)
  assert np.all(np.bincount(found[:, 0])[[0, *range(2, 10)]] > 30)
  level = np.asarray(TASK.level(problems))
  assert [len(rules_of(p)) - 1 for p in prompts] == level.tolist()
  assert close(level == 0, 1 / 6)


def test_a_critic_is_right_where_it_says_what_python_says(critic):
  task, problems, prompts = critic
  mended, tries = 0, []
  for prompt, text in zip(prompts, texts(task, problems.solution)):
    first, said, second, again = re.fullmatch(
      r"(.*?<end>)(<bad.*?>|<ok>)(.*<end>)?(<bad.*?>|<ok>)?", text
    ).groups()
    tries.append(first)
    assert said == diagnosis(prompt, first)
    assert (second is None) == (again is None) == (said == "<ok>")
    mended += second is not None
    assert second is None or again == diagnosis(prompt, second)
  assert 100 < mended < 500
  claims = ["<ok>", "<bad@1>", "<bad@2>", "<bad>", "<ok><ok>", "a<ok>"]
  claims = [claims[b % 6] for b in range(512)]
  rows = write(task, prompts, tries, claims, again="")
  want = [diagnosis(p, t) for p, t in zip(prompts, tries)]
  reward = judge(task, problems.answer, rows, 2)
  np.testing.assert_array_equal(reward[:, 0], [w == "<ok>" for w in want])
  right = [w == claim for w, claim in zip(want, claims)]
  np.testing.assert_array_equal(reward[:, 1], right)
  assert 80 < sum(right) < 300
  reply = jax.jit(task.reply)
  for turn in (1, 2):
    answered = reply(problems.answer, rows, jnp.full(512, turn))
    done = [turn == 2 and claim == "<ok>" for claim in claims]
    np.testing.assert_array_equal(answered.done, done)
    fix = "<fix>" if turn == 2 else ""
    assert texts(task, answered.tokens) == [fix] * 512
  finals = np.asarray(jax.jit(task.final, static_argnums=1)(rows, 2))
  assert np.all(finals[:, 0] == finals[:, 1]) and np.all(finals >= 0)


@pytest.fixture(scope="module")
def critic():
  task = strings.critic(longest=LONGEST, mistake=0.3)
  problems = draw(task, 512)
  return task, problems, texts(task, problems.prompt)


def test_a_role_is_one_token():
  names = roles.names_of("a<", words=("<got>",), parts=2)
  tokenizer = roles.tokenizer(names)
  text = "a<<got><bad@2><bad><end>"
  ids = tokenizer.encode(text)
  assert [names[i] for i in ids] == [
    "a", "<", "<got>", "<bad@2>", "<bad>", "<end>"
  ]
  assert tokenizer.decode([PAD, *ids, PAD]) == text
  assert tokenizer.decode([-7, len(names)]) == "\ufffd" * 2
  with pytest.raises(ValueError, match="no token for 'b' at place 6"):
    tokenizer.encode("<bad>ab")
  with pytest.raises(ValueError, match="repeat one"):
    roles.tokenizer(("a", "a"))


@pytest.mark.parametrize("options,message", [
  ({"constraints": (0, 2)}, "constraints=.* 1 <= fewest"),
  ({"constraints": (2, 7)}, "constraints=.* most <= 6"),
  ({"longest": 8}, "longest=8 .*2 to 7"),
  ({"mistake": 1.2}, "mistake=1.2 .*0 to 1"),
  ({"point": 0.4}, "point=0.4 .*less than 0.333"),
  ({"feedback": "some"}, "feedback='some': choose one of none"),
  ({"copied": 0.9, "corrupted": 0.2}, "copied=0.9 .*lower one"),
])
def test_impossible_options_name_the_fix(options, message):
  with pytest.raises(ValueError, match=message):
    strings.make(**options)
