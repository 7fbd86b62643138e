"""Pretraining of the shipped tiny model: tokenizer, initialisation, training net, data, evaluation."""
