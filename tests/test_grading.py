"""Verifiers of GSM8K and MATH on real rows, and where they must not be fooled.

They run here in the way that they run in training: in a pool of processes.
"""

import json
import os
import pathlib

import pytest

from benchmarks import probes
from sitrain.tasks.verifiers import equivalence, grading
from sitrain.tasks.verifiers import pool as pools
from sitrain.tasks.verifiers.grading import (
  final_answer,
  grade_gsm8k,
  grade_gsm8k_lenient,
  grade_math,
  grade_math_lenient,
  gsm8k_answer,
  gsm8k_gold,
  gsm8k_last_number,
)


@pytest.fixture(scope="module")
def pool():
  found = pools.make(workers=2, seconds=3.0, memory=1024)
  yield found
  found.close()


def rows(name):
  folder = os.environ.get("SITRAIN_DATA")
  if not folder:
    pytest.skip("set SITRAIN_DATA to the folder of the data sets")
  path = pathlib.Path(folder) / f"{name}.jsonl"
  return [json.loads(line) for line in path.open()]


def boxed(answer):
  return rf"So we are done. The final answer is \boxed{{{answer}}}."


def statuses(grades):
  return [grade.status for grade in grades]


GSM8K = {  # text: (strict, lenient)
  "6*7=42\n#### 42": ("42", "42"),
  "#### $1,234.": ("1234", "1234"),
  "#### -3": ("-3", "-3"),
  "#### 42.00": ("42", "42"),
  "#### 0.50": ("0.5", "0.5"),
  "#### 1\nNo: #### 2": ("2", "2"),
  "#### 1 and then ####": ("", "1"),
  "The answer is 42 apples.": ("", "42"),
  "It costs $1,200.50 now": ("", "1200.5"),
  "It falls to -7 degrees": ("", "-7"),
  "from 3 to 10-5": ("", "5"),
  "####42": ("", "42"),
  "#### 1.2.3": ("", "1.2"),
  # Not only the beginning of what is meant.
  "#### 3/4": ("", "0.75"),
  "#### 1e3": ("", "1000"),
  "#### 5-10": ("", "10"),
  "#### 1,5": ("", "1"),
  "#### 5 million": ("", "5000000"),
  "#### 3 1/2": ("", "3.5"),
  "#### 2 + 3 = 5": ("", "5"),
  "#### $18.00.": ("18", "18"),
  "#### 18.50.": ("18.5", "18.5"),
  "#### $72$": ("72", "72"),
  "#### 72\u200b": ("72", "72"),
  "#### 72 dollars, or so": ("72", "72"),
  "#### \u22123": ("", "-3"),
  "It is \u22123.": ("", "-3"),
  "from 3\u20135": ("", "5"),
  r"\boxed{9{,}500}": ("", "9500"),
  r"so $10\,000$": ("", "10000"),
  "It is 1 234": ("", "1234"),
  "that is 1/3": ("", "1/3"),
  r"\frac{1}{2}": ("", "0.5"),
  "The answer is 70 (see step 3)": ("", "70"),
  "**Answer:** 70. I checked it 2 times": ("", "70"),
  "The answer is 3 * $6 = $18.": ("", "18"),
  "The answer is (2 + 3) * 4 = **20**": ("", "20"),
  r"so the answer is $20 \div 2 = 10$": ("", "10"),
  "#### 72 Thousand": ("", "72000"),
  "It is 3-million": ("", "3000000"),
  "none at all": ("", ""),
  "": ("", ""),
}


@pytest.mark.parametrize("text", GSM8K)
def test_numbers_of_gsm8k_texts(text):
  assert (gsm8k_answer(text), gsm8k_last_number(text)) == GSM8K[text]


def test_grades_of_gsm8k():
  golds = ["42", "42", "42", "1200", "n/a"]
  texts = ["#### 42.", "#### 43", "it is 42", "#### 1,200", "#### 1"]
  # What is tried and is no number is wrong, and no missing answer.
  tried = grade_gsm8k(["3", "5", "4"], ["#### 3/4", "#### 5e1", "#### four"])
  assert statuses(tried) == ["wrong", "wrong", "none"]
  strict = grade_gsm8k(golds, texts)
  assert statuses(strict) == ["right", "wrong", "none", "right", "gold"]
  assert [g.right for g in strict] == [1.0, 0.0, 0.0, 1.0, 0.0]
  assert [g.known for g in strict] == [1.0, 1.0, 1.0, 1.0, 0.0]
  lenient = grade_gsm8k_lenient(golds, texts)
  assert statuses(lenient) == ["right", "wrong", "right", "right", "gold"]


