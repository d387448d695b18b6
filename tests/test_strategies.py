"""Strategies at test time: choices, workspaces and tokens, all by hand."""

from collections import Counter
from functools import cache, partial

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.evaluate import answers
from sitrain.evaluate import player as playing
from sitrain.judge.drafts import at_random, mean_logprob, of_votes
from sitrain.rollout import workspace
from sitrain.strategies import (
  best_of_n,
  meter,
  needs,
  pdr,
  self_consistency,
  self_refine,
  sequential,
  sequential_refinement,
  verify_and_revise,
)
from sitrain.strategies.choose import last_written, majority
from sitrain.strategies.strategy import Answer
from sitrain.tasks import roles
from sitrain.tasks.draw import constant_reply
from sitrain.types import PAD, Problems, Reply, Verdict

END, AGAIN, LIMIT, VOCABULARY = 3, [5, 6], 4, 16
PROMPTS = [[1, 9, 4], [8, 1], [12], [2, 2, 2, 2], [7, 9], [10, 1, 1]]
ALL = {
  "self_consistency": (self_consistency.make, {"samples": 3}),
  "best_of_n": (best_of_n.make, {"samples": 3}),
  "self_refine": (self_refine.make, {"rounds": 3}),
  "sequential": (sequential.make, {"rounds": 3}),
  "sequential_refinement": (sequential_refinement.make, {"rounds": 3}),
  "pdr": (pdr.make, {
    "samples": 3, "rounds": 3, "keep": 2, "distil": "random"
  }),
  "verify_and_revise": (verify_and_revise.make, {"rounds": 2}),
}


def rng(seed=0):
  return np.random.default_rng(seed)


def verify(answer, episodes, turns):
  """Right iff the tokens of a turn and the answer are both odd, or even."""
  number = np.arange(1, turns + 1)[:, None]
  inside = episodes.turn[:, None] == number
  xp = answer.__array_namespace__()
  total = xp.where(inside, episodes.tokens[:, None], 0).sum(axis=2)
  reward = (total % 2 == answer[:, :1] % 2).astype(np.float32)
  return Verdict(reward, xp.ones_like(reward))


def posed(prompts=PROMPTS):
  width = max(map(len, prompts))
  rows = [[PAD] * (width - len(p)) + p for p in prompts]
  answer = np.arange(len(rows), dtype=np.int32)[:, None]
  return Problems(
    np.array(rows, np.int32), answer, np.full((len(rows), 1), PAD, np.int32)
  )


def task_of(on_host=False):
  """One that may be judged on the host, where answers come from NumPy."""
  task = fakes.task(
    verify, again=AGAIN, eos=(END,), prompt=[1], vocabulary=VOCABULARY
  )._replace(problems=lambda key, n: jax.tree.map(jnp.asarray, posed()))

  def final(episodes, turns):
    assert isinstance(episodes.turn, np.ndarray)
    return np.asarray(task.final(episodes, turns))

  def on_numpy(answer, episodes, turns):
    assert isinstance(episodes.turn, np.ndarray)
    return verify(answer, episodes, turns)

  if not on_host:
    return task
  # As runtime.host.on_host does.
  numpy = partial(jax.tree.map, np.asarray)
  return task._replace(
    on_host=True, final=lambda e, k: final(numpy(e), k),
    verify=lambda a, e, k: on_numpy(np.asarray(a), numpy(e), k),
  )


@cache
def made(name, on_host, **options):
  """(strategy, its program) of a policy that sees one token."""
  model, task = fakes.bigram(VOCABULARY), task_of(on_host)
  spread = lambda function, **_: function
  play = answers.sampler(
    model, task, top_k=0, top_p=1.0, spread=spread, jit=jax.jit
  )
  make, more = ALL[name]
  strategy = make(play, task, turns=(LIMIT, LIMIT), **more | options)
  return strategy, answers.program(strategy, task, jit=jax.jit)


@cache
def played(name, *, batch=100, ends=True, temperature=1.0, on_host=False,
           **options):
  """(strategy, records of all problems)."""
  strategy, run = made(name, on_host, **options)
  task, table = task_of(on_host), rng().normal(size=(VOCABULARY, VOCABULARY))
  if not ends:
    table[:, END] = -1e9
  player = playing.Player((), (), (), strategy.rows, strategy.turns)
  problems, found = posed(), []
  parts = playing.parts_of(player, problems, batch=batch)
  for rows in parts:
    part = answers.answer_rows(
      run, player, fakes.tabled(table), jax.random.key(3), problems, rows,
      batch=batch, temperature=temperature,
    )
    found += answers.records(strategy, task, problems, rows, part)
  return strategy, sorted(found, key=lambda record: record["row"])


