"""GLM networks and the predictor; other models are not part of this."""
