"""An adaptive video server and its player: an example of programs that answer the price of congestion themselves."""
