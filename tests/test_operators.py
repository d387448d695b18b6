"""PDR's operator: rounds against loops, the objective against NumPy."""

from functools import partial

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.judge import drafts as judging
from sitrain.methods import objectives, pdr
from sitrain.rollout import operators, workspace
from sitrain.strategies import pdr as strategy
from sitrain.strategies import refine
from sitrain.tasks import chain, maze
from sitrain.types import GIVEN, PAD, Problems, TokenScores, Verdict

TASK = chain.critic(operations=(2, 2))
IDS = TASK.tokenizer.encode
PROMPTS = [IDS("3+4+2="), IDS("1+1+2=")]
LIMITS = (4, 2)  # of an attempt and of a verdict


def posed():
  answer = [[9, 2, 3, 4, 2, *IDS("++")], [4, 2, 1, 1, 2, *IDS("++")]]
  return Problems(
    jnp.asarray(PROMPTS, jnp.int32), jnp.asarray(answer, jnp.int32),
    jnp.full((2, 1), PAD),
  )


def drafted(*texts):
  """Drafts, the same number of each problem in the order of problems."""
  each = len(texts) // 2
  return fakes.pack(
    [
      fakes.transcribe(PROMPTS[i // each], [IDS(a), IDS(v)], [[]])
      for i, (a, v) in enumerate(texts)
    ],
    problem=[i // each for i in range(len(texts))],
  )


DRAFTS = [
  ("79<end>", "<ok>"), ("78<end>", "<bad@2>"), ("79<end>", "<bad>"),
  ("22<end>", "<bad@1>"),
  ("24<end>", "<bad@1>"), ("23<end>", "<ok>"), ("23<end>", "<bad@2>"),
  ("24<end>", "<ok>"),
]


def test_a_workspace_has_attempts_with_their_verdicts():
  """As a dialogue of them would be; `<ok>` does not end it."""
  read = jnp.array([[0, 3], [1, 1], [5, 6]])
  found = jax.device_get(jax.jit(partial(
    workspace.compose, TASK.reply, turns=LIMITS
  ))(posed(), drafted(*DRAFTS), read))
  for row, places in zip(found.prompt, read.tolist()):
    want = list(PROMPTS[places[0] // 4])
    for place in places:
      attempt, verdict = DRAFTS[place]
      want += IDS(f"{attempt}{verdict}<fix>")
    assert fakes.strip(row) == want
  assert found.answer[:, 0].tolist() == [9, 9, 4]
  assert found.prompt.shape[1] == 6 + 2 * (4 + 1 + 2 + 1)


@pytest.mark.parametrize("distil", ["verdict", "oracle"])
def test_drafts_are_kept_by_verdicts_and_by_the_verifier(distil):
  """By points, then by the likelihood of the attempt."""
  drafts = drafted(*DRAFTS)
  draw = np.random.default_rng(0)
  logprob = np.where(
    drafts.turn > 0, draw.uniform(-2, -1, drafts.turn.shape), 0
  ).astype(np.float32)
  choose = judging.distiller(TASK, distil, keep=3, drafts=4)
  found = choose(
    jax.random.split(jax.random.key(0), 4), posed(),
    drafts._replace(logprob=jnp.asarray(logprob)), 2,
  )
  for problem in range(2):
    points = []
    for d in range(4 * problem, 4 * problem + 4):
      attempt, verdict = DRAFTS[d]
      right = attempt == ("79<end>", "24<end>")[problem]
      score = logprob[d][np.asarray(drafts.turn[d]) == 1].mean()
      good = right if distil == "oracle" else verdict == "<ok>"
      points.append((-good, -score, d % 4))
    want = [place for *_, place in sorted(points)][:3]
    assert found[2 * problem : 2 * problem + 2].tolist() == [want] * 2


def test_refinements_read_drafts_of_their_own_round():
  """Two rounds a problem, each of three drafts and two refinements."""
  calls = []

  def play(keys, state, problems, *, samples, turns):
    """Turns that name the call and the row."""
    number, count = len(calls), len(problems.prompt) * samples
    calls.append((problems, samples, turns))
    texts = [[10 * number + row % 10] for row in range(count)]
    return fakes.pack(
      [
        fakes.transcribe(
          fakes.strip(problems.prompt[row // samples]), [text] * len(turns),
          [[]] * len(turns),
        ) for row, text in enumerate(texts)
      ],
      problem=[row // samples for row in range(count)],
    )

  def choose(keys, problems, drafts, calls):
    assert len(set(map(tuple, jax.random.key_data(keys).tolist()))) == len(keys)
    # The calls of a round read its drafts in turn.
    return jnp.arange(len(keys))[:, None] % 2 + jnp.array([[1, 0]])

  generate = operators.make(
    play, choose, TASK, turns=LIMITS, drafts=3, samples=4, workspaces=2
  )
  drafts, refined = jax.device_get(generate(
    jax.random.split(jax.random.key(0), 2), (), posed()
  ))
  assert [c[1:] for c in calls] == [(3, LIMITS), (1, LIMITS[:1])]
  assert drafts.problem.tolist() == [0] * 6 + [1] * 6
  assert refined.problem.tolist() == [0] * 4 + [1] * 4
  fix = IDS("<fix>")
  for row in range(8):
    problem, round_ = row // 4, row // 2
    want = list(PROMPTS[problem])
    for place in (row % 2 + 1, row % 2):
      text = (3 * round_ + place) % 10
      want += [text, text, *fix]
    at = refined.turn[row] == GIVEN
    assert refined.tokens[row][at].tolist() == want
    assert refined.tokens[row][refined.turn[row] == 1].tolist() == [10 + row]


def test_what_comes_of_drafts_and_what_rounds_cost():
  """Two rounds of two drafts and two refinements, by hand."""
  drafts = fakes.pack(
    [fakes.transcribe([1] * n, [[2] * k, [3]], [[]])
     for n, k in ((3, 1), (3, 4), (3, 2), (3, 2))]
  )
  refined = fakes.pack(
    [fakes.transcribe([1] * n, [[2] * k], []) for n, k in (
      (9, 2), (9, 3), (8, 1), (7, 4)
    )]
  )
  verdict = lambda reward, known: Verdict(
    np.array(reward, np.float32), np.array(known, np.float32)
  )
  found = verdict(
    [[1, 0], [0, 0], [1, 0], [np.nan, 0]], [[1, 0], [1, 0], [1, 0], [0, 0]]
  )
  judged = verdict([[1, 0], [0, 1], [1, 1], [1, 0]], np.ones((4, 2)))
  known = np.array([[1, 1], [1, 0], [1, 1], [1, 1]], np.float32)
  credit = judging.credited(drafts, known, found, 2)
  assert credit.reward[:2].tolist() == [[0.5, 0.5]] * 2
  # A refinement of the second round could not be judged.
  assert credit.known.tolist() == [[1, 1], [1, 0], [0, 0], [0, 0]]
  told = {
    name: (float(x.total), float(x.count)) for name, x in
    judging.round_metrics(drafts, judged, refined, found, 2).items()
  }
  # Tokens of drafts 5, 8 and 6, 6; of refinements 11, 12 and 9, 11.
  assert told == {
    "judge/draft": (3, 4), "judge/refined": (2, 3),
    "generate/sequential": (11 + 12 + 9 + 11 + 2 * (8 + 6), 4),
    "generate/total": (11 + 12 + 9 + 11 + 2 * (13 + 12), 4),
    "generate/length_draft": (2 + 5 + 3 + 3, 4),
    "generate/length_refined": (10, 4),
  }


def scored(rows, *rewards):
  """The same rows of two problems, with rewards [B K] of each."""
  each = len(rows)
  rows = fakes.pack(rows * 2, problem=[0] * each + [1] * each)
  rows = jax.tree.map(np.asarray, rows)
  draw = np.random.default_rng(each)
  noise = draw.uniform(-2, -0.1, rows.turn.shape).astype(np.float32)
  rows = rows._replace(logprob=np.where(rows.turn > 0, noise, np.float32(0)))
  reward = np.array(sum(rewards, []), np.float32)
  known = np.array(
    [(rows.turn == k + 1).any(axis=1) for k in range(reward.shape[1])]
  ).T.astype(np.float32)
  return rows, Verdict(reward, known)


def transcribed(kinds, new, *, clip_high, anchor):
  """The terms of the objective of (rows, verdict) of kinds, by loops.

  new: log-probabilities of the batch, in which rows of a problem stand together
  in the order of `kinds`.
  """
  policy, right, place = {}, [], 0
  for problem in (0, 1):
    for rows, verdict in kinds:
      own = np.flatnonzero(rows.problem == problem)
      for k in range(verdict.reward.shape[1]):
        group = [b for b in own if verdict.known[b, k]]
        reward = {b: verdict.reward[b, k] for b in group}
        for b in group:
          values = list(reward.values())
          gain = (reward[b] - np.mean(values)) / (np.std(values) + 1e-6)
          at = np.flatnonzero(rows.turn[b] == k + 1)
          logprob = new[place + b - own[0], at]
          ratio = np.exp(logprob - rows.logprob[b, at])
          each = -np.minimum(ratio, 1 + clip_high) * gain * logprob
          policy.setdefault(f"policy_{k + 1}", []).extend(each)
          if reward[b] == 1:
            right.append(np.mean(-logprob))
      place += len(own)
  terms = {name: np.mean(losses) for name, losses in policy.items()}
  return terms | {"likelihood": anchor * np.mean(right)}


@pytest.mark.parametrize("train_drafts", [False, True])
def test_the_objective_of_half_and_half(train_drafts, monkeypatch):
  """J_CISPO of each turn over both halves, and alpha J_SFT of what is right."""
  options = {"clip_high": 0.5, "anchor": 0.25}
  method = pdr.make(
    fakes.SILENT, TASK, None, turns=(4, 4, 4), drafts=2, keep=1,
    distil="verdict", workspaces=2, train_drafts=train_drafts, problems=2,
    samples=2, **options,
  )
  a, v = IDS("79<end>"), IDS("<bad@2>")
  both = {
    "standard": scored([
      fakes.transcribe([1], [a, v, a[:2]], [[], IDS("<fix>")]),
      fakes.transcribe([1], [a[1:], v], [[]]),
    ], [[1, 1, 1], [0, 1, 0]], [[0, 1, 0], [0, 0, 0]]),
    "operator": scored([
      fakes.transcribe([1] * 9, [a], []),
      fakes.transcribe([1] * 9, [a[:1]], []),
    ], [[1, 0], [0, 0]], [[1, 0], [1, 0]]),
    "drafts": scored(
      [fakes.transcribe([1], [a, v], [[]])] * 4, [[1, 1]] * 2 + [[0, 0]] * 2,
      [[1, 1]] * 2 + [[0.5, 0.5]] * 2,
    ),
  }
  kinds = [both[name] for name in ("standard", "operator", "drafts")]
  kinds = kinds[: 2 + train_drafts]
  columns = max(rows.tokens.shape[1] for rows, _ in kinds)
  count = sum(len(rows.problem) for rows, _ in kinds)
  new = np.random.default_rng(9).uniform(-2, -0.1, (count, columns))
  scores = TokenScores(*[jnp.asarray(new, jnp.float32)] * 2)
  monkeypatch.setattr(objectives, "token_scores", lambda *a, **k: scores)
  monkeypatch.setattr(objectives, "join_base", lambda params, state: params)

  @jax.jit
  def terms_of(both):
    rows, verdicts = ({n: x[i] for n, x in both.items()} for i in (0, 1))
    batch, _ = method.curate(None, None, posed(), rows, verdicts)
    return method.loss({"policy": ()}, None, batch)[0]

  found = terms_of(both)
  want = transcribed(kinds, new, **options)
  assert found.keys() == want.keys()
  for name, term in found.items():
    value = float(term.total / term.count)
    assert value == pytest.approx(want[name], rel=1e-4), name


def test_what_cannot_be_an_operator_is_refused():
  def make(task=TASK, **options):
    return pdr.make(
      fakes.SILENT, task, None, problems=1,
      **{"turns": (9, 9, 9), "samples": 4, "distil": "vote"} | options,
    )

  plain = chain.make()
  for options, line in (
    ({"distil": "best"}, "choose one of vote, verdict, oracle, random"),
    ({"keep": 9}, "from 1 to drafts=8"), ({"keep": 0}, "1 to drafts=8"),
    ({"task": plain, "distil": "verdict"}, "no verdicts of the policy"),
    ({"workspaces": 3}, "a divisor of samples=4"),
    ({"workspaces": 0}, "a divisor of samples=4"),
    ({"train_drafts": True}, "2 or more where train_drafts"),
    ({"anchor": -0.1}, "anchor=-0.1: set it to 0 or more"),
    ({"task": plain._replace(on_host=True)}, "set it to 'random'"),
  ):
    with pytest.raises(ValueError, match=line):
      make(**options)
  make(task=plain._replace(on_host=True), distil="random")
  host = lambda *_: None
  host.answer = host.columns = 1
  with pytest.raises(ValueError, match="an environment answers"):
    make(task=maze.make()._replace(reply=host))


def test_drafts_at_test_time_have_their_verdicts():
  """The last round is an attempt alone."""
  made = strategy.make(
    print, TASK, turns=LIMITS, samples=3, rounds=3, keep=2, distil="verdict"
  )
  assert (made.turns, made.every, made.context) == (2, 2, 5)
  assert made.needs == "drafts" and not made.oracle
  draft = 4 + 2 + 1
  later = 9 + 2 * (draft + 1)
  cost = made.cost(9)
  assert cost.sequential == (9 + draft) + (later + draft) + (later + 4)
  assert cost.total == 3 * (9 + draft) + 3 * (later + draft) + (later + 4)
  assert refine.draft_turns(TASK, (4,)) == (4, 4)
  assert refine.draft_turns(chain.make(), LIMITS) == (4,)
