"""Learning: text features, the graph network, training, evaluation and artifacts."""