def test_a_row_without_its_marker_is_refused():
  assert gsm8k_gold("1+1=2\n#### 1,002") == "1002"
  for bad in ("it is 42", "#### many", "#### 1e5"):
    with pytest.raises(ValueError, match="#### 42"):
      gsm8k_gold(bad)


def test_all_gold_answers_of_gsm8k_and_their_alterations():
  answers = [r["answer"] for n in ("train", "test") for r in rows(f"gsm8k_{n}")]
  golds = [gsm8k_gold(answer) for answer in answers]
  assert len(golds) == 8792
  for grades in (grade_gsm8k, grade_gsm8k_lenient):
    assert all(grade.right for grade in grades(golds, answers))
  changed = probes.altered(golds, 200)
  texts = [f"#### {other}" for _, other, _ in changed]
  found = grade_gsm8k([gold for gold, _, _ in changed], texts)
  assert statuses(found) == ["wrong"] * 200


CLAIMS = {
  r"The final answer is \boxed{\frac{1}{2}}.": r"\frac{1}{2}",
  r"first \boxed{1}, no: \boxed{2}": "2",
  r"\boxed{\{1, 2\}}": r"\{1, 2\}",
  r"\boxed{a_{b_{c}}} done": "a_{b_{c}}",
  r"\boxed {7}": "7",
  r"\boxed{ 7 }": "7",
  r"\boxed{1": "",
  r"\boxed{}": "",
  r"\boxed{1} and \boxed{2": "",
  "Final Answer: The final answer is $x^2$. I hope it is correct.": "x^2",
  "The final answer is: $3$": "3",
  "the answer is 5": "",
  "": "",
}


@pytest.mark.parametrize("text", CLAIMS)
def test_final_answers(text):
  assert final_answer(text) == CLAIMS[text]


RIGHT = [
  ("2", "2.0"), ("5", "x=5"), ("1,2", "2,1"), ("32,000", "32000"),
  (r"\frac{1}{2}", "0.5"), (r"\frac12", r"\frac{2}{4}"),
  (r"\frac{40}7", r"\dfrac{40}{7}"), (r"\frac\pi 2", r"\pi/2"),
  (r"\sqrt3", r"\sqrt{3}"), (r"2\sqrt{3}", r"\sqrt{12}"),
  (r"\text{Evelyn}", "Evelyn"), (r"\text{(A)}", "A"),
  (r"5\text{ cm}", "5"), ("5", r"5\text{ cm}^2"), (r"90^\circ", "90"),
  (r"10\%", "10"), ("32", r"\$32"), (r"29,\!322,\!216", "29322216"),
  ("x^2+2x+1", "(x+1)^2"), (r"\sin^2 t", r"\sin^{2} t"),
  (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
   r"\begin{pmatrix} 2/2 \\ 2 \end{pmatrix}"),
]
WRONG = [
  ("2", "3"), ("-5", "5"), (r"\frac{1}{2}", r"\frac{2}{1}"),
  (r"\frac{1}{3}", "0.33"), ("(1,2)", "(2,1)"), ("[1,2]", "(1,2)"),
  ("1,2", "1"), ("2", "1,2"), (r"2", r"2\text{ or }3"),
  ("x^2+1", "x^2+2"), (r"x \le 3", "x < 3"),
  # What math-verify takes for units, and drops, are variables here.
  ("2t", "2"), ("2x+3c", "2x+3"), (r"\sin^2 t", r"\sin^2 x"),
  ("43_5", "43_6"),
  # No value, no LaTeX, no answer.
  ("2", "1/0"), ("2", r"\frac{1}{0}"), ("2", "}{"), ("2", r"\frac{2"),
  (r"\text{Monday}", r"\text{Tuesday}"),
]


