"""What people and their organisation laid down: rules, ceilings over them, and for how long a word holds."""
