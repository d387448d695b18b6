"""Which answers of MATH are equal: right values of each kind, and wrong ones.

Each row is a gold answer and an answer, as they stand in a box.
"""

import pathlib

import pytest

from sitrain.tasks.verifiers import equivalence, grading
from sitrain.tasks.verifiers import pool as pools
from sitrain.tasks.verifiers.latex import TooMuch, final_answer, plain

RIGHT = r"""
5 | 5\text{ cm}
5 | 5\text{cm}
5 | 5 \, \mathrm{cm}^3
5 | 5\ \text{square meters}
5 | 5\text{ sq. ft.}
5 | 5\text{ km/h}
5 | 5\text{ m/s}
5 | 5\,\text{m}/\text{s}
5 | 5\text{ miles per hour}
5 | 5\text{ cubic units}
5 | 5\text{ students}
5 | 5\text{ ways}
5 | 5\text{ people}
5 | 5\text{ apples}
5 | 5 \text{ dollars}
5 | \$5
5 | 5\$
5 | \text{\$}5
5 | 5\text{ years old}
5 | 5\text{ different ways}
60 | 60^{\circ}
60 | 60°
60 | 60\text{ degrees}
60^\circ | 60
72 | 72^\circ\text{F}
5 | 5 cm
5 | 5cm
5 | 5 inches
12000000 | 12\text{ million}
12000000 | 12 million
1500 | 1.5\text{ thousand}
3000000 | \$3\text{ million}
5 | x=5
5 | x = 5
5 | 5 = x
5 | =5
5 | f(2)=5
5 | AB = 5
5 | x_1 = 5
5 | \theta = 5
5 | \text{Area} = 5
5 | \text{The answer is }5
5 | \text{Answer: } 5
5 | 2+3=5
5 | \frac{10}{2}=5
x=5 | 5
x=5 | x = 5.0
y=2x+1 | y = 1+2x
y=2x+1 | 2x - y + 1 = 0
2x+3y=6 | 3y = 6-2x
2x+3y=6 | 4x+6y=12
x^2+y^2=4 | y^2+x^2-4=0
\frac{1}{2004!} | \frac{1}{2004!}
\frac{1}{2^{99}} | 2^{-99}
10^{-20} | \frac{1}{10^{20}}
0.0000001 | 10^{-7}
0.0000001 | 1\times 10^{-7}
2^{100} | 1267650600228229401496703205376
50! | 50 \cdot 49!
\binom{10}{3} | 120
120 | \binom{10}{3}
8:34 \text{ p.m.} | 8:34 PM
8:34 \text{ p.m.} | 8:34\text{ pm}
8:34 \text{ p.m.} | 20:34
8:34 \text{ p.m.} | \text{8:34 p.m.}
05:00 | 5:00
9\text{ a.m.} | 9:00 \text{ a.m.}
43_5 | 43_{5}
43_5 | (43)_5
43_5 | 43_{\text{five}}
1011_2 | 1011_{2}
\text{A5}_{11} | A5_{11}
\frac{11}{4} | 2\frac{3}{4}
\frac{11}{4} | 2 3/4
\frac{11}{4} | 2\,\frac{3}{4}
\frac{11}{4} | 2 + \frac34
-\frac{11}{4} | -2\frac{3}{4}
2\frac34 | 2.75
\frac{5}{2} | 2½
\frac12 | ½
3 | 2+1
12.5\% | 12.5
12.5\% | 12.5\%
12.5\% | 0.125
12.5\% | \frac{1}{8}
12.5\% | 12.5 \text{ percent}
12.5\% | 12.5\text{ per cent}
12\frac12\% | 12.5\%
10000 | 10\,000
10000 | 10 000
10000 | 10~000
10000 | 10\ 000
10000 | 10{,}000
10000 | 10,\!000
10000 | 10，000
1234567.89 | 1{,}234{,}567.89
90 | 90°
42 | 42.
42 | \text{42.}
42 | \mathbf{42}
42 | \boldsymbol{42}
42 | \bf 42
42 | {\bf 42}
42 | {42}
42 | \left(42\right)
42 | \textbf{42}
42 | \underline{42}
42 | \color{blue}{42}
42 | \textcolor{red}{42}
42 | \displaystyle 42
42 | \quad 42
42 | 42\,
42 | 42\\
42 | \fbox{42}
42 | \large 42
42 | +42
42 | \mathrm{42}
42 | $42$
42 | \(42\)
42 | 42;
42 | 42:
42 | ４２
-5 | −5
-5 | –5
-5 | - 5
-5 | {-}5
\sqrt[3]{2} | \sqrt[3]2
\sqrt[3]{2} | 2^{1/3}
\sqrt[3]{2} | ∛2
2\sqrt{3} | 2√3
2\sqrt{3} | \sqrt{12}
2\sqrt{3} | 2\sqrt3
2\sqrt{3} | \frac{6}{\sqrt{3}}
\frac{\sqrt{3}}{2} | \frac{1}{2}\sqrt{3}
\frac{\sqrt{3}}{2} | \sqrt{3}/2
\frac{\sqrt{3}}{2} | \sqrt{\frac34}
\frac13 | 0.\overline{3}
\frac13 | 0.\overline3
\frac13 | 0.\dot{3}
\frac13 | 0.\bar{3}
\frac{5}{6} | 0.8\overline{3}
\frac{1}{7} | 0.\overline{142857}
1 | 0.\overline{9}
\infty | +\infty
-\infty | -∞
(1,2) | (1, 2)
(1,2) | \left(1,2\right)
(1,2) | \bigl(1,2\bigr)
(1,2) | (1.0,\frac{4}{2})
(1,2) | x=1, y=2
(1,2) | (x,y)=(1,2)
1,2 | 2,1
1,2 | 1\text{ and }2
1,2 | 1 \text{ or } 2
1,2 | x=1 \text{ or } x=2
1,2 | x = 1, 2
1,2 | x=1,\ x=2
1,2 | x \in \{1,2\}
1,2 | \{1, 2\}
1,2,3 | 3, 1, \text{ and } 2
\{1,2\} | \{2,1\}
-3,3 | \pm 3
\pm 3 | -3, 3
1\pm\sqrt{19} | 1+\sqrt{19}, 1-\sqrt{19}
x=\pm 3 | \pm3
(-\infty,3) | x<3
[3,\infty) | x\ge3
[3,\infty) | x \geq 3
[3,\infty) | 3 \le x
(1,3] | 1<x\le3
(-\infty,0)\cup(0,\infty) | x \neq 0
(-\infty,0)\cup(0,\infty) | \mathbb{R}\setminus\{0\}
(-\infty,-1)\cup(1,\infty) | x<-1 \text{ or } x>1
(-\infty, -1] \cup [1,\infty) | [1,\infty)\cup(-\infty,-1]
[-2,7] | x\in[-2,7]
x \in [-2,7] | [-2,7]
\emptyset | \{\}
\emptyset | ∅
\begin{pmatrix}1\\2\end{pmatrix} | \begin{bmatrix}1\\2\end{bmatrix}
\begin{pmatrix}1\\2\end{pmatrix} | \left(\begin{array}{c}1\\2\end{array}\right)
\begin{pmatrix}1\\1/2\end{pmatrix} | \frac12\begin{pmatrix}2\\1\end{pmatrix}
\begin{pmatrix}1\\3\end{pmatrix} | \begin{pmatrix} 1 \\[6pt] 3 \\ \end{pmatrix}
320000 | 3.2\times10^5
320000 | 3.2 \cdot 10^{5}
0.00032 | 3.2 \times 10^{-4}
\text{Monday} | Monday
\text{Monday} | \text{monday}
\text{Monday} | \text{Monday.}
\text{Monday} | \mathrm{Monday}
\text{Monday} | \textit{Monday}
\text{(A)} | A
\text{(A)} | (A)
\text{(A)} | \textbf{A}
\text{A} | \text{A.}
A | \text{A) } 5
A | (A)
A | \mathbf{(A)}
\text{no} | No
\text{yes} | \text{Yes}
\text{two lines} | \text{Two lines}
x^2+2x+1 | (x+1)^2
x^2 | x²
x^2 | x\cdot x
\sin^2 x+\cos^2 x | 1
\frac{x}{2} | \frac{1}{2}x
\frac{x}{2} | x/2
2ab | 2 \cdot a \cdot b
3\sec\frac{1}{2}\theta | 3\sec\frac{\theta}{2}
e^{2} | \exp(2)
\ln 4 | 2\ln 2
\log_2 8 | 3
\pi | π
12\pi | 12 \pi \text{ cm}^2
12\pi | 12\pi\text{ square units}
3:4 | 3 : 4
3:4 | 6:8
3:4 | \frac{3}{4}
\frac{3}{4} | 3:4
3+4i | 4i+3
|x| | \sqrt{x^2}
\frac{1}{3} | \frac{1}{3}\approx 0.333
2\sqrt{3} | 2\sqrt{3} \approx 3.46
5 | 5\text{ units}^2
5 | 5.00
5 | 5.0\text{ cm}
5 | 05
0.5 | .5
\frac{1}{2} | \tfrac{1}{2}
\frac{1}{2} | \frac1 2
\frac{1}{2} | \frac 12
\frac{1}{2} | 1/2
\frac{1}{2} | {1}/{2}
\frac{1}{2} | \frac{{1}}{{2}}
-\frac{1}{2} | \frac{-1}{2}
-\frac{1}{2} | \frac{1}{-2}
21 | 21^{\text{st}}
21 | 21\text{st}
21 | 21^{st}
6 | \gcd(12,18)
55 | \sum_{k=1}^{10} k
\frac{1}{3} | \int_0^1 x^2\,dx
8.24 | \approx 8.24
\approx 8.24 \text{ mph} | 8.24
80\text{ cents} | 80
24 | 2\text{ dozen}
8\text{ daps} | 8 \text{daps}
F | \text{F}
5 | \text{ }5
5 | 5 \quad
5 | 5\text{ }
30 | 30\text{°}
3 | \text{3 solutions}
12 | \text{12 cm}
12000 | \text{\$12,000 dollars}
€15 | 15
-2,1 | x_1 = 1, x_2 = -2
(-\infty,\infty) | \mathbb{R}
\mathbb{R} | (-\infty, \infty)
42 | 42_{10}
\$18.90 | \text{\$18.90}
\frac{1}{2} | \frac{1}{2}\text{ or }0.5
7 | 7\text{ red balls}
7 | 7\text{ prime numbers}
7 | \text{7 lattice points}
45\text{ mph} | 45\text{ miles per hour}
16\text{ steps per hour} | 16\text{ steps}
3\text{ boxes} | 3\text{ apples}
72^\circ | 72\text{ degrees Fahrenheit}
(3,4) | (y,x)=(4,3)
(3,4) | (m,k)=(3,4)
(x,y)=(3,4) | (y,x)=(4,3)
(1,2),(3,4) | A(1,2), B(3,4)
(-\infty,-1]\cup[1,\infty) | ]-\infty,-1]\cup[1,\infty[
(0,1)\cup(2,3] | x\in ]0,1[\cup]2,3]
[0,1)\cup[2,3] | \left[0;1\right[\cup[2,3]
[-1,1] | 1 \ge |x|
(-\sqrt2,\sqrt2) | |x| < \sqrt2
\binom{5}{2} | {{5} \choose {2}}
20 | 2{5\choose 2}
\frac{1}{x+1} | {1\over x+1}
x \equiv 5 \pmod 7 | x \equiv 5 \pmod{7}
\{\{1\},\{2\}\} | \{\{2\},\{1\}\}
5 | 5 ✓
"""
WRONG = r"""
5 | 5\text{ or }6
5 | 5\text{ or 6}
5 | 5\text{ and }6
5 | 5 \text{ million}
5 | 5\text{ thousand}
5 | 5\mathrm{i}
5 | 5\text{i}
5 | 5\text{e}
5 | 5\text{x}
5 | 5\text{ hundred}
5 | 5\text{ dozen}
5 | 5 million
5 | 5\text{ squared}
5 | 5\text{ minus }2
5 | 5\text{ mod }7
5 | 5\text{ or more}
5 | 5\text{ plus }3
5 | 5\text{ times }3
5 | 5\text{ halves}
5 | 5\text{ over }6
5 | 5\text{ to }6
5 | 5\text{ factorial}
5 | 5\text{ remainder }2
5 | 5\text{ R }2
5 | 5\text{ feet }6\text{ inches}
5 | 5\text{ if }x>0
5 | \text{not }5
5 | \text{less than }5
5 | \text{at least }5
5 | \text{more than }5
5 | \text{between }5\text{ and }6
5 | x^2=5
5 | -x=5
5 | 2x=5
5 | x+1=5
5 | 6=5
5 | 5=6
5 | 5\approx6
5 | 6\approx 5
5 | \frac{1}{x}=5
5 | \sqrt{x}=5
5 | x^3=5
5 | 3-x=5
5 | xy=5
5 | x>5
5 | x\ge5
5 | x\ne5
5 | x<5
5 | 5!
5 | 5^2
5 | 5'
5 | \sqrt{5}
5 | |x|=5
5 | x=5,6
x=5 | y=5
x=5 | x=6
x=5 | 2x=5
y=2x+1 | y=2x
2x+3y=6 | 2x+3y=7
2x+3y=6 | 2x-3y=6
\frac{1}{2004!} | \frac{1}{2003!}
0.0000001 | 0.0000004
0.0000001 | 0
0 | 10^{-30}
1 | 1+10^{-30}
1 | 1-10^{-30}
10^{100} | 10^{100}+1
\sqrt{2}+10^{-60} | \sqrt{2}
\pi+10^{-40} | \pi
2^{1000} | 2^{1001}
8:34\text{ p.m.} | 4:17\text{ p.m.}
8:34\text{ p.m.} | 8:34\text{ a.m.}
8:34 | 4:17
12:00 | 1:00
10:30 | 5:15
43 | 43_5
43_5 | 43_6
43_5 | 34_5
\frac{11}{4} | 1 1/4
35 | 3 5
1234 | 12 34
1234 | 1 2 3 4
15 | 1,5
100,101 | 100101
100,101 | 101
\{1,2\} | (1,2)
(1,2) | \{1,2\}
(1,2) | (2,1)
(1,2) | [1,2]
[1,2) | (1,2]
1,2 | 1
1,2 | 1,2,3
1,1,2 | 1,2,2
(1,2),(3,4) | (3,2),(1,4)
28\% | 0.28\%
28 | 0.28
28\% | 2.8
0.5 | 50
5 | 5‰
\frac13 | 0.33
\frac13 | 0.3
\frac13 | 0.333
\pi | 3.14
\pi | \frac{22}{7}
\sqrt2 | 1.41
1000000.1 | 1000000.2
33.3 | \frac{100}{3}
0.333 | \frac13
2.5 | 2.05
\pm 3 | 3
3 | \pm3
\pm3 | -3
1\pm\sqrt{19} | 1+\sqrt{19}
(-\infty,3) | x\le3
(-\infty,3) | x>3
[3,\infty) | x>3
(0,1)\cup(2,3) | (0,1)
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}2\\1\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1&3\\2&4\end{pmatrix}
\text{Monday} | \text{Tuesday}
\text{(A)} | B
\text{A} | \text{A or B}
A | A: no, B
A | \text{(A) and (B)}
A | AB
\text{no one} | \text{noone}
\text{even} | \text{odd}
\text{yes} | \text{no}
\text{even} | \text{not even}
x^2+1 | x^2
x^{2}+10^{-30} | x^2
x | y
2x | 2
2t | 2
2n | 2
3m | 3n
2\sin x | 2
\log 2 | 2
3+4i | 3-4i
3:4 | 4:3
1:2:3 | 1:2:4
3:4 | 3
4 | 4\sqrt(2)
4 | 4sqrt(2)
7 | 7^(2)
2 | }{
2 | \frac{2
2 | 2^
2 | 2_
2 | \frac{2}
2 | \frac{1}{0}
2 | 2/0
2 | 2+
2 | 2\text{ (approximately)} 3
1,2,\ldots,n | 1,2,\ldots,n+1
12 | 12\pi\text{ cm}
12 | 1 2
12\text{ cm} | 12\text{ kg}
80\text{ cents} | 80\text{ dollars}
100 | 100 \text{ or } -100
25 | 25, 36
6 | 3!!
2^{10} | 2^{11}
100!/98! | 9901
\text{13} | \text{31}
f(x)=x^2 | f(x)=x^3
(0,1) | (0,1.5)
D=(0,1) | D=(0,1.5)
n=2,3,4 | n=1,2,3
AB=9, CD=4 | AB=4, CD=9
\frac{1}{2y+1} | 1/2y+1
\sqrt{xy} | \sqrt xy
-80\leq g(x)\leq 82 | -80< g(x)\leq 82
s^2 \le 8r^2 | s^2 < 8r^2
s^2 \le 8r^2 | s^2 \ge 8r^2
f(2) < f(1) < f(4) | f(1) < f(2) < f(4)
\tan \theta = 2\theta | \tan\theta = 3\theta
5 | 5\text{ more than } x
5 | \text{five}
5 | \mathrm{V}
5 | 5\mathrm{V}^{-1}
x<3 | y<3
[0,1] | (-\infty,\infty)
\mathbb{R} | (0,\infty)
\$15 | €15
13 | 1101_2
23 | 43_5
\frac{1}{2} | \frac{1}{2}\text{ or }0.3
28\% | 28\text{ or }0.28
5 | 5\text{ cm or }5\text{ m}
5 | x=5, y=5
840 | 840,840
7 | 7\text{ red}
7 | \text{7 or 8 days}
7 | \text{1/7 cm}
7 | \text{7,5 cm}
5 | \text{5 zorks}
5 | 5\text{ }6
-2,1 | x_1=1, x_2=2
120^\circ | 120\text{ radians}
5\text{ cm} | 5^\circ
5\text{ cm} | 5\text{ boxes}
\$5 | 5\%
28\% | 28\text{ students}
8\text{ daps} | 8\text{ cm}
72^\circ\text{F} | 72^\circ\text{C}
5 | 5\mod 7
5 | 5 \pmod 7
5 | x \equiv 5 \pmod 7
x \equiv 5 \pmod 7 | x \equiv 5 \pmod{8}
(3,4) | (y,x)=(3,4)
(3,4) | (b,a)=(3,4)
(1,2),(3,4) | B(1,2), A(3,4)
10 | C(5,2)
\{7\} | \{\{7\}\}
\{\{1\},\{2\}\} | \{1,2\}
(0,1) | ]0,1]
(-1,1) | |x|>1
[-1,1] | |z|\le 1
-1\le y \le 1 | |x|\le 1
10 | {5 \choose 2
14 | \textbf{(2) }7
7 | \textbf{(2) }7
5 | \checkmark
"""


