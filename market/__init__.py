"""Charging for congestion: meters, mediation, charging and clearing as parts that may run apart and agree.

Each part has a pure core here and a process (`market.process`). Source: M3I scenarios, section 3 (DPH/ECN).
"""
