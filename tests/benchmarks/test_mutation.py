"""The sample of mutants and its score, on results as mutmut prints them."""

from __future__ import annotations

from benchmarks.mutation import PACKAGES, package_of, sample, score_table, scores

MUTANTS = [f"{package}.module.x_f__mutmut_{index}" for package in PACKAGES for index in range(30)]


def test_a_mutant_belongs_to_the_package_of_its_module() -> None:
    assert package_of("eval.metrics.matching.x_assign__mutmut_3") == "eval.metrics"
    assert package_of("runtime.decode.x_decode__mutmut_1") == "runtime.decode"
    assert package_of("runtime.decoders.x_f__mutmut_1") is None


def test_the_sample_is_as_large_in_each_package_and_repeats() -> None:
    chosen = sample(MUTANTS, 10, seed=1)
    assert [sum(package_of(name) == package for name in chosen) for package in PACKAGES] == [10] * len(PACKAGES)
    assert sample(reversed(MUTANTS), 10, seed=1) == chosen
    assert sample(MUTANTS, 10, seed=2) != chosen
    assert sample(MUTANTS[:3], 10, seed=1) == MUTANTS[:3]


def test_the_score_counts_what_was_tried() -> None:
    states = ["killed"] * 6 + ["timeout"] + ["survived"] * 2 + ["no tests"] + ["not checked"] * 20
    found = dict(zip(MUTANTS[:30], states, strict=True))
    row = score_table(found).splitlines()[2].split()
    assert row == [PACKAGES[0], "30", "10", "7", "2", "1", "70%"]
    assert score_table(found).splitlines()[3].split()[-1] == "–"
    assert scores(found)[PACKAGES[0]] == {
        "mutants": 30,
        "tried": 10,
        "killed": 7,
        "survived": 2,
        "no test": 1,
        "score": 0.7,
    }
    assert "score" not in scores(found)[PACKAGES[1]]