def test_majority_against_counting():
  draw = rng()
  final = draw.integers(-1, 3, size=(300, 5))
  score = draw.permutation(final.size).reshape(final.shape) / final.size
  chosen = np.asarray(majority(jnp.asarray(final), jnp.asarray(score)))
  for row, points, place in zip(final, score, chosen):
    count = Counter(row[row >= 0].tolist())
    most = max(count.values(), default=0)
    top = [i for i in range(5) if not count or count.get(row[i], 0) == most]
    assert place == max(top, key=lambda i: points[i])


def test_scores_and_last_turns_of_rows():
  rows = fakes.pack([
    fakes.transcribe([1], [[2, 3], [4, 3], [2]], [AGAIN, AGAIN]),
    fakes.transcribe([1], [[3]], []),
  ])
  logprob = jnp.where(rows.turn > 0, -jnp.arange(rows.turn.shape[1]) * 1.0, 0)
  score = np.asarray(mean_logprob(rows._replace(logprob=logprob), 3))
  assert score.tolist() == [[-1.5, -5.5, -9], [-1, -np.inf, -np.inf]]
  assert last_written(rows, 3).tolist() == [3, 1]
  # Turn 2 is a verdict: where nothing follows it, turn 1 is the answer.
  two = fakes.pack([fakes.transcribe([1], [[2, 3], [4]], [[]])])
  assert last_written(two, 3, every=2).tolist() == [1]
  assert last_written(rows, 3, every=2).tolist() == [3, 1]


def test_the_meter_counts_by_hand():
  """Two problems: three drafts of each, and one call that has read two."""
  row = lambda *lengths: fakes.pack([([1] * n, [0] * n) for n in lengths])
  answer = Answer(
    (row(5, 7, 9, 2, 3, 4), row(20, 10)),
    (np.array([[0, 1], [3, 4]]),), np.array([0, 1]), np.array([1, 1]),
  )
  used = meter.spent(answer, 2)
  assert used.total.tolist() == [5 + 7 + 9 + 20, 2 + 3 + 4 + 10]
  # The third draft of the first problem, the longest, was not read.
  assert used.sequential.tolist() == [20 + 7, 10 + 3] and used.calls == 4
  alone = Answer(answer.rounds[:1], (), np.array([1, 5]), np.array([1, 1]))
  assert meter.spent(alone, 2).sequential.tolist() == [7, 4]
  both = meter.then(meter.parallel(10, 3), meter.parallel(20, 1))
  assert both == meter.Cost(sequential=30, total=50, calls=4, row=20)


def test_a_workspace_has_a_prompt_and_drafts_and_nothing_older():
  problems = posed([[1, 9, 4], [8, 1]])
  # The drafts have read a workspace themselves, which begins with the prompt.
  drafts = fakes.pack(
    [
      fakes.transcribe([1, 9, 4, 11, 11, 11], [[2, END]], []),
      fakes.transcribe([1, 9, 4, 12], [[2, 2, 2, 2]], []),
      fakes.transcribe([8, 1, 13], [[END]], []),
      fakes.transcribe([8, 1, 13], [[7, 7, END]], []),
    ],
    problem=[0, 0, 1, 1],
  )

  def reply(answer, episodes, turn):
    # The instruction counts attempts, and looks at the one that it follows.
    ended = jnp.any(
      (episodes.tokens == END) & (episodes.turn == turn[:, None]), axis=1
    )
    tokens = jnp.stack([jnp.where(ended, PAD, END), 10 + turn], axis=1)
    return Reply(tokens, jnp.zeros(turn.shape, bool))

  read = jnp.array([[1, 0], [2, 3], [0, 1]])
  found = workspace.compose(reply, problems, drafts, read, turns=(LIMIT,))
  assert [fakes.strip(row) for row in found.prompt] == [
    [1, 9, 4, 2, 2, 2, 2, END, 11, 2, END, 12],
    [8, 1, END, 11, 7, 7, END, 12],
    [1, 9, 4, 2, END, 11, 2, 2, 2, 2, END, 12],
  ]
  assert found.answer[:, 0].tolist() == [0, 1, 0]
  assert found.prompt.shape[1] == 3 + 2 * (LIMIT + 2)


