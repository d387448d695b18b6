"""What replies from the host cost in a step of GRPO.

  python -m benchmarks.host_replies

The model of `benchmarks.decode`, 8 prompts of 128 tokens with 8 samples each,
three turns of 32 tokens, and between them 32 tokens from the host, which takes
20 ms for each reply, in threads. Three ways to sample:

kept: the cache stays on the device while the host answers.
waves: the same in two waves of rows, one decoded while the other waits.
again: a loop that reads the whole dialogue again in each turn.

The first two draw the same tokens; all dialogues have the same lengths. Prints
how many times faster the first two are than the third: the median over the
rounds, its 95 % bootstrap interval, and the range; and the share of a step,
with its update, that the host's replies take of each.
"""

import json
import pathlib
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks.decode import SIZES
from benchmarks.peers.sitrain_decode import make_model, problems_of
from benchmarks.rounds import compare, format_ratio, interleaved, timed
from sitrain.methods import grpo
from sitrain.models import decoder
from sitrain.rollout import by_turn
from sitrain.rollout.contexts import append, begin
from sitrain.rollout.play import play_on, row_keys
from sitrain.runtime.replies import call_all
from sitrain.tasks import products
from sitrain.tasks.draw import constant_reply
from sitrain.train import init_state, make_train_step
from sitrain.types import ROOT, Reply, Verdict

PROMPT, PROBLEMS, SAMPLES, TURNS, REPLY = 128, 8, 8, (32, 32, 32), 32
RESULT = pathlib.Path(__file__).parent / "results" / "host_replies.json"


def host(asked: dict):
  """A reply of constant tokens that takes a while; notes the waiting."""
  told = np.arange(REPLY, dtype=np.int32)

  def answer(answers, rows, turn, alive, seed) -> Reply:
    began = time.perf_counter()
    call_all(
      lambda row: time.sleep(asked["seconds"]), range(len(alive)),
      seconds=10.0, workers=asked["workers"], hung=[],
    )
    asked["waited"].append(time.perf_counter() - began)
    return Reply(np.tile(told, (len(alive), 1)), ~alive)

  reply = constant_reply(range(REPLY))
  reply.columns, reply.answer = REPLY, answer
  return reply


def kept(turns, waves, keys, params, problems):
  """Tokens, with the cache kept; every `waves`-th problem is of one wave."""
  parts = [
    jax.tree.map(lambda x, i=i: x[i::waves], (keys, problems))
    for i in range(waves)
  ]
  played = by_turn.play_all([
    by_turn.playing(turns, keys, params, part) for keys, part in parts
  ])
  tokens = jnp.stack([rows.tokens for rows in played])
  each = tokens.reshape(waves, -1, SAMPLES, tokens.shape[-1])
  return each.swapaxes(0, 1).reshape(-1, tokens.shape[-1])


def again(programs, reply, keys, params, problems):
  """Tokens, with the dialogue read again for each turn."""
  rows, count = None, PROBLEMS * SAMPLES
  for turn, program in enumerate(programs, 1):
    rows = program(keys, params, problems, rows)
    jax.block_until_ready(rows)
    if turn < len(programs):
      told = reply.answer((), rows, turn, np.ones(count, bool), ())
      rows = append(rows, jnp.asarray(told.tokens))
  return rows.tokens


def one_turn(model, turn, keys, params, problems, rows):
  """A turn of all rows from the dialogues so far."""
  options = dict(
    turns=TURNS[turn - 1 : turn], eos=(), temperature=1.0, first_turn=turn,
    reply=constant_reply([]),
  )
  if turn == 1:
    rows = begin(problems, 1)
    return play_on(
      keys, model, params, problems, rows, samples=SAMPLES, **options
    )
  return play_on(
    row_keys(keys, SAMPLES), model, params, problems, rows, samples=1,
    **options,
  )


def make_ways(reply) -> dict:
  """The three ways as functions of nothing."""
  case = {"model": SIZES, "prompt": PROMPT}
  model = make_model(SIZES)
  params = jax.jit(lambda key: decoder.init(model, key))(jax.random.key(0))
  given = (
    jax.random.split(jax.random.key(1), PROBLEMS), params,
    problems_of(case, PROBLEMS),
  )
  turns = by_turn.make(
    model, lambda state: (state, 1.0), samples=SAMPLES, reply=reply,
    turns=TURNS, eos=(),
  )
  turns = turns._replace(
    begin=jax.jit(turns.begin), go_on=jax.jit(turns.go_on, donate_argnums=1)
  )
  programs = [
    jax.jit(partial(one_turn, model, turn)) for turn in (1, 2, 3)
  ]
  return {
    "kept": partial(kept, turns, 1, *given),
    "waves": partial(kept, turns, 2, *given),
    "again": partial(again, programs, reply, *given),
  }, model, params, given[2]


