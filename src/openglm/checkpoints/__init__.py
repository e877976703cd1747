"""Models on disk: openglm's own folder, foreign formats, names -> files."""