def test_drafts_are_kept_by_votes_or_at_random():
  final = jnp.array([[4, 4, -1, 7, 4, 9, 7], [-1, -1, -1, 5, 5, 5, 5]])
  score = -jnp.arange(14.0).reshape(2, 7)
  keys = jax.random.split(jax.random.key(0), 40)
  # An answer once, then copies; what has no answer comes last.
  assert of_votes(final, score, 4).tolist() == [[0, 3, 5, 1], [3, 4, 5, 6]]
  drawn = np.asarray(at_random(keys, 7, 3))
  assert all(len(set(row)) == 3 for row in drawn.tolist())
  assert set(drawn.reshape(-1)) == set(range(7))
  assert len({tuple(row) for row in drawn.tolist()}) > 20


@pytest.mark.parametrize("name", ["sequential", "pdr"])
def test_turns_at_their_limits_cost_the_most_that_is_said(name):
  """And so a workspace does not grow over the rounds."""
  strategy, found = played(name, ends=False)
  for prompt, record in zip(PROMPTS, found):
    most = strategy.cost(len(prompt))
    assert record["total_tokens"] == most.total
    assert record["sequential_tokens"] == most.sequential
  if name == "pdr":
    later = [x for x in found[0]["attempts"] if x["round"] > 1]
    assert len(later) == 4 and all(len(set(x["read"])) == 2 for x in later)
    make = partial(pdr.make, print, task_of(), turns=(LIMIT,), keep=2)
    rows = [make(rounds=n).cost(9).row for n in (2, 3, 7)]
    assert rows == 3 * [9 + 2 * (LIMIT + len(AGAIN)) + LIMIT]


@pytest.mark.parametrize("name", ["sequential", "pdr"])
def test_the_same_answers_in_every_batch(name):
  whole, parted = (played(name, batch=batch)[1] for batch in (100, 6))
  assert whole == parted
  assert len({record["answer"] for record in whole}) > 2, "not sampled"


@pytest.mark.parametrize("name", ["best_of_n", "pdr"])
def test_a_judge_on_the_host_changes_nothing(name):
  assert played(name)[1] == played(name, on_host=True)[1]


@pytest.mark.parametrize("temperature,samples", [(0.0, 1), (1.0, 3)])
def test_attempts_are_those_of_the_sampler(temperature, samples):
  task, table = task_of(), rng().normal(size=(VOCABULARY, VOCABULARY))
  player = playing.make(
    fakes.bigram(VOCABULARY), task, turns=(LIMIT,), samples=samples,
    reply=task.reply, jit=jax.jit,
  )
  sampled = playing.play_rows(
    player, fakes.tabled(table), jax.random.key(3), posed(), np.arange(6),
    batch=100, temperature=temperature,
  )
  texts = [
    task.tokenizer.decode(answers._text(tokens[turn == 1], task.eos))
    for tokens, turn in zip(sampled.tokens, sampled.turn)
  ]
  _, found = played(
    "self_consistency", temperature=temperature, samples=samples
  )
  assert texts == [x["text"] for r in found for x in r["attempts"]]
  assert samples > 1 or [r["answer"] for r in found] == texts


def test_the_oracle_takes_a_right_attempt_where_there_is_one():
  _, best = played("best_of_n", samples=4)
  _, voted = played("self_consistency", samples=4)
  for one, other in zip(best, voted):
    assert one["attempts"] == other["attempts"]
    states = [x["status"] for x in one["attempts"]]
    assert (one["verdict"] == "right") == ("right" in states)
  told = answers.summarize(
    rng(), {"voted": voted, "best": best}, {"voted": 1, "best": 1}, draws=50
  )
  share = np.mean([r["verdict"] == "right" for r in best])
  assert told["best"]["accuracy"] == pytest.approx(share)
  assert told["best"]["any_right"] == told["voted"]["any_right"] == share
  assert told["best"]["difference"] == pytest.approx(
    share - told["voted"]["accuracy"]
  )
  low, high = told["best"]["intervals"]["difference"]
  assert 0 <= low <= told["best"]["difference"] <= high
  assert told["best"]["attempts"] == 4


