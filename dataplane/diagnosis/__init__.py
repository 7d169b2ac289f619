"""What this machine can do and who else is at work on it, for `hostagent doctor`: reads and tries, changes nothing."""
