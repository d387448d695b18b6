"""Questions about facts against a dict and regular expressions."""

import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attempt_texts import close, draw, judge, mutated, texts, write

from sitrain.rollout import contexts
from sitrain.tasks import fact_search, facts
from sitrain.types import PAD

SIZE = dict(entities=5, relations=3)
TASK = facts.make(**SIZE, split="all")
KNOWN = {
  facts.ENTITIES[e] + facts.RELATIONS[r]: facts.ENTITIES[value]
  for (e, r), value in np.ndenumerate(facts.facts_of(5, 3, 0))
}


def solve(prompt):
  """The answer, one look-up a hop."""
  entity = prompt[0]
  for relation in prompt[1:-1]:
    entity = KNOWN[entity + relation]
  return entity


def searches(text):
  """The searches and the answer of a well-formed attempt, else None."""
  formed = re.fullmatch(r"((?:\?[A-Z][a-h]=[A-Z]){0,2})>([A-Z])<end>", text)
  return formed and (re.findall(r"(..)=(.)", formed[1]), formed[2])


def diagnosis(prompt, text):
  if not (read := searches(text)):
    return "<bad>"
  if read[1] == solve(prompt):
    return "<ok>"
  wrong = [k for k, (key, v) in enumerate(read[0], 1) if KNOWN.get(key) != v]
  return f"<bad@{wrong[0]}>" if wrong else "<bad>"


@pytest.fixture(scope="module")
def drawn():
  problems = draw(TASK, 2048)
  return problems, texts(TASK, problems.prompt)


def halves(task, problems):
  return [
    [half + "<end>" for half in text.split("<end>")[:2]]
    for text in texts(task, problems.solution)
  ]


def test_attempts_are_judged_as_a_dict_does(drawn):
  problems, prompts = drawn
  source, tries = random.Random(0), []
  for k, (one, _) in enumerate(halves(TASK, problems)):
    change = source.randrange(3)
    text = one.replace("<end>", "|")
    for _ in range(change):
      text = mutated(source, text, "ABZabh?=>|") or "|"
    tries.append(text.replace("|", "<end>"))
    if k % 5 == 0:
      tries[-1] = f">{source.choice('ABCDE')}<end>"
    if k % 17 == 0:
      tries[-1] = "?Aa=B" * 3 + tries[-1]
  rows = write(TASK, prompts, tries, tries[::-1], again="<retry>")
  want = [diagnosis(p, t) for p, t in zip(prompts, tries)]
  right = np.array([w == "<ok>" for w in want])
  assert set(want) == {"<ok>", "<bad>", "<bad@1>", "<bad@2>"}
  reward = judge(TASK, problems.answer, rows, 2)
  np.testing.assert_array_equal(reward[:, 0], right)
  back = [diagnosis(p, t) == "<ok>" for p, t in zip(prompts, tries[::-1])]
  np.testing.assert_array_equal(reward[:, 1], back)
  told = facts.make(**SIZE, split="all", feedback="full", form=0.25)
  said = jax.jit(told.reply)(problems.answer, rows, jnp.ones(2048, jnp.int32))
  assert texts(TASK, said.tokens) == [w + "<retry>" for w in want]
  np.testing.assert_array_equal(said.done, right)
  verdict = jax.jit(told.verify, static_argnums=2)(problems.answer, rows, 1)
  read = [searches(text) for text in tries]
  formed = np.array([
    bool(r) and len(r[0]) == len(p) - 2 for r, p in zip(read, prompts)
  ])
  np.testing.assert_allclose(verdict.reward[:, 0], 0.75 * right + 0.25 * formed)
  assert set(verdict.parts) == set(told.rewards)
  assert 100 < np.sum(formed & right) < np.sum(right)
  final = np.asarray(jax.jit(TASK.final, static_argnums=1)(rows, 1))[:, 0]
  ids = [TASK.tokenizer.encode(r[1])[0] if r else -1 for r in read]
  np.testing.assert_array_equal(final, ids)


def test_splits_share_no_question_of_two_hops():
  train, test, every = (
    {tuple(q) for q in facts.questions(5, 3, 0, 0.25, split).tolist()}
    for split in ("train", "test", "all")
  )
  assert len(test) == round(0.25 * 45) and not train & test
  assert train | test == every and len(every) == 45
  held = facts.make(**SIZE, split="test")
  problems = draw(held, 512)
  posed = {tuple(q) for q in problems.answer[:, 1:4].tolist()}
  assert posed == test and np.all(held.level(problems) == 1)


