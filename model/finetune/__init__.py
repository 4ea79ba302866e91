"""Fine-tuning of the text encoder: full, the last layers or LoRA; on pairs of the graph or with the ranking network.

texts ── encoder.py (what learns) ──┐
graph ── pairs.py ── contrastive.py ├── run.py (the loop) ──> store.py: an encoder folder, named by its content
split ────────────── end_to_end.py ─┘         └── text_ranking.py (validation)
"""
