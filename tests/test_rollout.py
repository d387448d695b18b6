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
from sitrain.rollout import contexts, stream
from sitrain.rollout import play as play_module
from sitrain.rollout.caches import cache_lengths
from sitrain.rollout.contexts import Segment
from sitrain.rollout.play import play, play_on, row_keys
from sitrain.rollout.sample import draw, inverse_cdf, keep_top_k, keep_top_p
from sitrain.tasks.draw import constant_reply
from sitrain.types import GIVEN, OFFLINE, PAD, ROOT, Episodes, Problems, Reply

EOS, TURNS, SAMPLES, VOCABULARY = (3, 7), (5, 4, 6), 2, 16
PROMPTS = [[1, 9, 4, 11, 2, 5], [8, 1, 13, 6], [12, 0, 10], [14]]
TEMPERATURE = np.array([0, 0.7, 0, 1, 1, 0, 0.7, 1], np.float32)  # one per row
ENDED, EMPTY = (3, 2), (2, 1)  # (answer, turn): the episode ends; no tokens


def reply_list(answer, turn):
  """What the cursor below reads: up to 3 tokens, or None: the row is done."""
  if (answer, turn) == ENDED:
    return None
  if (answer, turn) == EMPTY:
    return []
  return [(answer * 3 + turn + i) % 16 for i in range(1 + (answer + turn) % 3)]


def reply(answer, episodes, turn):
  place = jnp.arange(3)
  tokens = (answer[:, :1] * 3 + turn[:, None] + place) % 16
  length = 1 + (answer[:, 0] + turn) % 3
  met = lambda case: (answer[:, 0] == case[0]) & (turn == case[1])
  length = jnp.where(met(EMPTY), 0, length)
  tokens = jnp.where(place < length[:, None], tokens, PAD)
  return Reply(tokens.astype(jnp.int32), met(ENDED))


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
  keys, model, params, problems, temperature, *, samples=SAMPLES, turns=TURNS,
  first_turn=1, reply=reply, eos=EOS,
):
  return play(
    keys, model, params, problems, samples=samples, reply=reply, turns=turns,
    eos=eos, temperature=temperature, first_turn=first_turn,
  )


@pytest.fixture(scope="module")
def keys():
  return jax.random.split(jax.random.key(5), 4)


@pytest.fixture(scope="module")
def rows(toy, keys):
  model, params, _ = toy
  problems = pose(PROMPTS, range(4), slots=6)
  return run(keys, model, params, problems, jnp.asarray(TEMPERATURE))


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


def slow_decode(step, prompt, answer, key, temperature):
  """One row by whole forward passes; `step` maps tokens to logits."""
  tokens, marks, scores = list(prompt), [GIVEN] * len(prompt), []
  scores += [0.0] * len(prompt)
  for turn, limit in enumerate(TURNS, 1):
    for position in range(limit):
      logits = step(tokens) / (temperature or 1.0)
      seed = jax.random.fold_in(jax.random.fold_in(key, turn), position)
      drawn = jnp.argmax(logits)
      if temperature:
        chance = np.cumsum(np.exp(jax.nn.log_softmax(logits), dtype=float))
        drawn = np.sum(chance <= float(jax.random.uniform(seed)) * chance[-1])
      tokens.append(int(drawn))
      marks.append(turn)
      scores.append(float(jax.nn.log_softmax(logits)[drawn]))
      if tokens[-1] in EOS:
        break
    given = reply_list(answer, turn) if turn < len(TURNS) else None
    if given is None:
      break
    tokens += given
    marks += [GIVEN] * len(given)
    scores += [0.0] * len(given)
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
      step, PROMPTS[problem], problem, key, float(TEMPERATURE[row])
    )
    assert found[row] == (tokens, marks), row
    np.testing.assert_allclose(
      rows.logprob[row, : len(scores)], scores, atol=1e-5
    )
  # The rows together must have met everything that the cursor decides.
  ends = [tokens[-1] in EOS for tokens, _ in found]
  assert any(ends) and not all(ends), "no end token, or nothing else"
  assert {max(marks) for _, marks in found} == {2, 3}, "no reply ended a row"