def pairs(table):
  return [tuple(line.split(" | ", 1)) for line in table.strip().split("\n")]


@pytest.fixture(scope="module")
def pool():
  found = pools.make(workers=1, seconds=5.0, memory=1024)
  yield found
  found.close()


@pytest.mark.parametrize("status, table", [("right", RIGHT), ("wrong", WRONG)])
def test_answers_have_their_grades(status, table):
  found = [(*pair, equivalence.strict(pair)) for pair in pairs(table)]
  assert len(found) > 150
  assert [row for row in found if row[2] != status] == []


def test_quick_comparisons_agree_or_abstain():
  decided = 0
  for pair in pairs(RIGHT) + pairs(WRONG):
    quick = equivalence.quickly(*pair)
    assert quick in ("", equivalence.strict(pair)), pair
    decided += bool(quick)
  assert decided > 0.9 * len(pairs(RIGHT) + pairs(WRONG))


def test_strictly_right_answers_are_leniently_right(pool):
  golds, answers = zip(*pairs(RIGHT))
  texts = [rf"So it is \boxed{{{answer}}}." for answer in answers]
  for grade in (grading.grade_math, grading.grade_math_lenient):
    found = grade(golds, texts, pool=pool)
    assert [row for row in zip(golds, answers, found) if not row[2].right] == []


