"""The person's desktop: questions pop up there, and it says whether one would be in the way."""
