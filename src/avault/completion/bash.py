"""The completion script for bash, 3.2 (macOS) or later."""

from __future__ import annotations

import shlex

from avault.completion.words import Parameter, Words, common_options, tree

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

_avault_hosts() {  # the hosts of the fleet, and for HOST those that ssh is told of; a line each
    sed -n 's/^[[:space:]]*\([^#[:space:]][^[:space:]]*\).*/\1/p' \
        "${XDG_CONFIG_HOME:-$HOME/.config}/avault/fleet" 2>/dev/null
    [[ $1 != HOST ]] ||
        sed -n 's/^[[:space:]]*[Hh]ost[[:space:]]\{1,\}//p' "$HOME/.ssh/config" 2>/dev/null |
        tr -s ' \t' '\n\n' | grep -v '[*?!]'
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
    GRANT) found=($(command avault ${directory:+"--dir=$directory"} grants --names 2>/dev/null)) ;;
    F | FILE* | PATH | TEMPLATE)
        compopt -o default 2>/dev/null || found=($(compgen -f -- "$word"))
        ;;
    DIR) compopt -o dirnames 2>/dev/null || found=($(compgen -d -- "$word")) ;;
    HOST | PATTERN) found=($(_avault_hosts "$1")) ;;
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
            if [[ $arguments != *... || $arguments == *' '* ]]; then
                arguments=${arguments#"${arguments%% *}"} arguments=${arguments# }
            fi
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
        assigned = " ".join(f"{what}={shlex.quote(words)}" for what, words in sets if words)
        return f"    {shlex.quote(name)}) {assigned} ;;"

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
