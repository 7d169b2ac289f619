"""The simulator: experiments with congestion prices on a virtual clock, as a fluid or packet by packet.

`experiment` reads the file, `fluid` and `packets` run it, `equilibrium` says what theory expects, `results` holds what
came out. The markings, reactors and prices are those of the real daemons. NumPy is imported by `fluid` alone.
"""
