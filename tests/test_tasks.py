"""Tasks against a Python judge that reads the text of a prompt."""

import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attempt_texts import (
  KEY,
  attempts,
  close,
  draw,
  judge,
  mutated,
  pack,
  rows_of,
  strings,
  texts,
  write,
)

from sitrain.judge import verifier
from sitrain.rollout import contexts
from sitrain.runtime.options import ConfigError
from sitrain.runtime.task import task_from
from sitrain.tasks import chain, characters, maze
from sitrain.tasks.attempt import attempt
from sitrain.types import PAD, Verdict


def walks(prompt, doors):
  """All corridors that a maze's prompt describes, by door."""
  table, found = prompt[doors : doors + 10], []
  for walk in prompt[:doors]:
    while walk[-1].isdigit():
      walk += table[int(walk[-1])]
    found.append(walk)
  return found


def exits(prompt, doors):
  return [walk for walk in walks(prompt, doors) if walk.endswith("+")]


def step(value, sign, operand, modulus):
  return {
    "+": value + operand,
    "-": value - operand,
    "*": value * operand,
  }[sign] % modulus


def chain_steps(prompt, written, modulus):
  """The right values after each operation, each from the written one before."""
  signs = re.findall(r"[-+*]", prompt)
  numbers = [int(digit) for digit in re.findall(r"\d", prompt)]
  before = [numbers[0]] + [int(digit) for digit in written]
  return [
    step(before[i], sign, numbers[i + 1], modulus)
    for i, sign in enumerate(signs)
  ]


def chain_value(prompt, modulus):
  value, *rest = re.findall(r"[-+*]?\d", prompt)
  value = int(value)
  for part in rest:
    value = step(value, part[0], int(part[1]), modulus)
  return value


def chain_right(prompt, text, modulus):
  count = len(re.findall(r"[-+*]", prompt))
  shape = rf"\d{{{count}}};"
  value = str(chain_value(prompt, modulus))
  return bool(re.fullmatch(shape, text)) and text[-2] == value


@pytest.fixture(scope="module")
def mazes():
  task = maze.make()
  return task, draw(task, 8192)


@pytest.fixture(scope="module")
def small_mazes():
  task = maze.make(
    doors=4, rooms=2, hinted=0.0, exit_share=1.0, copied=0.0, corrupted=1.0
  )
  return task, draw(task, 1024)


@pytest.fixture(scope="module")
def chains():
  task = chain.make()
  return task, draw(task, 8192)


@pytest.fixture(scope="module")
def wrong_chains():
  task = chain.make(
    operations=(1, 2), modulus=5, mistake=0.5, copied=0.0, corrupted=1.0
  )
  return task, draw(task, 4096)


def test_maze_judges_every_string_as_python_does(small_mazes):
  task, problems = small_mazes
  every = strings(maze.ALPHABET, "+-0=")
  prompt = texts(task, problems.prompt)[0]
  both = write(task, [prompt] * len(every), every, every[::-1])
  answer = rows_of(problems, [0] * len(every)).answer
  reward = judge(task, answer, both, 2)
  expected = np.array([text in exits(prompt, 4) for text in every])
  assert len(every) > 16_000 and expected.sum() == 1
  np.testing.assert_array_equal(reward[:, 0], expected)
  np.testing.assert_array_equal(reward[:, 1], expected[::-1])
  code = np.asarray(task.final(both, 1))[:, 0]
  formed = np.array(
    [bool(re.fullmatch(r"[^-+]{0,2}[-+]", text)) for text in every]
  )
  np.testing.assert_array_equal(code >= 0, formed)
  assert np.all(code[~formed] == -1)
  assert len(set(code[formed].tolist())) == formed.sum()


def test_maze_judges_near_misses_as_python_does(mazes):
  task, problems = mazes[0], rows_of(mazes[1], range(2000))
  source = random.Random(0)
  prompts = texts(task, problems.prompt)
  seeds = [source.choice(walks(prompt, 2)) for prompt in prompts]
  tries = [mutated(source, text, maze.ALPHABET) for text in seeds]
  again = [mutated(source, text, maze.ALPHABET) for text in tries]
  reward = judge(task, problems.answer, write(task, prompts, tries, again), 2)
  for k, given in enumerate((tries, again)):
    pairs = zip(given, prompts, strict=True)
    expected = np.array([text in exits(prompt, 2) for text, prompt in pairs])
    assert 40 < expected.sum() < 1500
    np.testing.assert_array_equal(reward[:, k], expected)