def test_sampler_logprob_is_token_scores(toy, rows):
  model, params, _ = toy
  score = jax.jit(
    lambda temperature: token_scores(
      model, params, rows.tokens, rows.turn, rows.path, inputs=rows.tokens,
      temperature=temperature,
    )
  )
  # A greedy row reports its log-probability at temperature 1.
  temperature = np.where(TEMPERATURE == 0, 1.0, TEMPERATURE)
  scores = score(jnp.asarray(temperature)).logprob
  own = np.asarray(rows.turn) >= 1
  np.testing.assert_allclose(
    np.asarray(rows.logprob)[own], np.asarray(scores)[own], atol=1e-5
  )
  assert np.all(np.asarray(rows.logprob)[~own] == 0)
  # And the comparison sees a temperature that is left out.
  other = np.asarray(score(jnp.ones(8)).logprob)
  colder = own & (TEMPERATURE == np.float32(0.7))[:, None]
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
  monkeypatch.setattr(play_module, "cache_lengths", lambda first, last: [
    *range(first + 3, last, 3), last
  ])
  model, params, _ = toy
  again = jax.jit(functools.partial(
    play, model=model, samples=SAMPLES, reply=reply, turns=TURNS, eos=EOS
  ))(keys, params=params, problems=pose(PROMPTS, range(4), slots=6),
     temperature=jnp.asarray(TEMPERATURE))
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
    jnp.asarray(TEMPERATURE.reshape(4, 2)[order].reshape(-1)),
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
      jnp.asarray(TEMPERATURE[::SAMPLES][half]), samples=1,
    )
    assert lists(part) == want[::SAMPLES][half]
    assert np.all(np.asarray(part.parent) == ROOT)


def test_a_stream_writes_what_play_writes(toy, rows, keys):
  model, params, _ = toy
  made = stream.make(model, reply=reply, turns=TURNS, eos=EOS, tokens=3)
  begin, go_on = jax.jit(made.begin), jax.jit(made.go_on)
  for p in range(4):  # Of each problem the first sample.
    problems = pose(PROMPTS[p : p + 1], [p], slots=6)
    given = (keys[p : p + 1], params, jnp.asarray(TEMPERATURE[2 * p]), problems)
    written, seen = begin(*given), [PROMPTS[p]]
    while not written.over:
      written = go_on(*given, written)
      ((tokens, turns),) = lists(contexts.align_left(written.rows))
      assert tokens[: len(seen[-1])] == seen[-1]
      assert len(tokens) <= len(seen[-1]) + 3
      seen.append(tokens)
    assert (tokens, turns) == lists(rows)[2 * p] and len(seen) > 2


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
  temperature = jnp.ones(64)
  return problems, keys, run(
    keys, model, params, problems, temperature, samples=4
  )


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
    replies = [reply_list(answer, k) for k in (1, 2)]
    assert len(written) == (2 if answer == ENDED[0] else 3)
    want = fakes.transcribe(PROMPTS[answer], written, replies)
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


def own_tokens(episodes):
  """What the policy wrote in each row, turn after turn."""
  return [
    [t for t, m in zip(tokens, marks, strict=True) if m >= 1]
    for tokens, marks in lists(episodes)
  ]


def posed_with(problems, solutions):
  """The problems, one for each of the solutions."""
  width = max(map(len, solutions))
  rows = [row + [PAD] * (width - len(row)) for row in solutions]
  return problems._replace(solution=jnp.asarray(rows, jnp.int32))


given = jax.jit(
  contexts.given, static_argnames=("reply", "turns", "eos")
)