def test_malformed_latex_is_repaired_for_reports_only(pool):
  for gold, answer in (
    (r"\sqrt{2}", r"\sqrt(2)"), ("2^{10}", "2^(10)"),
    (r"4\sqrt{2}", "4sqrt(2)"),
    (r"3\pi", "3pi"), (r"\frac{1}{2}", r"\frac{1}{2"),
  ):
    assert equivalence.strict((gold, answer)) in ("wrong", "gold")
    assert equivalence.lenient((gold, answer)) == "right"
    assert equivalence.quickly_lenient(gold, answer) in ("", "right")
  text = r"\boxed{\sqrt(16)}"
  (grade,) = grading.grade_math_lenient(["4"], [text], pool=pool)
  assert grade.status == "right"
  assert equivalence.lenient(("4", r"4\sqrt(2)")) == "wrong"


def test_units_of_gold_answers_need_no_list():
  assert equivalence.strict((r"8\text{ daps}", "8")) == "right"
  assert equivalence.strict((r"8\text{ daps}", r"8\text{ daps}")) == "right"
  assert equivalence.strict(("8", r"8\text{ daps}")) == "wrong"
  assert equivalence.strict((r"8\text{ daps}", r"8\text{ dozen}")) == "wrong"


BOXES = {
  r"\boxed{\boxed{42}}": r"\boxed{42}",
  r"\boxed{x + \boxed{2}}": r"x + \boxed{2}",
  r"\boxed{1} or \boxed{2}": "2",
  r"\fbox{3}": "3",
  r"\boxed{\text{a \boxed{4}": "4",
  r"} \boxed{5} {": "5",
  r"\boxed{\{1\}}": r"\{1\}",
  r"\boxed{a\\}b}": "a\\\\",
  r"\boxed5": "",
  r"\boxed{6": "",
}


