"""What two neighbours on a link do with each other outside the packets.

Identity, control channel, statements, settlement and the book: the same code for hosts and gateways.
"""