def test_given_solutions_are_written_as_play_wrote_them(crowd):
  problems, _, episodes = crowd
  cut = np.asarray(truncated(episodes, 3, EOS))[:, :2].any(axis=1)
  asked = jax.tree.map(lambda x: jnp.repeat(x, 4, axis=0), problems)
  asked = posed_with(asked, own_tokens(episodes))
  again = given(asked, reply=reply, turns=TURNS, eos=EOS)
  assert again.tokens.shape == episodes.tokens.shape
  # A turn without its end cannot be told from the next in a solution.
  assert np.sum(cut) > 10 < np.sum(~cut)
  for name in ("tokens", "turn", "problem", "parent"):
    want = getattr(episodes, name)
    want = jnp.arange(len(cut)) if name == "problem" else want
    np.testing.assert_array_equal(getattr(again, name)[~cut], want[~cut])
  assert np.all(np.asarray(again.logprob) == 0)
  # A row ends with its last given turn, and no reply follows that.
  solutions = [row[:2] for row in own_tokens(episodes)]
  short = given(
    posed_with(asked, solutions), reply=reply, turns=TURNS, eos=EOS
  )
  assert own_tokens(short) == solutions
  assert all(marks[-1] >= 1 for _, marks in lists(short))


def test_a_given_turn_beyond_its_limit_is_cut_there():
  end, again = EOS[0], constant_reply([13])
  solutions = [
    [1, 2, 4, 5, 6, end, 8, 9, end],
    [1, 2, 4, end, 8, 9, 8, 9, 8, end],
    [1, end, 2, end, 4, end],
    [],
  ]
  problems = posed_with(pose(PROMPTS, range(4), slots=6), solutions)
  rows = given(problems, reply=again, turns=(4, 6), eos=EOS)
  want = [
    ([1, 2, 4, 5], [8, 9, end]), ([1, 2, 4, end], [8, 9, 8, 9, 8, end]),
    ([1, end], [2, end]),
  ]  # fmt: skip
  for row, (prompt, turns) in enumerate(zip(PROMPTS, want, strict=False)):
    assert lists(rows)[row] == fakes.transcribe(prompt, turns, [[13]])
  assert lists(rows)[3] == (PROMPTS[3], [GIVEN])
  cut = np.asarray(truncated(rows, 2, EOS))
  assert cut.tolist() == [[True, False]] + [[False, False]] * 3
  fit = contexts.fits(problems, (4, 6), EOS)
  assert fit.tolist() == [False, True, True, True]
  assert contexts.fits(problems, (6, 5), EOS).tolist() == [1, 0, 1, 1]


def test_given_turns_follow_replies_as_played_ones_do():
  end = EOS[0]
  solutions = [[1, end, 2, end, 4, end]] * 4
  problems = posed_with(pose(PROMPTS, range(4), slots=6), solutions)
  rows = given(problems, reply=reply, turns=TURNS, eos=EOS)
  for answer, prompt in enumerate(PROMPTS):
    count = 2 if answer == ENDED[0] else 3
    turns = [[1, end], [2, end], [4, end]][:count]
    replies = [reply_list(answer, k) for k in (1, 2)]
    assert lists(rows)[answer] == fakes.transcribe(prompt, turns, replies)


def test_a_turn_that_was_not_reached_marks_no_token(crowd):
  """A reply ends rows of one answer before their third turn."""
  _, _, episodes = crowd
  turn = np.asarray(episodes.turn)
  ended = np.repeat(np.arange(16) % 4 == ENDED[0], 4)
  assert not np.any(turn[ended] == 3)
  assert np.all(np.any(turn[~ended] == 3, axis=1))
  # Nothing is given either, behind the last turn.
  for row in np.flatnonzero(ended):
    assert lists(episodes)[row][1][-1] == 2


run_on = jax.jit(
  play_on,
  static_argnames=("model", "samples", "turns", "first_turn", "reply", "eos",
                   "slots"),
)


