# SPDX-License-Identifier: Apache-2.0
"""What ``reward_funcs: math_verify`` pays, written down by hand from mathematics: (solution, answer)."""

from __future__ import annotations

import time

import pytest

from llamafactory.train.rl.rewards import functions, mathematics
from llamafactory.train.rl.rewards.functions import math_verify

pytest.importorskip("math_verify")

_RIGHT = (
    ("12", r"\boxed{11} no, so \boxed{12}"), ("12", r"$\boxed{11}$ no, so $\boxed{12}$"), ("1000", "1e3"),
    ("1e3", "1000"), ("1000", r"\boxed{1e3}"), ("0.001", "1e-3"), ("150000", "1.5e5"),
    ("1.5e5", r"$1.5 \times 10^5$"), ("1.5e5", r"$1.5 \cdot 10^{5}$"), ("1000", "$10^3$"), ("1000", "10^3"),
    ("1000", "10**3"), ("6.02e23", r"$6.02\times10^{23}$"), ("10%", "0.1"), ("10%", "0.10"), ("0.1", "10%"),
    ("10%", "10%"), (r"10\%", r"$10\%$"), ("10%", "10 percent"), ("10%", r"\boxed{10\%}"), ("10%", r"\boxed{10}\%"),
    ("25%", "1/4"), ("25%", r"\frac{1}{4}"), (r"\frac{1}{4}", r"$25\%$"), ("12.5%", "1/8"), ("7", "The answer is 7"),
    ("7", "The answer is 7."), ("7", "7.0"), ("-7", "-7"), ("-7", r"\boxed{-7}"), ("-7", "$-7$"), ("-1/2", "-0.5"),
    ("1/2", "0.5"), ("1/2", r"\frac12"), ("1/2", r"$\frac{1}{2}$"), ("1/2", r"\boxed{\dfrac{1}{2}}"),
    ("1/2", r"\boxed{\tfrac12}"), ("1/2", "2/4"), ("1/3", "0.333333"), ("3 1/2", "7/2"), (r"3\frac{1}{2}", "3.5"),
    ("1,000", "1000"), ("1000", "1,000"), ("1234567", "1,234,567"), ("1234567.5", "1,234,567.5"),
    ("1000", r"\boxed{1{,}000}"), ("1000", r"\boxed{1,000}"), ("1000", "1 000"), ("{1, 2}", "{2, 1}"),
    (r"\{1, 2\}", r"$\{2, 1\}$"), (r"\{1, 2\}", r"\boxed{1, 2}"), ("1, 2", r"\boxed{2, 1}"), ("1,2", r"\boxed{1,2}"),
    ("(1,2)", r"\boxed{(1,2)}"), ("(1, 2, 3)", r"\boxed{(1,2,3)}"), ("[1,2]", r"\boxed{[1,2]}"),
    ("[1,2)", r"\boxed{[1,2)}"), (r"(-\infty, 3]", r"$(-\infty,3]$"), (r"[0,1] \cup [2,3]", r"$[2,3]\cup[0,1]$"),
    ("x = 3", "3"), ("3", "x = 3"), ("3", "$x=3$"), ("3", r"\boxed{x=3}"), ("x < 3", "$x<3$"), ("x < 3", "$3>x$"),
    ("x^2+2x+1", "$(x+1)^2$"), (r"\sqrt{8}", r"$2\sqrt{2}$"), (r"\sqrt{2}", "$1.41421356$"), (r"\pi", r"$\pi$"),
    (r"2\pi", "6.283185307"), (r"2\pi", r"$2\pi$"), ("e^2", "$e^{2}$"), ("5 cm", "5"), ("5", r"$5\text{ cm}$"),
    ("5", "5 cm"), ("5 cm", r"\boxed{5\,\text{cm}}"), (r"90^\circ", "90"), ("90", "90°"), ("90°", r"90^\circ"),
    (r"\infty", "∞"), ("(-∞, 2)", r"\boxed{(-\infty, 2)}"), ("90", r"\boxed{90^\circ}"), ("$5", "5"),
    (r"\$5", r"\boxed{\$5}"), ("5", "$5"), ("5 dollars", "$5"), ("B", r"\boxed{B}"), ("B", r"\boxed{\text{B}}"),
    ("B", "(B)"), ("B", "The answer is B."), ("B", "The answer is (B)"), ("B", r"\boxed{b}"), ("(B)", "B"),
    ("(B)", r"\boxed{(B)}"), ("(B)", r"\boxed{\textbf{(B)}}"), ("0", "0"), ("0", "-0"), ("0", "0.0"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"$\begin{pmatrix}1\\2\end{pmatrix}$"), ("#### 72", "The answer is 72"),
    ("She sold 48/2 = 24 clips. #### 72", r"The answer is \boxed{72}"), ("2^{10}", "1024"), ("2^10", "1024"),
    ("1024", "2^10"), ("1024", "$2^{10}$"), ("10!", "3628800"), ("3628800", "$10!$"), (r"\infty", r"$\infty$"),
    ("i", "$i$"), ("3+4i", "$4i+3$"), (r"\frac{\sqrt{3}}{2}", r"$\frac{3}{2\sqrt{3}}$"), (r"\log 2", r"$\log 2$"),
    ("42", "So it is 41. Wait, it is 42."), ("42", r"\boxed{42} and check: 6*7=42, 5+1=6."),
    ("12", r"\boxed{\boxed{12}}"), ("12", r"\fbox{12}"), ("12", r"\boxed{12"), ("12", r"\boxed 12"),
    ("1e-7", "0.0000001"), ("2.5%", r"\boxed{2\frac{1}{2}\%}"), (r"\text{even}", r"\boxed{\text{even}}"),
    ("sqrt(2)", r"$\sqrt{2}$"), ("2pi", r"$2\pi$"), ("x = 1 or x = 2", "$x=2$ or $x=1$"),
    ("10%, 20%", r"\boxed{10\%, 20\%}"), ("0.5", "50 %"), ("-1/2", r"\frac{-1}{2}"),
    ("3", r"\boxed{\text{Answer: } 3}"), ("3", r"\[ \boxed{3} \]"), ("3", r"\(3\)"), ("3", "**3**"),
    ("3", "The answer is **3**."), ("y=2x+3", "$y = 3 + 2x$"), ("C", "C. because"), ("C", "c"),
    (r"\frac{a}{b}", r"$\frac{a}{b}$"), ("17", "x = 17"),
    ("12%", r"$\boxed{12}$%"), ("12%", r"\boxed{12\text{ percent}}"), ("12%", r"\boxed{12}\,\%"),
    ("12%", "12 per cent"),
    ("0.12", r"$12$ percent"), ("0.12", r"$$\boxed{12}$$ \%"), ("0.12", r"\(12\)%"),
    ("12%", r"\boxed{12\ \mathrm{\%}}"),
    ("0.12", r"The share is $\boxed{12}$ percent."), ("B", "The answer is a prime number: (B)"),
    ("I", "The answer is I."),
    ("A", "The answer is A because 2 > 1."), ("A", "The answer is a"), ("B", "Option B is right."), ("I", "(I)"),
    ("0.001", "10^-3"), ("10^-3", "0.001"), ("0.1", r"\boxed{10^-1}"), ("1/1000", "$10^-3$"), ("8", "2³"),
    ("0.5", "2^-1"),
    ("10^{-12}", "10^-12"), ("1/4", "2⁻²"), ("1024", r"\boxed{2¹⁰}"), ("0.5", "2^−1"), ("x^2", "$x²$"),
)  # fmt: skip

