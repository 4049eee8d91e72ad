"""The end of `make demo`: does a training's sample of each caption look most like that caption's clip?"""
