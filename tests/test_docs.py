"""The documents against the program: links lead somewhere, commands and options exist, configuration loads, and nothing
promises what cannot be held.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

import cartographer.campus.configuration
import gateway.configuration
import hostagent.configuration
import lab.simulator.experiment
import lab.topology
import secretary.configuration
from cli.main import main
from cli.manual import contexts
from hostagent.client import LocalClient

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")})
GENERATED = ROOT / "docs" / "reference" / "commands.md"
TUTORIALS = sorted([ROOT / "docs" / "tutorial.md", *(ROOT / "docs" / "howto").glob("*.md")])

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
CODE = re.compile(r"`[^`\n]+`")
PATH_IN_CODE = re.compile(r"`((?:docs|scripts|packaging|tests|lab|cli|tui|hostagent|secretary|dataplane)/[\w./-]+)`")
SHELL = {"", "sh", "bash", "console"}
ASSIGNMENT = re.compile(r"^[A-Z_]+=")
SEPARATORS = {"|", "||", "&&", ";", "&", ";;", "(", ")"}
REDIRECTIONS = {">", ">>", "<", "2>"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a document."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name_of(self.document)}:{self.line}"


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks_of(document: Path) -> Iterator[Block]:
    text = document.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        indent = found["indent"]
        yield Block(
            document=document,
            line=text.count("\n", 0, found.start()) + 1,
            language=found["language"].strip(),
            text="".join(line.removeprefix(indent) for line in found["text"].splitlines(keepends=True)),
        )


def prose_of(document: Path) -> str:
    return FENCE.sub("", document.read_text(encoding="utf-8"))


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
TOML = [block for block in BLOCKS if block.language == "toml"]
PYTHON = [block for block in BLOCKS if block.language == "python"]
COMMANDS = [block for block in BLOCKS if block.language in SHELL and block.document != GENERATED]


# --- links ------------------------------------------------------------------------------------------------------------


def anchors_of(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+)$", prose_of(document), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()).replace(
            " ", "-"
        )
        count = found[slug] = found.get(slug, -1) + 1
        if count:
            found[f"{slug}-{count}"] = 0
    return set(found)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    for found in LINK.finditer(CODE.sub("", prose_of(document))):
        target = found["target"]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{target} is not there"
        assert ROOT in file.parents, f"{target} is outside"
        if anchor:
            assert anchor in anchors_of(file), f"{target}: no such heading; there are {sorted(anchors_of(file))}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_path_that_is_named_is_there(document: Path) -> None:
    for path in PATH_IN_CODE.findall(prose_of(document)):
        file = ROOT / path
        is_record = file.parent.name == "adr" and any(file.parent.glob(f"{file.name}-*"))  # named by its number
        assert file.exists() or is_record, f"{path} is not there"


def test_the_index_leads_to_every_document() -> None:
    """By its links and theirs, adr/ by its folder; so nobody has to know a name to find something."""
    reached, ahead = set(), [ROOT / "docs" / "index.md"]
    while ahead:
        document = ahead.pop()
        if document in reached:
            continue
        reached.add(document)
        for found in LINK.finditer(CODE.sub("", prose_of(document))):
            target = (document.parent / found["target"].partition("#")[0]).resolve()
            if target.is_dir() and ROOT in target.parents:
                ahead += target.glob("*.md")
            elif target.suffix == ".md":
                ahead.append(target)
    assert reached >= set(DOCUMENTS), sorted(name_of(each) for each in set(DOCUMENTS) - reached)


# --- commands ---------------------------------------------------------------------------------------------------------


def lines_to_type(block: Block) -> Iterator[str]:
    """Where a line begins with a prompt, only such lines are typed; what stands after two spaces is a remark."""
    text = re.sub(r"\\\n *", " ", block.text)
    text = re.sub(r"<<'?(\w+)'?\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = text.splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    for line in lines:
        synopsis = re.sub(r"\[(--[^\]]*)\]", r"\1", line.strip())
        yield re.split(r" {2,}(?=[^-])", synopsis)[0]


def commands_in(line: str) -> Iterator[list[str]]:
    """The arguments of every `hostagent` that is the command of its part of the line."""
    if "hostagent" not in line:
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if word in SEPARATORS:
            parts.append([])
        else:
            parts[-1].append(word)
    for part in parts:
        words = part[: next((number for number, word in enumerate(part) if word in REDIRECTIONS), len(part))]
        while words and (ASSIGNMENT.match(words[0]) or words[0] in ("sudo", "exec", "-E")):
            words = words[1:]
        if words and words[0] in ("hostagent", ".venv/bin/hostagent"):
            yield words[1:]


def check(arguments: list[str], context: click.Context | None = None) -> None:
    """Raises click.UsageError where the command line would; no callback is run, and no file is looked at."""
    context = click.Context(main, info_name="hostagent") if context is None else context
    command = context.command
    if isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        found = command.get_command(context, arguments[0])
        if found is None:
            raise click.UsageError(f"no such verb: {arguments[0]}")
        check(arguments[1:], click.Context(found, parent=context, info_name=found.name))
        return
    values, rest, _ = command.make_parser(context).parse_args(list(arguments))
    if rest and not command.allow_extra_args:
        raise click.UsageError(f"{context.command_path}: too much: {rest}")
    for parameter in command.params:
        if isinstance(parameter.type, click.Path | click.File) or parameter.name is None:
            continue
        value = values.get(parameter.name)
        if isinstance(value, str | list | tuple):
            parameter.type_cast_value(context, value)
        elif parameter.required and "help" not in values:
            raise click.UsageError(f"{context.command_path}: {parameter.name} is missing")


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_every_command_is_one(block: Block) -> None:
    for line in lines_to_type(block):
        for arguments in commands_in(line):
            try:
                check(arguments)
            except click.UsageError as error:
                pytest.fail(f"{line!r}: {error.format_message()}")


@pytest.mark.parametrize(
    "line",
    [
        "hostagent watch",
        "hostagent top --once --sort colour",
        "sudo hostagent act --for 1h",
        "hostagent worth red",
        "true && hostagent history --since someday | head",
        "hostagent lab walk figure1",
        "hostagent status now",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    (arguments,) = commands_in(line)
    with pytest.raises(click.UsageError):
        check(arguments)


def test_commands_are_found_at_all() -> None:
    seen = [arguments[0] for each in COMMANDS for line in lines_to_type(each) for arguments in commands_in(line)]
    assert len(seen) > 60
    assert {"up", "down", "top", "why", "worth", "act", "confirm", "history", "restore"} <= set(seen)


# --- configuration and code -------------------------------------------------------------------------------------------

LEAST = '[agent]\nname = "least"\nstate_directory = "/var/lib/hostagent"\n'


@pytest.mark.parametrize("block", TOML, ids=str)
def test_every_configuration_loads(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "example.toml"
    table = tomllib.loads(block.text)
    path.write_text(block.text, encoding="utf-8")
    if "gateway" in table:
        gateway.configuration.load(path)
    elif "budget" in table:
        secretary.configuration.load(path)
    elif "nodes" in table:
        lab.topology.load(path)
    elif "listen" in table.get("campus", {}):
        cartographer.campus.configuration.load(path)
    elif "flows" in table:
        lab.simulator.experiment.load(path)
    else:
        path.write_text(block.text if "agent" in table else LEAST + block.text, encoding="utf-8")
        hostagent.configuration.terms_of(hostagent.configuration.load(path), path)


@pytest.mark.parametrize("document", TUTORIALS, ids=name_of)
def test_every_configuration_that_is_typed_loads(document: Path, tmp_path: Path) -> None:
    """What a shell's here-document writes into a .toml file."""
    for text in re.findall(
        r"^cat > \S+\.toml <<'EOF'\n(.*?)^EOF$", document.read_text("utf-8"), re.MULTILINE | re.DOTALL
    ):
        path = tmp_path / "typed.toml"
        path.write_text(text, encoding="utf-8")
        hostagent.configuration.terms_of(hostagent.configuration.load(path), path)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_program_imports_what_there_is_and_calls_what_the_client_has(block: Block) -> None:
    tree = ast.parse(block.text)
    compile(block.text, str(block), "exec")
    clients = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, each.name) for each in node.names), node.module
        elif isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            clients.add(node.optional_vars.id)
    called = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in clients
    }
    assert all(hasattr(LocalClient, each) for each in called), called


