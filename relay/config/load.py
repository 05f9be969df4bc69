"""From a file, or a folder of files, to one checked `Config`, or to all problems with their places."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from relay.config import document as yaml_document
from relay.config.document import Document, Problem, format_path
from relay.config.schema import Config, json_schema, named
from relay.errors import ConfigError

_T = TypeVar("_T")
_UNKNOWN_KEY = frozenset({"extra_forbidden", "unexpected_keyword_argument"})
_MESSAGES = {
    "missing": "is required",
    "model_type": "must be a mapping",
    "dataclass_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "string_type": "must be a text; put a number in quotes",
    "int_type": "must be a whole number, without quotes",
    "bool_type": "must be true or false",
    "union_tag_not_found": "must have a type: basic, bearer or header",
    "union_tag_invalid": "must have a type: basic, bearer or header",
}
_FORMS = {  # by the start of a pattern
    "^[A-Za-z0-9]": "a name has letters, digits and ._- only, and at most 64 of them",
    "^[!#$": "a header's name has letters, digits and !#$%&'*+.^_`|~- only",
    "^[^:]": "must not hold a colon",
    "^[^\\x00": "must be a text of one line",
    "": "has the wrong form",
}


def load(path: Path, environment: Mapping[str, str]) -> Config:
    """Return the configuration that a file, or a folder's `*.yaml` in order of name, holds.

    Of several files, mappings are united and routes are concatenated. Files named in the configuration
    are read relative to it.

    Args:
        path: of the file or folder.
        environment: where `${NAME}` is looked up.

    Raises:
        ConfigError: names every problem found.
    """
    document = _united([read_file(file, environment) for file in _files(path)])
    config = _validated(document, path if path.is_dir() else path.parent)
    _cross_check(document)
    if config is None or document.problems:
        raise ConfigError([str(problem) for problem in sorted(document.problems)])
    return config


def _validated(document: Document, folder: Path) -> Config | None:
    """Return the configuration, or None with the document's problems completed."""
    if document.values is None:
        document.refuse((), "the configuration is empty")
        return None
    try:
        config = Config.model_validate(_without_empty_sections(document.values), context={"folder": folder})
    except ValidationError as error:
        refuse_invalid(document, error, json_schema())
        return None
    return config.model_copy(update={"routes": named(config.routes)})


