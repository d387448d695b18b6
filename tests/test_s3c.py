"""S3c: chains that take values back, and wrong steps in right solutions."""

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.curate import splices
from sitrain.curate.segments import step_numbers
from sitrain.methods import s3c
from sitrain.rollout import branches, contexts
from sitrain.rollout.play import row_keys
from sitrain.tasks import chain
from sitrain.types import (
  GIVEN,
  PAD,
  ROOT,
  Episodes,
  Problems,
  TrainState,
  Verdict,
)

TASK = chain.mending(operations=(2, 3), modulus=10)
IDS = TASK.tokenizer.encode
OPERATIONS = {"+": 1, "-": -1}
CASES = [("3+4*2=", "74"), ("9-5+3-8=", "479"), ("2*3-7=", "69")]
ENDS = tuple(range(10))


def due(prompt, step, before):
  """The value of a step, from 0 on, behind the value before it, or None."""
  if 2 * step + 1 >= len(prompt) - 1:
    return None
  operator, operand = prompt[2 * step + 1], int(prompt[2 * step + 2])
  if operator == "*":
    return before * operand % 10
  return (before + OPERATIONS[operator] * operand) % 10


def read(prompt, tokens):
  """(right, final or -1, slips, mended, doubted) of an attempt, by hand."""
  stack, values, fits = [], [], True
  for t, token in enumerate(tokens[:-1]):
    if token.isdigit():
      before = stack[-1] if stack else int(prompt[0])
      right = int(token) == due(prompt, len(stack), before)
      values.append((t, right, tokens[t + 1] == "<fix>"))
      stack.append(int(token))
    elif token == "<fix>" and t and tokens[t - 1].isdigit():
      stack.pop()
    else:
      fits = False
  ended = tokens[-1:] == ["<end>"] and "<end>" not in tokens[:-1]
  if tokens[-1:] and tokens[-1].isdigit():
    before = stack[-1] if stack else int(prompt[0])
    right = int(tokens[-1]) == due(prompt, len(stack), before)
    values.append((len(tokens) - 1, right, False))
  # Of what is too long no more than 11 tokens are looked at.
  values = [(t, right, gone and t < 10) for t, right, gone in values if t < 11]
  at = {t: right for t, right, _ in values}
  good = lambda of: np.mean(of) if of else np.nan
  shares = (
    good([not right for _, right, _ in values]),
    good([gone and at.get(t + 2, False) for t, right, gone in values
          if not right]),
    good([gone for _, right, gone in values if right]),
  )
  fits &= ended and 0 < len(stack) <= 3 and len(tokens) <= 10
  steps = (len(prompt) - 2) // 2
  value = int(prompt[0])
  for k in range(steps):
    value = due(prompt, k, value)
  right = fits and len(stack) == steps and stack[-1] == value
  return right, stack[-1] if fits else -1, *shares


