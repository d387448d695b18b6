"""The sampler against a slow decode in Python, and splicing against lists."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.judge.verifier import truncated
from sitrain.models.decoder import sees_rows
from sitrain.models.logprobs import token_scores
from sitrain.rollout import turns as turns_module
from sitrain.rollout.game import row_keys
from sitrain.rollout.recite import recite
from sitrain.rollout.sample import draw, inverse_cdf, keep_top_k, keep_top_p
from sitrain.rollout.splice import graft, join, splice, stack
from sitrain.rollout.turns import cache_lengths, play
from sitrain.types import GIVEN, OFFLINE, PAD, ROOT, Problems

EOS, TURNS, SAMPLES, VOCABULARY = (3, 7), (5, 4, 6), 2, 16
PROMPTS = [[1, 9, 4, 11, 2, 5], [8, 1, 13, 6], [12, 0, 10], [14]]
HEAT = np.array([0, 0.7, 0, 1, 1, 0, 0.7, 1], np.float32)  # one per row
SILENT = 3  # the answer whose second reply is empty


def reply_list(answer, turn):
  """What the cursor below reads: 1 to 3 tokens, or nothing."""
  if answer == SILENT and turn == 2:
    return []
  return [(answer * 3 + turn + i) % 16 for i in range(1 + (answer + turn) % 3)]


def reply(answer, episodes, turn):
  place = jnp.arange(3)
  said = (answer[:, :1] * 3 + turn[:, None] + place) % 16
  length = 1 + (answer[:, 0] + turn) % 3
  length = jnp.where((answer[:, 0] == SILENT) & (turn == 2), 0, length)
  return jnp.where(place < length[:, None], said, PAD).astype(jnp.int32)


def pose(prompts, answers, *, slots):
  rows = [[PAD] * (slots - len(p)) + list(p) for p in prompts]
  answer = jnp.asarray(answers, jnp.int32)[:, None]
  solution = jnp.full((len(rows), 1), PAD, jnp.int32)
  return Problems(jnp.asarray(rows, jnp.int32), answer, solution)


@functools.partial(
  jax.jit,
  static_argnames=("model", "samples", "turns", "first_turn", "reply", "eos"),
)
def run(
  keys, model, params, problems, heat, *, samples=SAMPLES, turns=TURNS,
  first_turn=1, reply=reply, eos=EOS,
):
  return play(
    keys, model, params, problems, samples=samples, reply=reply, turns=turns,
    eos=eos, temperature=heat, first_turn=first_turn,
  )


@pytest.fixture(scope="module")
def keys():
  return jax.random.split(jax.random.key(5), 4)


@pytest.fixture(scope="module")
def rows(toy, keys):
  model, params, _ = toy
  problems = pose(PROMPTS, range(4), slots=6)
  return run(keys, model, params, problems, jnp.asarray(HEAT))


@pytest.fixture(scope="module")
def chance():
  """A policy of one table, sharp enough to repeat itself and to end."""
  table = 1.5 * np.random.default_rng(0).normal(size=(VOCABULARY, VOCABULARY))
  return fakes.bigram(VOCABULARY), fakes.tabled(table)


def lists(episodes):
  """(tokens, turn) of every row as lists without pads."""
  turn = np.asarray(episodes.turn)
  tokens = np.asarray(episodes.tokens)
  return [
    (list(t[m != PAD]), list(m[m != PAD]))
    for t, m in zip(tokens, turn, strict=True)
  ]


def slow_decode(step, prompt, answer, key, heat):
  """One row by whole forward passes; `step` maps tokens to logits."""
  tokens, marks, scores = list(prompt), [GIVEN] * len(prompt), []
  scores += [0.0] * len(prompt)
  for turn, limit in enumerate(TURNS, 1):
    for position in range(limit):
      logits = step(tokens) / (heat or 1.0)
      seed = jax.random.fold_in(jax.random.fold_in(key, turn), position)
      drawn = jnp.argmax(logits)
      if heat:
        chance = np.cumsum(np.exp(jax.nn.log_softmax(logits), dtype=float))
        drawn = np.sum(chance <= float(jax.random.uniform(seed)) * chance[-1])
      tokens.append(int(drawn))
      marks.append(turn)
      scores.append(float(jax.nn.log_softmax(logits)[drawn]))
      if tokens[-1] in EOS:
        break
    said = reply_list(answer, turn) if turn < len(TURNS) else []
    if not said:
      break
    tokens += said
    marks += [GIVEN] * len(said)
    scores += [0.0] * len(said)
  return tokens, marks, scores


def test_slow_reference_decode(toy, rows, keys):
  model, params, _ = toy
  length = rows.tokens.shape[1]

  @jax.jit
  def forward(tokens, last):
    turn = jnp.where(jnp.arange(length) > last, PAD, GIVEN)[None]
    attend = sees_rows(turn, jnp.zeros_like(turn))
    hidden, _ = model.apply({"params": params}, tokens[None], attend)
    return model.apply({"params": params}, hidden[0, last], method="logits")

  def step(tokens):
    padded = tokens + [PAD] * (length - len(tokens))
    return forward(jnp.asarray(padded), len(tokens) - 1)

  found = lists(rows)
  for row in range(8):
    problem, sample = divmod(row, SAMPLES)
    key = jax.random.fold_in(keys[problem], sample)
    tokens, marks, scores = slow_decode(
      step, PROMPTS[problem], problem, key, float(HEAT[row])
    )
    assert found[row] == (tokens, marks), row
    np.testing.assert_allclose(
      rows.logprob[row, : len(scores)], scores, atol=1e-5
    )
  # The rows together must have met everything that the cursor decides.
  ends = [tokens[-1] in EOS for tokens, _ in found]
  assert any(ends) and not all(ends), "no end token, or nothing else"
  assert {max(marks) for _, marks in found} == {2, 3}, "no row was silenced"


def test_sampler_logprob_is_token_scores(toy, rows):
  model, params, _ = toy
  score = jax.jit(
    lambda heat: token_scores(
      model, params, rows.tokens, rows.turn, rows.path, inputs=rows.tokens,
      temperature=heat,
    )
  )
  # A greedy row reports its log-probability at temperature 1.
  heat = np.where(HEAT == 0, 1.0, HEAT)
  scores = score(jnp.asarray(heat)).logprob
  own = np.asarray(rows.turn) >= 1
  np.testing.assert_allclose(
    np.asarray(rows.logprob)[own], np.asarray(scores)[own], atol=1e-5
  )
  assert np.all(np.asarray(rows.logprob)[~own] == 0)
  # And the comparison sees a temperature that is left out.
  other = np.asarray(score(jnp.ones(8)).logprob)
  colder = own & (HEAT == np.float32(0.7))[:, None]
  assert np.max(np.abs(np.asarray(rows.logprob) - other)[colder]) > 1e-2


def test_greedy_is_the_generate_of_transformers(toy, keys):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  from hub_models import our_params

  model, _, _ = toy
  torch.manual_seed(1)
  config = transformers.LlamaConfig(
    vocab_size=model.vocabulary, hidden_size=model.width,
    intermediate_size=model.mlp_size, num_hidden_layers=model.layers,
    num_attention_heads=model.heads, num_key_value_heads=model.kv_heads,
    head_dim=model.head_size, rms_norm_eps=model.norm_eps,
    tie_word_embeddings=True, max_position_embeddings=64,
  )
  theirs = transformers.LlamaForCausalLM(config).eval()
  with torch.no_grad():
    for weight in theirs.parameters():
      weight.add_(torch.randn_like(weight) * 0.5)
  params = our_params(theirs)
  problems = pose(PROMPTS, range(4), slots=6)
  ours = lists(run(keys, model, params, problems, jnp.zeros(8)))
  out = theirs.generate(
    torch.tensor(np.maximum(np.asarray(problems.prompt), 0)).long(),
    attention_mask=torch.tensor(np.asarray(problems.prompt) != PAD).long(),
    max_new_tokens=TURNS[0], do_sample=False, eos_token_id=list(EOS),
    pad_token_id=EOS[0],
  )
  for row, new in enumerate(out[:, 6:].tolist()):
    own = [t for t, m in zip(*ours[row * SAMPLES], strict=True) if m == 1]
    assert new[: len(own)] == own
    assert all(t == EOS[0] for t in new[len(own) :])
  assert len({tuple(new) for new in out[:, 6:].tolist()}) > 1


def test_growth_of_the_cache_changes_nothing(toy, rows, keys, monkeypatch):
  monkeypatch.setattr(turns_module, "cache_lengths", lambda first, last: [
    *range(first + 3, last, 3), last
  ])
  model, params, _ = toy
  again = jax.jit(functools.partial(
    play, model=model, samples=SAMPLES, reply=reply, turns=TURNS, eos=EOS
  ))(keys, params=params, problems=pose(PROMPTS, range(4), slots=6),
     temperature=jnp.asarray(HEAT))
  for name in ("tokens", "turn"):
    np.testing.assert_array_equal(getattr(again, name), getattr(rows, name))
  np.testing.assert_allclose(again.logprob, rows.logprob, atol=1e-5)


@pytest.mark.parametrize("first, last, loops", [
  (12, 23, 1), (63, 190, 6), (511, 1022, 8), (0, 40, 4), (5, 6, 1),
])
def test_caches_grow_to_their_last_column(first, last, loops):
  sizes = cache_lengths(first, last)
  assert len(sizes) == loops
  assert sizes[-1] == last
  assert sizes == sorted(set(sizes)) and sizes[0] > first


def test_samples_depend_on_no_other_row(toy, rows, keys):
  model, params, _ = toy
  problems = pose(PROMPTS, range(4), slots=6)
  order = jnp.array([2, 0, 2, 1])
  moved = run(
    keys[order], model, params, jax.tree.map(lambda x: x[order], problems),
    jnp.asarray(HEAT.reshape(4, 2)[order].reshape(-1)),
  )
  want = lists(rows)
  for place, problem in enumerate(order.tolist()):
    for sample in range(SAMPLES):
      got = lists(moved)[place * SAMPLES + sample]
      assert got == want[problem * SAMPLES + sample]


def test_halves_fewer_samples_and_more_pads(toy, rows, keys):
  model, params, _ = toy
  wide = pose(PROMPTS, range(4), slots=9)
  want = lists(rows)
  for half in (slice(0, 2), slice(2, 4)):
    part = run(
      keys[half], model, params, Problems(*(x[half] for x in wide)),
      jnp.asarray(HEAT[::SAMPLES][half]), samples=1,
    )
    assert lists(part) == want[::SAMPLES][half]
    assert np.all(np.asarray(part.parent) == ROOT)


def test_row_keys_do_not_depend_on_their_number(keys):
  data = jax.random.key_data
  few, many = row_keys(keys[:2], 3), row_keys(keys, 5)
  np.testing.assert_array_equal(
    data(few).reshape(2, 3, -1), data(many).reshape(4, 5, -1)[:2, :3]
  )
  assert len({tuple(k) for k in np.asarray(data(many)).tolist()}) == 20


@pytest.fixture(scope="module")
def crowd(chance):
  """64 sampled rows of the table policy, and what they were asked."""
  model, params = chance
  problems = pose(PROMPTS * 4, list(range(4)) * 4, slots=6)
  keys = jax.random.split(jax.random.key(11), 16)
  heat = jnp.ones(64)
  return problems, keys, run(keys, model, params, problems, heat, samples=4)


def test_rows_are_well_formed(crowd):
  problems, _, episodes = crowd
  turn, tokens = np.asarray(episodes.turn), np.asarray(episodes.tokens)
  pads = turn == PAD
  assert np.all(pads == (tokens == PAD))
  assert np.all(pads[:, :-1] <= pads[:, 1:]), "a hole before the last token"
  np.testing.assert_array_equal(
    episodes.problem, np.repeat(np.arange(16), 4)
  )
  for row, (tokens, marks) in enumerate(lists(episodes)):
    answer = (row // 4) % 4
    written = [
      [t for t, m in zip(tokens, marks, strict=True) if m == k]
      for k in range(1, max(marks) + 1)
    ]
    for own, limit in zip(written, TURNS, strict=False):
      # Nothing after the end token, and no early stop without one.
      assert not any(t in EOS for t in own[:-1])
      assert len(own) <= limit
      assert len(own) == limit or own[-1] in EOS
    said = [reply_list(answer, k) for k in (1, 2)]
    assert len(written) == (2 if answer == SILENT else 3)
    want = fakes.transcribe(PROMPTS[answer], written, said)
    assert (tokens, marks) == want


def test_truncation_is_counted_per_turn(crowd):
  _, _, episodes = crowd
  cut = np.asarray(truncated(episodes, 3, EOS))
  for row, (tokens, marks) in enumerate(lists(episodes)):
    for k in (1, 2, 3):
      own = [t for t, m in zip(tokens, marks, strict=True) if m == k]
      assert cut[row, k - 1] == (bool(own) and own[-1] not in EOS)
  share = cut.mean(axis=0)
  assert np.all(share > 0) and np.all(share < 1)


def test_recite_writes_what_play_wrote(crowd):
  problems, _, episodes = crowd
  own = [
    [t for t, m in zip(tokens, marks, strict=True) if m >= 1]
    for tokens, marks in lists(episodes)
  ]
  width = max(map(len, own))
  solution = [row + [PAD] * (width - len(row)) for row in own]
  asked = jax.tree.map(lambda x: jnp.repeat(x, 4, axis=0), problems)
  asked = asked._replace(solution=jnp.asarray(solution, jnp.int32))
  again = jax.jit(
    functools.partial(recite, reply=reply, turns=TURNS, eos=EOS)
  )(asked)
  np.testing.assert_array_equal(again.tokens, episodes.tokens)
  np.testing.assert_array_equal(again.turn, episodes.turn)
  assert np.all(np.asarray(again.logprob) == 0)
  # PAD in place of a token ends the row there.
  short = asked._replace(solution=asked.solution[:, :2])
  ended = jax.jit(
    functools.partial(recite, reply=reply, turns=TURNS, eos=EOS)
  )(short)
  for (tokens, marks), row in zip(lists(ended), own, strict=True):
    said = [t for t, m in zip(tokens, marks, strict=True) if m >= 1]
    assert said == row[:2]


def test_turns_played_apart_are_the_turns_played_together(crowd, chance):
  model, params = chance
  problems, keys, episodes = crowd
  heat = jnp.ones(16)
  options = dict(samples=1)
  first = run(keys, model, params, problems, heat, turns=TURNS[:1], **options)
  said = reply(problems.answer, first, jnp.ones(16, jnp.int32))
  posed = splice(problems, first, said)
  second = run(
    keys, model, params, posed, heat, turns=TURNS[1:], first_turn=2, **options
  )
  both = graft(first, second)
  whole = lists(episodes)[::4]
  for (tokens, marks), (want, want_marks) in zip(
    lists(both), whole, strict=True
  ):
    assert tokens == want
    assert marks == want_marks
  assert np.all(np.asarray(both.parent) == OFFLINE)
  np.testing.assert_array_equal(both.problem, np.arange(16))


def primitives(jaxpr, name):
  """All equations with that primitive, inner ones included."""
  found = []
  for eqn in jaxpr.eqns:
    found += [eqn] if eqn.primitive.name == name else []
    for value in jax.tree.leaves(
      list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    ):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        found += primitives(inner, name)
  return found


def test_one_body_for_any_number_of_turns(toy, keys):
  model, params, _ = toy
  problems = pose(PROMPTS, range(4), slots=6)
  sizes = []
  for turns in ((4,), (4, 4), (4, 4, 4, 4)):
    bound = functools.partial(
      play, model=model, params=params, problems=problems, samples=1,
      reply=reply, turns=turns, eos=EOS, temperature=1.0,
    )
    jaxpr = jax.make_jaxpr(bound)(keys).jaxpr
    loops = primitives(jaxpr, "while")
    # One loop, but for the growth of the cache.
    lengths = cache_lengths(5, 6 + sum(turns) + 3 * (len(turns) - 1) - 1)
    assert len(loops) == len(lengths) and not primitives(jaxpr, "scan")
    body = loops[0].params["body_jaxpr"].jaxpr
    sizes.append(len(primitives(body, "dot_general")))
  assert sizes[0] == sizes[1] == sizes[2] > 0


def test_the_loop_stops_with_the_last_row():
  trips = []

  def count(answer, episodes, turn):
    jax.debug.callback(lambda: trips.append(1))
    return jnp.full((answer.shape[0], 1), 9, jnp.int32)

  problems = pose(PROMPTS, range(4), slots=6)
  keys = jax.random.split(jax.random.key(0), 4)
  hasty = np.zeros((VOCABULARY, VOCABULARY))
  hasty[:, EOS[0]] = 50.0
  slow = np.array(hasty)
  # From the last token of prompt 0 on, a turn does not end by itself.
  slow[PROMPTS[0][-1]] = slow[6] = np.eye(VOCABULARY)[6] * 50
  for table, want in ((hasty, 3), (slow, 6)):
    trips.clear()
    params = fakes.tabled(table)
    out = run(
      keys, fakes.bigram(VOCABULARY), params, problems, jnp.ones(4),
      samples=1, turns=(4, 30), reply=count,
    )
    jax.block_until_ready(out)
    jax.effects_barrier()
    # One token, the reply, one token; or four, the reply, one: from the reply
    # on even the slow rows come to an end.
    assert len(trips) == want
    last = int(np.max(np.sum(np.asarray(out.turn) != PAD, axis=1)))
    assert last == len(PROMPTS[0]) + want


def reference_filters(logits, k, p):
  """Top-k, then top-p, by sorting in NumPy."""
  keep = np.ones(len(logits), bool)
  if k:
    keep &= logits >= np.sort(logits)[-k]
  kept = np.where(keep, logits, -np.inf)
  chance = np.exp(kept - kept.max())
  chance /= chance.sum()
  order = np.argsort(-chance, kind="stable")
  total, chosen = 0.0, []
  for token in order:
    if chosen and total >= p:
      break
    chosen.append(token)
    total += chance[token]
  nucleus = np.isin(np.arange(len(logits)), chosen) & keep
  chance = np.where(nucleus, chance, 0)
  return nucleus, chance / chance.sum()


def test_filters_against_numpy():
  rng = np.random.default_rng(4)
  logits = rng.normal(size=(40, 9)).astype(np.float32) * 2
  by_k = jax.jit(keep_top_k, static_argnums=1)
  by_p = jax.jit(keep_top_p, static_argnums=1)
  for k in (1, 3, 9):
    found = np.isfinite(np.asarray(by_k(jnp.asarray(logits), k)))
    want = [reference_filters(row, k, 2.0)[0] for row in logits]
    np.testing.assert_array_equal(found, want)
    assert np.all(found.sum(axis=1) == k)
  for p in (1e-6, 0.3, 0.9):
    found = np.isfinite(np.asarray(by_p(jnp.asarray(logits), p)))
    want = [reference_filters(row, 0, p)[0] for row in logits]
    np.testing.assert_array_equal(found, want)
  assert np.all(np.asarray(by_p(jnp.asarray(logits), 1e-6)).max(1) > -np.inf)


@pytest.mark.parametrize("k, p, heat", [(0, 1, 1), (0, 1, 0.7), (3, 0.8, 1.3)])
def test_draws_have_the_frequencies_they_claim(k, p, heat):
  logits = np.array([1.0, -0.5, 2.0, 0.3, -2.0, 1.4], np.float32)
  count = 10_000

  @jax.jit
  def sample(key, logits, heat):
    keys = jax.random.split(key, count)
    rows = jnp.broadcast_to(logits, (count, 6))
    heat = jnp.broadcast_to(heat, count)
    return draw(keys, rows, heat, top_k=k, top_p=float(p))

  token, logprob = sample(
    jax.random.key(8), jnp.asarray(logits), jnp.float32(heat)
  )
  nucleus, chance = reference_filters(logits / heat, k, float(p))
  found = np.bincount(np.asarray(token), minlength=6) / count
  assert np.all(found[~nucleus] == 0)
  error = 5 * np.sqrt(chance * (1 - chance) / count)
  assert np.all(np.abs(found - chance) <= error)
  np.testing.assert_allclose(
    logprob, np.log(chance[np.asarray(token)]), atol=1e-5
  )


def test_a_nucleus_of_many_tokens_some_alike():
  rng = np.random.default_rng(5)
  logits = np.round(rng.normal(size=(8, 3000)) * 2, 1).astype(np.float32)
  logits[0] = 0.0
  logits[1, 7] = 60.0
  by_p = jax.jit(keep_top_p, static_argnums=1)
  for p in (0.1, 0.5, 0.95):
    found = np.isfinite(np.asarray(by_p(jnp.asarray(logits), p)))
    for row, mine in zip(logits, found):
      want = reference_filters(row.astype(float), 0, p)[0]
      # Sums of thousands of floats may disagree about the last token.
      assert np.sum(mine != want) <= 1
      assert mine[np.argmax(row)]


@pytest.mark.parametrize("size", [1, 2, 6, 64, 1000, 5003])
def test_inverse_cdf_against_a_sum_in_double_precision(size):
  rng = np.random.default_rng(size)
  weight = rng.gamma(0.2, size=(300, size)).astype(np.float32)
  weight[:, : size // 3] = 0.0
  weight[::2, size // 2 + 1 :] = 0.0
  uniform = rng.random(300).astype(np.float32)
  uniform[:4] = 0.0, 0.0, np.float32(1 - 2**-24), np.float32(1 - 2**-24)
  found = np.asarray(jax.jit(inverse_cdf)(uniform, weight))
  below = np.cumsum(weight, axis=1, dtype=float) / weight.sum(
    1, dtype=float, keepdims=True
  )
  row = np.arange(300)
  assert np.all(weight[row, found] > 0)
  assert np.all(uniform < below[row, found] + 1e-6)
  assert np.all(uniform >= below[row, found] - weight[row, found]
                / weight.sum(1) - 1e-6)


def test_draws_are_distributed_as_those_of_categorical():
  """Pearson's test of each against the probabilities, on the same bins."""
  size, count = 700, 60_000
  logits = jax.random.normal(jax.random.key(1), (size,)) * 2
  keys = jax.random.split(jax.random.key(2), count)
  rows = jnp.broadcast_to(logits, (count, size))
  ours = jax.jit(draw)(keys, rows, jnp.ones(count))[0]
  theirs = jax.random.categorical(jax.random.key(3), logits, shape=(count,))
  chance = np.asarray(jax.nn.softmax(logits))
  order = np.argsort(chance)
  bins = np.empty(size, int)
  # Unlikely tokens share a bin, likely ones have their own.
  bins[order] = np.unique(
    np.floor(np.cumsum(chance[order]) * 40), return_inverse=True
  )[1]
  want = np.bincount(bins, weights=chance) * count
  assert len(want) > 20 and want.min() > 100
  for tokens in (ours, theirs):
    found = np.bincount(bins[np.asarray(tokens)], minlength=len(want))
    assert np.sum((found - want) ** 2 / want) < 85  # 1 in 10,000 at 39


