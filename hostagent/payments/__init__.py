"""What the agent pays by: its packet core, uplinks to gateways, grants, flows with their prices, echoes and probes."""
