"""Why embeddings are good or not: their geometry by layer, how modalities align, and how generation sets the ceiling.

Nothing here trains, and nothing is imported before it is used: see `layers`, `anisotropy`, `kernel_alignment`,
`scaling_law`, `pac_bayes` and `plots`.
"""
