"""What flows may use of a link: the plan as values, its matching, and how traffic control carries it out."""
