"""A directory to the Hugging Face Hub: checked first, in one commit, compared with what arrived."""