def test_greedy_ignores_the_key_and_scores_at_temperature_one():
  logits = jnp.array([[0.1, 2.0, 0.3], [4.0, 0.0, 3.9]])
  for seed in range(3):
    keys = jax.random.split(jax.random.key(seed), 2)
    token, logprob = draw(keys, logits, jnp.zeros(2))
    assert token.tolist() == [1, 0]
    want = jax.nn.log_softmax(logits)[jnp.arange(2), token]
    np.testing.assert_allclose(logprob, want, rtol=1e-6)


FIRST = [([4, 5], [[9, 3]]), ([6], [[1, 2, 3]]), ([7, 8, 2], [[0]])]
SAID = [[10], [11, 12], [13]]
LATER = [[1, 3], [2], [14, 15, 3]]


def hand_made():
  first = fakes.pack(
    [fakes.transcribe(p, t, []) for p, t in FIRST], problem=[2, 0, 2]
  )
  said = jnp.asarray([row + [PAD] * (2 - len(row)) for row in SAID], jnp.int32)
  return first, said


def test_splice_is_the_episode_and_the_reply():
  first, said = hand_made()
  problems = Problems(
    jnp.zeros((3, 2), jnp.int32), jnp.array([[7], [8], [9]]),
    jnp.array([[1], [2], [3]]),
  )
  posed = splice(problems, first, said)
  width = first.tokens.shape[1] + 2
  for row, (prompt, turns) in enumerate(FIRST):
    context = prompt + turns[0] + SAID[row]
    want = [PAD] * (width - len(context)) + context
    assert posed.prompt[row].tolist() == want
  assert posed.answer[:, 0].tolist() == [9, 7, 9]
  assert posed.solution[:, 0].tolist() == [3, 1, 3]