# --- what is said -----------------------------------------------------------------------------------------------------

DENIAL = re.compile(r"\b(no|not|nobody|neither|never|cannot|without)\b", re.IGNORECASE)
PROMISE = re.compile(r"\bguarant\w+|\bpromise\w* (a|any|the) (rate|delay|delivery|service)", re.IGNORECASE)


def sentences_of(text: str) -> Iterator[str]:
    yield from re.split(r"(?<=[.:!?])\s+|\n\s*\n|\n(?=[#|-])", text)


def help_texts() -> Iterator[tuple[str, str]]:
    for context in contexts(main):
        options = [each.help for each in context.command.params if isinstance(each, click.Option)]
        yield context.command_path, ". ".join(filter(None, [context.command.help, *options]))


@pytest.mark.row("BP-59")
def test_service_is_relative_and_nobody_is_promised_more() -> None:
    """Preferred treatment is an incentive. The documents for users say so, the front page leads there, and wherever a
    document for users or a help text speaks of guarantees it is to deny them. Records of decisions are left out: they
    speak of a scheduler's inner shares.
    """
    page = ROOT / "docs" / "explanation" / "what-it-does-not-do.md"
    said = " ".join(page.read_text(encoding="utf-8").split())
    assert "Nobody guarantees a rate, a delay or a delivery" in said
    assert "Preferred treatment is optional." in said
    for leading in (ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "tutorial.md"):
        assert page.name in leading.read_text(encoding="utf-8"), leading.name
    texts = [
        *((name_of(each), prose_of(each)) for each in DOCUMENTS if each.parent.name != "adr"),
        *help_texts(),
    ]
    for where, text in texts:
        for sentence in sentences_of(text):
            assert not PROMISE.search(sentence) or DENIAL.search(sentence), f"{where} promises: {sentence}"


def test_prose_is_calm() -> None:
    """No exclamation mark outside code and images, in no document."""
    for document in DOCUMENTS:
        text = re.sub(r"!\[", "[", CODE.sub("", prose_of(document)))
        assert "!" not in text, name_of(document)
