"""What every method keeps to, whatever it computes: one table, all contracts.

A new method is one more row of METHODS. Nothing is sampled here, so that a row
costs a few seconds: the iteration is traced, and refresh, curate and loss work
on a round made by NumPy. What the loop and the runtime make of a method is
tested on one method of each structure, in test_structures.py.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import canned
import jax
import jax.numpy as jnp
import loops
import numpy as np
import pytest

from sitrain.losses.reduce import value
from sitrain.methods import (
  best_of_n,
  cct,
  chain_of_hindsight,
  cispo,
  clip_cov,
  correction_dpo,
  dapo,
  dpo,
  dr_grpo,
  gdpo,
  gigpo,
  given_pairs,
  grpo,
  gspo,
  imitation,
  ipo,
  kl_cov,
  kto,
  ledex,
  mcts_dpo,
  mistake_tuning,
  multi_turn,
  orpo,
  pag,
  pair_sft,
  partial_masking,
  pdr,
  ppo,
  rac,
  reinforce_pp,
  rest_em,
  reward_model,
  rise,
  rloo,
  s3c,
  sapo,
  satori,
  scheduled_sampling,
  scl,
  score,
  sec,
  sft,
  simpo,
  single_turn,
  spark,
  spear,
  spin,
  spiral,
  spoc,
  spoc_raft,
  ssr_zero,
  star,
  subtle_errors,
)
from sitrain.models import decoder, lora
from sitrain.models.decoder import Decoder
from sitrain.runtime import optimizer
from sitrain.runtime.start import Role, drawn, new_state
from sitrain.tasks import maze
from sitrain.train import make_iteration, make_parts, make_train_step
from sitrain.types import Mean, PolicyTargets, Verdict

MAZE = maze.make(doors=2, rooms=2)
TURNS, PROBLEMS, SAMPLES = (3, 3), 8, 4
MODEL = Decoder(
  vocabulary=MAZE.tokenizer.size, layers=1, width=8, heads=1, kv_heads=1,
  head_size=8, mlp_size=8,
)
# Adam with a large eps is smooth: what differs by rounding stays so.
OPTIMIZER = optimizer.make(learning_rate=0.03, steps=4, eps=1e-2)
KEY = jax.random.key(0, impl="threefry2x32")


def kind(answer, episodes, turns):
  """Right iff the tokens of the turn and the exit's room add up evenly.

  A policy that knows nothing never leaves a maze, and without rewards all
  advantages would be 0.
  """
  sums = [
    jnp.sum(jnp.where(episodes.turn == k + 1, episodes.tokens, 0), axis=1)
    for k in range(turns)
  ]
  right = (jnp.stack(sums, axis=1) + answer[:, -2:-1]) % 2 == 0
  return Verdict(right.astype(jnp.float32), jnp.ones(right.shape))


def kind_by_parts(answer, episodes, turns):
  """The same, as two named rewards."""
  verdict = kind(answer, episodes, turns)
  parts = {name: 0.5 * verdict.reward for name in ("even", "short")}
  return verdict._replace(parts=parts)


TASK = MAZE._replace(verify=kind)
# Every second turn is a verdict; that its text is none changes nothing here.
JUDGED = TASK._replace(
  accepts=lambda episodes, turns: jnp.zeros((len(episodes.turn), turns), bool)
)
PARTS = MAZE._replace(verify=kind_by_parts, rewards=("even", "short"))


def kind_by_steps(answer, episodes, turns):
  """The same, with verdicts on steps: the odd ones of a row are right."""
  verdict = kind(answer, episodes, turns)
  steps = {f"step_{k}": jnp.full_like(verdict.reward, k % 2) for k in (1, 2)}
  return verdict._replace(parts=steps)


STEPS = MAZE._replace(verify=kind_by_steps, rewards=("step_1", "step_2"))


class Row(NamedTuple):
  """A method, its options, and the roles of its stage."""

  make: Callable
  options: dict
  held: tuple[str, ...] = ("reference",)
  trained: tuple[str, ...] = ("policy",)
  heads: dict[str, str] = {}  # of roles beside policy and reference
  task: Any = TASK


ROWS = {"problems": PROBLEMS, "samples": SAMPLES, "turns": TURNS}
STEP = {"tag": ".", "ends": "1", "step": 2, "tries": 2}
TAGS = {"good": "=", "bad": "."}  # a maze's prompt ends with "="
RL = ROWS | {"beta1": 0.2}
RL2 = RL | {"beta2": 0.4}
# Estimators of the KL, baselines and options are spread over the rows.
METHODS = {
  "imitation": Row(
    imitation.make, {"problems": PROBLEMS, "turns": TURNS}, held=()
  ),
  "single_turn": Row(single_turn.make, RL | {"kl": "k1", "clip": 0.2}),
  "multi_turn": Row(
    multi_turn.make, RL2 | {"kl": "k3", "estimate": "group_normalise"}
  ),
  "stage_one": Row(
    score.stage_one,
    RL2 | {"baseline": "same_outcome", "share_prompts": True},
  ),
  "stage_two": Row(score.stage_two, RL2 | {"kl": "k2", "offline": 2}),
  "stage_two of three turns": Row(
    score.stage_two,
    RL2 | {"turns": (3, 3, 3), "kl": "none", "share_prompts": True},
    held=(),
  ),
  "star": Row(star.make, ROWS),
  "star+": Row(star.make, ROWS | {"also_correct": True, "trained": (1, 2)}),
  "pair_sft": Row(pair_sft.make, ROWS),
  "pair_sft+": Row(pair_sft.make, ROWS | {"also_correct": True}),
  "rac": Row(rac.make, ROWS),
  "rac of wrong answers": Row(
    rac.make, ROWS | {"share": 1.0, "also_correct": False}
  ),
  "s3c": Row(s3c.make, ROWS | STEP | {"wrong": 0.5}, task=STEPS),
  "s3c by rollouts": Row(s3c.make, ROWS | STEP | {"rollouts": 2}),
  "s3c of replaced values": Row(
    s3c.make, ROWS | STEP | {"values": "0123", "share": 0.5}, task=STEPS
  ),
  "cct": Row(cct.make, ROWS | {"answers": True}),
  "reinforce_pp": Row(reinforce_pp.make, ROWS | {"beta": 0.2}),
  "ppo": Row(
    ppo.make, ROWS | {"beta": 0.2}, trained=("policy", "critic"),
    heads={"critic": "scalar"},
  ),
  "dpo": Row(dpo.make, ROWS | {"anchor": 0.1}),
  "dpo of random pairs": Row(dpo.make, ROWS | {
    "rule": "right_and_wrong", "reference": "held", "smoothing": 0.1,
    "after_prefix": True, "per_token": True,
  }),
  "scl": Row(scl.make, ROWS | {"anchor": 0.1}),
  "scl in review": Row(scl.make, ROWS | {
    "scope": "review", "reference": "none",
  }, held=()),
  "subtle_errors": Row(subtle_errors.make, ROWS | {"ends": "1"}),
  "ipo": Row(ipo.make, ROWS),
  "simpo": Row(simpo.make, ROWS, held=()),
  "orpo": Row(orpo.make, ROWS, held=()),
  "kto": Row(kto.make, ROWS),
  "rest_em": Row(rest_em.make, ROWS),
  "best_of_n": Row(best_of_n.make, ROWS, held=()),
  "rise": Row(rise.make, ROWS, held=()),
  "rise of the best": Row(rise.make, ROWS | {
    "best_of": 2, "criterion": "better", "normalise": True, "repeats": True,
    "stop": False,
  }, held=()),
  "mistake_tuning": Row(mistake_tuning.make, ROWS | TAGS),
  "chain_of_hindsight": Row(
    chain_of_hindsight.make,
    ROWS | TAGS | {"turns": TURNS[:1], "start": "previous"}, held=(),
  ),
  "sft": Row(sft.make, {
    "problems": PROBLEMS, "turns": TURNS, "rate": 0.3, "share": 0.5,
  }, held=()),
  "scheduled_sampling": Row(scheduled_sampling.make, {
    "problems": PROBLEMS, "turns": TURNS, "rate": 0.5,
  }, held=()),
  "given_pairs": Row(
    given_pairs.make, {"problems": PROBLEMS, "turns": TURNS[:1]}
  ),
  "spin": Row(spin.make, {"problems": PROBLEMS, "turns": TURNS}),
  "spiral": Row(spiral.make, ROWS, held=()),
  "mcts_dpo": Row(
    mcts_dpo.make, {"problems": PROBLEMS, "turns": TURNS[:1], "nodes": 3}
  ),
  "reward_model": Row(
    reward_model.make, ROWS, held=("policy",), trained=("reward_model",),
    heads={"reward_model": "scalar"},
  ),
  "grpo": Row(grpo.make, ROWS | {"beta": 0.2}),
  "grpo of a reward model": Row(
    grpo.make, ROWS | {"beta": 0.2, "reward_role": "reward_model"},
    held=("reference", "reward_model"), heads={"reward_model": "scalar"},
  ),
  "rloo": Row(rloo.make, ROWS | {"beta": 0.2}),
  "dr_grpo": Row(dr_grpo.make, ROWS, held=()),
  "dapo": Row(dapo.make, ROWS | {"margin": 2, "share_prompts": True}, held=()),
  "gspo": Row(gspo.make, ROWS | {"beta": 0.2, "kl": "k3+"}),
  "cispo": Row(
    cispo.make, ROWS | {"estimate": "maximum_likelihood", "anchor": 0.1},
    held=(),
  ),
  "sapo": Row(sapo.make, ROWS | {"sampler_ratio": 2.0}, held=()),
  "clip_cov": Row(
    clip_cov.make, ROWS | {"share": 0.2, "low": 0.1, "dual": 3.0}, held=()
  ),
  "kl_cov": Row(kl_cov.make, ROWS | {"share": 0.2}, held=()),
  "gdpo": Row(
    gdpo.make, ROWS | {"weights": {"even": 1.0, "short": 0.5}}, held=(),
    task=PARTS,
  ),
  "gigpo": Row(gigpo.make, ROWS | {"state": "reply", "beta": 0.2}),
  "pag": Row(
    pag.make, ROWS | {"share_prompts": True, "baseline": "same_outcome"},
    held=(), task=JUDGED,
  ),
  "spark": Row(
    spark.make, ROWS | {"beta": 0.2, "sampler_ratio": 2.0}, task=STEPS
  ),
  "spoc": Row(spoc.make, ROWS | {"beta": 0.2}, task=JUDGED),
  "spoc of the last attempt": Row(
    spoc.make, ROWS | {
      "turns": (3, 3, 3), "rewards": "last", "normalise": "all", "kl": "k3"
    }, task=JUDGED,
  ),
  "spoc_raft": Row(
    spoc_raft.make, ROWS | {"turns": (3, 3, 3), "named": False}, held=(),
    task=JUDGED,
  ),
  "ledex": Row(
    ledex.make, ROWS | {"turns": (3, 3, 3), "discount": 0.9}, task=JUDGED
  ),
  "partial_masking": Row(
    partial_masking.make, ROWS | {"turns": (3, 3, 3), "wrong": 0.5},
    task=JUDGED,
  ),
  "pdr": Row(pdr.make, ROWS | {"drafts": 2, "keep": 2}, held=()),
  "pdr with drafts": Row(
    pdr.make, ROWS | {
      "turns": (3, 3, 3), "drafts": 2, "keep": 1, "distil": "verdict",
      "workspaces": 2, "train_drafts": True,
    }, held=(), task=JUDGED,
  ),
  "correction_dpo": Row(
    correction_dpo.make,
    ROWS | {"samples": 2, "turns": (3, 3, 3), "anchor": 0.1, "ends": "1"},
    held=("reference", "teacher"), heads={"teacher": ""}, task=JUDGED,
  ),
  "correction_dpo of own samples": Row(
    correction_dpo.make, ROWS | {
      "samples": 2, "turns": (3, 3, 3), "teacher": "policy",
      "reference": "none", "scope": "whole",
    }, held=(), task=JUDGED,
  ),
  "sec": Row(sec.make, ROWS | {"beta": 0.2}),
  "spear": Row(spear.make, ROWS | {"capacity": 40}, held=()),
  "satori": Row(
    satori.make,
    ROWS | {"restarts": 4, "beta": 0.2, "share_prompts": True},
  ),
  "ssr_zero": Row(ssr_zero.make, ROWS | {"beta": 0.2}),
}


def run_for(row, workdir=""):
  """A run that defines the roles of a row."""
  run = loops.run_of(MODEL, workdir)
  return run._replace(roles={
    name: Role(MODEL, "policy", head, run.origin)
    for name, head in row.heads.items()
  })


def stage_for(row, **more):
  """A stage of a row's method, with all of its roles."""
  task = more.pop("task", row.task)
  models = dict.fromkeys(["policy", *row.heads], MODEL)
  return loops.stage_of(
    row.make(models, task, OPTIMIZER, **row.options), OPTIMIZER,
    held=dict.fromkeys(row.held, "base/last"), trained=row.trained, task=task,
    **more,
  )


