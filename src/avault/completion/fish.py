"""The completion script for fish, 3.0 or later."""

from __future__ import annotations

from avault.completion.words import (
    Parameter,
    Words,
    choices,
    common_options,
    is_file,
    takes_host,
    takes_name,
    tree,
)

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

# __avault_is COUNT|any|some COMMAND…
function __avault_is --description 'whether this is the command, and has so many arguments'
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
    command avault (string replace -r -- '^' '--dir=' $place) $argv --names 2>/dev/null
end

function __avault_hosts --description 'hosts of the fleet; for HOST those of ssh too'
    set -l base ~/.config
    set -q XDG_CONFIG_HOME; and set base $XDG_CONFIG_HOME
    sed -n 's/^[[:space:]]*\([^#[:space:]][^[:space:]]*\).*/\1/p' $base/avault/fleet 2>/dev/null
    if test $argv[1] = HOST
        sed -n 's/^[[:space:]]*[Hh]ost[[:space:]]\{1,\}//p' ~/.ssh/config 2>/dev/null |
            tr -s ' \t' '\n\n' | grep -v '[*?!]'
    end
end

function __avault_offer --description 'completes what a usage line calls so'
    if test $argv[1] = GRANT
        __avault_names grants
        return
    end
    set -l names (__avault_names list)
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
                    set -l escaped (string escape --style=regex -- $group)
                    set -a keys (string replace -rf -- '^'$escaped'/' '' $names)
                end
            end
            printf '%s\n' $keys
        case KEY,
            set -l typed (string replace -r '^--[a-z-]+=' '' -- (commandline -ct))
            set -l head (string replace -r '[^,]*$' '' -- "$typed")
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
                f"complete -c avault -n {fish_quote(f'__avault_is 0 {first}'.strip())} -a "
                f"{word}{about}"
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
                    "complete -c avault -n "
                    f"{fish_quote(f'__avault_is {place} {each.name}')}{action}"
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
    if takes_host(takes):
        return f" -a '(__avault_hosts {takes})'"
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