def assert_same_rows(found, want, *, problem=True):
  names = ("tokens", "turn", "path") + ("problem",) * problem
  for name in names:
    np.testing.assert_array_equal(
      getattr(found, name), getattr(want, name), err_msg=name
    )
  np.testing.assert_allclose(found.logprob, want.logprob, atol=1e-5)


def test_turns_played_one_by_one_are_the_turns_played_together(toy, keys):
  """With one sample and the same keys: turn k is a function of those."""
  model, params, _ = toy
  problems = pose(PROMPTS, range(4), slots=6)
  temperature = jnp.asarray(TEMPERATURE[::2])
  options = dict(samples=1, reply=reply, eos=EOS, temperature=temperature)
  together = run(keys, model, params, problems, temperature, samples=1)
  rows, live = contexts.begin(problems, 1), True
  for k, limit in enumerate(TURNS, 1):
    rows = run_on(
      keys, model, params, problems, rows, turns=(limit,), first_turn=k,
      live=live, **options,
    )
    assert np.array_equal(rows.parent, np.arange(4))
    if k < len(TURNS):
      number = jnp.full(4, k)
      answered = reply(problems.answer, rows, number)
      live = ~answered.done & live
      rows = contexts.append_reply(rows, answered._replace(done=~live))
  width = together.tokens.shape[1]
  assert rows.tokens.shape[1] == width
  assert_same_rows(rows, together)


@pytest.mark.parametrize("slots", [0, 2])
def test_samples_of_rows_with_text(toy, rows, keys, slots):
  """Each of 8 rows, some of them done, is continued by three samples."""
  model, params, _ = toy
  problems = pose(PROMPTS, range(4), slots=6)
  first = run(
    keys, model, params, problems, jnp.asarray(TEMPERATURE), turns=TURNS[:1]
  )
  answered = reply(problems.answer[first.problem], first, jnp.ones(8, int))
  live = jnp.arange(8) != 5
  before = contexts.append_reply(first, answered._replace(done=~live))
  temperature = jnp.where(jnp.arange(24) % 5 == 0, 0.0, 1.3)
  many = run_on(
    row_keys(keys, 2), model, params, problems, before, samples=3,
    turns=TURNS[1:], first_turn=2, reply=reply, eos=EOS, slots=slots,
    temperature=temperature, live=live,
  )
  np.testing.assert_array_equal(many.parent, np.repeat(np.arange(8), 3))
  np.testing.assert_array_equal(many.problem, np.repeat(np.arange(4), 6))
  old = np.repeat(np.asarray(before.turn) != PAD, 3, axis=0)
  width = old.shape[1]
  for name in ("tokens", "turn", "logprob", "path"):
    want = np.repeat(np.asarray(getattr(before, name)), 3, axis=0)
    found = np.asarray(getattr(many, name))
    np.testing.assert_array_equal(found[:, :width][old], want[old])
  new = np.asarray(many.turn) >= 2
  assert np.array_equal(np.any(new, axis=1), np.repeat(live, 3))
  scores = jax.jit(lambda temperature: token_scores(
    model, params, many.tokens, many.turn, many.path, inputs=many.tokens,
    temperature=temperature,
  ))(jnp.where(temperature == 0, 1.0, temperature)).logprob
  np.testing.assert_allclose(
    np.asarray(many.logprob)[new], np.asarray(scores)[new], atol=1e-5
  )
  # Samples differ, and a row by itself gets what it got among the others.
  texts = own_tokens(many)
  assert len({tuple(text) for text in texts}) > 12
  one = run_on(
    row_keys(keys, 2)[2:3], model, params, problems,
    jax.tree.map(lambda x: x[2:3], before), samples=2, turns=TURNS[1:],
    first_turn=2, reply=reply, eos=EOS, temperature=temperature[6:8],
  )
  assert lists(one) == lists(many)[6:8]


