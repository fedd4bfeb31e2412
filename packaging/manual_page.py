"""A man page from a program's own commands: `python -I manual_page.py SITE NAME MODULE VERSION` prints it; a child of manuals.py.

SITE: folder with the packages, put in front of sys.path; "" for those of this interpreter. Every command and sub-command is
listed with its arguments and options, as the program itself would show them with --help.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from typing import Any

# commands of `qkdd` that hand their words on to an application of their own: module and name of its Typer or function
HANDED_ON = {
    ("qkdd", "drivers"): ("qkdd.device.drivers_cli", "app"),
    ("qkdd", "record"): ("qkdd.device.record_cli", "app"),
    ("qkdd", "convert"): ("qkdd_drivers.convert", "command"),
    ("qkdd", "pki"): ("qkdd.peer.pki_cli", "app"),
    ("qkdd", "keyrate"): ("qkdd.security.keyrate_cli", "app"),
    ("qkdd", "demo"): ("qkdd_hil.demo.__main__", "main"),
    ("qkdctl", "drill"): ("qkdd_hil.drills.__main__", "main"),
}
EXITS = {
    "qkdd": (
        ("0", "done, or stopped in order"),
        ("1", "refused: configuration, credentials, storage"),
        (
            "4",
            "run: zeroised, systemd does not start it again; else: a package that the command needs is not installed",
        ),
    ),
    "qkdctl": (
        ("0", "done; status: healthy"),
        ("1", "refused by the daemon; status: not healthy; drill: did not recover"),
        ("2", "the command line is wrong"),
        ("3", "the daemon cannot be reached"),
        ("4", "drill: the virtual bench is not installed or did not start"),
    ),
    "qkdd-kms": (
        ("0", "done, or stopped in order"),
        ("2", "refused: configuration, credentials, storage"),
        ("4", "zeroised; systemd does not start it again"),
    ),
    "qkd-psk": (
        ("0", "both ends have agreed on a key"),
        ("1", "the key before is still in use"),
        ("2", "the configuration is refused"),
        ("3", "the tunnel was torn down"),
        ("4", "not settled yet"),
        ("5", "qkd-psk does not run"),
    ),
    "qkdd-sim": (("0", "stopped"), ("1", "refused"), ("2", "the command line is wrong")),
}
FILES = {
    "qkdd": (
        ("/etc/qkdd/node.toml", "configuration of qkdd.service (docs/configuration.md)"),
        ("/etc/qkdd/NAME.toml", "of qkdd@NAME.service"),
        ("/etc/qkdd/master-key", "master key, handed over by systemd as a credential"),
        ("/var/lib/qkdd", "keys, ledger, audit log"),
    ),
    "qkdctl": (("/run/qkdd/control.sock", "control socket of qkdd.service"),),
    "qkdd-kms": (
        ("/etc/qkdd-kms/kms.toml", "configuration of qkdd-kms.service"),
        ("/etc/qkdd-kms/NAME.toml", "of qkdd-kms@NAME.service"),
        ("/var/lib/qkdd-kms", "keys and audit log"),
    ),
}
_HIDDEN = {"install_completion", "show_completion", "help"}


def escaped(text: str) -> str:
    """troff's own characters as text; a line must not begin with a request."""
    text = re.sub(r"\s+", " ", text).strip().replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text)


def command_of(module: str, name: str) -> Any:
    """The click command of a Typer application or of a function that `typer.run` would run."""
    import typer

    found = getattr(importlib.import_module(module), name)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    application = typer.Typer(add_completion=False)
    application.command()(found)
    return typer.main.get_command(application)


def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words, groups before what is in them."""
    if len(path) == 2 and path in HANDED_ON:
        command = command_of(*HANDED_ON[path])
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from walk(child, (*path, name))


def parameters(command: Any) -> tuple[list[Any], list[Any]]:
    """Arguments and options that a page has to tell of."""
    shown = [p for p in command.params if p.name not in _HIDDEN and not getattr(p, "hidden", False)]
    return [p for p in shown if p.param_type_name == "argument"], [p for p in shown if p.param_type_name == "option"]


def metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name or "").strip("[]{}").upper().replace("_", "-")


def value_of(command: Any, option: Any) -> str:
    """What an option takes; empty for a switch."""
    if option.is_flag or option.count:
        return ""
    if option.metavar:
        return metavar(option)
    import typer

    with typer.Context(command) as context:
        return str(option.display_type(context)).strip("[]<>")


def described(parameter: Any) -> str:
    text = str(getattr(parameter, "help", None) or "")
    default = parameter.default
    if isinstance(default, (str, int, float)) and not isinstance(default, bool) and default not in ("", None):
        text += f" Default: {default}."
    return escaped(text) or "\\&"  # a line there must be


def synopsis(path: tuple[str, ...], command: Any) -> str:
    arguments, options = parameters(command)
    words = [f"\\fB{escaped(' '.join(path))}\\fR"]
    if options:
        words.append("[\\fIOPTION\\fR]...")
    for argument in arguments:
        word = f"\\fI{escaped(metavar(argument))}\\fR" + ("..." if argument.nargs == -1 else "")
        words.append(word if argument.required else f"[{word}]")
    if getattr(command, "commands", None):
        words.append("\\fICOMMAND\\fR")
    return " ".join(words)


def section(command: Any) -> Iterator[str]:
    """Help, arguments and options of one command."""
    for paragraph in (command.help or "").split("\n\n"):
        if paragraph.strip():
            yield ".PP\n" + escaped(paragraph)
    arguments, options = parameters(command)
    for argument in arguments:
        yield f".TP\n\\fI{escaped(metavar(argument))}\\fR\n{described(argument)}"
    for option in options:
        names = ", ".join(f"\\fB{escaped(name)}\\fR" for name in (*option.opts, *option.secondary_opts))
        value = value_of(command, option)
        head = f"{names} \\fI{escaped(value)}\\fR" if value else names
        yield f".TP\n{head}\n{described(option)}"
    if command.epilog:
        yield ".PP\n" + escaped(command.epilog)


def page(name: str, module: str, version: str) -> str:
    commands = list(walk(command_of(module, "app"), (name,)))
    root = commands[0][1]
    short = (root.help or name).split(". ")[0].split("\n")[0].rstrip(".")
    lines = [
        f'.TH {name.upper()} 1 "" "qkdd {version}" "User Commands"',
        f".SH NAME\n{escaped(name)} \\- {escaped(short)}",
        f".SH SYNOPSIS\n{synopsis((name,), root)}",
        ".SH DESCRIPTION",
        *section(root),
        ".SH COMMANDS",
    ]
    for path, command in commands[1:]:
        lines += [f".SS {escaped(' '.join(path[1:]))}", synopsis(path, command), *section(command)]
    lines.append(".SH EXIT STATUS")
    lines += [f".TP\n\\fB{code}\\fR\n{escaped(text)}" for code, text in EXITS[name]]
    if name in FILES:
        lines.append(".SH FILES")
        lines += [f".TP\n\\fI{escaped(path)}\\fR\n{escaped(text)}" for path, text in FILES[name]]
    others = ", ".join(f"\\fB{escaped(other)}\\fR(1)" for other in EXITS if other != name)
    lines.append(f".SH SEE ALSO\n{others}; documentation in \\fI/usr/share/doc/qkdd/docs\\fR")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    site, program, source, number = sys.argv[1:]
    if site:
        sys.path.insert(0, site)
    sys.stdout.write(page(program, source, number))