class Case(NamedTuple):
  """A method, and what it does to a round."""

  method: object
  state: object
  sampled: tuple  # problems, rows, verdicts
  curate: Callable  # (state, round) -> (refreshed state, batch, metrics)
  slope: Callable  # (state, batch) -> (objective, gradient, terms, metrics)
  traced: tuple  # jaxpr of an iteration, and the shapes of its results


@functools.cache
def case_of(name):
  row = METHODS[name]
  run, stage = run_for(row), stage_for(row)
  shapes = jax.eval_shape(lambda key: new_state(run, stage, key), KEY)
  closed, out, sampled = traced(stage, shapes)
  method = stage.method
  state = canned.state_like(shapes, method.memory(KEY))
  posed = jax.tree.map(np.asarray, jax.jit(method.pose)(KEY, state))
  problems = canned.round_like(
    sampled, posed, row.task, offline=row.options.get("offline", 0),
    tree="nodes" in row.options,
  )
  return Case(
    method, state, problems, curate_of(method), slope_of(method), (closed, out)
  )


def traced(stage, shapes):
  """(jaxpr of an iteration, shapes of its results, and of its round)."""
  seen = []
  step = make_train_step(stage.optimizer, stage.method.loss)
  collect, judge, learn = make_parts(stage.method, step)

  def look(state, key, *sampled):
    seen.append(jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), sampled
    ))
    return learn(state, key, *sampled)

  iteration = make_iteration(collect, judge, look)
  closed, out = jax.make_jaxpr(iteration, return_shape=True)(shapes, KEY)
  return closed, out, seen[0]


