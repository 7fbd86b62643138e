"""Pretraining of the tiny model: tokenizer, initialisation, net, data, loop, evaluation."""
