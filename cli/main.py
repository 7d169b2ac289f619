"""`hostagent`: the one command. Verbs live in `cli.host`, `cli.services` and `cli.lab`; each imports what it needs
when it runs.
"""

from __future__ import annotations

import click

from cli.host import host_verbs
from cli.lab import lab
from cli.services import gateway, secretary


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hostagent")
def main() -> None:
    """Pays for what a transfer is worth.

    An agent for end hosts, gateways for ISPs that settle with the same code, and a lab that runs whole networks
    of them on this machine. Start with `hostagent lab run figure1`.
    """


for verb in (*host_verbs, gateway, secretary, lab):
    main.add_command(verb)

if __name__ == "__main__":
    main()
