"""avault completion: what a shell needs to complete avault's commands, options and names.

Commands and options come from the table of commands, and what follows an option from the usage line
that people read: `--key KEY` is followed by a key, `--file F` by a file. Names are asked for while
somebody types, by `avault list --names`; a locked vault has none, and says nothing.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

import click

from avault.errors import Usage, printable
from avault.late import Fields
from avault.terminal.commands import COMMANDS, argument, command
from avault.terminal.talk import put
from avault.terminal.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator


class Parameter(Fields, frozen=True, order=True):
    """An option, or an argument, which has no names; and what the usage line calls its value, nothing for a flag."""

    names: tuple[str, ...]
    takes: str
    is_optional: bool = False  # the value of the option
    repeats: bool = False


class Words(Fields, frozen=True, order=True):
    """A command as it is typed: its name, what it does, its options and its arguments."""

    name: str
    about: str
    options: list[Parameter]
    arguments: list[Parameter]


def common_options() -> list[Parameter]:
    """The options of every command."""
    return [
        Parameter(("--dir",), "DIR"),
        Parameter(("--json",), ""),
        Parameter(("--help", "-h"), ""),
    ]


def all_words() -> list[Words]:
    """Every command that people type."""
    # those are for git to call
    return [describe_command(name) for name in sorted(COMMANDS) if not name.startswith("git ")]


def describe_command(name: str) -> Words:
    """A command. What its options take stands in a form of its usage, and its arguments in the first."""
    function, makers, interspersed = COMMANDS[name]
    usage, _, prose = (function.__doc__ or "").partition("\n\n")
    forms = [
        [
            word.rstrip("…")
            for word in re.findall(r"[^\s\[\]]+", form)
            if word not in ("|", "--", "…")
        ]
        for form in usage.split(f"avault {name}")[1:]
    ]
    options, arguments = [], []
    for parameter in (make() for make in makers):
        names = tuple(parameter.opts)
        if not isinstance(parameter, click.Option):
            arguments.append(parameter)
        elif parameter.is_flag:
            options.append(Parameter(names, ""))
        else:
            found = next(
                (
                    (form, place)
                    for form in forms
                    for place, word in enumerate(form)
                    if word in names
                ),
                None,
            )
            takes = found[0].pop(found[1] + 1) if found else "VALUE"
            is_optional = any(f"{each} [" in usage for each in names)
            options.append(
                Parameter(
                    names, "KEY" if "--allow" in names else takes, is_optional, parameter.multiple
                )
            )
    has_key = any("--key" in each.names for each in options)
    named = (
        [word for form in forms[:1] for word in form if not word.startswith("-")]
        if interspersed
        else ["COMMAND"]
    )
    taken = [
        Parameter(
            (), "GROUP/KEY" if word == "GROUP" and has_key else word, repeats=each.nargs == -1
        )
        for each, word in zip(arguments, named, strict=False)
    ]
    return Words(
        name,
        re.split(r"[.:;](?:\s|$)", " ".join(prose.split()))[0],
        [*options, *common_options()],
        taken,
    )


def choices(takes: str) -> list[str]:
    """The words that a usage line spells out, as in `sh|fish`."""
    return takes.split("|") if re.fullmatch(r"[a-z0-9-]+(\|[a-z0-9-]+)+", takes) else []


def takes_name(takes: str) -> bool:
    """Whether it is a name in the vault."""
    return takes in ("GROUP/KEY", "GROUP", "G", "KEY", "KEY,")


def is_file(takes: str) -> bool:
    """Whether it is a file."""
    return takes in ("F", "FILE", "PATH", "TEMPLATE") or takes.startswith("FILE.")


def tree(commands: list[Words]) -> dict[str, list[str]]:
    """What may follow `avault`, and what each first word that needs a second one."""
    found: dict[str, list[str]] = {"": []}
    for each in commands:
        first, _, second = each.name.partition(" ")
        if first not in found[""]:
            found[""].append(first)
        if second:
            found.setdefault(first, []).append(second)
    return found


BASH = r"""# Completion of avault for bash; made by: avault completion bash

_avault_about() {  # sets `commands`, `options` and `arguments` to what may follow the command $1
    commands='' options='' arguments=''
    case $1 in
@table
    esac
}

_avault_match() {  # offers those words that begin with the one that is typed
    local each
    for each in "$@"; do
        [[ $each != "$word"* ]] || COMPREPLY+=("$each")
    done
}

