"""Pairs of the policy's own samples: what DPO and its relatives share."""

from collections.abc import Callable

import jax.numpy as jnp

from sitrain.curate import pairs
from sitrain.curate.select import row_noise
from sitrain.methods import checks, verbs
from sitrain.methods.objectives import pair_objective
from sitrain.models.roles import params_of
from sitrain.types import Method, Task

REFERENCES = ("previous", "held", "none")


def build(
  models: dict, task: Task, optimizer, *, problems: int, samples: int,
  turns: tuple[int, ...], margin: Callable, objective: Callable,
  reference: str = "previous", rule: str = "best_and_worst",
  smoothing: float = 0.0, anchor: float = 0.0, per_token: bool = False,
  after_prefix: bool = False, temperature: float = 1.0, slots: int = 0,
) -> Method:
  """One pair a problem, by the reward of the last turn; equal ones make none.

  All turns of both rows are trained, of rows whose verdicts are all known.

  Args:
    models: the decoder as "policy".
    task: what is posed and how it is verified.
    optimizer: not used; every method takes it.
    problems: problems of an iteration.
    samples: episodes of each, at least 2.
    turns: token limit of each turn.
    margin: see objectives.pair_objective, as `objective` and `per_token`.
    objective: of the margin and the label.
    reference: previous: the policy that has just sampled, so that rounds are
      iterations; held: the one that the stage holds, fixed; none.
    rule: which rows make a pair; pairs.RULES.
    smoothing: probability that a pair is the wrong way round (cDPO).
    anchor: weight of the likelihood of the chosen rows.
    per_token: means over tokens in the place of sums.
    after_prefix: whether the tokens that both rows begin with are left out.
    temperature: of the sampler and of all log-probabilities.
    slots: rows that are decoded at a time; 0: all.

  Raises ValueError for a choice that is not known, for turns that are too short
  for the task and for a lone sample.
  """
  checks.check_turns(task, turns)
  checks.check_samples(samples)
  checks.check_choice("reference", reference, REFERENCES)
  checks.check_choice("rule", rule, pairs.RULES)
  checks.check_from_zero(anchor=anchor)
  if not 0.0 <= smoothing < 0.5:
    raise ValueError(f"smoothing={smoothing}: set it to 0 or more, below 0.5")
  model = models["policy"]
  rows = dict(samples=samples, turns=turns, temperature=temperature)

  def pairs_of(noise, problems, episodes, verdict):
    return pairs.RULES[rule](
      noise, verdict.reward[:, -1], jnp.all(verdict.known > 0, axis=1),
      episodes.problem, problems.prompt.shape[0],
    )

  def wanted(problems, episodes, verdict):
    noise = jnp.zeros(len(episodes.tokens))  # Any rows will do.
    return pairs_of(noise, problems, episodes, verdict)[2]

  def curate(key, state, problems, episodes, verdict):
    noise, count = row_noise(key, episodes.tokens)[:, 0], len(problems.prompt)
    chosen, rejected, found = pairs_of(noise, problems, episodes, verdict)
    both = [pairs.take_rows(episodes, row) for row in (chosen, rejected)]
    scores = jnp.zeros((count, 2, episodes.tokens.shape[1]))
    if reference != "none":
      held = params_of(state, "reference")
      scores = pairs.score_pairs(model, held, *both, temperature=temperature)
    batch = pairs.pair_batch(
      *both, scores, label=jnp.full(count, 1.0 - smoothing),
      trained=jnp.broadcast_to(found[:, None], (count, len(turns))),
    )
    if after_prefix:
      parted = pairs.diverged(both[0].tokens, both[1].tokens)
      batch = batch._replace(mask=batch.mask * parted[:, None])
    return batch, {"curate/pairs": verbs.share(found)}

  return Method(
    pose=verbs.pose_from(task, problems),
    generate=verbs.play_with(model, task, slots=slots, **rows),
    judge=verbs.judge_with(task, len(turns)),
    refresh=verbs.promote if reference == "previous" else verbs.keep_state,
    curate=curate,
    loss=pair_objective(
      model, margin=margin, objective=objective, temperature=temperature,
      anchor=anchor, per_token=per_token,
    ),
    wanted=wanted,
  )
