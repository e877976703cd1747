"""`openglm completion SHELL`: a script that completes commands, options and their values."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

SHELLS = ("bash", "zsh", "fish")
_FILES = "@files"  # stands for names of files among the values of an option

_BASH = """\
_openglm() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words= i command=
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in -*) ;; *) command="$command ${{COMP_WORDS[i]}}" ;; esac
    done
    case "$command $before" in
{values}
    esac
    if [ -z "$words" ]; then
        case "$command" in
{options}
            *) words="@files" ;;
        esac
    fi
    COMPREPLY=($(compgen -W "${{words//@files/}}" -- "$current"))
    case " $words " in *" @files "*) [[ $current == -* ]] || COMPREPLY+=($(compgen -f -- "$current")) ;; esac
}}
complete -o filenames -F _openglm openglm
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Print a script for a shell. bash: source <(openglm completion bash); zsh: the same, after compinit; "
        "fish: openglm completion fish | source"
    )
    parser.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from .main import build_full_parser

    parser = build_full_parser()
    print(fish(parser) if args.shell == "fish" else bash(parser, zsh=args.shell == "zsh"), end="")
    return 0


def bash(parser: argparse.ArgumentParser, *, zsh: bool = False) -> str:
    """The script for bash; zsh reads it too."""
    values, options = [], []
    for path, sub in _parsers(parser):
        start = "".join(f" {name}" for name in path)
        words = [*_commands(sub), *(flag for action in _flagged(sub) for flag in action.option_strings), _FILES]
        options.append(
            f'            "{start}"{"*" if not _commands(sub) and path else ""}) words="{" ".join(words)}" ;;'
        )
        for action in _flagged(sub):
            if action.nargs == 0:
                continue
            flags = "|".join(f'"{start}"*" {flag}"' for flag in action.option_strings)
            values.append(f'        {flags}) words="{" ".join(_values(action))}" ;;')
    # The longest path comes first: a case takes the first pattern that fits.
    script = _BASH.format(values="\n".join(values[::-1]), options="\n".join(options[::-1]))
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if zsh else script


def fish(parser: argparse.ArgumentParser) -> str:
    """The script for fish."""
    lines = []
    for path, sub in _parsers(parser):
        when = "__fish_use_subcommand" if not path else f"__fish_seen_subcommand_from {path[-1]}"
        start = f"complete -c openglm -n '{when}'"
        lines += [f"{start} -f -a {name}" for name in _commands(sub)]
        for action in _flagged(sub):
            names = " ".join(
                f"-{'l' if flag.startswith('--') else 's'} {flag.lstrip('-')}" for flag in action.option_strings
            )
            kind = "" if action.nargs == 0 else f" -x -a '{' '.join(action.choices)}'" if action.choices else " -r"
            help_text = (action.help or "").replace("%", "").replace("'", "\\'")
            lines.append(f"{start} {names}{kind} -d '{help_text}'")
    return "\n".join(lines) + "\n"


def _parsers(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """This parser and those of its commands."""
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from _parsers(sub, (*path, name))


def _commands(parser: argparse.ArgumentParser) -> list[str]:
    return [
        name
        for action in parser._actions
        if action.choices is not None and not action.option_strings
        for name in action.choices
    ]


def _flagged(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.option_strings]


def _values(action: argparse.Action) -> list[str]:
    if action.choices is not None:
        return [str(each) for each in action.choices]
    listed = str(action.metavar or "")
    return listed.split("|") if "|" in listed and listed.islower() else [_FILES]
