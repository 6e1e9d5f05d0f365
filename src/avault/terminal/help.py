"""The page of help."""

from __future__ import annotations

HELP = """\
avault keeps an agent's secrets, and opens them with the operator's phone.

usage: avault [--dir DIR] [--json] COMMAND …

begin
  init          make a vault and the agent's key, and pair with the phone
  pair          pair this machine with a signer, and try the drill
  recover       open a copy of a vault on a new machine
  demo          see all of it in a minute, with a phone in the terminal

every day
  set           keep a secret          avault set openai --key API_KEY
  get           print a secret         avault get openai/API_KEY
  has           ask by exit code       avault has openai/API_KEY
  list          names, notes, times    avault list
  edit          change one by hand     avault edit openai/API_KEY
  mv            give another name      avault mv openai/KEY openai/API_KEY
  delete        take a secret away     avault delete openai/API_KEY
  export        all as variables       vars=$(avault export --shell --wait) && eval "$vars"
  run           a command with them    avault run --only API_KEY -- my-agent
  inject        fill in a template     avault inject -i config.tmpl -o config.json
  wait          until the vault is open

the daemon
  daemon start  serve; asks the phone  avault daemon start -b
  daemon stop   end it
  status        what it does           (also: avault daemon status)
  unlock        ask the phone, and wait for the operator
  lock          forget the secrets

getting in, looking after
  migrate       take the secrets out of ~/.profile
  import        take them from .env, JSON, CSV, ~/.aws/credentials, ~/.netrc, …
  audit         what still stands in clear in shell files, .env and units
  scan          the vault's values in a working tree, or in what is staged
  guard         how a secret may be used    avault guard openai/API_KEY --only run
  unguard       take that away; the phone has to agree
  grant         a socket for one caller     avault grant web --group stripe --for 8h
  grants        which there are, and when each was last used
  revoke        end one at once, or --all
  proxy start|status|stop|doctor       keys that a container uses and never has
  key generate|import                  keys that sign, and never leave the vault
  ssh           an SSH agent with them      avault ssh -- git push
  bunker invite|list|revoke            a remote signer for Nostr with them (NIP-46)
  wallet serve|address|limits          an Ethereum wallet with them, within limits
  sign          what is on stdin, with one of them
  drill         see whether the phone asks you before it opens
  log           who got what, and when
  history       what changed, by commit
  restore       a secret as it was in a commit
  sync          fetch, merge and push the vault's repository
  replica add|remove|status|push       relays that keep the ciphertext
  message on|off|status                a notice that it waits; the word lock
  doctor        what is wrong, and the command that mends it

this machine
  service install|uninstall|status     a systemd unit that asks at boot
  custody add|list|test|take|order|move|remove   other ways to open the vault than the phone
  operator add|list|remove             other people who may approve, each with a phone
  machine list|remove                  the machines that the vault is on
  rotate agent|operator|report         a new key; another phone; what is to be set anew
  keychain enable|disable|status       one of them: the login keychain
  completion    for bash, zsh and fish
  help          what a command does    avault help set
  version
  forget        remove all of this vault from this machine but the vault
  signer        a phone in a terminal: a NIP-46 bunker

many machines, over ssh
  fleet add|remove|status              the hosts, and how their vaults are
  fleet lock|unlock|set|rotate|run     what is done on all of them
  fleet pair|enroll|leave              one approval that opens many, and no more
  fleet doctor|log                     what is wrong there, and who got what

openclaw and other agents
  openclaw plan|install|uninstall|status|unlock|chats
  openclaw-provider                    secrets by reference
  mcp           an MCP server: tools that use secrets, and never show one

exit codes: 0 done, 1 error, 2 usage, 3 locked, 4 not found, 5 denied,
6 no daemon or relay, 7 nobody answered, 8 damaged or rolled back

avault COMMAND --help says more. --dir names the vault directory; else
$AVAULT_DIR, $WORKSPACE/.avault, a .avault here or above that this machine has
opened, ~/clawd/.avault, ~/.openclaw/workspace/.avault.
"""