_avault_offer() {  # completes what a usage line calls $1
    local IFS=$'\n' each last='' head=${word%"${word##*,}"}
    local -a names=() found=()
    case $1 in
    GROUP/KEY | GROUP | G | KEY | KEY,)
        names=($(command avault ${directory:+"--dir=$directory"} list --names 2>/dev/null))
        for each in "${names[@]}"; do
            case $1 in
            G*) [[ ${each%%/*} == "$last" ]] || found+=("${each%%/*}") ;;
            # keys of the groups that were typed, or of all
            KEY) [[ $given && " $given " != *" ${each%%/*} "* ]] || found+=("${each#*/}") ;;
            KEY,) found+=("$head${each#*/}" "$head$each") ;;
            esac
            [[ $1 != GROUP/KEY ]] || found+=("$each")
            last=${each%%/*}
        done
        ;;
    F | FILE* | PATH | TEMPLATE) compopt -o default 2>/dev/null || found=($(compgen -f -- "$word")) ;;
    DIR) compopt -o dirnames 2>/dev/null || found=($(compgen -d -- "$word")) ;;
    *'|'*) found=(${1//|/$IFS}) ;;
    esac
    _avault_match "${found[@]}"
}

_avault_command() {  # completes the command line of another program, which begins with word $1
    if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$1"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$1"
    elif ((COMP_CWORD == $1)); then
        COMPREPLY=($(compgen -c -- "$word"))
    else
        compopt -o default 2>/dev/null || COMPREPLY=($(compgen -f -- "$word"))
    fi
}

_avault() {
    local word=${COMP_WORDS[COMP_CWORD]} command='' directory='' given='' takes='' option='' index
    local commands options arguments each
    COMPREPLY=()
    [[ $word == = ]] && word=''
    _avault_about ''
    for ((index = 1; index < COMP_CWORD; index++)); do
        each=${COMP_WORDS[index]}
        if [[ $each == = ]]; then  # bash has cut --key=NAME into three words; it means --key NAME
            continue
        elif [[ $takes && ($takes != +* || $each != -*) ]]; then
            [[ $option == --dir ]] && directory=$each
            takes=''
        elif [[ $each == -- && $arguments == COMMAND ]]; then
            _avault_command $((index + 1))
            return
        elif [[ $each == -* ]]; then
            option=$each takes=''
            [[ $options == *" $each:"* ]] && takes=${options#*" $each:"} takes=${takes%% *}
        elif [[ $commands ]]; then
            command+=${command:+ }$each
            _avault_about "$command"
        elif [[ $arguments == COMMAND ]]; then
            _avault_command "$index"
            return
        else
            given+=" $each"
            [[ $arguments == *... && $arguments != *' '* ]] || arguments=${arguments#"${arguments%% *}"} arguments=${arguments# }
        fi
    done
    if [[ $takes && ($takes != +* || $word != -*) ]]; then
        _avault_offer "${takes#+}"
    elif [[ $word == -* ]]; then
        each=($options)
        _avault_match "${each[@]%%:*}"
    elif [[ $commands ]]; then
        _avault_match $commands
    elif [[ $arguments == COMMAND ]]; then
        _avault_command "$COMP_CWORD"
    else
        arguments=${arguments%% *}
        _avault_offer "${arguments%...}"
    fi
}

complete -F _avault avault
"""


def bash(commands: list[Words]) -> str:
    """The script for bash, 3.2 (macOS) or later."""

    def case(
        name: str, inner: list[str], options: list[Parameter], arguments: list[Parameter]
    ) -> str:
        spelled = [
            f"{each}:{'+' if option.is_optional else ''}{option.takes}" if option.takes else each
            for option in options
            for each in option.names
        ]
        taken = " ".join(
            each.takes + ("..." if each.repeats and each.takes != "COMMAND" else "")
            for each in arguments
        )
        sets = [
            ("commands", " ".join(inner)),
            ("options", " " + " ".join(spelled) if spelled else ""),
            ("arguments", taken),
        ]
        return f"    {shlex.quote(name)}) {' '.join(f'{what}={shlex.quote(words)}' for what, words in sets if words)} ;;"

    lines = [
        case(
            name,
            inner,
            [*common_options(), Parameter(("--version",), "")] if not name else common_options(),
            [],
        )
        for name, inner in tree(commands).items()
    ]
    lines += [case(each.name, [], each.options, each.arguments) for each in commands]
    return BASH.replace("@table", "\n".join(lines))


ZSH = r"""#compdef avault
# Completion of avault for zsh; made by: avault completion zsh

_avault_names() {  # completes what a usage line calls $1
    local each
    local -a names found expl place
    directory=${opt_args[--dir]:-$directory}
    [[ -n $directory ]] && place=(--dir=${(Q)directory})
    names=(${(f)"$(command avault $place list --names 2>/dev/null)"})
    case $1 in
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
            yield f"{'*' if option.repeats else ''}{name}{equals}{colons}{option.takes}:{zsh_action(option.takes)}"


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
    if takes == "DIR":
        return "_files -/"
    if is_file(takes):
        return "_files"
    return f"({' '.join(choices(takes))})" if choices(takes) else " "


FISH = r"""# Completion of avault for fish; made by: avault completion fish

function __avault_words --description 'the command and its arguments so far, without options'
    set -l is_value no
    for word in (commandline -opc)[2..]
        if test $is_value = yes
            set is_value no
        else if contains -- $word @options
            set is_value yes
        else if not string match -q -- '-*' $word
            echo -- $word
        end
    end
end

function __avault_is --description 'whether this is the command, and has so many arguments: __avault_is COUNT|any|some COMMAND…'
    set -l words (__avault_words)
    set -l count (math (count $argv) - 1)
    if test $count -gt 0; and test "$words[1..$count]" != "$argv[2..]"
        return 1
    end
    set -l arguments (math (count $words) - $count)
    switch $argv[1]
        case any
            return 0
        case some
            test $arguments -gt 0
        case '*'
            test $arguments = $argv[1]
    end
end

function __avault_names --description 'GROUP/KEY, a line each; none while the vault is locked'
    set -l words (commandline -opc)
    set -l place (string replace -rf -- '^--dir=' '' $words)
    if set -l at (contains -i -- --dir $words)
        set place $words[(math $at + 1)]
    end
    command avault (string replace -r -- '^' '--dir=' $place) list --names 2>/dev/null
end

function __avault_offer --description 'completes what a usage line calls so'
    set -l names (__avault_names)
    set -l keys (string replace -r '.*/' '' -- $names)
    switch $argv[1]
        case GROUP/KEY
            string replace -r '/.*' '' -- $names
            printf '%s\n' $names
        case GROUP G
            string replace -r '/.*' '' -- $names
        case KEY
            set -l given (__avault_words)[2..]
            if set -q given[1] # the keys of the groups that were typed, or of all
                set keys
                for group in $given
                    set -a keys (string replace -rf -- '^'(string escape --style=regex -- $group)'/' '' $names)
                end
            end
            printf '%s\n' $keys
        case KEY,
            set -l head (string replace -r '^--[a-z-]+=' '' -- (commandline -ct) | string replace -r '[^,]*$' '')
            printf '%s\n' "$head"$keys "$head"$names
    end
end

complete -c avault -f
@lines
"""


def fish(commands: list[Words]) -> str:
    """The script for fish, 3.0 or later: to be sourced, or in ~/.config/fish/completions."""
    foreign = [
        each.name
        for each in commands
        if any(argument.takes == "COMMAND" for argument in each.arguments)
    ]
    condition = "; and ".join(f"not __avault_is some {name}" for name in foreign)
    takers = {
        name
        for each in commands
        for taker in each.options
        if taker.takes and not taker.is_optional
        for name in taker.names
    }
    lines = [
        fish_option(condition, each) for each in (*common_options(), Parameter(("--version",), ""))
    ]
    abouts = {each.name: each.about for each in commands}
    for first, inner in tree(commands).items():
        for word in inner:
            name = f"{first} {word}".strip()
            about = f" -d {fish_quote(abouts[name])}" if name in abouts else ""
            lines.append(
                f"complete -c avault -n {fish_quote(f'__avault_is 0 {first}'.strip())} -a {word}{about}"
            )
    for each in commands:
        condition = f"__avault_is {0 if each.name in foreign else 'any'} {each.name}"
        lines += [
            fish_option(condition, option)
            for option in each.options
            if option not in common_options()
        ]
        for number, taken in enumerate(each.arguments):
            place = "any" if taken.repeats else number
            if action := fish_action(taken.takes):
                lines.append(
                    f"complete -c avault -n {fish_quote(f'__avault_is {place} {each.name}')}{action}"
                )
    return FISH.replace("@lines", "\n".join(lines)).replace("@options", " ".join(sorted(takers)))


def fish_option(condition: str, option: Parameter) -> str:
    """The line for an option."""
    names = "".join(
        f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in option.names
    )
    needs = (
        " -r" if is_file(option.takes) else " -x" if option.takes and not option.is_optional else ""
    )
    when = f" -n {fish_quote(condition)}" if condition else ""
    return f"complete -c avault{when}{names}{needs}{fish_action(option.takes)}"


def fish_action(takes: str) -> str:
    """How `complete` completes what a usage line calls so."""
    if takes_name(takes):
        return f" -a '(__avault_offer {takes})'"
    if takes == "DIR":
        return " -a '(__fish_complete_directories)'"
    if is_file(takes):
        return " -F"
    if takes == "COMMAND":
        # what begins with -- before that - is its own
        return " -a '(__fish_complete_subcommand --fcs-skip=2 - @options)'"
    return f" -a '{' '.join(choices(takes))}'" if choices(takes) else ""


def fish_quote(text: str) -> str:
    """A word in single quotes, as fish reads them."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@command("completion", argument("shell"))
def cmd_completion(terminal: Terminal, shell: str) -> int:
    """usage: avault completion bash|zsh|fish

    Prints what the shell needs to complete commands, options and the names of
    groups and keys. Names come from the daemon; while the vault is locked there
    are none.

      source <(avault completion bash)        in ~/.bashrc
      source <(avault completion zsh)         in ~/.zshrc, after compinit
      avault completion fish > ~/.config/fish/completions/avault.fish
    """
    shells = {"bash": bash, "zsh": zsh, "fish": fish}
    if shell not in shells:
        raise Usage(
            f"no completion for {printable(shell)!r}", "one of: avault completion bash, zsh, fish"
        )
    script = shells[shell](all_words())
    put(
        json.dumps({"shell": shell, "script": script}, indent=2) + "\n"
        if terminal.want_json
        else script
    )
    return 0
