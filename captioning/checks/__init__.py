"""Whether a caption is fit to be learnt from: cleaning, and flags with reasons."""
