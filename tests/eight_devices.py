"""Run by test_runtime_devices.py as a process of 8 fake CPU devices.

`python eight_devices.py FOLDER`: FOLDER/one holds a checkpoint of one device;
leaves FOLDER/eight for the caller to restore.
"""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from sitrain.evaluate import pieces as in_pieces
from sitrain.evaluate import player
from sitrain.models.decoder import Decoder, init
from sitrain.models.parameters import PARTITION_RULES
from sitrain.rollout import by_turn
from sitrain.runtime import batches, build, checkpoint, pieces, sharding
from sitrain.runtime.options import ConfigError
from sitrain.tasks import maze
from sitrain.tasks.draw import constant_reply
from sitrain.types import PAD, ROOT, Episodes, Problems, Reply, TrainState

RULES = ((r"(^|/)w$", PartitionSpec("fsdp", "tensor")),)
PROBLEMS, SAMPLES, WIDTH = 16, 2, 8
COLLECTIVE = re.compile(
  r"(all-reduce|all-gather|all-to-all|permute)(-start)?\("
)


def make_state():
  w = jax.random.normal(jax.random.key(0), (WIDTH, WIDTH))
  return TrainState(
    step=jnp.int32(3),
    frozen={},
    params={"policy": {"w": w}},
    opt_state=({"w": w + 1.0},),
    held={},
    memory={"ids": jnp.arange(6)},
  )


