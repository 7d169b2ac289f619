"""Learns from few answers what transfers are worth to a person, and asks only where an answer is worth it.

`contexts` says what is seen of a transfer, `model` what is believed of its value, `inference` how answers change that,
`commons` what people share, `asking` what a question is worth, `learner` puts them together. Pure: no clock, no file,
no randomness.
"""