def make_update(model, params, problems, tokens):
  """The update of GRPO on the rows, as a function of nothing."""
  task = products.make()._replace(turn_length=1)
  optimizer = optax.adam(1e-4)
  method = grpo.make(
    {"policy": model}, task, optimizer, problems=PROBLEMS, samples=SAMPLES,
    turns=TURNS, discount=1.0,
  )
  step = make_train_step(optimizer, method.loss)
  state = init_state(
    {"policy": params}, optimizer, held={"reference": params}
  )
  count = len(tokens)
  rows = begin(problems, SAMPLES)
  for turn, limit in enumerate(TURNS, 1):
    rows = append(rows, tokens[:, :limit], turn)
    if turn < len(TURNS):
      rows = append(rows, tokens[:, :REPLY])
  rows = rows._replace(parent=jnp.full(count, ROOT))
  reward = jax.random.uniform(jax.random.key(2), (count, len(TURNS)))

  def update(state, rows):
    verdict = Verdict(reward, jnp.ones_like(reward))
    key = jax.random.key(3)
    batch, _ = method.curate(key, state, problems, rows, verdict)
    return step(state, batch)[0].params

  return partial(jax.jit(update), state, rows)


def measure(rounds: int, milliseconds: float, workers: list[int]) -> list[dict]:
  """Seconds of the three ways, of the update and of waiting, by threads."""
  asked = {"seconds": milliseconds / 1000, "workers": workers[0], "waited": []}
  ways, model, params, problems = make_ways(host(asked))
  tokens = {name: np.asarray(way()) for name, way in ways.items()}
  if not np.array_equal(tokens["kept"], tokens["waves"]):
    raise ValueError("waves change what is sampled")
  update = make_update(model, params, problems, tokens["kept"])
  jax.block_until_ready(update())
  waiting: dict[str, list[float]] = {}

  def noting(name, way, count):
    asked["workers"] = count
    asked["waited"].clear()
    out = way()
    jax.block_until_ready(out)
    waiting.setdefault(f"{name} {count}", []).append(sum(asked["waited"]))
    return out

  timed_ways = {"update": timed(update)} | {
    f"{name} {count}": timed(partial(noting, name, way, count))
    for count in workers for name, way in ways.items()
  }
  seconds = interleaved(timed_ways, rounds)
  return [{
    "milliseconds": milliseconds, "workers": count,
    "seconds": {"update": seconds["update"]} | {
      name: seconds[f"{name} {count}"] for name in ways
    },
    "waiting": {name: waiting[f"{name} {count}"] for name in ways},
  } for count in workers]


def show(found: dict) -> None:
  """Prints the ratios and shares."""
  seconds, waiting = found["seconds"], found["waiting"]
  print(
    f"{found['workers']} threads, {found['milliseconds']:g} ms a reply"
  )
  median = lambda name: float(np.median(seconds[name]))
  print(f"update {median('update'):.2f} s")
  for name, waits in waiting.items():
    share = np.median([
      wait / (one + update) for wait, one, update
      in zip(waits, seconds[name], seconds["update"])
    ])
    print(
      f"{name:5s} {median(name):.2f} s; the host answers for "
      f"{np.median(waits):.2f} s, {100 * share:.0f} % of a step"
    )
  for name in ("kept", "waves"):
    ratio = format_ratio(compare(seconds["again"], seconds[name]))
    print(f"{name} is {ratio} times as fast as again")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown words on the command line: {argv[1:]}")
  workers = [int(count) for count in WORKERS.value]
  found = measure(ROUNDS.value, MILLISECONDS.value, workers)
  RESULT.write_text(json.dumps(found, indent=1))
  for one in found:
    show(one)


if __name__ == "__main__":
  ROUNDS = flags.DEFINE_integer("rounds", 7, "Interleaved rounds.", 1)
  MILLISECONDS = flags.DEFINE_float("milliseconds", 20.0, "Of a reply.")
  WORKERS = flags.DEFINE_list("workers", ["16", "64"], "Threads.")
  app.run(main)
