"""`check`, `hash-password`, `schema`, `demo`, and what holds for every command."""

from __future__ import annotations

import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest

from relay import __version__
from tests.e2e.relay_process import COMMAND, Start, configuration, environment, event, run, write_config

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "config.example.yaml"
NOWHERE = {"erp": "http://127.0.0.1:9/"}
# Root may read everything, but for this.
AS_ANYBODY = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
PROBLEMATIC = """\
sources:
  itscope:
    auth: [{username: itscope, password: "${NOT_SET_ANYWHERE}"}]
destinations:
  erp: {url: http://erp.example/, timeout: 30 parsecs, retrry: {}}
routes:
  - to: [epr]
"""


def test_check_accepts_the_example() -> None:
    checked = run("check", "-c", EXAMPLE)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == f"{EXAMPLE}: OK: 1 source, 3 destinations, 3 routes\n"


def test_check_names_every_problem_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(PROBLEMATIC, encoding="utf-8")
    checked = run("check", folder=tmp_path)
    assert (checked.returncode, checked.stdout) == (1, "")
    lines = checked.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "config.yaml:3:42",
        "config.yaml:5:44",
        "config.yaml:5:56",
        "config.yaml:7:10",
    ]
    assert (
        "sources.itscope.auth[0].password: the environment variable NOT_SET_ANYWHERE is not set" in lines[0]
    )
    assert "destinations.erp.timeout: " in lines[1]
    assert "destinations.erp.retrry: is not a known key; did you mean retry?" in lines[2]
    assert "routes[0].to[0]: there is no destination epr; did you mean erp?" in lines[3]


def test_check_warns_of_fields_that_look_like_another(tmp_path: Path) -> None:
    match = {"eventtype": "INVOICE", "ordrId": "1", "eventType": "ORDER", "ourOwn": "1"}
    config = write_config(tmp_path, NOWHERE, routes=[{"to": list(NOWHERE), "match": match}])
    checked = run("check", "-c", config)
    assert checked.returncode == 0
    assert checked.stderr.splitlines() == [
        f"{config}: warning: routes[0]: eventtype: did you mean eventType?",
        f"{config}: warning: routes[0]: ordrId: did you mean orderId?",
    ]


def test_check_unites_the_files_of_a_folder(tmp_path: Path) -> None:
    whole = configuration(NOWHERE)
    for number, section in enumerate(whole):
        file = tmp_path / f"{number}-{section}.yaml"
        file.write_text(json.dumps({section: whole[section]}), encoding="utf-8")
    checked = run("check", "-c", tmp_path)
    assert checked.stdout == f"{tmp_path}: OK: 1 source, 1 destination, 1 route\n"

    (tmp_path / "9-more.yaml").write_text(json.dumps({"destinations": NOWHERE}), encoding="utf-8")
    checked = run("check", "-c", tmp_path)
    assert checked.returncode == 1
    assert f"{tmp_path}/9-more.yaml:1:" in checked.stderr
    assert "destinations.erp: defined twice" in checked.stderr


def test_the_configuration_is_found_through_the_environment(tmp_path: Path) -> None:
    config = write_config(tmp_path, NOWHERE)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    checked = run("check", folder=elsewhere, variables={"ITSCOPE_RELAY_CONFIG": str(config)})
    assert (checked.returncode, checked.stdout[: len(str(config))]) == (0, str(config))
    missing = run("check", folder=elsewhere)
    assert missing.returncode == 1
    assert missing.stderr == "config.yaml: can't be read: no such file or directory\n"


@pytest.mark.parametrize("arguments", [("check", "-c", "{}"), ("test", "-c", str(EXAMPLE), "{}")])
@pytest.mark.parametrize(
    ("named", "shut"),
    [("folder/file.yaml", "folder/file.yaml"), ("folder/file.yaml", "folder"), ("folder", "folder")],
)
def test_a_file_that_may_not_be_read_is_told_as_a_missing_one_is(
    arguments: tuple[str, ...], named: str, shut: str, tmp_path: Path
) -> None:
    file = tmp_path / named
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file.yaml").touch()
    (tmp_path / shut).chmod(0)
    try:
        told = subprocess.run(
            [*AS_ANYBODY, COMMAND, *(argument.format(file) for argument in arguments)],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        (tmp_path / shut).chmod(0o700)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"{file}: can't be read: permission denied\n"


async def test_a_printed_password_hash_lets_its_password_in(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    hashed = run("hash-password", stdin="fünf Schafe\n")
    assert hashed.returncode == 0
    assert "Schafe" not in hashed.stdout + hashed.stderr
    assert run("hash-password", stdin="fünf Schafe\n").stdout != hashed.stdout  # salted
    account = {"username": "itscope", "password_hash": hashed.stdout.strip()}
    relay = await start(write_config(tmp_path, NOWHERE, sources={"itscope": {"auth": [account]}}))
    for password, status in (("fünf Schafe", 200), ("fünf Ziegen", 401), ("", 401)):
        headers = {"Authorization": aiohttp.encode_basic_auth("itscope", password)}
        async with client.post(relay.ingress, data=event(), headers=headers) as response:
            assert response.status == status, password


def test_schema_prints_the_file_in_the_repository() -> None:
    assert run("schema").stdout == (REPOSITORY / "config.schema.json").read_text(encoding="utf-8")


def test_demo_shows_a_retry_a_duplicate_and_that_everything_arrived() -> None:
    shown = run("demo")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "will be retried" in shown.stdout
    assert "200 duplicate" in shown.stdout
    summary = shown.stdout.partition("summary\n")[2].splitlines()
    assert [line.split()[0] for line in summary] == ["erp", "accounting", "crm", "waiting"]
    assert summary[0].split()[1:] == ["8", "of", "8", "delivered,", "after", "2", "answers", "of", "503"]
    assert summary[-1].split() == ["waiting", "0"]


def test_the_version_is_the_package_s() -> None:
    assert run("--version").stdout == f"itscope-relay, version {__version__}\n"


def test_every_command_that_takes_anything_explains_itself_with_an_example() -> None:
    listed = run("--help").stdout.partition("Commands:\n")[2]
    commands = re.findall(r"^  ([a-z-]+)  ", listed, re.MULTILINE)
    assert {"check", "demo", "hash-password", "route", "schema", "send", "serve", "test"} <= set(commands)
    with ThreadPoolExecutor() as pool:
        helps = pool.map(lambda command: run(command, "--help"), commands)
    for command, shown in zip(commands, helps, strict=True):
        assert shown.returncode == 0
        assert re.search(rf"Examples?:\n.*itscope-relay {command}", shown.stdout), command


@pytest.mark.parametrize(
    "arguments",
    [
        ("unheard-of",),
        ("serve", "--unheard-of"),
        ("route", "-c", str(EXAMPLE), "/there/is/no/such/file"),
        ("send",),
        ("send", "ftp://example.org/"),
        ("hash-password",),
    ],
)
def test_bad_usage_ends_with_exit_code_2_and_points_to_the_help(arguments: tuple[str, ...]) -> None:
    refused = run(*arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--help' for help" in refused.stderr