def test_the_corpus_has_its_probabilities(drawn):
  problems, prompts = drawn
  level = np.asarray(TASK.level(problems))
  assert [len(p) - 3 for p in prompts] == level.tolist()
  assert close(level, 0.5)
  assert {p for p in prompts if len(p) == 3} == {key + ":" for key in KNOWN}
  steps, alone, firsts = [], [], halves(TASK, problems)
  for prompt, (one, _) in zip(prompts, firsts):
    found, answer = searches(one)
    if not found:
      alone.append(answer != solve(prompt))
      continue
    entity = prompt[0]
    for relation, (key, value) in zip(prompt[1:-1], found, strict=True):
      assert key == entity + relation
      steps.append(value != KNOWN[key])
      entity = value
    assert answer == entity
  assert close([bool(searches(one)[0]) for one, _ in firsts], 0.5)
  assert close(steps, 0.15) and close(alone, 0.15)
  pure = facts.make(**SIZE, mistake=0.0, searched=1.0, copied=0.0)
  posed = draw(pure, 1024)
  pairs = halves(pure, posed)
  given = texts(pure, posed.prompt)
  assert all(solve(p) == one[-6] for p, (one, _) in zip(given, pairs))
  assert close([one != two for one, two in pairs], 0.15)
  assert all(one[:-6] == two[:-6] for one, two in pairs)


def test_a_search_reads_what_the_dict_has():
  task = fact_search.make(**SIZE, mistake=0.3)
  problems = draw(task, 512)
  prompts = texts(task, problems.prompt)
  rows = jax.jit(lambda posed: contexts.given(
    posed, reply=task.reply, turns=(4, 4, 3), eos=task.eos
  ))(problems)
  reward = judge(task, problems.answer, rows, 3)
  finals = np.asarray(jax.jit(task.final, static_argnums=1)(rows, 3))
  tokens, turn = np.asarray(rows.tokens), np.asarray(rows.turn)
  for b, prompt in enumerate(prompts):
    text = task.tokenizer.decode(tokens[b][turn[b] != PAD])
    found, answer = searches(text.removeprefix(prompt))
    hops = len(prompt) - 2
    assert len(found) == hops and found[-1][1] == answer
    assert all(KNOWN[key] == value for key, value in found)
    # What was read is marked as given.
    assert turn[b][turn[b] != PAD][hops + 2 :].tolist() == [
      k for hop in range(1, hops + 1) for k in (*[hop] * 4, 0)
    ] + [hops + 1] * 3
    assert set(reward[b]) == {float(answer == solve(prompt))}
    want = [-1] * hops + [facts.ENTITIES.index(answer), -1]
    assert finals[b].tolist() == want[:3]
  right = reward[:, 0].mean()
  assert 0.5 < right < 0.9
  turns = [
    "?Aa=", "?Zz=", "?Ah=", "Aa=", "??a=", ">A<end>", "?Aa", "?Aab=", "?Aa=B"
  ]
  every = [turn for turn in turns if "z" not in turn] * 2
  rows = write(task, ["Aa:"] * len(every), every, again="")
  said = jax.jit(task.reply)(
    problems.answer[: len(every)], rows, jnp.ones(len(every), jnp.int32)
  )
  want = [KNOWN.get(t[1:3], "<bad>") if re.fullmatch(r"\?..=", t) else "<bad>"
          for t in every]
  assert texts(task, said.tokens) == want
  assert said.done.tolist() == ["<end>" in turn for turn in every]


@pytest.mark.parametrize("maker", [facts.make, fact_search.make])
@pytest.mark.parametrize("options,message", [
  ({"entities": 27}, "entities=27: use 2 to 26"),
  ({"relations": 1}, "relations=1: use 2 to 8"),
  ({"split": "dev"}, "split='dev': choose one of all"),
  ({"held_out": 1.0}, "held_out=1.0 leaves no question"),
  ({"held_out": 0.0, "split": "test"}, "held_out=0.0 leaves no question"),
  ({"mistake": 1.5}, "mistake=1.5 .*0 to 1"),
])
def test_impossible_options_name_the_fix(maker, options, message):
  with pytest.raises(ValueError, match=message):
    maker(**options)