def curate_of(method):
  def curate(state, sampled):
    state = method.refresh(state, *sampled)
    return state, *method.curate(KEY, state, *sampled)

  return jax.jit(curate)


def slope_of(method):
  def slope(state, batch):
    def objective(params):
      terms, metrics = method.loss(params, state, batch)
      return sum(value(term) for term in terms.values()), (terms, metrics)

    found, gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
    return found[0], gradient, *found[1]

  return jax.jit(slope)


def avals(tree):
  return [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", METHODS)
def test_the_state_keeps_its_structure(name):
  """Structure, shape, dtype; and no large constant in the program."""
  case = case_of(name)
  closed, (state, metrics) = case.traced
  assert jax.tree.structure(state) == jax.tree.structure(case.state)
  assert avals(state) == avals(case.state)
  count = len(jax.tree.leaves(state))
  assert not any(x.weak_type for x in closed.out_avals[:count])
  for mean in metrics.values():
    assert isinstance(mean, Mean)
    assert mean.total.shape == mean.count.shape == ()
  assert max(loops.constants(closed), default=0) < 1_000_000


def test_large_constants_are_found():
  table = np.ones((600, 600), np.float32)

  def loop(x):
    body = lambda x, _: (x + jnp.sum(jax.jit(lambda: table * 2)()), ())
    return jax.lax.scan(body, x, length=2)[0]

  assert max(loops.constants(jax.make_jaxpr(loop)(1.0))) == table.nbytes


@pytest.mark.parametrize("name", METHODS)
def test_a_round_trains_every_role_and_only_under_the_mask(name):
  """All numbers are finite, whatever stands where nothing is known."""
  case = case_of(name)
  state, batch, curated = case.curate(case.state, case.sampled)
  found, gradient, terms, metrics = case.slope(state, batch)
  for x in jax.tree.leaves((found, gradient, curated, metrics)):
    assert np.all(np.isfinite(x))
  assert all(isinstance(term, Mean) for term in terms.values())
  for role in case.state.params:
    moved = jax.tree.leaves(gradient[role])
    assert any(np.any(x != 0) for x in moved), role
  masked = batch._replace(mask=jnp.zeros_like(batch.mask))
  for x in jax.tree.leaves(case.slope(state, masked)[1]):
    np.testing.assert_array_equal(x, 0)


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_problems_changes_nothing(name):
  """The same rows with the same masks, and the same gradient."""
  case = case_of(name)
  order = np.array([5, 2, 7, 0, 3, 6, 1, 4])
  assert sorted(order) == list(range(PROBLEMS))
  other = canned.reordered(case.sampled, order)
  (state, batch, _), (_, moved, _) = (
    case.curate(case.state, sampled) for sampled in (case.sampled, other)
  )
  assert units(batch) != units(moved)
  assert sorted(units(batch)) == sorted(units(moved))
  want, got = (case.slope(state, x)[:2] for x in (batch, moved))
  for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


COMPARING = {
  "single_turn", "multi_turn", "stage_one", "stage_two",
  "stage_two of three turns", "dpo", "dpo of random pairs", "ipo", "simpo",
  "orpo", "reward_model", "grpo", "rloo", "dr_grpo", "dapo", "gspo", "cispo",
  "sapo", "clip_cov", "kl_cov", "spark", "satori", "ssr_zero", "scl",
  "scl in review", "subtle_errors", "ledex", "correction_dpo",
  "correction_dpo of own samples", "pdr", "pdr with drafts",
}
# A KL in the reward, a charge for length, or the likelihood of what is right
# teaches where rewards are equal.
CHARGED = {
  "single_turn", "rloo", "dapo", "ledex", "cispo", "pdr", "pdr with drafts"
}


@pytest.mark.parametrize("name", METHODS)
def test_problems_are_wanted_that_teach(name):
  """Those whose rewards differ, of methods that compare the samples of each."""
  case = case_of(name)
  wanted = case.method.wanted
  assert (wanted != ()) == (name in COMPARING), "see COMPARING"
  if wanted == ():
    return
  problems, rows, verdicts = case.sampled
  alike = lambda kind, verdict: verdict._replace(
    reward=np.where(kind.problem[:, None] < 4, np.float32(1), verdict.reward)
  )
  several = isinstance(rows, dict)
  verdicts = (
    {n: alike(rows[n], verdicts[n]) for n in rows} if several
    else alike(rows, verdicts)
  )
  sampled = problems, rows, verdicts
  found = np.asarray(jax.jit(wanted)(*sampled))
  assert found.any() and not found[:4].any()
  _, batch, _ = case.curate(case.state, sampled)
  teaches = batch.mask > 0
  if isinstance(batch.targets, PolicyTargets):
    teaches &= batch.targets.advantage != 0
  teaches = teaches.reshape(PROBLEMS, -1).any(axis=1)
  assert np.all(teaches[found])
  assert name in CHARGED or not teaches[~found].any()


@pytest.mark.parametrize("rank", [0, 2])
def test_star_restarts_from_a_reference_of_another_dtype(rank):
  """In bfloat16, and where adapters are trained: the state keeps its kind."""
  model = MODEL.clone(dtype=jnp.bfloat16)
  run = run_for(METHODS["star"])
  origin = run.origin
  if rank:
    init = functools.partial(decoder.init, model)
    base = jax.eval_shape(init, KEY)
    origin = drawn(functools.partial(lora.adapters, model=model, rank=rank))
    origin = origin._replace(base=base, scale=1.0)
  run = run._replace(model=model, origin=origin)
  method = star.make({"policy": model}, TASK, OPTIMIZER, **ROWS)
  stage = loops.stage_of(method, OPTIMIZER, task=TASK, dtype=model.dtype)
  shapes = jax.eval_shape(lambda key: new_state(run, stage, key), KEY)
  held = {x.dtype for x in jax.tree.leaves(shapes.held)}
  # Adapters are scaled before they are rounded, so they stay as they are.
  assert (jnp.dtype("bfloat16") in held) == (rank == 0)
  assert {x.dtype for x in jax.tree.leaves(shapes.params)} == {
    jnp.dtype("float32")
  }
  _, (state, _), _ = traced(stage, shapes)
  assert jax.tree.structure(state) == jax.tree.structure(shapes)
  assert avals(state) == avals(shapes)


def units(batch):
  """What is trained on of every row, pair or group of a batch, as bytes."""
  fields = batch.inputs, batch.tokens, batch.turn, batch.path, batch.mask
  return [
    b"".join(np.asarray(x[i]).tobytes() for x in fields)
    for i in range(len(batch.tokens)) if np.any(batch.mask[i])
  ]
