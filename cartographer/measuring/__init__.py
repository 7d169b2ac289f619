"""Probing the Internet as it is: who is on the way, what they do to ECN and DSCP, how large a packet may be."""
