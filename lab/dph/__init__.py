"""The experiment that the M3I project planned for priced marks and never reported: senders that follow prices."""
