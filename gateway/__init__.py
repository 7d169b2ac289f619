"""The ISP daemon: tolls, priorities and marks on packets, grants, accounts, and the control API."""
