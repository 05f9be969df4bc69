"""The pages' texts: each has its German, and no German is left over."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest
from aiohttp import hdrs
from aiohttp.test_utils import make_mocked_request
from jinja2 import nodes

from relay.admin.pages.words import COOKIE, GERMAN, read_texts, words_for, words_of

PAGES = Path(__file__).parents[2] / "relay" / "admin" / "pages"
TEMPLATES = sorted((PAGES / "templates").glob("*.html"))
MODULES = sorted(PAGES.glob("*.py"))
UNTRANSLATED = {"ITscope Relay", "HTTP", "ms"}
_JINJA = re.compile(r"{%.*?%}|{{.*?}}|{#.*?#}", re.DOTALL)


def of_template(template: Path) -> Iterator[str]:
    """Yield every text that a template translates."""
    tree = jinja2.Environment(autoescape=True).parse(template.read_text(encoding="utf-8"))
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name in {"_", "_n"}:
            given = call.args[1:3] if call.node.name == "_n" else call.args[:1]
            yield from (text.value for text in given if isinstance(text, nodes.Const))


def of_module(module: Path) -> Iterator[str]:
    """Yield every text that a module marks for translation."""
    for node in ast.walk(ast.parse(module.read_bytes())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "word":
            (text,) = node.args
            assert isinstance(text, ast.Constant), f"{module}:{node.lineno}: word() takes a literal"
            assert isinstance(text.value, str)
            yield text.value


def used() -> set[str]:
    return {text for template in TEMPLATES for text in of_template(template)} | {
        text for module in MODULES for text in of_module(module)
    }


def fields(text: str) -> set[str | None]:
    return {name for _, name, *_ in string.Formatter().parse(text) if name is not None}


def test_every_text_has_its_german_and_no_german_is_left_over() -> None:
    german = read_texts(GERMAN)
    assert used() - german.keys() == set(), "without German in locales/de.yaml"
    assert german.keys() - used() == set(), "not used any more"


def test_a_german_text_names_the_same_values() -> None:
    wrong = [text for text, german in read_texts(GERMAN).items() if fields(text) != fields(german)]
    assert wrong == []


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_no_template_says_anything_that_is_not_translated(template: Path) -> None:
    markup = _JINJA.sub("", template.read_text(encoding="utf-8"))
    assert not re.search(r'(aria-label|placeholder|title|alt|data-confirm)="[^"]*[A-Za-z]', markup)
    words = {line.strip(" ·\n") for line in re.sub(r"<[^>]*>", "\n", markup).splitlines()}
    assert {word for word in words if any(map(str.isalpha, word))} <= UNTRANSLATED


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_no_template_switches_escaping_off_or_breaks_the_policy(template: Path) -> None:
    text = template.read_text(encoding="utf-8")
    for forbidden in (
        "|safe",
        "| safe",
        "autoescape",
        "<style",
        " style=",
        "javascript:",
        "hx-on",
        " onclick",
    ):
        assert forbidden not in text, forbidden


@pytest.mark.parametrize(
    ("header", "cookie", "language"),
    [
        ("", None, "en"),
        ("de", None, "de"),
        ("de-AT,de;q=0.9,en;q=0.8", None, "de"),
        ("fr,en;q=0.3,de;q=0.7", None, "de"),
        ("fr", None, "en"),
        ("en-US,en;q=0.9,de;q=0.8", None, "en"),
        ("de;q=x", None, "en"),
        ("de;q=0", None, "en"),
        ("en", "de", "de"),
        ("de", "en", "en"),
        ("de", "../../etc", "de"),
        ("," * 100_000, None, "en"),
    ],
)
def test_language_is_the_chosen_one_or_the_browsers(header: str, cookie: str | None, language: str) -> None:
    headers = {hdrs.ACCEPT_LANGUAGE: header}
    if cookie is not None:
        headers[hdrs.COOKIE] = f"{COOKIE}={cookie}"
    assert words_for(make_mocked_request("GET", "/", headers)).tag == language


def test_numbers_have_their_thousands_apart() -> None:
    assert words_of("en").say("{n}", n=1234567) == "1,234,567"
    assert words_of("de").say("{n}", n=1234567) == "1.234.567"


def test_a_value_is_never_a_form_itself() -> None:
    assert words_of("en").say("Order {id}", id="{0.__class__}") == "Order {0.__class__}"