def test_verdicts_of_a_policy_by_hand():
  """Turn 1 is judged by turn 2: where nothing follows, it was called right."""
  turns = lambda *states: {"attempts": [
    {"turn": k, "status": state} for k, state in enumerate(states, start=1)
  ]}
  told = answers.verdicts_of([
    turns("right", "right"),  # called right, and is
    turns("wrong", "wrong"),  # called right, and is not
    turns("wrong", "right", "wrong"),  # called wrong, and is
    turns("right", "wrong", "right"),  # called wrong, and is not
    turns("wrong", "right", "right"),
  ])
  assert told["verdict_accuracy"] == pytest.approx(3 / 5)
  assert told["verdict_recall"] == pytest.approx(2 / 3)
  assert np.isnan(answers.verdicts_of([])["verdict_recall"])


def test_a_verdict_decides_whether_there_is_another_attempt():
  rows = fakes.pack([
    fakes.transcribe([1], [[2], [4]], [[]]),
    fakes.transcribe([1], [[2], [5], [3]], [[], [6]]),
  ])
  asked = {}

  def play(keys, state, problems, **options):
    asked.update(options)
    return rows

  strategy = verify_and_revise.make(play, task_of(), turns=(4, 2, 9), rounds=2)
  answer = strategy.answer(np.arange(2), (), ())
  assert answer.turn.tolist() == [1, 3] and answer.row.tolist() == [0, 1]
  assert asked["turns"] == (4, 2, 4)
  assert strategy.cost(7).total == 7 + 4 + 2 + 4 + 2 * len(AGAIN)


def kind(reply, solution=((2, END), (4, END))):
  problems = posed([[1], [2]])._replace(solution=np.array(solution, np.int32))
  return needs.kind_of_reply(task_of()._replace(reply=reply), problems)


def test_what_a_task_replies_is_looked_at():
  def own(tokens, done):
    def reply(answer, episodes, turn):
      first = jnp.argmax(episodes.turn == 1, axis=1)[:, None]
      first = jnp.take_along_axis(episodes.tokens, first, axis=1)
      return Reply(tokens(first), done(first[:, 0]))

    return reply

  never = lambda first: jnp.zeros(first.shape, bool)
  assert kind(constant_reply(AGAIN)) == "instruction"
  assert kind(constant_reply([])) == "nothing"
  assert kind(own(lambda first: first * 0 + PAD, never)) == "nothing"
  assert kind(own(lambda first: first, never)) == "attempt"
  assert kind(own(lambda first: first * 0, lambda x: x == 2)) == "attempt"
  assert kind(own(lambda first: first * 0, lambda x: x == x)) == "end"
  # Without given turns only attempts that end at once are looked at.
  assert kind(constant_reply(AGAIN), 2 * [[PAD]]) == "instruction"
  host = constant_reply(AGAIN)
  host.answer = ()
  assert kind(host) == "host"


def test_tasks_whose_turns_are_no_attempts_are_refused():
  plain = task_of()
  # What its tokens are called says nothing.
  critic = plain._replace(accepts=lambda episodes, turns: ())
  tokenizer = roles.tokenizer(roles.names_of("ab"))
  ok = tokenizer.encode("<ok>")[0]
  plain = plain._replace(tokenizer=tokenizer, eos=(END, ok))
  for strategy, task, reply, feedback, line in (
    ("", plain, "instruction", False, ""),
    ("", plain, "end", False, ""),
    ("", critic, "nothing", False, ""),
    ("", plain, "attempt", True, ""),
    ("verdicts", critic, "nothing", False, ""),
    ("instruction", plain, "instruction", False, ""),
    ("", plain, "attempt", False, "a move in a game, or what a tool found"),
    ("", plain, "nothing", False, "a move in a game, or what a tool found"),
    ("", plain, "host", False, "an environment answers the turns"),
    ("verdicts", plain, "instruction", False, "verdicts <ok> and <bad>"),
    ("instruction", critic, "nothing", False, "use verify_and_revise, self_c"),
    ("instruction", plain, "attempt", True, "tell what its verifier found"),
    ("instruction", plain, "end", False, "episodes have one turn"),
    ("drafts", plain, "instruction", False, ""),
    ("drafts", critic, "nothing", False, ""),
    ("drafts", plain, "attempt", True, "tell what its verifier found"),
    ("drafts", plain, "nothing", False, "a move in a game, or what a tool fou"),
  ):
    given = ("x", strategy, task, reply)
    if not line:
      needs.check(*given, feedback=feedback)
      continue
    with pytest.raises(ValueError, match=line):
      needs.check(*given, feedback=feedback)