@pytest.mark.parametrize("text", BOXES)
def test_the_outermost_box_counts(text):
  assert final_answer(text) == BOXES[text]


HUGE = {  # answer: status against the gold answer 5
  r"9^{9^{9^{9}}}": "large", r"10^{10^{10}}": "large",
  r"x^{9^{9^{9}}}": "large",
  r"(10^9)!": "large", "((9!)!)!": "large", "99999!": "large",
  r"\binom{10^9}{10^8}": "large", "2^{999999999}": "large",
  r"e^{e^{e^{e^{e}}}}": "large", r"\sum_{k=1}^{9999999} k": "large",
  "{" * 500 + "5" + "}" * 500: "deep", "-" * 3000 + "5": "deep",
  r"\sqrt" * 300 + "2": "deep", "2" + "^2" * 1000: "deep",
  "1" * 10**6: "long", "word " * 200000: "long", "1+" * 1900 + "1": "wrong",
  "1," * 1900 + "2": "wrong", "(x+1)" * 500: "wrong", "|" * 2000 + "5": "wrong",
  r"\text{ cm}" * 300: "wrong", "." * 3000: "wrong", "3" + "!" * 2000: "wrong",
  r"\begin{pmatrix}" + "1&" * 900 + r"2\end{pmatrix}": "wrong",
  "\x00" * 50: "wrong", "\ud800": "wrong",
}


