"""The only code that touches the kernel's packet path: engine, crash-proof counters, rules as desired state,
watchdog."""
