"""Parts of screens: a table, the two lines at the top, dialogs."""
