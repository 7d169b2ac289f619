"""Recognises payment streams that are not the person's, and freezes those alone.

The guarantee against theft is the cap of each grant, which a gateway enforces. This package stands behind it: it says
early that a stream is odd, in one line, with the rate at which it says so wrongly. `watching.Guard` is what others use.
"""
