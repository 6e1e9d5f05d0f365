"""The completion script for zsh."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from avault.completion.words import Parameter, Words, choices, is_file, takes_host, takes_name, tree

if TYPE_CHECKING:
    from collections.abc import Iterator


ZSH = r"""#compdef avault
# Completion of avault for zsh; made by: avault completion zsh

_avault_names() {  # completes what a usage line calls $1
    local each
    local -a names found expl place
    directory=${opt_args[--dir]:-$directory}
    [[ -n $directory ]] && place=(--dir=${(Q)directory})
    if [[ $1 == GRANT ]]; then
        names=(${(f)"$(command avault $place grants --names 2>/dev/null)"})
    else
        names=(${(f)"$(command avault $place list --names 2>/dev/null)"})
    fi
    case $1 in
    GRANT) found=($names) ;;
    GROUP/KEY) found=(${(u)names%%/*} $names) ;;
    G*) found=(${(u)names%%/*}) ;;
    KEY)
        for each in $names; do  # of the groups that were typed, or of all
            [[ -z "$line" || -n ${line[(re)${each%%/*}]} ]] && found+=(${each#*/})
        done
        ;;
    KEY,) found=(${(u)names#*/} $names); compset -P '*,' ;;
    esac
    _wanted names expl "${(L)1%,}" compadd -a found
}

_avault_hosts() {  # the hosts of the fleet, and for HOST those that ssh is told of
    local -a found expl
    found=(${(f)"$(sed -n 's/^[[:space:]]*\([^#[:space:]][^[:space:]]*\).*/\1/p' \
        "${XDG_CONFIG_HOME:-$HOME/.config}/avault/fleet" 2>/dev/null)"})
    [[ $1 != HOST ]] || found+=(${(f)"$(sed -n 's/^[[:space:]]*[Hh]ost[[:space:]]\{1,\}//p' \
        "$HOME/.ssh/config" 2>/dev/null | tr -s ' \t' '\n\n' | grep -v '[*?!]')"})
    _wanted hosts expl host compadd -a found
}

_avault() {
    local context state line directory name
    local -A opt_args
    local -a subcommands
    _arguments -C -A '-*' '--dir=:DIR:_files -/' --json '(- *)'{--help,-h} '(- *)--version' \
        '1: :->command' '*:: :->words' && return
    directory=$opt_args[--dir]
    if [[ $state == command ]]; then
        subcommands=(
@commands
        )
        _describe -t commands 'avault command' subcommands
        return
    fi
    name=$words[1]
    case $name in
@groups
    esac
    case $name in
@cases
    esac
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _avault "$@"
else
    compdef _avault avault
fi
"""


def zsh(commands: list[Words]) -> str:
    """The script for zsh: to be sourced, or as _avault in a directory of $fpath."""
    groups = []
    abouts = {each.name: f"{each.name.rpartition(' ')[2]}:{each.about}" for each in commands}
    for first, inner in list(tree(commands).items())[1:]:
        listed = " ".join(shlex.quote(abouts[f"{first} {second}"]) for second in inner)
        abouts[first] = f"{first}:{', '.join(inner)}"
        groups += [
            f"    {first})",
            "        if ((CURRENT == 2)); then",
            f"            subcommands=({listed})",
            f"            _describe -t commands 'avault {first} command' subcommands",
            "            return",
            "        fi",
            "        shift words",
            "        ((CURRENT--))",
            f'        name="{first} $words[1]"',
            "        ;;",
        ]
    cases = []
    for each in commands:
        specs = [shlex.quote(spec) for option in each.options for spec in zsh_option(option)]
        specs += [shlex.quote(spec) for spec in zsh_arguments(each.arguments)]
        cases.append(f"    {shlex.quote(each.name)}) _arguments -S {' '.join(specs)} ;;")
    first_words = [f"            {shlex.quote(abouts[first])}" for first in tree(commands)[""]]
    return (
        ZSH.replace("@commands", "\n".join(first_words))
        .replace("@groups", "\n".join(groups))
        .replace("@cases", "\n".join(cases))
    )


def zsh_option(option: Parameter) -> Iterator[str]:
    """An option as _arguments takes it."""
    for name in option.names:
        if not option.takes:
            yield f"({' '.join(option.names)}){name}" if len(option.names) > 1 else name
        else:
            equals = "=" if name.startswith("--") else "+"
            colons = "::" if option.is_optional else ":"
            repeated = "*" if option.repeats else ""
            value = f"{option.takes}:{zsh_action(option.takes)}"
            yield f"{repeated}{name}{equals}{colons}{value}"


def zsh_arguments(arguments: list[Parameter]) -> Iterator[str]:
    """Arguments as _arguments takes them."""
    for number, each in enumerate(arguments, 1):
        if each.takes == "COMMAND":
            yield "(-)1: :_command_names -e"
            yield "*:: :_normal"
        else:
            yield f"{'*' if each.repeats else number}:{each.takes}:{zsh_action(each.takes)}"


def zsh_action(takes: str) -> str:
    """What _arguments does to complete what a usage line calls so."""
    if takes_name(takes):
        return f" _avault_names {takes}"
    if takes_host(takes):
        return f" _avault_hosts {takes}"
    if takes == "DIR":
        return "_files -/"
    if is_file(takes):
        return "_files"
    return f"({' '.join(choices(takes))})" if choices(takes) else " "