def test_graft_marks_both_turns():
  first, _ = hand_made()
  rng = np.random.default_rng(2)
  first = first._replace(
    logprob=jnp.where(first.turn >= 1, jnp.asarray(
      rng.normal(size=first.tokens.shape), jnp.float32), 0)
  )
  rows = []
  for (prompt, turns), said, later in zip(FIRST, SAID, LATER, strict=True):
    context = prompt + turns[0] + said
    tokens, marks = fakes.transcribe(context, [later], [])
    rows.append((tokens, [2 if m == 1 else m for m in marks]))
  second = fakes.pack(rows, length=9)
  scores = jnp.where(second.turn == 2, -1.5, 0.0)
  both = graft(first, second._replace(logprob=scores))
  for row, ((prompt, turns), said) in enumerate(zip(FIRST, SAID, strict=True)):
    want = fakes.transcribe(prompt, [turns[0], LATER[row]], [said])
    assert lists(both)[row] == want
    own = np.asarray(both.turn[row]) == 1
    np.testing.assert_array_equal(
      np.asarray(both.logprob[row])[own],
      np.asarray(first.logprob[row])[np.asarray(first.turn[row]) == 1],
    )
  assert np.all(np.asarray(both.logprob)[np.asarray(both.turn) == 2] == -1.5)
  assert both.problem.tolist() == [2, 0, 2]
  assert both.parent.tolist() == [OFFLINE] * 3


def test_join_and_stack():
  first, said = hand_made()
  later = jnp.asarray([r + [PAD] * (3 - len(r)) for r in LATER], jnp.int32)
  pairs = join(first, said, later)
  for row, (prompt, turns) in enumerate(FIRST):
    want = fakes.transcribe(prompt, [turns[0], LATER[row]], [SAID[row]])
    assert lists(pairs)[row] == want
  assert pairs.parent.tolist() == [OFFLINE] * 3
  whole = stack(first, pairs)
  assert whole.tokens.shape == (6, pairs.tokens.shape[1])
  assert lists(whole) == lists(first) + lists(pairs)
  assert np.all(np.asarray(whole.tokens)[np.asarray(whole.turn) == PAD] == PAD)
  assert whole.parent.tolist() == [ROOT] * 3 + [OFFLINE] * 3