def test_bad_input_is_bounded_and_counted(pool):
  texts = [rf"\boxed{{{answer}}}" for answer in HUGE]
  for gold in ("5", r"\sqrt{2}"):
    found = grading.grade_math([gold] * len(texts), texts, pool=pool)
    statuses = {a[:20]: grade.status for a, grade in zip(HUGE, found)}
    assert statuses == {a[:20]: status for a, status in HUGE.items()}
    # What could not be read is no silent zero.
    assert [g.known for g in found] == [
      float(status == "wrong") for status in HUGE.values()
    ]


def test_many_boxes_and_braces_are_fast():
  assert final_answer(r"\boxed{5}" * 20000) == "5"
  assert final_answer(r"\boxed{" * 20000) == ""
  assert final_answer("{" * 10**6 + r"\boxed{7}") == "7"
  assert len(final_answer(r"\boxed{" * 5000 + "5" + "}" * 5000)) > 5000
  with pytest.raises(TooMuch, match="long"):
    plain("x" * 5000)


def test_huge_gold_answers_equal_themselves():
  pool = pools.Pool(lambda function, items: [], lambda: None)
  tower = "9^{9^{9^{9}}}"
  (grade,) = grading.grade_math([tower], [rf"\boxed{{{tower}}}"], pool=pool)
  assert grade.status == "right"