def _files(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            return [path]
        files = sorted(file for file in path.iterdir() if fnmatch(file.name, "[!.]*.yaml"))
    except OSError as error:
        raise _unreadable(path, error) from error
    if not files:
        raise ConfigError([f"{path}: the folder holds no *.yaml"])
    return files


def _without_empty_sections(values: Any) -> Any:
    """Return a configuration's values without those sections whose every line is commented out."""
    if not isinstance(values, dict):
        return values
    return {section: value for section, value in values.items() if value is not None}


def refuse_invalid(document: Document, error: ValidationError, schema: dict[str, Any]) -> None:
    """Note pydantic's findings as problems of a document, as this project words them.

    Args:
        document: that was validated.
        error: what pydantic found.
        schema: the JSON Schema that it was validated against, for suggestions.
    """
    found = error.errors(include_url=False, include_input=False)
    for item in sorted(found, key=lambda item: -len(item["loc"])):  # parts before the whole
        path = _written_path(item["loc"], document, missing=item["type"] == "missing")
        if item["type"] in {"value_error", "too_short"} and document.refused_below(path):
            continue  # a part counts as absent that was only refused
        about_key = item["type"] in _UNKNOWN_KEY or item["loc"][-1:] == ("[key]",)
        document.refuse(path, _message(item, schema), document.key_places.get(path) if about_key else None)


def read_file(file: Path, environment: Mapping[str, str]) -> Document:
    """Return the YAML document of a file.

    Raises:
        ConfigError: the file can't be read at all; what is wrong in it is among the document's problems.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(yaml_document.MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(file, error) from error
    return yaml_document.read(content, str(file), environment)


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError([f"{path}: can't be read: {(error.strerror or 'error').lower()}"])


def _united(documents: list[Document]) -> Document:
    """Return one document of several: sections are united, and lists put one after the other."""
    if len(documents) == 1:
        return documents[0]
    whole = Document(values={}, places={(): documents[0].places[()]})
    for document in documents:
        offsets: dict[yaml_document.Path, int] = {
            (name,): len(value) for name, value in whole.values.items() if isinstance(value, list)
        }
        whole.problems += [
            replace(problem, path=_shifted(problem.path, offsets.get(problem.path[:1], 0)))
            for problem in document.problems
        ]
        if document.values is None:
            continue
        if not isinstance(document.values, dict):
            whole.refuse((), "must be a mapping", document.places[()])
            continue
        for section, value in document.values.items():
            _unite_section(whole, document, section, value)
    if any(document.values is None and document.problems for document in documents):
        whole.values = None  # nothing is known to be missing while a file can't be read
    return whole


def _unite_section(whole: Document, document: Document, section: str, value: Any) -> None:
    present = whole.values.get(section)
    offset = 0
    if isinstance(present, dict) and isinstance(value, dict):
        for name in value.keys() & present.keys():
            first, second = whole.key_places[section, name], document.key_places[section, name]
            whole.problems.append(Problem(second, (section, name), f"defined twice, first at {first}"))
        present.update(value)
    elif isinstance(present, list) and isinstance(value, list):
        offset = len(present)
        present += value
    elif section in whole.values:
        first, second = whole.key_places[section,], document.key_places[section,]
        whole.problems.append(Problem(second, (section,), f"defined twice, first at {first}"))
    else:
        whole.values[section] = value
    for target, places in ((whole.places, document.places), (whole.key_places, document.key_places)):
        for path, place in places.items():
            if path[:1] == (section,):
                moved = _shifted(path, offset)
                target.setdefault(moved, place)


def _shifted(path: yaml_document.Path, offset: int) -> yaml_document.Path:
    """Return the path of a list's item as it is behind `offset` others; any other path as it is."""
    match path:
        case (section, int() as index, *rest):
            return (section, index + offset, *rest)
        case _:
            return path


def _written_path(
    location: tuple[int | str, ...], document: Document, *, missing: bool
) -> yaml_document.Path:
    """Return the path as written, without the union tags that pydantic puts in; a `missing` key stays."""
    path: yaml_document.Path = ()
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if (*path, part) in document.places or (last and missing):
            path = (*path, part)
    return path


def _message(item: Any, schema: dict[str, Any]) -> str:
    match item["type"]:
        case kind if kind in _MESSAGES:
            return _MESSAGES[kind]
        case kind if kind in _UNKNOWN_KEY:
            name = str(item["loc"][-1])
            return f"is not a known key{suggestion(name, _known_keys(item['loc'][:-1], schema))}"
        case "value_error":
            return str(item["ctx"]["error"])
        case "literal_error":
            return "must be " + str(item["ctx"]["expected"]).replace("'", "")
        case "too_long":
            return f"must have at most {item['ctx']['max_length']} entries"
        case "string_pattern_mismatch":
            pattern = item["ctx"]["pattern"]
            return next(text for start, text in _FORMS.items() if pattern.startswith(start))
        case _:
            message = str(item["msg"])
            return message[:1].lower() + message[1:]


def _known_keys(location: tuple[int | str, ...], schema: dict[str, Any]) -> Iterable[str]:
    """Return the keys that a schema knows at a place."""
    definitions = schema["$defs"]
    nodes: list[dict[str, Any]] = [schema]
    for part in location:
        nodes = [_resolved(step, definitions) for node in nodes for step in _steps(node, part, definitions)]
    variants = [variant for node in nodes for variant in _variants(node, definitions)]
    return sorted({key for variant in variants for key in variant.get("properties", {})})


def _steps(node: dict[str, Any], part: int | str, definitions: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Return where one part of a path leads to from a node of the schema."""
    for variant in _variants(node, definitions):
        properties = variant.get("properties", {})
        if part in properties:
            yield properties[part]
        elif "const" in properties.get("type", {}):
            if properties["type"]["const"] == part:
                yield variant
        elif isinstance(part, int) and "items" in variant:
            yield variant["items"]
        else:
            yield from variant.get("patternProperties", {}).values()


def _variants(node: dict[str, Any], definitions: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Return what a node of the schema may be: itself, or each of its alternatives."""
    options = [_resolved(option, definitions) for option in node.get("anyOf", node.get("oneOf", [node]))]
    return [_resolved(one, definitions) for option in options for one in option.get("oneOf", [option])]


def _resolved(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    return definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` where a known word is close, else the list of known ones."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are {', '.join(names)}" if names else ""


def _cross_check(document: Document) -> None:
    """Refuse what no single part of the configuration can see; looks at the values as they were written."""
    values = document.values if isinstance(document.values, dict) else {}
    routes = [
        (index, route) for index, route in enumerate(_of(values, "routes", list)) if isinstance(route, dict)
    ]
    destinations = _of(values, "destinations", dict)
    first_routes: dict[Any, int] = {}
    for index, route in routes:
        for position, name in enumerate(_of(route, "to", list)):
            if isinstance(name, str) and name not in destinations:
                hint = suggestion(name, destinations)
                document.refuse(("routes", index, "to", position), f"there is no destination {name}{hint}")
        name = route.get("name")
        if isinstance(name, str) and first_routes.setdefault(name, index) != index:
            first = document.place(("routes", first_routes[name], "name"))
            document.refuse(("routes", index, "name"), f"{name} is used twice, first at {first}")
    for name in destinations:
        _refuse_repeated_headers(document, ("destinations", name), destinations[name])
    public, admin = (_of(_of(values, name, dict), "listen", str) for name in ("server", "admin"))
    if public and public == admin and not public.endswith(":0"):
        document.refuse(("admin", "listen"), "must not be the address of server.listen")
    first_sources: dict[Any, str] = {}
    for name, source in _of(values, "sources", dict).items():
        path = _of(source, "path", str) or f"/webhooks/{name}"
        if first_sources.setdefault(path, name) != name:
            document.refuse(("sources", name), f"has the same path {path} as sources.{first_sources[path]}")


def _refuse_repeated_headers(document: Document, where: yaml_document.Path, destination: Any) -> None:
    """Refuse a destination's headers whose names differ in case only, that of its `auth` included."""
    auth, headers = (_of(destination, key, dict) for key in ("auth", "headers"))
    names = {(*where, "auth", "name"): _of(auth, "name", str)} if auth.get("type") == "header" else {}
    names |= {(*where, "headers", name): name for name in headers}
    first: dict[str, yaml_document.Path] = {}
    for path, name in names.items():
        same = first.setdefault(name.lower(), path)
        if same != path:
            what = f"is the same header as {format_path(same)}; case doesn't count"
            document.refuse(path, what, document.key_places[path])


def _of(values: Any, key: str, kind: type[_T]) -> _T:
    """Return what a mapping holds under a key, or an empty value of the kind it should be."""
    found = values.get(key) if isinstance(values, dict) else None
    return found if isinstance(found, kind) else kind()
