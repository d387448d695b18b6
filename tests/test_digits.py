"""The verifier on the device decides as the one on the host, token by token."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import probes
from benchmarks.probes import trained
from sitrain.tasks import text
from sitrain.tasks.text import Row, grade_by_row
from sitrain.tasks.verifiers import digits
from sitrain.tasks.verifiers.grading import (
  grade_gsm8k,
  gsm8k_answer,
  gsm8k_gold,
)
from sitrain.types import GIVEN, PAD, Chat, Episodes

LENGTH = 160
WORDS = (
  "She has 12 apples and buys 30 more, so 12+30=<<12+30=42>>42 apples. It "
  "costs $1,234.50 - or -7 - in all. #### 42 is the answer #1 of 2."
).split()
CASES = {
  "#### 42": "42",
  "#### 42.": "42",
  "#### $42": "42",
  "#### $42$": "42",
  "#### $-42 dollars": "-42",
  "#### -$42": "",
  "#### 1,234": "1234",
  "#### 1,234,": "1234",
  "#### 1,234,567.00.": "1234567",
  "#### 42.00": "42",
  "#### $42.00.": "42",
  "#### 42...": "42",
  "#### 42,.": "42",
  "#### 42.50": "42.5",
  "#### 42.50.": "42.5",
  "#### 42.0.0": "",
  "#### 1\n#### 2": "2",
  "#### 1\n####": "",
  "#### 1\n#### ": "",
  "#### 1 ### 2": "",
  "##### 5": "5",
  "####5": "",
  "####  5": "",
  "#### five": "",
  "#### ": "",
  "": "",
  "42": "",
  "#### -0": "0",
  "#### .": "",
  "#### ,": "",
  "#### .0": "0",
  "#### 0000000000000000000000000000042": "42",
  "#### 123456789012345678": "123456789012345678",
  "#### -999999999999999999": "-999999999999999999",
  "#### 1234567890123456789": "1234567890123456789",
  "#### 1000000000": "1000000000",
  "#### 7\u0664": "",
  "#### 12#### ": "",
  "#### 12####": "",
  "a" * 70 + "#### 8": "8",
  # Commas that part no thousands.
  "#### 1,5": "",
  "#### 12,34": "",
  "#### 1234,567": "",
  "#### 1,,234": "",
  "#### ,234": "",
  "#### 1.5,000": "",
  "#### 1,234567": "",
  "#### 0,012": "12",
  # Only the beginning of what is meant.
  "#### 3/4": "",
  "#### 1e3": "",
  "#### 5-10": "",
  "#### 5 + 3": "",
  "#### 3 1/2": "",
  "#### 5:30": "",
  "#### 5k": "",
  "#### 5 million": "",
  "#### 5 Million dollars": "",
  "#### 5 (thousand)": "",
  "#### 5 hundredths": "",
  "#### 5 and a half": "",
  "#### 5 hours 30 minutes": "",
  # The line ends, and other words change nothing.
  "#### 5 miles": "5",
  "#### 5 thorns": "5",
  "#### 5 US dollars": "5",
  "#### 5%": "5",
  "#### 5</s>": "5",
  "#### 5 apples.\nSo 3 million": "5",
  "#### 5\r\n12": "5",
  "#### 5\nmillion": "5",
  "#### 5\u2028million": "",
  # Other numbers in signs and in short.
  "#### 5!": "",
  "#### 5 !": "",
  "#### 5.!": "",
  "#### 5 wow!": "5",
  "#### 5\n!": "5",
  "#### 5²": "",
  "#### 5½": "",
  "#### 5 ½ cups": "",
  "#### 5万": "",
  "#### 5 cafés, très": "5",
  "#### 5 k": "",
  "#### 5 K.": "",
  "#### 5 kg": "5",
  "#### 5 km": "5",
  "#### 5 (k)": "",
  "#### 5 apples k": "5",
  "#### 5 mil": "",
  "#### 5 mil.": "",
  "#### 5 milk": "5",
  "#### 5 bn": "",
  "#### $5 thou": "",
}


def gsm8k(name):
  folder = os.environ.get("SITRAIN_DATA")
  if not folder:
    pytest.skip("set SITRAIN_DATA to the folder of the data sets")
  path = pathlib.Path(folder) / f"gsm8k_{name}.jsonl"
  return [json.loads(line)["answer"] for line in path.open()]


@pytest.fixture(scope="module")
def tokenizers():
  """Bytes alone; merged text with single digits; text and digits merged."""
  rng = np.random.default_rng(0)
  texts = [" ".join(rng.permutation(WORDS)) for _ in range(50)]
  texts += [f"#### {i} ####, ....... ---- $ $$1,{i}.00" for i in range(300)]
  return [
    trained(texts, 0, True), trained(texts, 300, True),
    trained(texts, 1500, False),
  ]


compiled = jax.jit(digits.answers)


def read(rows, table):
  """Numbers of token lists, by two compiled programs for all tests."""
  codes, marks = np.zeros((2048, 24), np.uint8), np.zeros(2048, np.int32)
  kinds, wide = table.codes.shape
  at = len(codes) - kinds  # kinds stand at the end, for the last two are apart
  codes[at:, :wide], marks[at:] = table.codes, table.marks
  kind = np.zeros(4096, np.uint16)
  kind[: len(table.kind)] = table.kind + at
  kind[len(table.kind):] = len(codes) - 1  # as beyond the table
  small = len(rows) <= 16 and max(map(len, rows)) <= 8
  size, width = (16, 8) if small else (1600, LENGTH)
  parts = []
  for start in range(0, len(rows), size):
    tokens = np.full((size, width), PAD, np.int32)
    for row, ids in zip(tokens, rows[start:start + size]):
      row[: len(ids)] = ids
    known = digits.Table(kind, codes, marks)
    parts.append(compiled(jnp.asarray(tokens), known))
  whole = jax.tree.map(lambda *x: np.concatenate(x)[: len(rows)], *parts)
  return jax.tree.map(jnp.asarray, whole)


def written(number):
  """Numbers on the device as text; "" where none was found."""
  high, low, found = (np.asarray(x).tolist() for x in number)
  return [
    str(h * 10**9 + x) if ok else "" for h, x, ok in zip(high, low, found)
  ]


def is_integer(text):
  return text.lstrip("-").isdigit() and len(text.lstrip("-")) <= 18


@pytest.mark.parametrize("which", range(3))
def test_cases_are_read_as_on_the_host(tokenizers, which):
  tokenizer = tokenizers[which]
  table = digits.table(digits.strings(tokenizer, tokenizer.size))
  rows = [tokenizer.encode(text) for text in CASES]
  found = written(read(rows, table))
  for case, expected, here in zip(CASES, CASES.values(), found):
    assert gsm8k_answer(case) == expected, case
    # The device reads integers of up to 18 digits, and nothing else.
    assert here == (expected if is_integer(expected) else ""), case


def test_digits_are_merged_and_the_marker_is_split(tokenizers):
  merged = tokenizers[2]
  assert len(merged.encode("#### 250")) < len("#### 250") - 4
  assert len(tokenizers[0].encode("#### 42")) == 7


@pytest.mark.parametrize("which", range(3))
def test_wild_texts_are_judged_as_on_the_host(tokenizers, which):
  tokenizer = tokenizers[which]
  table = digits.table(digits.strings(tokenizer, tokenizer.size))
  rng = np.random.default_rng(which)
  golds = [str(rng.integers(-200, 10**int(rng.integers(1, 7))))
           for _ in range(1500)]
  texts = [probes.wild_text(rng, gold, WORDS) for gold in golds]
  kept = [
    (gold, text, ids)
    for gold, text in zip(golds, texts)
    if len(ids := tokenizer.encode(text)) <= LENGTH
  ]
  golds, texts, rows = zip(*kept)
  here = digits.equal(digits.gold(golds), read(rows, table))
  there = [grade.right for grade in grade_gsm8k(golds, texts)]
  assert np.asarray(here).tolist() == there
  assert len(there) > 1200 and 0.1 < np.mean(there) < 0.9


def test_random_ids_are_judged_as_their_text(tokenizers):
  # Tokens in any order, also such that no tokenizer would write.
  tokenizer = tokenizers[2]
  tokens = digits.strings(tokenizer, tokenizer.size)
  table = digits.table(tokens)
  rng = np.random.default_rng(5)
  useful = [i for i, t in enumerate(tokens) if set(t) & set("#$-.,0123456789 ")]
  rows = [
    [*rng.choice(useful, 12), *tokenizer.encode("#### "),
     *rng.choice(useful, int(rng.integers(0, 4)))]
    for _ in range(1000)
  ]
  found = written(read(rows, table))
  texts = ["".join(tokens[i] for i in row) for row in rows]
  there = [gsm8k_answer(text) for text in texts]
  assert found == [text if is_integer(text) else "" for text in there]
  assert sum(map(bool, found)) > 100


def test_all_gold_answers_of_gsm8k(tokenizers):
  tokenizer = tokenizers[2]
  table = digits.table(digits.strings(tokenizer, tokenizer.size))
  rows = [a for name in ("train", "test") for a in gsm8k(name)]
  golds = [gsm8k_gold(row) for row in rows]
  ends = [row[-40:] for row in rows]
  others = digits.gold([str(int(gold) + 1) for gold in golds])
  found = read([tokenizer.encode(end) for end in ends], table)
  assert bool(jnp.all(digits.equal(digits.gold(golds), found)))
  assert bool(jnp.all(found.found & ~digits.equal(others, found)))


def test_tokens_of_any_length_need_few_codes():
  tokens = ["-" * 80, " " * 200, "\n" * 40, "=" * 64, "#" * 30, "." * 50,
            "a1b2c3d4e5f6g7" * 9, "é" * 20, "The answer is\n#### 42 apples"]
  table = digits.table([*tokens, "#### ", "42"])
  assert table.codes.shape[1] <= 12
  mark, number = len(tokens), len(tokens) + 1
  rows = [[i, mark, number] for i in range(len(tokens))]
  assert written(read(rows, table)) == ["42"] * len(tokens)
  rows = [[mark, number, i] for i in range(len(tokens) - 1)]
  # Dots behind a number end a sentence, a run of # is a new marker.
  assert written(read(rows, table)) == [
    gsm8k_answer("#### 42" + token) for token in tokens[:-1]
  ]


def test_words_for_powers_of_ten_may_span_tokens():
  # "million" in all ways of cutting it, and words that begin like it.
  for word in ("million", "Million", "dozen", "milling", "mill", "billy", "k",
               "kg", "mil", "mils", "milk"):
    for cut in range(1, max(2, len(word))):
      tokens = ["#### 5", " ", word[:cut], word[cut:], " x"]
      table = digits.table(tokens)
      expected = gsm8k_answer(f"#### 5 {word} x")
      assert written(read([[0, 1, 2, 3, 4]], table)) == [expected]
  assert gsm8k_answer("#### 5 milling x") == "5"
  assert gsm8k_answer("#### 5 dozen x") == ""


def test_characters_in_pieces_are_taken_for_digits():
  # A space without width: right on the host, and by a vocabulary that has it.
  text = "#### 7\u200b"
  pieces = [bytes([code]) for code in "\u200b".encode()]
  table = digits.table(["#### 7", "\u200b", *pieces])
  assert gsm8k_answer(text) == "7"
  assert written(read([[0, 1], [0, 2, 3, 4]], table)) == ["7", ""]


def test_bytes_and_text_give_the_same_table():
  text = ["é#", "####", " 12", "\u0664", "a,b"]
  one, other = (
    found.codes[found.kind] for found in (
      digits.table(text), digits.table([token.encode() for token in text])
    )
  )
  np.testing.assert_array_equal(one, other)


def test_pads_and_unknown_ids_are_no_digits():
  table = digits.table(["####", " ", "4", "2", "x"])
  rows = [
    [PAD, 0, PAD, 1, 2, PAD, 3], [0, 1, 2, 99, 3], [99, 0, 1, 2, 3, 99, 2],
    [PAD] * 7, [0, 1, 2, 5000, 4],
  ]
  assert written(read(rows, table)) == ["42", "", "", "", "4"]


def test_equal_needs_both():
  table = digits.table(["#### ", "0", "1"])
  found = read([[1], [0, 1], [0, 2]], table)
  same = digits.equal(digits.gold(["0", "0", "0"]), found)
  assert same.tolist() == [False, True, False]


def test_gold_answers_that_do_not_fit_are_refused():
  for bad in ("4.5", "1,000", "", "1" * 19):
    with pytest.raises(ValueError, match="on the host"):
      digits.gold([bad])


def test_a_task_on_the_device_judges_as_on_the_host(tokenizers):
  bpe = tokenizers[2]
  end = bpe.size  # an id that the tokenizer lacks
  chat = Chat(bpe, (end,), bpe.encode, bpe.encode)
  golds = ["42", "-7", "123456789012", "42"]
  rows = [Row(f"Say {gold}.", (), (), "all", gold) for gold in golds]
  host = text.make(
    chat, rows, again="Again.", claim=gsm8k_answer, prompt_length=0,
    grade=grade_by_row(grade_gsm8k, golds), long_prompts="refuse",
  )
  device = digits.on_device(host, chat, golds)
  assert not device.on_host
  turns = [  # (first attempt, whether it ended, second attempt)
    ("#### 41", True, "It is 42. #### 42"), ("#### -7.", True, "#### 7"),
    ("#### 123,456,789,012", True, "none"), ("#### 42", False, ""),
  ]
  tokens = np.full((4, 64), PAD, np.int32)
  turn = np.full((4, 64), PAD, np.int32)
  for i, (first, ended, second) in enumerate(turns):
    parts = [
      (bpe.encode("Say #### 5."), GIVEN),
      (bpe.encode(first) + [end] * ended, 1),
      (bpe.encode("Again."), GIVEN), (bpe.encode(second) + [end], 2),
    ]
    ids = [(x, k) for part, k in parts for x in part]
    tokens[i, : len(ids)], turn[i, : len(ids)] = zip(*ids)
  zeros = jnp.zeros((4, 64))
  row = jnp.arange(4, dtype=jnp.int32)
  episodes = Episodes(
    jnp.asarray(tokens), jnp.asarray(turn), zeros, zeros.astype(jnp.int32),
    row, row,
  )
  here, claims = jax.jit(lambda answer: (
    device.verify(answer, episodes, 2), device.final(episodes, 2)
  ))(jnp.asarray(device.table.answer))
  there = host.verify(host.table.answer, episodes, 2)
  np.testing.assert_array_equal(here.reward, there.reward)
  np.testing.assert_array_equal(here.known, there.known)
  assert here.reward.tolist() == [[0, 1], [1, 0], [1, 0], [0, 0]]
  for one, other in zip(np.asarray(claims).T, host.final(episodes, 2).T):
    np.testing.assert_array_equal(one >= 0, other >= 0)
    np.testing.assert_array_equal(one[:, None] == one, other[:, None] == other)


def test_lines_longer_than_the_window_are_read_to_their_end():
  tokens = ["#", "###", " ", "5", "0", ".", "\n", "a", "million"]
  table = digits.table(tokens)
  long = 60
  assert long > digits.WINDOW
  rows = [
    [0, 1, 2, 3, *middle, *end] for middle, end in (
      ([2] * long, [3]), ([2, 7] + [2] * long, [3]), ([2, 7] + [2] * long, [8]),
      ([2, 7] + [2] * long, [6, 3]), ([6] + [2] * long, [3]),
      ([2] * long, [8]), ([5] * long, [2, 7]), ([2, 7], [6] * long + [0, 1]),
    )
  ]
  found = written(read(rows, table))
  texts = ["".join(tokens[i] for i in row) for row in rows]
  assert found[:-2] == [gsm8k_answer(text) for text in texts[:-2]]
  assert found[:5] == ["", "", "5", "5", "5"]
  # A number that goes on behind the window is not found, as "5....".
  assert found[6:] == ["", ""]
