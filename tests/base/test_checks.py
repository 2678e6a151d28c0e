"""Findings: what raises, what is logged and kept, and what a person may accept."""

from __future__ import annotations

import argparse
import logging

import pytest

from base.checks import Check, Finding, add_accept, checking, recorded, require_known, settle
from base.command import run_command
from base.errors import CheckpointError, ConfigError, DataError

WRONG = Check("wrong-order", "One with the other.", accepting="the names are others")
FATAL = Check("no-sense", "By itself.", error=CheckpointError)
DOUBT = Check("thin", "How many there are.", "warning")
KNOWN = {check.id: check for check in (WRONG, FATAL, DOUBT)}


def finding(check: Check, value: str = "a, b") -> Finding:
    return Finding(check, "File 'x', classes", value, "config 'y'", "b, a", "Correct one of them.")


def test_an_error_names_both_places_both_values_the_remedy_and_how_to_accept_it() -> None:
    with checking() as record, pytest.raises(DataError) as caught:
        settle([finding(WRONG)])
    assert str(caught.value) == (
        "File 'x', classes says a, b, but config 'y' says b, a. Correct one of them. If you know that the names are "
        "others, go on with --accept=wrong-order."
    )
    (result,) = record.results()
    assert (result.check, result.outcome, result.count) == ("wrong-order", "error", 1)


def test_what_nobody_can_know_better_is_not_offered_and_not_accepted() -> None:
    with checking(accepted=["no-sense"]), pytest.raises(CheckpointError) as caught:
        settle([Finding(FATAL, "File 'x'", "holds nothing")])
    assert str(caught.value) == "File 'x': holds nothing."


def test_all_errors_are_told_at_once_and_warnings_before_them(caplog: pytest.LogCaptureFixture) -> None:
    with checking(), pytest.raises(CheckpointError, match=r"holds nothing\. Also: File 'x', classes says a, b"):
        settle([finding(DOUBT, "one"), Finding(FATAL, "File 'z'", "holds nothing"), finding(WRONG)])
    assert "says one" in caplog.text


def test_an_accepted_error_is_logged_and_kept_as_such(caplog: pytest.LogCaptureFixture) -> None:
    with checking(accepted=["wrong-order"]) as record:
        settle([finding(WRONG)])
    assert [(item.check, item.outcome) for item in record.results()] == [("wrong-order", "accepted")]
    assert "says a, b" in caplog.text
    assert "accepted: wrong-order" in caplog.text


def test_what_is_recorded_is_the_innermost_records(caplog: pytest.LogCaptureFixture) -> None:
    assert recorded() == ()
    with checking():
        settle([finding(DOUBT)])
        with checking():
            assert recorded() == ()
        assert [item.check for item in recorded()] == ["thin"]


def test_accepting_one_check_accepts_no_other() -> None:
    other = Check("other", "Something else.", accepting="it is so")
    with checking(accepted=["wrong-order"]), pytest.raises(DataError, match="--accept=other"):
        settle([finding(WRONG), finding(other)])


def test_a_finding_in_every_file_is_counted_and_told_five_times(caplog: pytest.LogCaptureFixture) -> None:
    with checking() as record:
        for number in range(100):
            settle([finding(DOUBT, f"value {number}"), finding(DOUBT, "value 0")])
    (result,) = record.results()
    assert (result.count, len(result.messages)) == (200, 5)
    assert len(caplog.records) == 5


def test_records_inside_each_other_accept_and_keep_together() -> None:
    with checking(accepted=["wrong-order"]) as outer:
        with checking() as inner:
            settle([finding(WRONG)])
        settle([finding(DOUBT)])
    assert [item.check for item in inner.results()] == ["wrong-order"]
    assert [item.check for item in outer.results()] == ["wrong-order", "thin"]
    with pytest.raises(DataError):  # nothing is accepted any more
        settle([finding(WRONG)])


def test_the_option_reaches_a_commands_work(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_accept(parser, KNOWN)
    caplog.set_level(logging.WARNING)
    for given, code in (
        (["--accept", "wrong-order"], 0),
        (["--accept=wrong-order", "--accept=wrong-order"], 0),
        ([], 2),
    ):
        args = parser.parse_args(given)
        assert run_command(lambda: settle([finding(WRONG)]), "WARNING", args.accept) == code
    assert "--accept=wrong-order" in capsys.readouterr().err
    for wrong in ("thin", "no-sense", "rong-order"):  # a warning, what cannot be accepted, and a slip
        with pytest.raises(SystemExit):
            parser.parse_args([f"--accept={wrong}"])


def test_names_in_a_config_are_those_of_errors_that_can_be_accepted() -> None:
    require_known(["wrong-order"], KNOWN, "here")
    with pytest.raises(ConfigError, match=r"names no check: 'wrong-odrer'. Did you mean 'wrong-order'\?"):
        require_known(["wrong-odrer"], KNOWN, "deploy.py: 'accepted_checks'")
    with pytest.raises(ConfigError, match="'thin', which is only a warning"):
        require_known(["thin"], KNOWN, "here")
    with pytest.raises(ConfigError, match="'no-sense', which finds what nobody can know better"):
        require_known(["no-sense"], KNOWN, "here")


def test_a_warning_has_nothing_to_accept() -> None:
    with pytest.raises(ValueError, match="nothing to accept"):
        Check("thin", "How many.", "warning", accepting="it is so")
