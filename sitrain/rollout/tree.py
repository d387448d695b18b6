"""Monte Carlo tree search over steps of text, by mctx.

A node is a row of text, an edge is a step that the policy wrote, and a step is
a turn. Search follows AlphaZero (Silver et al. 2017) with a uniform prior over
the children of a node, which are samples of the policy, as in ReST-MCTS* (Zhang
et al. 2024) and MCTS-DPO (Xie et al. 2024). Every simulation of a problem adds
one node; the problems of a batch are searched side by side.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mctx
from jaxtyping import Array, Bool, Float, Int, Key

from sitrain.rollout import contexts
from sitrain.types import GIVEN, PAD, ROOT, Episodes, Problems


class Tree(NamedTuple):
  """N = nodes + 1 of each problem; node 0 is the prompt.

  A simulation that ends in a node which is known already, as its episode is
  over or it is `depth` steps deep, adds none: that number is not `used`.
  """

  episodes: Episodes  # [P N T] and [P N]; a node's own step is turn 1, and
  #                     turn 2 a rollout after it, where `step` plays one
  used: Bool[Array, "P N"]
  parent: Int[Array, "P N"]  # the number of a node's parent, ROOT for none
  depth: Int[Array, "P N"]  # steps after the prompt
  done: Bool[Array, "P N"]  # its episode is over
  visits: Int[Array, "P N"]  # simulations that ended in it or went through it
  estimate: Float[Array, "P N"]  # the value that `evaluate` returned
  value: Float[Array, "P N"]  # the mean of the estimates of its visits


class _Node(NamedTuple):
  """What mctx keeps of a node of each problem."""

  episodes: Episodes  # [P T]
  key: Array  # [P 2] key data: the keys of its children are folded into it
  depth: Int[Array, " P"]
  done: Bool[Array, " P"]
  estimate: Float[Array, " P"]


Step = Callable[[Array, Episodes, Array], Episodes]
Evaluate = Callable[[Episodes], tuple[Array, Array]]


def search(
  keys: Key[Array, " P"],
  step: Step,
  evaluate: Evaluate,
  problems: Problems,
  *,
  nodes: int,
  depth: int,
  width: int,
  explore: float,
) -> Tree:
  """Grows a tree of at most `nodes` steps for each problem.

  Args:
    keys: one for each problem. The key of a child is fold_in(key of its parent,
      number of the child), so its text depends on its path alone, not on when
      it was visited, and on no other problem.
    step: (keys [P], episodes [P T], live [P]) -> episodes [P T + more]: writes
      one step, as turn 1, after all rows that are live, as `play_on` does with
      samples=1. What it gets is marked as given. Instructions between steps
      are its own business. Turn 2, if it writes one, is a rollout: `evaluate`
      sees it, and children do not continue it.
    evaluate: episodes [P T] -> (value [P], done [P]): how good a row is, in any
      unit, and whether its episode is over.
    problems: the roots.
    nodes: simulations.
    depth: steps of a path at the most.
    width: children of a node at the most.
    explore: the constant of PUCT; values count as their place between the least
      and the most among a node and its children.

  Raises ValueError for numbers below 1.
  """
  if min(nodes, depth, width) < 1:
    raise ValueError(
      f"nodes={nodes}, depth={depth}, width={width}: each must be at least 1"
    )
  root, implementation = _root(keys, step, evaluate, problems, depth)
  prior = jnp.zeros((keys.shape[0], width))  # logits: all children are alike

  def expand(params, key, child, node):
    """Child number `child [P]` of `node`; of a node that is done, itself."""
    del params, key  # Its key is its own.
    parent_keys = jax.random.wrap_key_data(node.key, impl=implementation)
    keys = jax.vmap(jax.random.fold_in)(parent_keys, child)
    rows = step(keys, _given(node.episodes), ~node.done)
    # No row is longer than `depth` steps make it.
    rows = contexts.narrow(rows, node.episodes.tokens.shape[1])
    estimate, done = evaluate(rows)
    child = _Node(
      rows, jax.random.key_data(keys), node.depth + ~node.done,
      node.done | done, jnp.where(node.done, node.estimate, estimate),
    )
    value = child.estimate
    return mctx.RecurrentFnOutput(
      reward=jnp.zeros_like(value), discount=jnp.ones_like(value),
      prior_logits=prior, value=value,
    ), child

  select = lambda key, tree, node, depth=0: _puct(tree, node, explore)
  found = mctx.search(
    (), jax.random.key(0), recurrent_fn=expand, num_simulations=nodes,
    root=mctx.RootFnOutput(
      prior_logits=prior, value=root.estimate, embedding=root
    ),
    root_action_selection_fn=select, interior_action_selection_fn=select,
    max_depth=depth,
  )
  return _tree_of(found)


def _root(keys, step, evaluate, problems, depth) -> tuple[_Node, Any]:
  """The prompts, with room for `depth` steps, and what made the keys."""
  rows, live = contexts.begin(problems, 1), jnp.ones(keys.shape[0], bool)
  for _ in range(depth):
    longer = jax.eval_shape(step, keys, rows, live).tokens.shape[1]
    rows = contexts.widen(rows, longer)
  estimate, done = evaluate(rows)
  root = _Node(
    rows, jax.random.key_data(keys), jnp.zeros(keys.shape[0], jnp.int32), done,
    estimate,
  )
  return root, jax.random.key_impl(keys)


def _given(rows: Episodes) -> Episodes:
  """The rows as a prefix, without rollouts: the policy wrote nothing of it."""
  inside = (rows.turn != PAD) & (rows.turn < 2)
  return rows._replace(
    tokens=jnp.where(inside, rows.tokens, PAD),
    turn=jnp.where(inside, GIVEN, PAD),
    logprob=jnp.zeros_like(rows.logprob),
  )


def _puct(tree, node, explore):
  """The child of a node with the highest value + explore * P * sqrt(N) / 1 + n.

  Of equal ones the first is taken. mctx's own rule draws one, by keys that
  depend on what else is in the batch.
  """
  value = mctx.qtransform_by_parent_and_siblings(tree, node)
  prior = jax.nn.softmax(tree.children_prior_logits[node])
  bonus = prior * jnp.sqrt(tree.node_visits[node])
  bonus /= 1 + tree.children_visits[node]
  return jnp.argmax(value + explore * bonus).astype(jnp.int32)


def _tree_of(found: mctx.Tree) -> Tree:
  """The tree without the children that mctx gives to episodes that are over."""
  node, parent = found.embeddings, found.parents
  parent_done = jnp.take_along_axis(node.done, jnp.maximum(parent, 0), axis=1)
  used = (found.node_visits > 0) & ~((parent >= 0) & parent_done)
  return Tree(
    episodes=node.episodes,
    used=used,
    parent=jnp.where(used, parent, ROOT),
    depth=node.depth,
    done=node.done,
    visits=jnp.where(used, found.node_visits, 0),
    estimate=node.estimate,
    value=found.node_values,
  )


def to_episodes(tree: Tree) -> Episodes:
  """The nodes as rows [P * N T], problem by problem, those not used as padding.

  Only a node's own step is marked as written, as turn 1, and its rollout, if it
  has one, as turn 2; roots have neither. The parent of a row is the row of its
  parent node, so that siblings share it.
  """
  count, nodes = tree.used.shape
  flat = lambda x: x.reshape(count * nodes, *x.shape[2:])
  used, rows = flat(tree.used)[:, None], jax.tree.map(flat, tree.episodes)
  first = jnp.arange(0, count * nodes, nodes)[:, None]
  parent = jnp.where(tree.parent >= 0, first + tree.parent, ROOT)
  return Episodes(
    tokens=jnp.where(used, rows.tokens, PAD),
    turn=jnp.where(used, rows.turn, PAD),
    logprob=jnp.where(used, rows.logprob, 0.0),
    path=jnp.where(used, rows.path, 0),
    problem=jnp.repeat(tree.episodes.problem[:, 0], nodes),
    parent=flat(parent).astype(jnp.int32),
  )