def generate(keys, state, problems):
  """Rows that stop by themselves, in a loop that uses the weights."""
  w = state.params["policy"]["w"]
  draw = jax.vmap(lambda key: jax.random.normal(key, (SAMPLES, WIDTH)))
  x = draw(keys).reshape(-1, WIDTH)
  start = jnp.repeat(problems.prompt[:, 0], SAMPLES)

  def alive(carry):
    t, _ = carry
    return (t < 40) & jnp.any(t < start)

  def step(carry):
    t, x = carry
    return t + 1, jnp.where((t < start)[:, None], jnp.tanh(x @ w), x)

  _, x = jax.lax.while_loop(alive, step, (jnp.int32(0), x))
  rows = x.shape[0]
  tokens = jnp.full((rows, WIDTH), PAD, jnp.int32)
  first = jnp.arange(rows) % SAMPLES == 0
  return Episodes(
    tokens=tokens,
    turn=tokens,
    logprob=x,
    path=tokens,
    problem=jnp.repeat(jnp.arange(rows // SAMPLES), SAMPLES),
    parent=jnp.where(first, ROOT, jnp.arange(rows) - 1),
  )


def collectives_in_loop(compiled):
  lines = compiled.as_text().splitlines()
  found = [line for line in lines if COLLECTIVE.search(line)]
  return [line for line in found if "/while/" in line], found


def check_groups(state, keys, problems):
  want = jax.jit(generate)(keys, state, problems)
  for sizes in ((8, 1, 1), (2, 2, 2)):
    mesh = sharding.make_mesh(*sizes)
    placed = jax.device_put(state, sharding.state_shardings(RULES, state, mesh))
    rows = sharding.shard_rows(mesh)
    args = jax.device_put((keys, problems), rows)
    grouped = jax.jit(sharding.by_group(generate, mesh))
    got = grouped(args[0], placed, args[1])
    for name in ("problem", "parent"):
      np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    np.testing.assert_allclose(got.logprob, want.logprob, atol=1e-6)
    # The compiler may split the width over tensor, rows only over groups.
    shard = got.logprob.addressable_shards[0].data
    assert len(shard) == PROBLEMS * SAMPLES // sharding.groups(mesh)


def check_odd_groups(state, keys, problems):
  """Problems that do not divide are filled up, and rows are as without."""
  few = lambda n: (keys[:n], state, jax.tree.map(lambda x: x[:n], problems))
  for count, sizes in ((13, (2, 2, 2)), (3, (8, 1, 1))):
    mesh = sharding.make_mesh(*sizes)
    grouped = jax.jit(sharding.by_group(generate, mesh))
    got, want = grouped(*few(count)), generate(*few(count))
    for name in ("problem", "parent", "tokens"):
      np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    np.testing.assert_allclose(got.logprob, want.logprob, atol=1e-6)
    inside, _ = collectives_in_loop(grouped.lower(*few(count)).compile())
    assert not inside, inside


def check_loop_is_local(state, keys, problems):
  mesh = sharding.make_mesh(4, 2, 1)
  placed = jax.device_put(state, sharding.state_shardings(RULES, state, mesh))
  args = jax.device_put((keys, problems), sharding.shard_rows(mesh))
  parts = (args[0], placed, args[1])
  grouped = jax.jit(sharding.by_group(generate, mesh)).lower(*parts).compile()
  inside, anywhere = collectives_in_loop(grouped)
  assert not inside, inside
  assert anywhere, "the weights are not gathered"
  plain = jax.jit(generate).lower(*parts).compile()
  assert collectives_in_loop(plain)[0], "this check sees nothing"


def answer(answers, rows, turn, alive, seed):
  """The row's number and turn; every third row ends after the first."""
  tokens = np.stack([answers[:, 0] % 5, np.full(len(alive), turn)], axis=1)
  return Reply(tokens.astype(np.int32), answers[:, 0] % 3 == 0)


def check_turns(keys, problems):
  """Rows whose replies the host writes are those of one device."""
  model = Decoder(
    vocabulary=7, layers=1, width=8, heads=2, kv_heads=1, head_size=4,
    mlp_size=8,
  )
  params = init(model, jax.random.key(0))
  reply = constant_reply([0, 0])
  reply.columns, reply.answer = 2, answer
  turns = by_turn.make(
    model, lambda state: (state.params["policy"], 1.0), samples=SAMPLES,
    reply=reply, turns=(4, 4), eos=(3,),
  )
  state = TrainState(jnp.int32(0), {}, {"policy": params}, (), {}, ())

  def rows_of(turns, *given):
    begin = jax.jit(turns.begin).lower(*given).compile()
    compiled = turns._replace(
      begin=begin, go_on=jax.jit(turns.go_on, donate_argnums=1)
    )
    (rows,) = by_turn.play_all([by_turn.playing(compiled, *given)])
    return rows, begin

  want, _ = rows_of(turns, keys, state, problems)
  mesh = sharding.make_mesh(4, 2, 1)
  placed = jax.device_put(state, sharding.replicated(mesh))
  args = jax.device_put((keys, problems), sharding.shard_rows(mesh))
  grouped = sharding.turns_by_group(turns, mesh)
  got, begin = rows_of(grouped, args[0], placed, args[1])
  for name in ("tokens", "turn", "problem", "parent"):
    np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
  np.testing.assert_allclose(got.logprob, want.logprob, atol=1e-5)
  second = (np.asarray(want.turn) == 2).any(axis=1)
  assert second.any() and not second.all()
  inside, _ = collectives_in_loop(begin)
  assert not inside, inside


def check_pieces():
  """Rollouts in pieces are those of one program, on one device."""
  task = maze.make(doors=2, rooms=2)
  model = Decoder(
    vocabulary=16, layers=1, width=16, heads=2, kv_heads=2, head_size=4,
    mlp_size=16,
  )
  params = init(model, jax.random.key(0))
  options = dict(turns=(8, 8), samples=SAMPLES, slots=3, reply=task.reply)
  made = player.make(model, task, **options, jit=jax.jit)
  key, rows = jax.random.key(1), np.arange(13)  # They divide over no groups.
  posed = jax.device_get(made.pose(key, 13))
  given = dict(batch=2 * 13, temperature=1.0)
  want = player.play_rows(made, params, key, posed, rows, **given)
  lengths = (want.turn > 0).sum(axis=1)
  assert len(set(lengths.tolist())) > 4, "rows of one length prove nothing"
  mesh = sharding.make_mesh(1, 2, 1, devices=jax.devices()[:2])
  with jax.set_mesh(mesh):  # Weights are split, and each device is a group.
    placed = jax.device_put(
      params, sharding.state_shardings(PARTITION_RULES, params, mesh)
    )
    programs = pieces.compiled(model, mesh, **options, eos=task.eos)
    prepared = programs.prepare(placed)
    found = list(in_pieces.play_rows(
      programs, made, prepared, key, posed, rows,
      groups=sharding.groups(mesh), **given
    ))
  some = [one for one in found if len(one.problems)]
  assert len(some) > 1, "all problems ended together"
  order = np.argsort(np.concatenate([one.problems for one in some]))
  own = (order[:, None] * SAMPLES + np.arange(SAMPLES)).reshape(-1)
  for name in ("tokens", "turn"):
    got = np.concatenate([getattr(one.played, name) for one in some])[own]
    np.testing.assert_array_equal(got, getattr(want, name))
  right = np.concatenate([one.played.judged.right for one in some])[own]
  np.testing.assert_array_equal(right, want.judged.right)
  assert programs.go_on._cache_size() == 1, "compiled twice"


def check_sizes():
  for sizes in ((3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1), (2, 2, 1)):
    try:
      sharding.make_mesh(*sizes)
    except ValueError as error:
      assert "config.mesh.data=" in str(error) and "\n" not in str(error)
    else:
      raise AssertionError(f"{sizes} should not fit 8 devices")
  mesh = sharding.make_mesh(-1, 2, 2)
  assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
  counts = lambda n: batches.Counts(n, 2 * n, 2 * n, 9)
  fit = lambda n, **more: batches.fit(
    "stage.one", build.STAGE | more, counts(n), mesh
  )
  assert fit(8) == {"waves": 1, "microbatches": 1}
  # At most as many as asked for, and a divisor of what a group has.
  assert fit(12, waves=2, microbatches=4) == {"waves": 1, "microbatches": 3}
  for problems, more, fitting in (
    (6, {}, "method.problems=6 does not divide .* = 4: set it to 4 or 8"),
    (8, {"minibatches": 3},
     r"method.problems=8 makes 16 rows.*= 3 \* 4: set .*minibatches to 2"),
  ):
    try:
      fit(problems, **more)
    except ConfigError as error:
      assert re.search(fitting, str(error)), error
    else:
      raise AssertionError(f"{problems} rows do not split in 4")


def check_restore(state, folder):
  mesh = sharding.make_mesh(2, 2, 2)
  shardings = sharding.state_shardings(RULES, state, mesh)
  want = sharding.abstract(state, shardings)
  found, progress = checkpoint.restore(folder / "one", "last", want)
  assert progress.step == 3
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
    np.testing.assert_array_equal(x, y)
  assert found.params["policy"]["w"].sharding.spec == RULES[0][1]
  assert found.opt_state[0]["w"].sharding.spec == RULES[0][1]
  assert len(found.params["policy"]["w"].addressable_shards[0].data) == 4
  manager = checkpoint.open_manager(folder / "eight")
  checkpoint.save(manager, 3, found, progress, 0.5)
  checkpoint.finish(manager)
  with jax.set_mesh(mesh):  # As a finished run looks at its checkpoints.
    assert checkpoint.damage(folder / "eight") == ""


def main(folder):
  assert jax.device_count() == 8
  state = make_state()
  keys = jax.random.split(jax.random.key(1), PROBLEMS)
  prompt = jnp.arange(PROBLEMS * 3).reshape(PROBLEMS, 3) % 7
  problems = Problems(prompt, prompt, prompt)
  check_sizes()
  check_groups(state, keys, problems)
  check_odd_groups(state, keys, problems)
  check_loop_is_local(state, keys, problems)
  check_turns(keys, problems)
  check_pieces()
  check_restore(state, folder)


if __name__ == "__main__":
  main(Path(sys.argv[1]))