def test_chain_judges_every_string_as_python_does(wrong_chains):
  task, problems = wrong_chains
  levels = np.asarray(task.level(problems))
  every = strings(chain.ALPHABET, ";0?")
  for level, known in ((0, 1), (1, 10)):
    pick = int(np.argmax(levels == level))
    prompt = texts(task, problems.prompt)[pick]
    both = write(task, [prompt] * len(every), every, every[::-1])
    answer = rows_of(problems, [pick] * len(every)).answer
    reward = judge(task, answer, both, 2)
    expected = np.array([chain_right(prompt, text, 5) for text in every])
    assert expected.sum() == known
    np.testing.assert_array_equal(reward[:, 0], expected)
    np.testing.assert_array_equal(reward[:, 1], expected[::-1])
  assert len(every) > 16_000
  final = [
    int(text[-2]) if re.fullmatch(r"\d{1,2};", text) else -1 for text in every
  ]
  np.testing.assert_array_equal(task.final(both, 1)[:, 0], final)


def test_chain_judges_near_misses_as_python_does(chains):
  task, problems = chains[0], rows_of(chains[1], range(2000))
  source = random.Random(1)
  prompts = texts(task, problems.prompt)
  seeds = []
  for prompt in prompts:
    count = len(re.findall(r"[-+*]", prompt))
    steps = [source.choice("0123456789") for _ in range(count - 1)]
    seeds.append("".join(steps) + f"{chain_value(prompt, 10)};")
  tries = [mutated(source, text, chain.ALPHABET) for text in seeds]
  again = [mutated(source, text, chain.ALPHABET) for text in tries]
  reward = judge(task, problems.answer, write(task, prompts, tries, again), 2)
  for k, given in enumerate((tries, again)):
    pairs = zip(prompts, given, strict=True)
    expected = np.array([chain_right(*pair, 10) for pair in pairs])
    assert 40 < expected.sum() < 1500
    np.testing.assert_array_equal(reward[:, k], expected)


def chain_follows(prompt, text, modulus):
  """For each of five places whether its character had to follow, in Python."""
  count, found = len(re.findall(r"[-+*]", prompt)), []
  for k in range(5):
    written = text[:k]
    if k < count and written[-1:].isdigit() + (k == 0):
      values = [c if c.isdigit() else "0" for c in written]
      due = str(chain_steps(prompt, "".join(values) + "0000", modulus)[k])
    else:
      due = ";" if k == count else "none"
    found.append(text[k : k + 1] == due)
  return found


def test_chain_judges_every_step_as_python_does(chains):
  task, problems = chain.make(steps=True), rows_of(chains[1], range(600))
  assert task.rewards == ("right", *(f"step_{k}" for k in range(1, 6)))
  source, prompts = random.Random(2), texts(task, problems.prompt)
  seeds = []
  for prompt in prompts:
    written = ""
    for _ in re.findall(r"[-+*]", prompt):
      due = str(chain_steps(prompt, written + "0000", 10)[len(written)])
      written += source.choice([due, due, source.choice("0123456789")])
    seeds.append(written + ";")
  tries = [mutated(source, text, chain.ALPHABET) for text in seeds]
  rows = write(task, prompts, seeds, tries)
  verdict = jax.jit(task.verify, static_argnums=2)(problems.answer, rows, 2)
  steps = np.stack([verdict.parts[f"step_{k}"] for k in range(1, 6)], axis=2)
  for k, given in enumerate((seeds, tries)):
    want = np.array([
      chain_follows(*pair, 10) for pair in zip(prompts, given, strict=True)
    ])
    assert 100 < want[:, 3].sum() < 500
    np.testing.assert_array_equal(steps[:, k], want)
    right = [chain_right(*pair, 10) for pair in zip(prompts, given)]
    np.testing.assert_array_equal(verdict.reward[:, k], right)
    np.testing.assert_array_equal(verdict.parts["right"][:, k], right)


@pytest.mark.parametrize("name", ["mazes", "chains"])
def test_tokens_beyond_the_alphabet_are_malformed(name, request):
  task, problems = request.getfixturevalue(name)
  eos = task.eos[0]
  rows = [[task.tokenizer.size, 1, eos], [1, task.tokenizer.size + 3, eos]]
  episodes = pack(rows, [[1] * 3] * 2)
  assert np.all(np.asarray(task.final(episodes, 1)) == -1)
  assert np.all(judge(task, problems.answer[:2], episodes, 1) == 0)


