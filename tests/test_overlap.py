"""SQuAD's scores and ROUGE-L against plain Python and rouge-score."""

import collections
import importlib.util
import random
import re
import string
import subprocess
import sys

import numpy as np
import pytest

from sitrain.tasks import matching, overlap, rewards
from sitrain.tasks.rewards import Given, Limits

# Whether it is there; TensorFlow itself is imported only by the tests below.
needs_text = pytest.mark.skipif(
  importlib.util.find_spec("tensorflow_text") is None,
  reason="needs the extra: pip install 'sitrain[tensorflow]'",
)
WORDS = """the The a an cat cat's sat, on mat. (and) ran 1 2 3.5 -42 U.S. x_y
"quoted" state-of-the-art $5 50% a/b !? ...""".split()


def some_texts(n, seed):
  chance = random.Random(seed)
  return [" ".join(chance.choices(WORDS, k=chance.randrange(12)))
          for _ in range(n)]


TEXTS, REFERENCES = some_texts(80, 1), some_texts(80, 2)
TEXTS += ["The  CAT\nsat!", "", "a cat", "", "cat the"]
REFERENCES += ["the cat SAT", "a cat", "", "", "the cat"]


def squad_words(text):
  """What SQuAD's evaluate-v1.1.py does to a text, written from its rules."""
  kept = "".join(c for c in text.lower() if c not in string.punctuation)
  return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def f1(ours, theirs):
  same = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
  if not same:
    return 0.0
  precision, recall = same / len(ours), same / len(theirs)
  return 2 * precision * recall / (precision + recall)


def longest_common(a, b):
  """Length of the longest common subsequence."""
  table = np.zeros((len(a) + 1, len(b) + 1), int)
  for i, x in enumerate(a):
    for j, y in enumerate(b):
      longer = max(table[i, j + 1], table[i + 1, j])
      table[i + 1, j + 1] = table[i, j] + 1 if x == y else longer
  return table[-1, -1]


def rouge(text, reference):
  """(F-measure, precision, recall) of ROUGE-L by its definition."""
  a, b = (re.findall("[a-z0-9]+", one.lower()) for one in (text, reference))
  common = longest_common(a, b)
  precision = common / len(a) if a else 0
  recall = common / len(b) if b else 0
  both = precision + recall
  return 2 * precision * recall / both if both else 0, precision, recall


def test_without_the_library_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow_text", None)
  for name in overlap.REWARDS:
    with pytest.raises(ValueError, match=r"pip install 'sitrain\[tensorflow"):
      matching.bound(name, {"row 1": "a cat"}, "")


def test_the_rewards_alone_import_no_tensorflow():
  code = (
    "import sys\nfrom sitrain.tasks import rewards\n"
    "rewards.parse('reward', 'exact,squad_f1*0,rouge_l*0')\n"
    "sys.exit('tensorflow' in sys.modules)"
  )
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_lists_of_unequal_length_are_refused_before_anything_is_loaded():
  for score, _ in overlap.REWARDS.values():
    with pytest.raises(ValueError, match="2 texts and 1 references"):
      score(["a", "b"], ["a"])


@pytest.mark.nightly
@needs_text
def test_squad_scores_are_those_of_the_official_rules():
  pairs = [
    (squad_words(a), squad_words(b)) for a, b in zip(TEXTS, REFERENCES)
  ]
  exact = overlap.squad_exact(TEXTS, REFERENCES)
  assert exact.tolist() == [float(a == b) for a, b in pairs]
  assert 0 < exact.sum() < len(exact)
  np.testing.assert_allclose(
    overlap.squad_f1(TEXTS, REFERENCES), [f1(a, b) for a, b in pairs], rtol=1e-6
  )
  # Beyond ASCII: no letter of a word is an article, and cases are folded.
  assert overlap.squad_words(["D\u00eda a GROSSE Stra\u00dfe \ufb01ne"]) == [
    [w.encode() for w in ("d\u00eda", "grosse", "strasse", "fine")]
  ]


@pytest.mark.nightly
@needs_text
def test_rouge_l_is_that_of_the_definition_and_of_rouge_score():
  found = overlap.rouge_l(TEXTS, REFERENCES)
  expected = [rouge(*pair) for pair in zip(TEXTS, REFERENCES)]
  np.testing.assert_allclose(np.transpose(found), expected, rtol=1e-6)
  assert found.f_measure[80] == 1  # a full reward
  assert overlap.rouge_l([], []).f_measure.shape == (0,)
  # Vowel signs of Hindi belong to their words.
  words = "\u0928\u092e\u0938\u094d\u0924\u0947 b\u00e9b\u00e9"
  assert overlap.rouge_words([words.replace(" ", "!, ")]) == [
    [word.encode() for word in words.split()]
  ]
  scorer = pytest.importorskip("rouge_score.rouge_scorer")
  scores = scorer.RougeScorer(["rougeL"], use_stemmer=False)
  theirs = [
    scores.score(b, a)["rougeL"] for a, b in zip(TEXTS, REFERENCES)
  ]
  np.testing.assert_allclose(
    found.f_measure, [one.fmeasure for one in theirs], rtol=1e-6
  )
  np.testing.assert_allclose(
    found.precision, [one.precision for one in theirs], rtol=1e-6
  )


@pytest.mark.nightly
@needs_text
def test_as_rewards_they_read_what_ended_and_the_pattern_finds():
  where = ("row 1", "row 2", "row 3", "row 3")
  answers = {"row 1": "A cat", "row 2": "two dogs", "row 3": "so: one \ud800 x"}
  pattern = matching.pattern_of("so: (.*)")
  own = rewards.parse("reward", "squad_exact,squad_f1*0.5,rouge_l*0")
  own = [
    one._replace(own=one.own._replace(
      function=matching.bound(one.name, answers, pattern)
    ))
    for one in own
  ]
  texts = ("so: the CAT.", "two dogs", "so: one ? x y", "so: one ? x")
  given = Given(("",) * 4, texts, ({},) * 4, 1, where, (1, 1, 1, 0))
  found = rewards.scorer(own, Limits(5.0, False, 1, 512))(given)
  # Row 2 lacks the pattern, and the last text was cut.
  np.testing.assert_allclose(found["squad_exact"], [1, 0, 0, 0])
  np.testing.assert_allclose(found["squad_f1"], [1, 0, 0.8, 0], rtol=1e-6)
  np.testing.assert_allclose(found["rouge_l"], [0.5, 0, 0.8, 0], rtol=1e-6)
  with pytest.raises(ValueError, match="row 9 has no words in its answer"):
    matching.bound("squad_f1", {"row 9": "The ..."}, "")
