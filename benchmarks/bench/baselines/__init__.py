"""Other ways to run the weights that numclip exports."""