_WRONG = (
    ("11", r"\boxed{11} no, so \boxed{12}"), ("10%", "10"), ("10", "10%"), ("50%", "5%"), ("7", "The answer is 8"),
    ("-7", "7"), ("7", "-7"), ("1/2", "2"), ("1/3", "0.33"), ("1,234", "1.234"), (r"\{1, 2\}", r"\boxed{\{1,2,3\}}"),
    ("1,2", r"\boxed{1.2}"), ("1.2", r"\boxed{1,2}"), ("(1,2)", r"\boxed{(2,1)}"), ("(1, 2, 3)", r"\boxed{(3,2,1)}"),
    ("[1,2]", r"\boxed{(1,2)}"), ("[1,2)", r"\boxed{(1,2]}"), (r"(-\infty, 3]", r"$(-\infty,3)$"),
    ("x=3", r"\boxed{x=4}"), ("x < 3", r"$x \le 3$"), ("x^2+2x+1", "$(x+1)^3$"), (r"\sqrt{2}", r"\boxed{2}"),
    ("B", r"\boxed{C}"), ("A", "The answer is B, not A"), ("5", ""),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"$\begin{pmatrix}2\\1\end{pmatrix}$"),
    ("She sold 48/2 = 24 clips. #### 72", "24"), ("2^{10}", "20"), (r"\frac{3}{0}", "5"), ("3+4i", "$3-4i$"),
    ("41", "So it is 41. Wait, it is 42."), ("1e-7", "2e-7"), ("1000000", "1000001"), ("5", "1e999999999"),
    (r"\text{even}", r"\boxed{\text{odd}}"), ("1/2", "½"), ("5", r"\boxed{}"), ("5", r"\boxed{"),
    ("12", r"\boxed{12}$ percent"), ("12", r"$\boxed{12}$%"), ("12", r"\(\boxed{12}\)%"), ("12", r"\boxed{12}\,\%"),
    ("12", r"\boxed{12\text{ percent}}"), ("12", "12 per cent"), ("12", r"$12$%"), ("12", r"$$\boxed{12}$$ percent"),
    ("A", "The answer is a mystery to me."), ("I", "My answer I cannot give"), ("A", "The choice is a hard one."),
    ("1000", "10^-3"), ("6", "2³"), ("23", "2³"), ("-2", "2^-1"),
    ("1/3", r"$0.\overline{3}$"), ("17", r"\boxed{x = 17 \text{ and } y = 3}"),
)  # fmt: skip

