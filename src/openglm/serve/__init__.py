"""An HTTP API and a web page around one `Infiller`; needs `pip install "openglm[serve]"`."""
