"""Pages: links lead somewhere, and files, names, commands, flags and keys that they name exist."""

import ast
import functools
import pathlib
import re

import pytest
from launch_commands import ROOT, flags_of, load_config

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md"]
PACKAGES = "hypnos_jax|data_pipelines|configs|launch"
EXAMPLES = re.compile(r"\bmy_")  # files of the reader
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(text, language=""):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def without_blocks(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


def headings(path):
    """What GitHub makes of a page's headings in links."""
    lines = re.findall(r"^#+ (.*)$", without_blocks(path.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def command_lines(text):
    """Code that may be a command: lines of blocks, without comments, and spans in the text."""
    for block in blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            yield re.sub(r"(^|\s)#.*", "", line)
    for span in re.findall(r"`([^`]+)`", without_blocks(text)):
        yield " ".join(span.split())


def commands(text):
    """Yield the script and the flags, name -> value, of every command of a page."""
    script = r"\b(?:launch|tests)\.\w+|benchmarks/\w+\.py"
    for line in command_lines(text):
        found = list(re.finditer(script, line))
        ends = [match.start() for match in found[1:]] + [len(line)]
        for match, end in zip(found, ends):
            name = match.group()
            file = name if name.endswith(".py") else name.replace(".", "/") + ".py"
            given = re.findall(r"\s--([a-z][\w.]*)(?:=(\S*))?", line[match.end() : end])
            yield file, dict(given)


def exists_in_source(dotted):
    """Whether a dotted name is a module, or begins with one and goes on with a word of it."""
    path, names = ROOT, dotted.split(".")
    while names and (path / names[0]).is_dir():
        path = path / names.pop(0)
    file = path / f"{names.pop(0)}.py" if names else path
    if not file.exists():
        return False
    return not names or re.search(rf"\b{names[0]}\b", file.read_text()) is not None


def test_the_readme_is_one_page_and_leads_to_every_other():
    text = README.read_text()
    assert len(text.splitlines()) <= 200
    for path in PAGES[1:]:
        assert f"({path.relative_to(ROOT)})" in text, path


@page
def test_links_lead_to_files_and_headings(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(path.read_text())):
        if link.startswith("https://"):
            continue
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not heading or heading in headings(target), link


@page
def test_files_and_names_that_a_page_names_are_there(path):
    text = path.read_text()
    folders = f"{PACKAGES}|tests|benchmarks|docs"
    named = re.findall(rf"(?<![\w./-])(?:{folders})/[\w./-]*\w", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    known = {file.name for file in ROOT.glob("[!.]*/**/*.py")}
    missing += [name for name in re.findall(r"(?<![\w/])\w+\.py\b", text) if name not in known]
    dotted = re.findall(rf"(?<![\w./-])(?:{PACKAGES})(?:\.[A-Za-z_]\w*)+", text)
    missing += [name for name in dotted if not exists_in_source(name)]
    assert [name for name in missing if not EXAMPLES.search(name)] == []


@page
def test_commands_have_the_flags_and_keys_that_a_page_gives_them(path):
    text = path.read_text()
    for file, flags in commands(text):
        names = {name.partition(".")[0] for name in flags}
        assert names <= flags_of(file), file
        if flags.get("config", "...").startswith("configs/"):
            config = load_config(flags["config"])
            for key in flags:
                if key.startswith("config."):
                    functools.reduce(getattr, key.split(".")[1:], config)
    for line in command_lines(text):
        for target in re.findall(r"(?:^|&& )make ([a-z][\w-]*)", line):
            assert target in re.findall(r"[\w-]+", (ROOT / "Makefile").read_text()), line


@page
def test_python_imports_what_is_there(path):
    for block in blocks(path.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and re.match(PACKAGES, node.module):
                for alias in node.names:
                    assert exists_in_source(f"{node.module}.{alias.name}"), alias.name


def test_the_map_has_every_part():
    tree = README.read_text().partition("## A map of the tree")[2]
    drawn = {name.rstrip("/") for name in re.findall(r"[\w.]+", blocks(tree)[0])}
    for package in ("hypnos_jax", "data_pipelines", "configs"):
        parts = {pathlib.Path(file).name for file in (ROOT / package).glob("[!_]*")}
        assert parts - drawn == set(), package
    listed = {"hypnos_jax/objectives", "hypnos_jax/evaluators", "data_pipelines/sources"}
    for folder in listed:
        assert {file.stem for file in (ROOT / folder).glob("[!_]*.py")} <= drawn, folder
