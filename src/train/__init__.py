"""How anything here is trained: the engine that both stages share."""