def test_play_is_play_on_of_prompts(toy, rows, keys):
  model, params, _ = toy
  problems = pose(PROMPTS, range(4), slots=6)
  again = run_on(
    keys, model, params, problems, contexts.begin(problems, 1),
    samples=SAMPLES, turns=TURNS, reply=reply, eos=EOS,
    temperature=jnp.asarray(TEMPERATURE),
  )
  assert_same_rows(again, rows)
  assert np.all(np.asarray(rows.parent) == ROOT)
  assert again.parent.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_replies_without_columns(toy, keys):
  """No turn is ever answered: the next begins at once."""
  model, params, _ = toy
  problems = pose(PROMPTS, range(4), slots=6)
  rows = run(
    keys, model, params, problems, jnp.asarray(TEMPERATURE),
    reply=constant_reply([]),
  )
  assert rows.tokens.shape[1] == 6 + sum(TURNS)
  for _, marks in lists(rows):
    assert sorted(marks) == marks and max(marks) == 3


def test_what_cannot_be_played_is_refused(toy, keys):
  model, params, _ = toy
  problems = pose(PROMPTS, range(4), slots=6)
  options = dict(reply=reply, eos=EOS, temperature=1.0, samples=1)
  for count, turns, slots, words in (
    (4, (), 0, r"turns=\(\)"), (3, (4,), 0, "4 rows with 3 keys"),
    (4, (4,), -1, "slots=-1"),
  ):
    with pytest.raises(ValueError, match=words):
      play(
        keys[:count], model, params, problems, turns=turns, slots=slots,
        **options,
      )
  bare = lambda answer, rows, turn: jnp.zeros((answer.shape[0], 1), int)
  with pytest.raises(ValueError, match=r"returned .*, give Reply\("):
    play(
      keys, model, params, problems, turns=(4,), **options | {"reply": bare}
    )


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
    return constant_reply([9])(answer, episodes, turn)

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


@pytest.mark.parametrize(
  "k, p, temperature", [(0, 1, 1), (0, 1, 0.7), (3, 0.8, 1.3)]
)
def test_draws_have_their_probabilities(k, p, temperature):
  logits = np.array([1.0, -0.5, 2.0, 0.3, -2.0, 1.4], np.float32)
  count = 10_000

  @jax.jit
  def sample(key, logits, temperature):
    keys = jax.random.split(key, count)
    rows = jnp.broadcast_to(logits, (count, 6))
    temperature = jnp.broadcast_to(temperature, count)
    return draw(keys, rows, temperature, top_k=k, top_p=float(p))

  token, logprob = sample(
    jax.random.key(8), jnp.asarray(logits), jnp.float32(temperature)
  )
  nucleus, chance = reference_filters(logits / temperature, k, float(p))
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
REPLIES = [[10], [11, 12], [13]]
LATER = [[1, 3], [2], [14, 15, 3]]


def hand_made():
  first = fakes.pack(
    [fakes.transcribe(p, t, []) for p, t in FIRST], problem=[2, 0, 2]
  )
  replies = [row + [PAD] * (2 - len(row)) for row in REPLIES]
  replies = jnp.asarray(replies, jnp.int32)
  return first, replies


def test_contexts_of_ids_and_segments():
  first, replies = hand_made()
  first = contexts.append(first, replies)
  first = contexts.append(first, jnp.asarray([[14], [15], [PAD]]), 2)
  problems = Problems(
    jnp.zeros((3, 2), jnp.int32), jnp.array([[7], [8], [9]]),
    jnp.array([[1], [2], [3]]),
  )
  posed = contexts.compose(
    problems, [5, 5], Segment(first, 2, 1), replies, Segment(first, GIVEN),
    Segment(first, jnp.array([1, 1, 2])), [6],
  )
  want = [
    [5, 5, 14, 10, 4, 5, 9, 3, 6],
    [5, 5, 15, 11, 12, 6, 1, 2, 3, 6],
    [5, 5, 13, 7, 8, 2, 6],
  ]
  width = posed.prompt.shape[1]
  assert width == 2 + 1 + 2 + 2 * first.tokens.shape[1] + 1
  for row, tokens in zip(posed.prompt.tolist(), want, strict=True):
    assert row == [PAD] * (width - len(tokens)) + tokens
  assert posed.answer[:, 0].tolist() == [9, 7, 9]
  assert posed.solution[:, 0].tolist() == [3, 1, 3]
  # A turn that takes more than its columns keeps the first.
  short = contexts.compose(problems, Segment(first, 1, 2)).prompt
  assert short.tolist() == [[9, 3], [1, 2], [PAD, 0]]
  two = jax.tree.map(lambda x: x[:2], first)
  for parts, words in (
    (([1],), r"segments of \[\] rows"),
    ((Segment(first, 1), Segment(two, 1)), r"segments of \[2, 3\] rows"),
  ):
    with pytest.raises(ValueError, match=words):
      contexts.compose(problems, *parts)


