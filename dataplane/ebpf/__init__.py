"""The engine in the kernel: eBPF programs (`*.bpf.c`, compiled by scripts/build-ebpf) and what loads and reads them."""
