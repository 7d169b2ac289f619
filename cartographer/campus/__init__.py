"""The campus service: many hosts' measurements in one pool, under rules of privacy."""