def test_rows_begin_with_their_prompts():
  problems = pose(PROMPTS, range(4), slots=6)
  rows = contexts.begin(problems, 2)
  want = [(prompt, [GIVEN] * len(prompt)) for prompt in PROMPTS]
  assert lists(rows) == [row for row in want for _ in range(2)]
  assert rows.problem.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
  assert rows.parent.tolist() == [ROOT] * 8
  np.testing.assert_array_equal(rows.turn[:, :-1] >= rows.turn[:, 1:], True)
  right = contexts.align_right(rows)
  np.testing.assert_array_equal(right.tokens[::2], problems.prompt)
  again = contexts.align_left(right)
  jax.tree.map(np.testing.assert_array_equal, again, rows)


def rows_of(counts, start, parent):
  """Rows of one token, numbered from `start`; `counts` of each problem."""
  problem = np.repeat(np.arange(len(counts)), counts)
  rows = [([start + i], [1]) for i in range(len(problem))]
  packed = fakes.pack(rows, problem=problem, length=1 + start // 10)
  return packed._replace(parent=jnp.asarray(parent, jnp.int32))


def test_rows_of_a_problem_are_contiguous():
  one = rows_of([2, 2, 2], 0, [ROOT, 0, OFFLINE, 2, ROOT, 4])
  two = rows_of([1, 1, 1], 10, [OFFLINE, 0, 2])
  both = contexts.side_by_side((one, two), 3)
  assert both.tokens[:, 0].tolist() == [0, 1, 10, 2, 3, 11, 4, 5, 12]
  assert both.problem.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
  # Row 3 of the first part is row 4 now, and its parent 2 is row 3.
  assert both.parent.tolist() == [
    ROOT, 0, OFFLINE, OFFLINE, 3, 2, ROOT, 6, 8
  ]
  stacked = contexts.stack(one, two)
  assert stacked.parent.tolist() == [
    ROOT, 0, OFFLINE, 2, ROOT, 4, OFFLINE, 6, 8
  ]
  assert isinstance(both, Episodes) and both.tokens.shape == (9, 2)
  with pytest.raises(ValueError, match=r"parts of \[6, 3\] rows for 4"):
    contexts.side_by_side((one, two), 4)


def test_join_and_stack():
  first, replies = hand_made()
  later = jnp.asarray([r + [PAD] * (3 - len(r)) for r in LATER], jnp.int32)
  pairs = contexts.join(first, replies, later)
  for row, (prompt, turns) in enumerate(FIRST):
    want = fakes.transcribe(prompt, [turns[0], LATER[row]], [REPLIES[row]])
    assert lists(pairs)[row] == want
  assert pairs.parent.tolist() == [OFFLINE] * 3
  stacked = contexts.stack(first, pairs)
  assert stacked.tokens.shape == (6, pairs.tokens.shape[1])
  assert lists(stacked) == lists(first) + lists(pairs)
  pads = np.asarray(stacked.turn) == PAD
  assert np.all(np.asarray(stacked.tokens)[pads] == PAD)
  assert stacked.parent.tolist() == [ROOT] * 3 + [OFFLINE] * 3
