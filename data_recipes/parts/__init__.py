"""What several recipes share: pools of prompts, sets of pictures, and the forms in which records are written."""