# No opinion: the solution is no mathematics.
_UNREADABLE = (
    ("", "5"), ("some words", "5"), ("five", r"\boxed{\text{five}}"),
)  # fmt: skip

# Both are solutions to each other's answers.
_SYMMETRIC = (
    ("1000", "1e3", True), ("10", "10%", False), ("10%", "0.1", True), ("1/2", "50%", True), ("1,2", "1.2", False),
    ("1/2", r"\frac{1}{2}", True), (r"\sqrt{8}", r"2\sqrt{2}", True), ("1e-7", "2e-7", False), ("7", "-7", False),
    ("[1,2]", "(1,2)", False), ("(1,2)", "(2,1)", False), (r"\{1,2\}", r"\{2,1\}", True), ("1,000", "1000", True),
    ("x^2-1", "(x-1)(x+1)", True), ("2^{10}", "1024", True), ("3 1/2", "3.5", True), ("B", r"\text{(B)}", True),
)  # fmt: skip


def _say(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(("solution", "answer"), _RIGHT)
def test_equal(solution: str, answer: str) -> None:
    assert mathematics.compare(solution, answer) is True


@pytest.mark.parametrize(("solution", "answer"), _WRONG)
def test_not_equal(solution: str, answer: str) -> None:
    assert mathematics.compare(solution, answer) is False


@pytest.mark.parametrize(("solution", "answer"), _UNREADABLE)
def test_no_opinion(solution: str, answer: str) -> None:
    assert mathematics.compare(solution, answer) is None


@pytest.mark.parametrize(("one", "other", "equal"), _SYMMETRIC)
def test_symmetric(one: str, other: str, equal: bool) -> None:
    assert mathematics.compare(one, rf"So \boxed{{{other}}}.") is equal
    assert mathematics.compare(other, rf"So \boxed{{{one}}}.") is equal


def test_a_solution_that_is_a_number_of_the_column() -> None:
    said = [_say("It is 0"), _say("It is 0"), _say("It is 3.5")]
    assert math_verify(said, ["7", "7", "7"], solution=[0, None, 3.5]) == [1, 0, 1]


def test_strange_answers_end_in_time_and_the_next_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    strange = [r"\boxed{" * 2000, "1," * 5000, "$" * 999, "9" * 20000, "\x00\ud800", "^" * 100, "", "answer " * 4000]
    strange += ["5 $9^{9^{9^{9}}}$"]  # computed in C, where no signal ends it
    monkeypatch.setattr(mathematics, "SECONDS", 1.0)
    monkeypatch.setattr(functions, "judge", mathematics.Judge().ask)
    before = time.monotonic()
    paid = math_verify([_say(text) for text in [*strange, "5"]], ["5"] * (len(strange) + 1))
    assert paid == [0.0] * len(strange) + [1]
    assert time.monotonic() - before < 20
    # What cannot be computed is a solution on which nothing can be said.
    assert math_verify([_say("5")], ["9^{9^{9^9}}"]) == [None]
