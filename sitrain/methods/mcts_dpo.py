"""MCTS-DPO: siblings of a search tree as pairs of steps, trained by DPO.

Xie et al. 2024 (arXiv:2405.00451): each round grows trees with the policy, and
every row of a tree's main line gives a pair, its best and its worst child by Q,
with the loss on the steps alone. The value of a node is the outcome of one
rollout, 1 or -0.5; left out are the policy's evaluation of its own steps, its
likelihood as a prior, and label smoothing by visits.
"""

import jax.numpy as jnp

from sitrain.curate import pairs, siblings
from sitrain.judge.verifier import verify_as_one_turn
from sitrain.methods import checks, verbs
from sitrain.models.roles import params_of
from sitrain.rollout import steps
from sitrain.types import Method, Task


def make(
  models: dict, task: Task, optimizer, *, problems: int, turns: tuple[int, ...],
  nodes: int = 16, width: int = 4, explore: float = 1.0, step: int = 1,
  beta: float = 0.1, anchor: float = 0.0, temperature: float = 1.0,
) -> Method:
  """Trees of `nodes` steps of `step` tokens, with up to `width` children.

  `explore` is PUCT's constant; `beta` and `anchor` are those of methods/dpo.py.
  """
  checks.check_turns(task, turns)
  checks.check_temperature(temperature)
  model, depth = models["policy"], steps.depth_of(task, turns, step)
  search = dict(nodes=nodes, depth=depth, width=width, explore=explore)

  def generate(keys, state, problems):
    judge = lambda rows: verify_as_one_turn(task, problems, rows)[0]
    reward = lambda rows: siblings.outcome(judge(rows))
    return steps.grow(
      keys, model, params_of(state, "policy"), task, problems, reward,
      step=step, limit=turns[0], temperature=temperature, **search,
    )

  def curate(key, state, problems, rows, verdict):
    best, worst, found = siblings.sibling_pairs(
      rows, verdict, problems=problems.prompt.shape[0], depth=depth
    )
    both = [pairs.take_rows(rows, row) for row in (best, worst)]
    held, ones = params_of(state, "reference"), jnp.ones(best.shape)
    scores = pairs.score_pairs(model, held, *both, temperature=temperature)
    batch = pairs.pair_batch(*both, scores, label=ones, trained=found[:, None])
    return batch, {"curate/pairs": verbs.share(found)}

  return Method(
    pose=verbs.pose_from(task, problems), generate=generate,
    judge=lambda key, state, *round: verify_as_one_turn(task, *round),
    refresh=verbs.promote, curate=curate, loss=verbs.preference_loss(
      model, beta=beta, temperature=temperature, anchor=anchor
    ),
  )
