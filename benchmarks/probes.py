"""Inputs of the verifiers' benchmark and tests.

Answers that are certainly wrong, texts with numbers in unusual forms, and
tokenizers that split such texts differently.
"""

import re

import numpy as np
from tokenizers import Tokenizer as Trained
from tokenizers import decoders, models, pre_tokenizers, trainers

from sitrain.types import PAD, Tokenizer

FRACTION = re.compile(r"-?\\d?frac\{(\d+)\}\{(\d+)\}")
DECIMAL = re.compile(r"-?\d+\.\d+")
INTEGER = re.compile(r"-?\d{1,15}")
PAIR = re.compile(r"[\[(](-?\d+),\s*(-?\d+)[\])]")
# A coefficient, not an exponent, an index, or a part of a longer number.
COEFFICIENT = re.compile(r"(?<![\d^_{.,])([2-9])(?=[a-z]|\\sqrt|\\pi)")


def alterations(answer: str) -> dict[str, str]:
  """Other values than `answer` (LaTeX without a box), by kind of alteration.

  A kind is left out where the new value may be equal.
  """
  found = {}
  if INTEGER.fullmatch(answer):
    found["number + 1"] = str(int(answer) + 1)
    if int(answer):
      found["sign flipped"] = str(-int(answer))
  if DECIMAL.fullmatch(answer):
    found["decimal + 0.1"] = f"{float(answer) + 0.1:.6f}"
  fraction = FRACTION.fullmatch(answer)
  if fraction and int(fraction[1]) not in (0, int(fraction[2])):
    sign = "-" if answer.startswith("-") else ""
    found["fraction inverted"] = (
      rf"{sign}\frac{{{fraction[2]}}}{{{fraction[1]}}}"
    )
    found["numerator + 1"] = answer.replace(
      f"{{{fraction[1]}}}", f"{{{int(fraction[1]) + 1}}}", 1
    )
  # One coefficient only: with more of them a change could cancel.
  if len(COEFFICIENT.findall(answer)) == 1 and "text" not in answer:
    found["coefficient + 1"] = COEFFICIENT.sub(
      lambda hit: str(int(hit[1]) + 1), answer
    )
  pair = PAIR.fullmatch(answer)
  if pair:
    found["second entry + 1"] = (
      f"{answer[0]}{pair[1]}, {int(pair[2]) + 1}{answer[-1]}"
    )
    if pair[1] != pair[2]:
      found["entries swapped"] = f"{answer[0]}{pair[2]}, {pair[1]}{answer[-1]}"
  return found


def altered(answers: list[str], count: int) -> list[tuple[str, str, str]]:
  """`count` triples (answer, altered answer, kind), evenly over the kinds."""
  kinds: dict = {}
  for answer in dict.fromkeys(answers):
    for kind, other in alterations(answer).items():
      kinds.setdefault(kind, []).append((answer, other, kind))
  rows, turn = [], 0
  while len(rows) < count:
    before = len(rows)
    for known in kinds.values():
      if turn < len(known) and len(rows) < count:
        # Strides, so that the rows come from the whole of the data.
        rows.append(known[turn * max(1, len(known) // count) % len(known)])
    turn += 1
    if len(rows) == before:
      raise ValueError(f"only {before} alterations of these answers are known")
  return rows


MARKS = (*["####"] * 8, "###", "#####", "########", "#", "## ##", "")
BEHIND = (*[" "] * 16, "", "  ", "\n", "\t", " $", " $", " -", " $-",
          " -$", " $$", " --", " ,", " .", " a", " €", "$")
TAILS = (*[""] * 8, ".", ",", " ", "\n", ".\n", " dollars", "%", "...", ".0",
         ".00", ".50", ".05", ",000", ".0.0", "$", "-", "-3", " 7", "x2",
         "\u0664", " apples.", "e5", "/2", "####", "#### ", "<<1+1=2>>",
         "!", " !", "\u00bd", " \u00b2", " k", " kg", " mil.", " miles")


def wild_text(rng: np.random.Generator, number: str, words: list[str]) -> str:
  """A text about `number`, with markers, numbers and signs in odd places."""
  parts = []
  for _ in range(int(rng.integers(1, 4))):
    parts += [str(word) for word in rng.choice(words, int(rng.integers(0, 8)))]
    shown = _shown(rng, number if rng.random() < 0.7 else _any_number(rng))
    parts.append(
      str(rng.choice(MARKS)) + str(rng.choice(BEHIND)) + shown
      + str(rng.choice(TAILS))
    )
  return str(rng.choice(("", " ", "\n"))).join(parts)


def _any_number(rng):
  return "".join(rng.choice(list("0123456789"), int(rng.integers(0, 24))))


def _shown(rng, number):
  """The number with commas, zeros, or a sign somewhere."""
  ways = [number, number, number, "0" * int(rng.integers(1, 25)) + number]
  if re.fullmatch(r"\d+", number):
    ways.append(f"{int(number):,}")
  if number:
    cut = int(rng.integers(0, len(number) + 1))
    ways.append(number[:cut] + str(rng.choice(list(",.-$ #"))) + number[cut:])
  return str(rng.choice(ways))


def trained(texts, merges, split_digits):
  """A byte-level BPE; without `split_digits` it merges digits into tokens."""
  model = Trained(models.BPE())
  bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  runs = pre_tokenizers.Digits(individual_digits=split_digits)
  model.pre_tokenizer = pre_tokenizers.Sequence([runs, bytewise])
  model.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  model.train_from_iterator(texts, trainers.BpeTrainer(
    vocab_size=256 + merges, initial_alphabet=alphabet, show_progress=False
  ))
  return Tokenizer(
    encode=lambda text: model.encode(text).ids,
    decode=lambda ids: model.decode([int(i) for i in ids if i != PAD]),
    size=model.get_vocab_size(),
  )
