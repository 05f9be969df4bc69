"""What `notify` takes, and in which words it refuses the rest."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from relay.config import Config, load
from relay.errors import ConfigError
from relay.hold import elapses_at, parse_window

SECRET = "hunter2-Zq8"
CHAT = {"url": f"https://chat.example/hook/{SECRET}", "format": "teams"}
MAIL = {"smtp": "smtp.example:587", "from": "relay@example.com", "to": ["it@example.com"]}


def loaded(folder: Path, notify: Any, **environment: str) -> Config:
    file = folder / "config.yaml"
    text = {
        "sources": {"itscope": {"auth": [{"username": "itscope", "password": "x"}]}},
        "destinations": {"erp": {"url": "https://erp.example/api"}},
        "routes": [{"to": ["erp"]}],
        "notify": notify,
    }
    file.write_text(json.dumps(text), encoding="utf-8")
    return load(file, environment)


def test_nobody_is_told_without_notify(tmp_path: Path) -> None:
    assert loaded(tmp_path, None).notify is None


def test_every_default_is_the_documented_one(tmp_path: Path) -> None:
    notify = loaded(tmp_path, {"webhooks": [CHAT], "email": MAIL, "when": {"silent": {}}}).notify
    assert notify
    assert notify.email
    assert notify.when.silent
    assert (notify.name, notify.link) == ("itscope-relay", None)
    assert (notify.email.tls, notify.email.login) == ("starttls", None)
    assert (notify.when.dead, notify.when.overdue, notify.when.breaker) == (
        True,
        timedelta(minutes=30),
        timedelta(minutes=15),
    )
    assert (notify.when.silent.after, notify.when.silent.hours) == (timedelta(hours=4), ())


def test_silence_is_off_by_default_and_others_can_be_switched_off(tmp_path: Path) -> None:
    when = {"dead": False, "overdue": None, "breaker": None}
    notify = loaded(tmp_path, {"webhooks": [CHAT], "when": when}).notify
    assert notify
    assert notify.when.model_dump() == {**when, "silent": None}


def test_secrets_come_from_the_environment_or_files(tmp_path: Path) -> None:
    (tmp_path / "smtp").write_text("mail-secret\n", encoding="utf-8")
    (tmp_path / "hook").write_text("https://slack.example/1\n", encoding="utf-8")
    hooks = [{"url": "${HOOK}", "format": "teams"}, {"url_file": "hook", "format": "slack"}]
    login = {"username": "relay", "password_file": "smtp"}
    notify = loaded(
        tmp_path, {"webhooks": hooks, "email": MAIL | login}, HOOK="https://chat.example/2"
    ).notify
    assert notify
    assert notify.email
    assert [hook.secret for hook in notify.webhooks] == ["https://chat.example/2", "https://slack.example/1"]
    assert notify.email.login == ("relay", "mail-secret")
    for secret in ("mail-secret", "slack.example/1", "chat.example/2"):
        assert secret not in repr(notify)


@pytest.mark.parametrize(
    ("notify", "problem"),
    [
        ({}, "notify: give webhooks or email, or nobody is told"),
        ({"webhooks": [CHAT], "wen": {}}, "notify.wen: is not a known key; did you mean when?"),
        ({"webhooks": [{"format": "teams"}]}, "notify.webhooks[0]: give one of url, url_file"),
        (
            {"webhooks": [CHAT | {"format": "irc"}]},
            "notify.webhooks[0].format: must be teams, slack or mattermost",
        ),
        (
            {"webhooks": [{"url": SECRET, "format": "slack"}]},
            "notify.webhooks[0]: url must be a full http or https URL, as the chat gave it",
        ),
        ({"email": MAIL | {"to": []}}, "notify.email.to: must have at least one entry"),
        (
            {"email": MAIL | {"to": ["it"]}},
            "notify.email.to[0]: write a mail address alone, such as it@example.com",
        ),
        (
            {"email": MAIL | {"from": "a@b.example\r\nBcc: x@y.example"}},
            "notify.email.from: write a mail address alone, such as it@example.com",
        ),
        ({"email": MAIL | {"username": "relay"}}, "notify.email: give one of password, password_file"),
        ({"email": MAIL | {"password": SECRET}}, "notify.email: a password needs a username"),
        (
            {"email": MAIL | {"username": "r", "password": SECRET, "tls": "none"}},
            "notify.email: a password must not be sent without TLS; set tls to starttls or implicit",
        ),
        (
            {"email": MAIL | {"smtp": "smtp.example"}},
            "notify.email.smtp: write an address as host:port, such as 0.0.0.0:8080 or [::1]:8080",
        ),
        ({"webhooks": [CHAT], "name": "a\nb"}, "notify.name: must be a text of one line"),
        (
            {"webhooks": [CHAT], "link": "relay"},
            "notify.link: write a full URL, such as https://erp.example.internal/api/itscope",
        ),
        (
            {"webhooks": [CHAT], "when": {"silent": {"after": "70h", "hours": ["Mon 08:00-18:00 UTC"]}}},
            "notify.when.silent: in so few hours, so much time doesn't pass within five weeks",
        ),
    ],
)
def test_problem_is_named_with_its_place(tmp_path: Path, notify: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, notify)
    (found,) = refused.value.problems
    assert found.partition(": ")[2] == problem
    assert SECRET not in found


def test_password_may_go_without_tls_to_this_machine(tmp_path: Path) -> None:
    login = {"username": "r", "password": SECRET, "tls": "none", "smtp": "127.0.0.1:25"}
    assert loaded(tmp_path, {"email": MAIL | login}).notify


# ---- hours

MONDAY = 1_795_392_000.0  # 2026-11-23 00:00 UTC
WORK = (parse_window("Mon-Fri 08:00-18:00 UTC"),)


@pytest.mark.parametrize(
    ("since", "hours", "until"),
    [
        (0, 4, 12),  # before work
        (10, 4, 14),
        (17, 4, 24 + 11),  # over a night
        (4 * 24 + 17, 4, 7 * 24 + 11),  # over a weekend
        (0, 10, 18),
        (0, 10.5, 24 + 8.5),
        (0, 100, 11 * 24 + 18),  # two weeks
    ],
)
def test_time_counts_within_windows_only(since: float, hours: float, until: float) -> None:
    assert elapses_at(WORK, MONDAY + since * 3600, hours * 3600) == MONDAY + until * 3600


def test_windows_that_overlap_count_once() -> None:
    both = (*WORK, parse_window("daily 10:00-20:00 UTC"))
    assert elapses_at(both, MONDAY, 12 * 3600.0) == MONDAY + 20 * 3600


def test_without_windows_all_time_counts() -> None:
    assert elapses_at((), MONDAY, 5.0) == MONDAY + 5


def test_time_that_does_not_come_is_none() -> None:
    assert elapses_at((parse_window("Mon 08:00-09:00 UTC"),), MONDAY, 7 * 3600.0) is None
