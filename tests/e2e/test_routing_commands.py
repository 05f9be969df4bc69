"""`route` and `test`: where an event would go, asked of the code that serves."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.e2e.relay_process import run

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "config.example.yaml"
SAMPLE = REPOSITORY / "tests" / "data" / "sample.json"
INVOICE = '{"eventType": "INVOICE"}'
STOPPING = """\
sources: {itscope: {auth: [{username: u, password: p}]}, other: {auth: [{username: u, password: p}]}}
destinations: {erp: {url: "http://erp.example/"}, crm: {url: "http://crm.example/"}}
routes:
  - {name: mine, match: {source: other}, to: [crm], stop: true}
  - {name: rest, except: {orderId: "*TEST*"}, to: [erp]}
"""
CASES = """\
tests:
  - name: invoices reach accounting
    event: {eventType: INVOICE}
    expect: [erp, accounting]
  - event: {eventType: ORDERRESPONSE, transactionStatus: CANCELLED}
    expect: [crm, erp]
"""


def test_route_explains_every_route_for_a_file() -> None:
    shown = run("route", "-c", EXAMPLE, SAMPLE)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [
        "+ everything-to-erp        matched: everything under match holds -> erp",
        '- invoices-to-accounting   not matched: eventType is "DELIVERY", not "INVOICE"',
        '- cancelled-orders-to-crm  not matched: eventType is "DELIVERY", not "ORDERRESPONSE"',
        "goes to: erp",
    ]


def test_route_reads_standard_input_with_and_without_a_dash() -> None:
    for dash in ((), ("-",)):
        shown = run("route", "-c", EXAMPLE, *dash, stdin=INVOICE)
        assert shown.returncode == 0
        assert shown.stdout.endswith("goes to: erp, accounting\n")


def test_route_tells_exceptions_stops_and_the_source(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(STOPPING, encoding="utf-8")
    excepted = run("route", stdin='{"orderId": "A-TEST-1"}', folder=tmp_path)
    assert excepted.stdout.splitlines() == [
        '- mine  not matched: source is "itscope", not "other"',
        "- rest  excepted: everything under except holds",
        "goes to: nowhere (unrouted)",
    ]
    stopped = run("route", "--source", "other", stdin="{}", folder=tmp_path)
    assert stopped.stdout.splitlines() == [
        "+ mine  matched: everything under match holds -> crm",
        "  rest  not reached: route mine matched and has stop: true",
        "goes to: crm",
    ]
    unknown = run("route", "--source", "othr", stdin="{}", folder=tmp_path)
    assert unknown.returncode == 2
    assert "there is no source othr; did you mean other?" in unknown.stderr


def test_route_prints_json_for_scripts() -> None:
    shown = json.loads(run("route", "-c", EXAMPLE, "--json", stdin=INVOICE).stdout)
    assert shown["destinations"] == ["erp", "accounting"]
    assert [(route["name"], route["finding"]) for route in shown["routes"]] == [
        ("everything-to-erp", "matched"),
        ("invoices-to-accounting", "matched"),
        ("cancelled-orders-to-crm", "not matched"),
    ]
    assert shown["routes"][1]["to"] == ["accounting"]
    assert shown["routes"][2]["why"] == 'eventType is "INVOICE", not "ORDERRESPONSE"'


def test_route_checks_an_expectation_in_any_order() -> None:
    assert run("route", "-c", EXAMPLE, "--expect", "accounting, erp", stdin=INVOICE).returncode == 0
    mismatch = run("route", "-c", EXAMPLE, "--expect", "erp", stdin=INVOICE)
    assert mismatch.returncode == 1
    assert mismatch.stderr == "expected: erp\ngot:      accounting, erp\n"
    unrouted = run("route", "-c", EXAMPLE, "--expect", "", stdin=INVOICE)
    assert unrouted.returncode == 1
    assert unrouted.stderr.startswith("expected: nowhere (unrouted)\n")


def test_route_refuses_an_expectation_that_no_route_can_meet() -> None:
    refused = run("route", "-c", EXAMPLE, "--expect", "erp,cmr", stdin=INVOICE)
    assert refused.returncode == 1
    assert refused.stderr == "--expect: there is no destination cmr; did you mean crm?\n"


def test_route_says_why_a_payload_is_none() -> None:
    for text, why in (("", "not JSON"), ('{"a": 1, "a": 2}', "key twice")):
        refused = run("route", "-c", EXAMPLE, stdin=text)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("<stdin>: ")
        assert why in refused.stderr


def test_test_passes_when_every_event_goes_where_it_should(tmp_path: Path) -> None:
    done = _test(tmp_path, CASES)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "ok   invoices reach accounting",
        "ok   eventType: ORDERRESPONSE, transactionStatus: CANCELLED",
        "2 passed, 0 failed",
    ]


def test_test_fails_with_a_diff(tmp_path: Path) -> None:
    done = _test(tmp_path, CASES.replace("[erp, accounting]", "[erp, crm]"))
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "FAIL invoices reach accounting",
        "     - crm   expected, but no route sends it there",
        "     + accounting   not expected, but a route sends it there",
        "ok   eventType: ORDERRESPONSE, transactionStatus: CANCELLED",
        "1 passed, 1 failed",
    ]


def test_test_prints_json_for_scripts(tmp_path: Path) -> None:
    done = _test(tmp_path, CASES.replace("[erp, accounting]", "[]"), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)[0] == {
        "name": "invoices reach accounting",
        "passed": False,
        "missing": [],
        "unexpected": ["erp", "accounting"],
    }


def test_test_names_every_problem_of_a_case_file(tmp_path: Path) -> None:
    wrong = CASES.replace("[erp, accounting]", "[erp, acounting]").replace(
        "[crm, erp]", "[crm]\n    sorce: x"
    )
    done = _test(tmp_path, wrong)
    assert (done.returncode, done.stdout) == (1, "")
    assert "tests[1].sorce: is not a known key; did you mean source?" in done.stderr
    done = _test(tmp_path, CASES.replace("[erp, accounting]", "[erp, acounting]"))
    assert done.returncode == 1
    assert done.stderr == (
        f"{tmp_path}/tests.yaml:4:19: tests[0].expect[1]: there is no destination acounting;"
        " did you mean accounting?\n"
    )


def test_test_refuses_an_empty_and_a_missing_case_file(tmp_path: Path) -> None:
    empty = _test(tmp_path, "tests: []")
    assert empty.returncode == 1
    assert f"{tmp_path}/tests.yaml:1:" in empty.stderr
    missing = run("test", "-c", EXAMPLE, tmp_path / "missing.yaml")
    assert missing.returncode == 1
    assert missing.stderr == f"{tmp_path}/missing.yaml: can't be read: no such file or directory\n"


def _test(folder: Path, cases: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "tests.yaml").write_text(cases, encoding="utf-8")
    return run("test", "-c", EXAMPLE, folder / "tests.yaml", *options)
