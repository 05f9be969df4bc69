"""What the documentation promises exists, and what exists is documented."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from relay.cli import cli
from relay.config import json_schema, load
from relay.metrics import Metrics

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def names(text: str, word: str) -> bool:
    """Tell whether a text has a word, not as a part of a longer one."""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None


# ---- configuration


def keys_of(node: Any) -> Iterator[str]:
    """Yield every key that a schema knows, at any depth."""
    if isinstance(node, dict):
        properties = node.get("properties", {})
        yield from properties
        for value in (*properties.values(), *(value for key, value in node.items() if key != "properties")):
            yield from keys_of(value)
    elif isinstance(node, list):
        for item in node:
            yield from keys_of(item)


@pytest.mark.parametrize("key", sorted(set(keys_of(json_schema()))))
def test_every_key_of_the_configuration_is_documented(key: str) -> None:
    assert names(text_of("configuration.md"), key)


def test_keys_are_found_at_every_depth() -> None:
    assert {"server", "cert_file", "password_hash", "token_file", "give_up_after", "except"} <= set(
        keys_of(json_schema())
    )


def test_example_configuration_is_valid_without_any_variable() -> None:
    config = load(ROOT / "config.example.yaml", {})
    assert config.sources.keys() == {"itscope"}


def test_schema_in_the_repository_is_the_generated_one() -> None:
    stored = json.loads((ROOT / "config.schema.json").read_text(encoding="utf-8"))
    assert stored == json_schema(), "run `make schema`"


# ---- metrics


def metric_names() -> Iterator[str]:
    """Yield the names as they are scraped."""
    for metric in Metrics().registry.collect():
        yield f"{metric.name}_total" if metric.type == "counter" else metric.name


@pytest.mark.parametrize("name", list(metric_names()))
def test_every_metric_is_documented(name: str) -> None:
    assert names(text_of("metrics.md"), name)


def test_every_documented_metric_exists() -> None:
    documented = set(re.findall(r"itscope_relay_[a-z_]+[a-z]", text_of("metrics.md")))
    suffix = re.compile(r"_(?:bucket|sum|count)$")
    assert {suffix.sub("", name) for name in documented} <= set(metric_names())


# ---- command line


def section_of(command: str) -> str:
    """Return what docs/cli.md says under the heading of a command, with the headings below it."""
    lines, level, fenced = [], 0, False
    for line in text_of("cli.md").splitlines():
        fenced ^= line.startswith("```")
        depth = 0 if fenced else len(line) - len(line.lstrip("#"))
        if depth and names(line, command):
            level = depth
        elif depth and depth <= level:
            level = 0
        if level:
            lines.append(line)
    assert lines, f"docs/cli.md has no heading for {command}"
    return "\n".join(lines)


def commands(group: click.Group = cli, prefix: str = "") -> dict[str, click.Command]:
    """Return every command by how it is called, those of groups as well."""
    found: dict[str, click.Command] = {}
    for name, command in sorted(group.commands.items()):
        found[prefix + name] = command
        if isinstance(command, click.Group):
            found |= commands(command, f"{prefix}{name} ")
    return found


def test_commands_of_groups_are_found() -> None:
    assert {"serve", "quarantine", "quarantine release"} <= commands().keys()


@pytest.mark.parametrize("command", commands())
def test_every_command_is_documented_with_its_options(command: str) -> None:
    section = section_of(command.split(maxsplit=1)[0])
    assert names(section, command)
    options = [
        option
        for parameter in commands()[command].params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    ]
    assert [option for option in options if not names(section, option)] == []


@pytest.mark.parametrize("command", commands())
def test_every_command_and_option_explains_itself(command: str) -> None:
    assert commands()[command].help
    assert all(
        parameter.help or isinstance(parameter.type, click.Choice)
        for parameter in commands()[command].params
        if isinstance(parameter, click.Option)
    )


# ---- links


PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {anchor(heading) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    broken = []
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (fragment and fragment not in anchors_of(target)):
            broken.append(link)
    assert broken == []