def texts(count):
  """(prompt, tokens): right values, wrong ones, marks, and what is neither."""
  rng, found = np.random.default_rng(0), []
  while len(found) < count:
    prompt, _ = CASES[rng.integers(len(CASES))]
    tokens, value = [], int(prompt[0])
    for k in range((len(prompt) - 2) // 2):
      value = due(prompt, k, value)
      while rng.random() < 0.3:
        tokens += [str(rng.integers(10)), "<fix>"]
      tokens.append(str(value if rng.random() < 0.8 else rng.integers(10)))
    tokens.append("<end>")
    if rng.random() < 0.3:
      junk = rng.choice(["<fix>", "<bad>", "7", "<end>"])
      tokens.insert(rng.integers(len(tokens) + 1), str(junk))
    if rng.random() < 0.1:
      tokens = tokens[: rng.integers(1, len(tokens))]
    found.append((prompt, tokens))
  return found


def answer_of(prompt):
  """Value, number of operations, operands and operators, as the task has it."""
  numbers = [int(x) for x in prompt[:-1:2]]
  signs = [chain.ALPHABET.index(x) for x in prompt[1:-1:2]]
  value = numbers[0]
  for k in range(len(signs)):
    value = due(prompt, k, value)
  fill = lambda x, n: [*x, *[PAD] * (n - len(x))]
  return [value, len(signs), *fill(numbers, 4), *fill(signs, 3)]


def test_values_are_taken_back_as_python_does():
  given = texts(400)
  rows = fakes.pack([
    fakes.transcribe(
      IDS(prompt), [sum(map(IDS, tokens), []), IDS("0<end>")], [IDS("<retry>")]
    ) for prompt, tokens in given
  ])
  answer = jnp.asarray([answer_of(prompt) for prompt, _ in given], jnp.int32)
  judge = jax.jit(lambda *a: (TASK.verify(*a, 2), TASK.final(a[1], 2)))
  verdict, final = judge(answer, rows)
  want = [read(prompt, tokens) for prompt, tokens in given]
  right, value, *shares = map(np.array, zip(*want))
  np.testing.assert_array_equal(verdict.reward[:, 0] > 0, right)
  np.testing.assert_array_equal(final[:, 0], value)
  names = ("slips", "mended", "doubted")
  for name, share in zip(names, shares, strict=True):
    np.testing.assert_allclose(verdict.parts[name][:, 0], share, rtol=1e-5)
  assert set(verdict.parts) == set(TASK.rewards)
  # What is seen in these texts: each kind, often.
  assert 40 < right.sum() < 360 and 20 < np.sum(value < 0) < 380
  assert np.sum(shares[1] == 1) > 20 and np.sum(shares[2] > 0) > 20


def solutions():
  """(problems, rows): two of each case, of which the second ends wrongly."""
  prompts = [IDS(prompt) for prompt, _ in CASES]
  width = max(map(len, prompts))
  problems = Problems(
    jnp.asarray([[PAD] * (width - len(p)) + p for p in prompts], jnp.int32),
    jnp.asarray([answer_of(prompt) for prompt, _ in CASES], jnp.int32),
    jnp.full((3, 1), PAD),
  )
  rows = fakes.pack([
    fakes.transcribe(IDS(prompt), [IDS(text + "<end>")], [])
    for prompt, right in CASES for text in (right, right[:-1] + "1")
  ], problem=[0, 0, 1, 1, 2, 2])
  return problems, rows


def spliced_by_loop(text, step, wrong):
  """The tokens of a solution with a wrong step and its mark, and weights."""
  before, after = text[: step - 1], text[step - 1 :]
  tokens = IDS(before) + IDS(wrong) + IDS("<fix>") + IDS(after + "<end>")
  weights = [1] * len(before) + [0] * len(wrong) + [1] * (len(after) + 2)
  return tokens, weights


# (row of a solution, step, what the policy wrote in its place)
TRIES = [
  (0, 1, "5"), (0, 1, "7"), (1, 1, "5"), (1, 2, "3"), (2, 2, "7"),
  (2, 3, "0"), (3, 1, "2"), (3, 1, "4"), (4, 1, "6"), (4, 3, "<end>"),
  (5, 1, "1"), (5, 2, "2"),
]


def tried(rows, *, rollouts=()):
  """Rows "step": a prefix of a solution and another step, behind it."""
  found = []
  for n, (b, step, wrong) in enumerate(TRIES):
    prompt, right = CASES[b // 2]
    begun = IDS(prompt) + IDS(right[: step - 1])
    for rest in rollouts[n] if rollouts else [""]:
      turns = [IDS(wrong)] + ([IDS(rest)] if rest else [])
      found.append(fakes.transcribe(begun, turns, [[]]))
  each = len(found) // len(rows.problem)
  return fakes.pack(found, problem=np.repeat(np.asarray(rows.problem), each))


@pytest.mark.parametrize("weight, share", [(0.0, 1.0), (0.5, 1.0), (0.0, 0.0)])
def test_wrong_steps_stand_before_the_right_ones(weight, share):
  problems, solve = solutions()
  method = s3c.make(
    fakes.SILENT, TASK, None, problems=3, samples=2, turns=(10,), tries=2,
    wrong=weight, share=share,
  )
  rows = {"solve": solve, "step": tried(solve)}
  verdicts, metrics = method.judge(None, None, problems, rows)
  batch, named = jax.jit(lambda *a: method.curate(jax.random.key(0), None, *a))(
    problems, rows, verdicts
  )
  assert metrics["judge/reward_1"].total == 3
  # Of rows 0, 2 and 4, which are right, the try that is wrong.
  wrong = {0: [(1, "5")], 2: [(3, "0")], 4: []}
  for b in range(6):
    mask = np.asarray(batch.mask[b])
    if b % 2:
      assert not mask.any()
      continue
    prompt, right = CASES[b // 2]
    tokens = fakes.strip(batch.tokens[b])[len(prompt) :]
    weights = np.asarray(batch.targets.weight[b] * mask)[len(prompt) :]
    choices = [spliced_by_loop(right, *x) for x in wrong[b] if share]
    choices = choices or [(IDS(right + "<end>"), [1] * (len(right) + 1))]
    wanted = [
      (text, [x if x else weight for x in each]) for text, each in choices
    ]
    found = tokens, weights[: len(tokens)].tolist()
    assert found in wanted
    assert not mask[: len(prompt)].any() and mask.sum() == np.sum(weights > 0)
  assert named["curate/kept"].total == 3
  assert named["curate/spliced"].total == (2 if share else 0)


def test_a_step_is_wrong_if_all_that_follows_it_fails():
  """Nor is one that cannot be judged, or a copy of the solution's step."""
  problems, solve = solutions()
  rows = tried(solve, rollouts=[["0<end>", "49<end>"]] * len(TRIES))
  reward, known = np.zeros((24, 1), np.float32), np.ones((24, 1), np.float32)
  reward[1] = 1.0  # the second continuation of try 0
  known[10] = 0.0  # the first one of try 5
  taken = set()
  for seed in range(12):
    found = splices.sampled(
      jax.random.key(seed), problems, solve, rows,
      Verdict(jnp.asarray(reward), jnp.asarray(known)), names=(), tries=2,
      ends=ENDS, limit=1, eos=TASK.eos,
    )
    taken |= {
      (b, int(found.number[b]), int(found.tokens[b, 0]))
      for b in range(6) if found.found[b]
    }
  assert taken == {
    (b, step, IDS(wrong)[0]) for n, (b, step, wrong) in enumerate(TRIES)
    if n not in (0, 5) and own_step(b, step) != IDS(wrong)[0]
  }
  assert len(taken) == 5


def test_a_step_that_ends_the_turn_is_not_spliced():
  """In generation nothing stands behind it, so it cannot be taken back."""
  problems, solve = solutions()
  rows = fakes.pack([
    fakes.transcribe(IDS(CASES[b // 2][0]), [IDS("<end>")], [])
    for b in range(6)
  ], problem=solve.problem)
  none = jnp.zeros((6, 1))
  found = splices.sampled(
    jax.random.key(0), problems, solve, rows, Verdict(none, none + 1),
    names=(), tries=1, ends=ENDS, limit=1, eos=TASK.eos,
  )
  assert not found.found.any()


def test_a_right_answer_behind_wrong_steps_is_no_solution():
  """5 is no product of 2 and 3, and 9 is not 5 - 7, but it is the value."""
  problems, solve = solutions()
  solve = fakes.pack([
    fakes.transcribe(IDS(prompt), [IDS(text + "<end>")], [])
    for prompt, text in (*CASES[:2] * 2, CASES[2], ("2*3-7=", "59"))
  ], problem=[0, 1, 0, 1, 2, 2])
  method = s3c.make(
    fakes.SILENT, TASK, None, problems=3, samples=2, turns=(10,), tries=2,
  )
  rows = {"solve": solve, "step": tried(solve)}
  verdicts, _ = jax.jit(method.judge)(None, None, problems, rows)
  assert verdicts["solve"].reward[:, 0].tolist() == [1] * 6
  batch, named = jax.jit(lambda *a: method.curate(*a))(
    jax.random.key(0), None, problems, rows, verdicts
  )
  assert batch.mask.any(axis=1).tolist() == [True] * 5 + [False]
  assert named["curate/kept"].total == 5


def test_steps_share_no_draws_with_solutions(monkeypatch):
  """The key of turn k of a solution is that of its row, and k."""
  seen = {}
  monkeypatch.setattr(
    branches, "alternatives", lambda keys, *a, **k: seen.update(keys=keys)
  )
  keys = jax.random.split(jax.random.key(0), 3)
  generate = branches.make(
    None, TASK, lambda *_: None, lambda rows: None, samples=2
  )
  state = TrainState(0, {}, {"policy": ()}, (), {"reference": ()}, ())
  generate(keys, state, None)
  data = lambda keys: set(map(tuple, jax.random.key_data(keys).tolist()))
  turns = jax.vmap(jax.random.fold_in, (0, None))(row_keys(keys, 2), 1)
  assert len(data(seen["keys"])) == 6
  assert not data(row_keys(seen["keys"], 8)) & data(turns)


def own_step(b, step):
  right = CASES[b // 2][1]
  text = right if b % 2 == 0 else right[:-1] + "1"
  return IDS(text + "<end>")[step - 1]


def test_other_steps_go_on_from_prefixes_of_the_solutions():
  """Every step of a solution is tried, and its prefix is what stands before."""
  problems, solve = solutions()
  table = np.random.default_rng(0).normal(size=(TASK.tokenizer.size,) * 2)
  model = fakes.bigram(TASK.tokenizer.size)
  number = step_numbers(solve, ENDS)
  found = jax.jit(lambda keys: branches.alternatives(
    keys, model, fakes.tabled(table.astype(np.float32)), TASK, problems, solve,
    number, tries=40, ends=ENDS, limit=2, rollouts=2, rest=3, temperature=1.0,
  ))(jax.random.split(jax.random.key(0), 6))
  assert len(found.problem) == 6 * 40 * 2
  seen = np.zeros((6, 5))
  for row in range(0, len(found.problem), 2):
    b = row // 80
    assert found.parent[row] == ROOT and found.problem[row] == b // 2
    own, (text, mark) = fakes.strip(solve.tokens[b]), (
      np.asarray(x[row]) for x in (found.tokens, found.turn)
    )
    kept = int(np.sum(mark == GIVEN))
    assert text[:kept].tolist() == own[:kept]
    prompt = len(CASES[b // 2][0])
    seen[b, kept - prompt] += 1
    step = text[mark == 1].tolist()
    stops = [x in (*ENDS, *TASK.eos) for x in step]
    assert not any(stops[:-1]) and (stops[-1] or len(step) == 2)
    other = np.asarray(found.tokens[row + 1])[np.asarray(mark) == 1]
    assert other.tolist() == step, "continuations share their step"
    rest = text[mark == 2].tolist()
    assert (len(rest) == 0) == (step[-1] in TASK.eos) and len(rest) <= 3
  steps = [len(CASES[b // 2][1]) + 1 for b in range(6)]
  for b, count in enumerate(steps):
    assert np.all(seen[b, :count] > 1) and not seen[b, count:].any()


def test_a_replaced_value_is_a_wrong_step_of_its_own_place():
  _, solve = solutions()
  rng = np.random.default_rng(0)
  noise = rng.random(solve.tokens.shape).astype(np.float32)
  shift = rng.random(6).astype(np.float32)
  found = splices.replaced(
    solve, jnp.asarray(noise), jnp.asarray(shift), ids=ENDS, ends=ENDS, limit=1
  )
  assert found.found.all()
  for b in range(6):
    step = int(found.number[b])
    assert 1 <= step <= len(CASES[b // 2][1])
    assert int(found.tokens[b, 0]) in set(ENDS) - {own_step(b, step)}


def test_two_sets_of_rows_are_mixed():
  first, second = (
    Episodes(*(jnp.full(shape, x, jnp.int32) for shape in (
      (2, n), (2, n), (2, n), (2, n), (2,), (2,)
    ))) for x, n in ((1, 3), (2, 4))
  )
  found = contexts.either(jnp.asarray([True, False]), first, second)
  assert found.tokens.tolist() == [[1, 1, 1, PAD], [2, 2, 2, 2]]
  assert found.problem.tolist() == [1, 2]


def test_what_has_no_steps_is_refused():
  make = lambda task, **options: s3c.make(
    fakes.SILENT, task, None, problems=1, samples=2, turns=(10,), **options
  )
  with pytest.raises(ValueError, match="no verdicts on steps"):
    make(chain.critic(operations=(2, 3)))
  with pytest.raises(ValueError, match="one token of this task"):
    make(TASK, tag="<fix><fix>")
  for options, line in (
    ({"share": 1.5}, "share=1.5: set it from 0 to 1"),
    ({"wrong": -1.0}, "wrong=-1.0: set it to 0 or more"),
    ({"tries": 0}, "tries=0, .* set tries and step to 1 or more"),
    ({"step": 0}, "step=0, .* set tries and step to 1 or more"),
    ({"rollouts": -1}, "rollouts=-1: .* rollouts to 0 or more"),
    ({"values": "7"}, "values='7': give two or more, each once"),
    ({"values": "707"}, "values='707': give two or more, each once"),
  ):
    with pytest.raises(ValueError, match=line):
      make(TASK, **options)