@pytest.mark.parametrize("name", ["small_mazes", "wrong_chains"])
def test_problem_is_a_function_of_its_own_key(name, request):
  task, problems = request.getfixturevalue(name)
  keys = jnp.stack([jax.random.key(KEY), jax.random.key(KEY + 1)])
  few = jax.jit(jax.vmap(lambda key: task.problems(key, 5)))(keys)
  for many, one in zip(problems, few, strict=True):
    np.testing.assert_array_equal(many[:5], one[0])
  assert not np.array_equal(few.prompt[0], few.prompt[1])
  assert len({tuple(row) for row in np.asarray(problems.prompt).tolist()}) > 999


def test_maze_prompt_has_disjoint_corridors_and_one_exit(mazes, small_mazes):
  for (task, problems), doors, rooms in ((mazes, 2, 4), (small_mazes, 4, 2)):
    for prompt in texts(task, problems.prompt):
      assert len(prompt) == doors + 12 and prompt.endswith("=")
      found = walks(prompt, doors)
      assert {len(walk) for walk in found} == {rooms + 1}
      used = "".join(walk[:-1] for walk in found)
      assert len(set(used)) == doors * rooms
      assert sum(walk.endswith("+") for walk in found) == 1
      table = prompt[doors : doors + 10]
      free = {str(room) for room in range(10) if table[room] == "."}
      assert free == set("0123456789") - set(used)


def test_maze_hint_names_the_right_door(mazes, small_mazes):
  task, problems = mazes
  prompts = texts(task, problems.prompt)
  hints = np.array([prompt[-2] for prompt in prompts])
  rights = np.array([exits(prompt, 2)[0][0] for prompt in prompts])
  hinted = hints != "."
  assert close(hinted, 0.5)
  np.testing.assert_array_equal(hints[hinted], rights[hinted])
  np.testing.assert_array_equal(task.level(problems), hinted)
  assert task.levels == ("unhinted", "hinted")
  task, problems = small_mazes
  assert {prompt[-2] for prompt in texts(task, problems.prompt)} == {"."}
  assert np.all(np.asarray(task.level(problems)) == 0)


def test_maze_labels_and_doors_are_uniform(mazes):
  task, problems = mazes
  prompts = texts(task, problems.prompt)
  rights = np.array([exits(prompt, 2)[0] for prompt in prompts])
  first = np.array([prompt[0] for prompt in prompts])
  assert close(
    [walk[0] == door for walk, door in zip(rights, first, strict=True)], 0.5
  )
  for label in "0123456789":
    assert close(first == label, 0.1)
    for room in range(4):
      assert close([walk[room] == label for walk in rights], 0.1)


def test_maze_corpus_has_its_probabilities(mazes, small_mazes):
  task, problems = mazes
  first, second = attempts(task, problems).T
  hinted = np.asarray(task.level(problems)) == 1
  right = np.char.endswith(first, "+")
  known = [walks(prompt, 2) for prompt in texts(task, problems.prompt)]
  assert all(one in found for one, found in zip(first, known, strict=True))
  spoiled = np.array(
    [s not in found for s, found in zip(second, known, strict=True)]
  )
  for group in (hinted, ~hinted):
    assert close(right[group], 1 / 3 + (1 - 1 / 3) / 2)
  for group in (right, ~right):
    assert close((second == first)[group], 0.10)
    assert close(spoiled[group], 0.15)
    places = np.array(
      [
        [i for i in range(5) if a[i] != b[i]]
        for a, b in zip(
          first[group & spoiled], second[group & spoiled], strict=True
        )
      ]
    )
    assert places.shape[1] == 1 and set(places[:, 0].tolist()) == set(range(4))


def test_maze_corrupted_copy_has_one_wrong_room(small_mazes):
  task, problems = small_mazes
  prompts = texts(task, problems.prompt)
  first, second = attempts(task, problems).T
  places = []
  for prompt, a, b in zip(prompts, first, second, strict=True):
    assert [a] == exits(prompt, 4)
    (place,) = (i for i in range(3) if a[i] != b[i])
    assert b[place].isdigit()
    places.append(place)
  assert close(places, 0.5)


def test_maze_verifier_trusts_no_table():
  """Walks that no drawn maze has: off the doors, through walls, too short."""
  task = maze.make(doors=2, rooms=2)
  encode = task.tokenizer.encode
  answer = jnp.array([encode("01" + "+2+....9-+" + "0") + [0]] * 6)
  walks = ["12+", "34+", "79+", "0++", "78-", "12"]
  episodes = write(task, ["="] * 6, walks)
  reward = judge(task, answer, episodes, 1)[:, 0]
  np.testing.assert_array_equal(reward, [1, 0, 0, 0, 0, 0])


