"""`hostagent`: the one command. Verbs live in `cli.host`, `cli.services`, `cli.secretary`, `cli.cartographer` and
`cli.lab`; each imports what it needs when it runs.
"""

from __future__ import annotations

import sys

import click

from cli.cartographer import cartographer
from cli.host import host_sections
from cli.lab import lab
from cli.secretary import secretary
from cli.sections import SectionedGroup
from cli.services import gateway


@click.group(cls=SectionedGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hostagent")
def main() -> None:
    """Pays for what a transfer is worth.

    An agent for end hosts, gateways for ISPs that settle with the same code, and a lab that runs whole networks
    of them on this machine. Start with `hostagent up`.
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal that has no µ or → gets a question mark, not a traceback
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]


for title, verbs in (*host_sections, ("Other parts", (gateway, secretary, cartographer, lab))):
    main.add_section(title, verbs)

if __name__ == "__main__":
    main()
