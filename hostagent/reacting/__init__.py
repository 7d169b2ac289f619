"""Sessions: flows whose rate follows the price of congestion, and what two agents say to each other of them."""
