"""Search: what words and meaning find, fused into one measure of fit."""