VOTES = [  # each row is one vote
  [r"\frac12", "0.5", r"\dfrac{1}{2}", r"x = \frac{1}{2}", r"0.5\text{ cm}"],
  [r"2\sqrt3", r"\sqrt{12}", r"\frac{6}{\sqrt{3}}"], [r"\sqrt{3}"],
  ["2,3", "3, 2", r"\{2,3\}"], ["(2,3)", r"\left(2,3\right)"], ["(3,2)"],
  ["x^2+2x+1", "(x+1)^2"], ["2x=6y", "x-3y=0"],
  [r"\text{(E)}", "E", r"\textbf{E}"], [r"\text{Monday}", "Monday"],
  ["x<3", r"(-\infty,3)"], [r"10{,}000", "10000", "10,000"], ["43_5"],
]


def test_votes_count_answers_and_not_spellings():
  keys = [{equivalence.key(answer) for answer in row} for row in VOTES]
  assert [len(found) for found in keys] == [1] * len(VOTES)
  assert len(set.union(*keys)) == len(VOTES)
  assert equivalence.key("") == equivalence.key("  ") == ""
  assert all(equivalence.key(answer) for answer in HUGE)
  claim = grading.math_claim
  assert claim(r"\boxed{\frac12}") == claim(r"so \boxed{0.5}.") != ""
  assert claim("no box") == ""


def documented(heading):
  """Rows of a table of docs/answers.md, without the reasons."""
  page = pathlib.Path(__file__).parent.parent / "docs" / "answers.md"
  part = page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
  rows = [line for line in part.split("\n") if line.startswith("| `")]
  cells = [row.strip("| ").split(" | ") for row in rows]
  return [[x.strip(" `") for x in row[:4]] for row in cells]


def test_the_documented_grades_hold(pool):
  rows = documented("MATH")
  golds, answers, *expected = zip(*rows)
  texts = [rf"So it is \boxed{{{answer}}}." for answer in answers]
  assert len(rows) > 50
  for grade, wanted in zip(
    (grading.grade_math, grading.grade_math_lenient), expected
  ):
    found = [x.status for x in grade(golds, texts, pool=pool)]
    assert [x for x in zip(rows, found, wanted) if x[1] != x[2]] == []
  rows = documented("GSM8K")
  golds, texts, *expected = zip(*rows)
  assert len(rows) > 12
  for grade, wanted in zip(
    (grading.grade_gsm8k, grading.grade_gsm8k_lenient), expected
  ):
    found = [x.status for x in grade(golds, texts)]
    assert [x for x in zip(rows, found, wanted) if x[1] != x[2]] == []