def test_solutions_are_judged_as_they_were_made(mazes):
  task, problems = mazes
  first, second = attempts(task, problems).T
  prompts = texts(task, problems.prompt)
  reward = judge(task, problems.answer, write(task, prompts, first, second), 2)
  np.testing.assert_array_equal(reward[:, 0], np.char.endswith(first, "+"))
  assert close(reward[:, 1], 0.10 * 2 / 3 + 0.75 / 3)


def test_chain_prompts_have_their_level(chains):
  task, problems = chains
  prompts = texts(task, problems.prompt)
  assert all(re.fullmatch(r"\d([-+*]\d){2,4}=", prompt) for prompt in prompts)
  assert problems.prompt.shape[1] == 10 and task.turn_length == 5
  count = np.array([len(prompt) // 2 - 1 for prompt in prompts])
  np.testing.assert_array_equal(task.level(problems), count - 2)
  assert task.levels == ("2_operations", "3_operations", "4_operations")
  for n in (2, 3, 4):
    assert close(count == n, 1 / 3)
  every = "".join(prompts)
  signs = np.array(re.findall(r"[-+*]", every))
  assert all(close(signs == sign, 1 / 3) for sign in "+-*")
  digits = np.array(re.findall(r"\d", every))
  assert all(close(digits == digit, 0.1) for digit in "0123456789")


def slips(prompts, written, modulus):
  """Per text, which of its steps are wrong, given the step before."""
  return [
    [int(digit) != true for digit, true in zip(text, right, strict=True)]
    for text, right in (
      (text[:-1], chain_steps(prompt, text[:-1], modulus))
      for prompt, text in zip(prompts, written, strict=True)
    )
  ]


def test_chain_corpus_has_its_probabilities(chains):
  task, problems = chains
  prompts = texts(task, problems.prompt)
  first, second = attempts(task, problems).T
  wrong = slips(prompts, first, 10)
  assert [len(row) for row in wrong] == [len(p) // 2 - 1 for p in prompts]
  assert close(np.concatenate(wrong), 0.15)
  chance = np.array([np.prod(np.where(row, 0.15 / 9, 0.85)) for row in wrong])
  spoiled = np.array([any(row) for row in wrong])
  for group in (spoiled, ~spoiled):
    # A fresh attempt may equal the first one, with a chance that is known.
    assert close((second == first)[group], (0.40 + 0.45 * chance)[group])
    lengths = np.char.str_len(first[group])
    np.testing.assert_array_equal(lengths, np.char.str_len(second[group]))
  clean = np.array([not any(row) for row in slips(prompts, second, 10)])
  always = np.array([0.85 ** len(row) for row in wrong])
  assert close(clean[spoiled], (0.45 * always)[spoiled])
  assert close(clean[~spoiled], (0.40 + 0.45 * always)[~spoiled])


def test_chain_corrupted_copy_has_one_new_wrong_step(wrong_chains):
  task, problems = wrong_chains
  prompts = texts(task, problems.prompt)
  first, second = attempts(task, problems).T
  wrong = slips(prompts, second, 5)
  assert close(np.concatenate(slips(prompts, first, 5)), 0.5)
  seen = {}
  for prompt, a, b, row in zip(prompts, first, second, wrong, strict=True):
    (place,) = (i for i in range(len(a)) if a[i] != b[i])
    assert row[place] and b[place] in "01234"
    right = chain_steps(prompt, a[:-1], 5)[place]
    pair = (right, int(a[place]))
    seen.setdefault(pair, []).append(int(b[place]))
  assert len(seen) == 25
  for (right, before), after in seen.items():
    rest = sorted(set(range(5)) - {right, before})
    assert sorted(set(after)) == rest
    counts = np.array([after.count(value) for value in rest])
    assert np.all(abs(counts - len(after) / len(rest)) < 5 * len(after) ** 0.5)


@pytest.mark.parametrize("make,name", [(maze.make, "?"), (chain.make, "?")])
def test_reply_is_one_instruction(make, name):
  task = make()
  episodes = pack([[1]] * 3, [[1]] * 3)
  turn = jnp.ones(3, jnp.int32)
  reply = task.reply(jnp.zeros((3, 2), jnp.int32), episodes, turn)
  assert texts(task, reply.tokens) == [name] * 3
  assert not np.any(reply.done)
  ends = "".join(task.tokenizer.decode(end) for end in task.eos)
  assert ends == {maze.make: "+-", chain.make: ";"}[make]


def test_attempt_reads_turns_in_any_column():
  episodes = pack(
    [[9, 1, 2, 3, 8, 4, 5, 6], [9, 7, 9, 6, 5, PAD, PAD, PAD]],
    [[0, 1, 1, 0, 1, 2, 0, 2], [0, 2, 0, 2, 2, PAD, PAD, PAD]],
  )
  np.testing.assert_array_equal(attempt(episodes, 2, 2), [[4, 6], [7, 6]])
  read = jax.jit(attempt, static_argnums=2)  # the turn may be traced
  expected = {
    (1, 4): [[1, 2, 8, PAD], [PAD] * 4],
    (2, 4): [[4, 6, PAD, PAD], [7, 6, 5, PAD]],
    (1, 2): [[1, 2], [PAD] * 2],
    (2, 1): [[4], [7]],
    (3, 2): [[PAD] * 2] * 2,
    (1, 10): [[1, 2, 8] + [PAD] * 7, [PAD] * 10],
  }
  for (turn, length), rows in expected.items():
    np.testing.assert_array_equal(read(episodes, turn, length), rows)


def test_tokenizer_round_trip():
  tokenizer = characters.make("0123456789+-=?.")
  text = "47=+.-?0"
  assert tokenizer.decode(tokenizer.encode(text)) == text
  assert tokenizer.encode("0+.") == [0, 10, 14] and tokenizer.size == 15
  assert tokenizer.decode(jnp.array([PAD, 4, PAD, 14, PAD])) == "4."
  assert tokenizer.decode(tokenizer.encode("")) == ""
  assert tokenizer.decode([1, 15, -7]) == "1\ufffd\ufffd"


def test_tokenizer_names_the_character_that_it_lacks():
  tokenizer = characters.make("01+")
  with pytest.raises(ValueError, match=r"'x' at place 1 of '0x1'.*'01\+'"):
    tokenizer.encode("0x1")
  with pytest.raises(ValueError, match="'010' repeats.*once"):
    characters.make("010")


@pytest.mark.parametrize("make,options,message", [
  (maze.make, {"doors": 1}, "doors=1 .*use 2 or more"),
  (maze.make, {"rooms": 0}, "rooms=0 .*use 1 or more"),
  (maze.make, {"doors": 4, "rooms": 3}, "doors=4 times rooms=3 .*12.*lower"),
  (maze.make, {"hinted": 1.5}, "hinted=1.5 .*from 0 to 1"),
  (maze.make, {"exit_share": -0.1}, "exit_share=-0.1 .*from 0 to 1"),
  (maze.make, {"copied": 0.9, "corrupted": 0.2}, "copied=0.9 and .*lower one"),
  (chain.make, {"operations": (3, 2)}, r"operations=\(3, 2\) .*give"),
  (chain.make, {"operations": (0, 2)}, r"operations=\(0, 2\) .*1 <= fewest"),
  (chain.make, {"modulus": 11}, "modulus=11 .*use 3 to 10"),
  (chain.make, {"modulus": 2}, "modulus=2 .*use 3 to 10"),
  (chain.make, {"mistake": 2.0}, "mistake=2.0 .*from 0 to 1"),
  (chain.make, {"corrupted": -1.0}, "corrupted=-1.0 .*from 0 to 1"),
])  # fmt: skip
def test_impossible_options_name_the_fix(make, options, message):
  with pytest.raises(ValueError, match=message):
    make(**options)


def test_a_verdict_of_another_shape_is_refused():
  task = maze.make(doors=2, rooms=2)
  problems = task.problems(jax.random.key(0), 3)
  rows = contexts.begin(problems, 1)
  for reward, known in ((3, (3, 1)), ((3, 1), 3)):
    verdict = Verdict(jnp.ones(reward), jnp.ones(known))
    wrong = task._replace(verify=lambda *_, found=verdict: found)
    with pytest.raises(ValueError, match=r"a \w+ of shape \(3,\) for 3 rows"):
      verifier.verify(wrong, problems, rows, 1)


def test_a_file_that_makes_no_task_is_refused(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text("def make():\n  return 3\n")
  with pytest.raises(ConfigError, match="mine.py.*returns a int: return a s"):
    task_from({"task": {"name": f"file:{path}"}})