def test_equal_and_different_answers(pool):
  pairs = RIGHT + WRONG
  found = grade_math(
    [gold for gold, _ in pairs], [boxed(a) for _, a in pairs], pool=pool
  )
  expected = ["right"] * len(RIGHT) + ["wrong"] * len(WRONG)
  for pair, grade, status in zip(pairs, found, expected):
    # Braces that do not close leave no answer; it is wrong all the same.
    allowed = (status, "none") if status == "wrong" else (status,)
    assert grade.status in allowed and grade.known == 1.0, (pair, grade)


def test_strict_wants_a_box_and_lenient_searches(pool):
  golds = [r"\frac{1}{2}"] * 5
  texts = [
    r"The answer is $\frac{1}{2}$", "It must be 0.5", boxed(r"\frac{1}{2}"),
    r"$\frac{1}{2}$, no, \boxed{3}", "I do not know",
  ]
  strict = statuses(grade_math(golds, texts, pool=pool))
  assert strict == ["none", "none", "right", "wrong", "none"]
  lenient = statuses(grade_math_lenient(golds, texts, pool=pool))
  assert lenient == ["right", "right", "right", "wrong", "none"]
  assert statuses(grade_math(["2"], [r"\boxed{2}"], pool=pool)) == ["right"]


# A gold answer of MATH.
UNREADABLE = "the correct answer as we normally do, as that would be confusing"


def test_failures_of_the_verifier_are_unknown_and_counted_by_kind(pool):
  texts = [boxed(x) for x in (
    r"9^{9^{9^{9}}} + 1", "3", "4", "", "4", r"2^{2}", "5"
  )]
  golds = ["4", "", UNREADABLE, "4", "4", "4", "1/0"]
  found = grade_math(golds, texts, pool=pool)
  status = statuses(found)
  assert status[0] == "large"
  assert status[1:] == ["gold", "gold", "none", "right", "right", "gold"]
  assert [grade.known for grade in found] == [0, 0, 0, 1, 1, 1, 0]
  assert [grade.right for grade in found] == [0, 0, 0, 0, 1, 1, 0]


# What a pool is asked about.
SETS, SWAPPED = r"(0,1) \cup (2,3)", r"(2,3) \cup (0,1)"


def test_an_answer_that_raises_is_unknown():
  def map(function, items):
    return [pools.Result("KeyError: x", "error") for _ in items]

  broken = pools.Pool(map, lambda: None)
  (grade,) = grade_math([SETS], [boxed(SWAPPED)], pool=broken)
  assert grade == grading.Grade(0.0, 0.0, "error")


def test_equal_pairs_are_verified_once():
  asked = []

  def map(function, items):
    asked.extend(items)
    return [pools.Result("right", "done") for _ in items]

  pool = pools.Pool(map, lambda: None)
  texts = [boxed(SWAPPED)] * 5 + [boxed(SETS), boxed("7"), boxed("1+x")]
  grades = grade_math([SETS] * 6 + ["7", "x+1"], texts, pool=pool)
  assert asked == [(SETS, SWAPPED)]
  assert all(grade.right for grade in grades)


def test_gold_answers_of_math_verify_by_algebra(pool):
  # Strings are not compared here, so each answer is parsed and compared.
  answers = [row["answer"] for row in rows("math500")][::2]
  found = pool.map(equivalence.strict, [(a, a) for a in answers])
  assert sum(result.value == "right" for result in found) >= 0.995 * 250
  golds = [row["answer"] for row in rows("math_train")][::40]
  grades = grade_math(golds, [boxed(gold) for gold in golds], pool=pool)
  assert statuses(grades) == ["right"] * len(golds)


def test_altered_gold_answers_of_math_are_wrong(pool):
  answers = [row["answer"] for row in rows("math_train")]
  changed = probes.altered(answers, 64)
  assert len({kind for _, _, kind in changed}) >= 7
  golds = [gold for gold, _, _ in changed]
  texts = [boxed(other) for _, other, _ in changed]
  strict = grade_math(golds, texts, pool=pool)
  lenient = grade_math_lenient(golds, texts, pool=pool)
  for row, one, other in zip(changed, strict, lenient):
    assert one.status == other.status == "wrong", (row, one, other)
