"""The shared core: header, MAC, tolls, marking, accounts, tariffs, grants and messages. Pure; imports nothing of
ours.
"""
